# SPDX-License-Identifier: GPL-2.0-only
"""Owns the search: sequences of operations that Hypothesis draws, compared with the model, and shrunk."""
