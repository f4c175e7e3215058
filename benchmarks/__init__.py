# SPDX-License-Identifier: GPL-2.0-only
"""Speed of the harness on this machine, measured in one run and held against the goals."""
