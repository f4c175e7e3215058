# SPDX-License-Identifier: GPL-2.0-only
"""The sched_ext suite: operations on dispatch queues and schedulers, compared with a model."""
