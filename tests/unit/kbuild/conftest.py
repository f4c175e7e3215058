# SPDX-License-Identifier: GPL-2.0-only
"""The fixtures of build tests: the fake tree, and the host's tools around it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import HostToolchain
from tests.unit.fakes.tree import World, fill


@pytest.fixture(scope="module")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> HostToolchain:
    return HostToolchain(Cache(tmp_path_factory.mktemp("cache"), 0))


@pytest.fixture
def world(tmp_path: Path, toolchain: HostToolchain) -> World:
    world = World(tmp_path, toolchain, Cache(tmp_path / "cache", 0), io.StringIO())
    fill(world)
    return world


@pytest.fixture
def progress() -> Progress:
    return Progress(None, stream=io.StringIO())
