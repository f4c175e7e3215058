# SPDX-License-Identifier: GPL-2.0-only
"""The fixtures of the source room's tests."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from harness.host.cache import Cache
from harness.host.progress import Progress


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 0)


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def progress(said: io.StringIO) -> Progress:
    return Progress(None, said)
