# SPDX-License-Identifier: GPL-2.0-only
"""A suite without a test."""
