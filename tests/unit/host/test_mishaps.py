# SPDX-License-Identifier: GPL-2.0-only
"""Tests of whose fault an unexpected error is."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from harness.host import mishaps


def test_a_limit_of_threads_is_the_hosts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Python says so by a RuntimeError without a number, as it does of its own mistakes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    old = threading.stack_size(1 << 46)  # as much as no machine has
    try:
        with pytest.raises(RuntimeError) as raised:
            threading.Thread(target=print).start()
    finally:
        threading.stack_size(old)
    assert mishaps.explained(raised.value).line().startswith("can't start new thread; raise the limit (ulimit -n")
    assert "kharness itself failed" in mishaps.explained(RuntimeError("another")).line()
