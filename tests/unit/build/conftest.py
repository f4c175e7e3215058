# SPDX-License-Identifier: GPL-2.0-only
"""Owns the fixtures of build tests: the fake tree, and the host's tools around it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from harness.host.cache import Cache
from harness.host.toolchain import HostToolchain
from tests.unit.build.fake_tree import World, fill


@pytest.fixture(scope="module")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> HostToolchain:
    return HostToolchain(tmp_path_factory.mktemp("place"))


@pytest.fixture
def world(tmp_path: Path, toolchain: HostToolchain) -> World:
    world = World(tmp_path, toolchain, Cache(tmp_path / "cache", 0), io.StringIO())
    fill(world)
    return world
