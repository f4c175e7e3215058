# SPDX-License-Identifier: GPL-2.0-only
"""The search: sequences of operations that Hypothesis draws, compared with the model, and shrunk."""
