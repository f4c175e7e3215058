# SPDX-License-Identifier: GPL-2.0-only
"""Tests of dumps of guests that crashed or hang: when one is written, where it is named, what is said without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import Ended, HarnessError, How, MachineEnded
from harness.core.records import Dump, encode
from harness.guest.guest import Guest
from harness.report.text import dump_line
from harness.session import dump
from harness.session.dump import Dumper
from harness.session.session import Target
from harness.verdict import TestRow
from tests.unit.core.test_plan import SESSION
from tests.unit.session.test_context import made

PANIC = ("[    9.000000][  T123] Kernel panic - not syncing: x",)


def written(out: Path, raises: BaseException | None, monkeypatch: pytest.MonkeyPatch) -> Dump:
    def write(vm: object, stem: Path, scale: float) -> Path:
        if raises is not None:
            raise raises
        path = stem.with_suffix(".kdump")
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * (3 << 20))
        assert scale == 2.0
        return path

    monkeypatch.setattr(dump, "dump", write)
    guest = cast(Guest, SimpleNamespace(vm=None, agent=SimpleNamespace(scale=2.0)))
    target = cast(Target, SimpleNamespace(name="tree-x86_64-default"))
    return Dumper(replace(SESSION, out=str(out))).dump(guest, target, "tests/a.py::test_x[1]")


def test_a_dump_lies_below_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got = written(tmp_path, None, monkeypatch)
    assert Path(got.path).parent == tmp_path / "dumps" and Path(got.path).is_file()
    assert (got.mib, got.why) == (3, "")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            MachineEnded("x", Ended(How.KILLED, signal=9), (), expired=False),
            "QEMU is gone, and the guest's memory with it",
        ),
        (HarnessError("no room", step="free space"), "no room; free space"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_test_s_result_is_not_lost_for_its_dump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, why: str
) -> None:
    got = written(tmp_path, error, monkeypatch)
    assert not got.path and why in got.why


class Recorder:
    """Stands for the dumper."""

    def __init__(self) -> None:
        self.tests: list[str] = []

    def dump(self, guest: Any, target: Any, test: str) -> Dump:
        self.tests.append(test)
        return Dump(path="/out/dumps/x.kdump", mib=61)


@pytest.mark.parametrize(
    ("error", "dumped"),
    [
        (MachineEnded("it died", Ended(How.EXITED, status=0), PANIC, expired=False), True),
        (MachineEnded("QEMU was killed", Ended(How.KILLED, signal=9), PANIC, expired=False), False),
        (AssertionError("wrong answer"), False),
        (None, False),
    ],
)
def test_memory_is_written_of_a_guest_that_the_kernel_lost(error: BaseException | None, dumped: bool) -> None:
    context, _ = made()
    context.dumper = recorder = cast(Any, Recorder())
    result = context.conclude(error)
    assert recorder.tests == ([context.test_id] if dumped else [])
    assert result.dump == (Dump(path="/out/dumps/x.kdump", mib=61) if dumped else None)
    named = [line for found in result.findings for line in found.log if "/out/dumps/x.kdump" in line]
    assert len(named) == int(dumped)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (None, ""),
        (Dump(path="/out/a", mib=61), "guest memory: /out/a (61 MiB)"),
        (Dump(why="no room"), "no dump: no room"),
    ],
)
def test_the_report_says_where_or_why_not(row: Dump | None, line: str) -> None:
    test = TestRow(id="t", arch="x86_64", kernel="k", machine="default", outcome=cast(Any, "fail"), dump=row)
    assert dump_line(test) == line
    assert encode(test)["dump"] == (None if row is None else {"path": row.path, "mib": row.mib, "why": row.why})
