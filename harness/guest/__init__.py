# SPDX-License-Identifier: GPL-2.0-only
"""What runs inside a machine, seen from outside."""
