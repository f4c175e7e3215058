# SPDX-License-Identifier: GPL-2.0-only
"""`kharness bisect`: many runs of the same runner, by which a failure is brought home to its commit."""
