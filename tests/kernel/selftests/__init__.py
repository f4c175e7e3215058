# SPDX-License-Identifier: GPL-2.0-only
"""The sched_ext selftests of the tree under test, as a suite."""
