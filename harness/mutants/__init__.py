# SPDX-License-Identifier: GPL-2.0-only
"""Broken versions of a patch: which of them the tests catch, and which they let pass."""
