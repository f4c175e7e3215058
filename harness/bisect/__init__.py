# SPDX-License-Identifier: GPL-2.0-only
"""Owns `kharness bisect`: many runs of the same conductor, by which a failure is brought home to its commit."""
