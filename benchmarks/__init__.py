# SPDX-License-Identifier: GPL-2.0-only
"""How fast kharness is; see docs/lab/benchmarks.md. The default suite is loaded first, whose operations are timed."""

from harness.suite import loader

loader.of(loader.default())
