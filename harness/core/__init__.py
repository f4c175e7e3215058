# SPDX-License-Identifier: GPL-2.0-only
"""Errors, records, the plan of a run, its event log: what every other package speaks of."""
