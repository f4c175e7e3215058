# SPDX-License-Identifier: GPL-2.0-only
"""The kernel log: reports cut out of it, stack frames, and which function is to blame."""
