# SPDX-License-Identifier: GPL-2.0-only
"""Tests of calling gcov: which tools on which files, and what is said where it gives nothing. Its work is for tests/e2e."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core import definition
from harness.core.errors import HarnessError
from harness.coverage import gcov
from harness.host.toolchain import Bind, Toolchain
from tests.unit.core.test_plan import KERNEL

FOUND = {"current_working_directory": "/build", "files": [{"file": "a.c", "lines": []}]}


class Tools:
    """Runs nothing, and answers with what it was given."""

    def __init__(self, stdout: str, stderr: str = "") -> None:
        self.argv: list[str] = []
        self.binds: dict[str, Bind] = {}
        self._said = SimpleNamespace(stdout=stdout, stderr=stderr, status=0)

    def run(self, argv: Sequence[str], *, binds: Sequence[Bind], **more: Any) -> Any:
        self.argv, self.binds = list(argv), {bind.target: bind for bind in binds}
        (self.binds["/run/merged"].host / f"{argv[-1]}.gcda").write_bytes(b"sum")
        return self._said


def measure(tools: Tools, folder: Path, arch: str = "x86_64") -> dict[str, Any]:
    kernel = replace(KERNEL, arch=arch, path=str(folder / "kernel"))
    return gcov.measure(
        kernel, "kernel/sched/build_policy.o", [folder / "in" / "a.gcda"], folder / "merged", cast(Toolchain, tools)
    )


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_the_tools_of_the_architecture(tmp_path: Path, arch: str) -> None:
    tools = Tools(json.dumps(FOUND))
    assert measure(tools, tmp_path, arch) == FOUND
    assert tools.argv[-2:] == [definition.load(arch).cross_compile, "build_policy"]
    notes, merged = tools.binds["/run/profile.gcno"], tools.binds["/run/merged"]
    assert (notes.host, notes.writable) == (tmp_path / "kernel/kernel_sched_build_policy.gcno", False)
    assert (merged.host.parent, merged.writable) == (tmp_path / "merged", True)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "merged").iterdir()] == [
        ("build_policy.gcda", b"sum")
    ]
    assert tools.binds["/run/counters"].host == tmp_path / "in"


@pytest.mark.parametrize(
    ("stdout", "says"), [("", "no JSON"), ("build_policy.gcno:cannot open", "no JSON"), ('{"files": []}', "no lines")]
)
def test_gcov_that_gives_nothing(tmp_path: Path, stdout: str, says: str) -> None:
    with pytest.raises(HarnessError, match=says) as raised:
        measure(Tools(stdout, "version mismatch"), tmp_path)
    assert raised.value.detail == "version mismatch"
