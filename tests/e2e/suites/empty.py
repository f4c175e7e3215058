# SPDX-License-Identifier: GPL-2.0-only
"""Owns a suite without a test."""
