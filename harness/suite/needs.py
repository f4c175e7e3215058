# SPDX-License-Identifier: GPL-2.0-only
"""What a test needs of the kernel that it runs on."""

from __future__ import annotations

import pytest


def need(has: bool, what: str) -> None:
    """Skips the test on a kernel that has no `what`."""
    if not has:
        pytest.skip(f"this kernel has no {what}")
