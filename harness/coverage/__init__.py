# SPDX-License-Identifier: GPL-2.0-only
"""gcov's counters: from the guest to the branches that no test took."""
