# SPDX-License-Identifier: GPL-2.0-only
"""The interface that a suite implements, and its loader."""
