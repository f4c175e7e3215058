# SPDX-License-Identifier: GPL-2.0-only
"""A suite that brings nothing, and the default one."""

from __future__ import annotations

from harness.suite import loader
from harness.suite.interface import Suite

PLAIN = Suite("plain")


def default() -> Suite:
    """The suite that runs where nobody names one."""
    return loader.of(loader.default())
