# SPDX-License-Identifier: GPL-2.0-only
"""One run: sources, kernels, saved guests, pytest's processes, results."""
