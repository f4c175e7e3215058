# SPDX-License-Identifier: GPL-2.0-only
"""What to fail, where, and what really failed."""
