# SPDX-License-Identifier: GPL-2.0-only
"""The command line: one module a verb."""
