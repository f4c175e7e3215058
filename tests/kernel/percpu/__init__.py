# SPDX-License-Identifier: GPL-2.0-only
"""The percpu suite: each call of alloc_percpu() that user space reaches fails once."""
