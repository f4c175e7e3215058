# SPDX-License-Identifier: GPL-2.0-only
"""The tests of the source room; a package so that they can share kernel_trees."""
