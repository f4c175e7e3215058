# SPDX-License-Identifier: GPL-2.0-only
"""The reference model of sched_ext's dispatch queues: plain Python, no I/O, imports only records."""
