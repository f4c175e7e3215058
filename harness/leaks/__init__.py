# SPDX-License-Identifier: GPL-2.0-only
"""Which operation, under which fault, leaks: the batch, repeated and narrowed by delta debugging."""
