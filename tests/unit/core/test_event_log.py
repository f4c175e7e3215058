# SPDX-License-Identifier: GPL-2.0-only
"""The tests of harness/core/event_log.py."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import HarnessError
from harness.core.event_log import EventLog, read
from harness.core.records import Canary, EventKind, Verdict, decode
from harness.verdict import judge
from tests.unit.report.eventlog import Log


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, "r1") as event_log:
        event_log.emit(EventKind.CANARY, Canary("dmesg", "tree-x86_64", True), "tree-x86_64", "t::x")
        event_log.emit(EventKind.RUN_END, {"why": "a \udc80 byte\nand a line"})
    first, second = read(path)
    assert (first.run, first.kind, first.kernel, first.test) == ("r1", EventKind.CANARY, "tree-x86_64", "t::x")
    assert decode(first.data, Canary).caught
    assert second.data == {"why": "a \udc80 byte\nand a line"}
    assert second.time >= first.time > 1.7e9
    event_log.close()  # a second close is harmless
    with EventLog(path, "r1") as event_log:
        event_log.emit(EventKind.TEST_START)
    assert len(list(read(path))) == 3


def _append(path: Path, name: str) -> None:
    with EventLog(path, name) as event_log:
        for number in range(200):
            event_log.emit(EventKind.TEST_START, {"n": number, "pad": "x" * 5000}, test=name)


def test_several_processes_append_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(path, str(n))) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    events = list(read(path))
    for name in "012":
        assert [event.data["n"] for event in events if event.test == name] == list(range(200))


def written(path: Path) -> bytes:
    """A passing run's log as it is written."""
    path.unlink(missing_ok=True)
    with EventLog(path, "r1") as event_log:
        for event in Log().events()[:-1]:
            event_log.emit(event.kind, event.data, event.kernel, event.test)
        event_log.end()
    return path.read_bytes()


def test_a_log_cut_anywhere_is_read_up_to_there_and_never_passes(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    whole = written(path)
    events = list(read(path))
    assert judge(events).verdict is Verdict.PASS
    for cut in [*range(0, len(whole) - 1, 97), len(whole) - 2]:
        path.write_bytes(whole[:cut])
        left = list(read(path))
        # A line that lost nothing but its newline is still whole.
        assert left == events[: len(left)] and len(left) - whole[:cut].count(b"\n") in (0, 1)
        assert judge(left).verdict is Verdict.INCONCLUSIVE


@given(lost=st.sets(st.integers(0, 18), min_size=1))
def test_a_log_that_lost_any_lines_never_passes(tmp_path_factory: pytest.TempPathFactory, lost: set[int]) -> None:
    path = tmp_path_factory.getbasetemp() / "lost.jsonl"
    lines = written(path).splitlines(keepends=True)
    assert len(lines) == 19
    path.write_bytes(b"".join(line for number, line in enumerate(lines) if number not in lost))
    assert judge(read(path)).verdict is not Verdict.PASS


@pytest.mark.parametrize("damage", [b"{\n", b"\0\0\0\n", b"[]\n", b'{"schema": 99}\n', b'{"schema": 1}\n', b"\n"])
def test_damage_elsewhere_is_an_error_that_names_the_line(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "events.jsonl"
    lines = written(path).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], damage, *lines[2:]]))
    with pytest.raises(HarnessError, match=r"events\.jsonl:3: "):
        list(read(path))


def test_a_last_line_of_zeroes_is_what_a_power_cut_leaves(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(written(path) + b"\0" * 512)
    assert len(list(read(path))) == 19


def test_a_full_disk_is_one_clear_line() -> None:
    event_log = EventLog(Path("/dev/full"), "r1")
    with pytest.raises(HarnessError, match="No space left") as error:
        event_log.emit(EventKind.TEST_START)
    assert "free space" in error.value.step
    event_log.close()


def test_no_such_log(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="cannot read the event log"):
        list(read(tmp_path / "none"))
    with pytest.raises(HarnessError, match="cannot open the event log"):
        EventLog(tmp_path / "no" / "folder", "r1")


def test_a_short_write_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, "r1") as event_log:
        event_log.emit(EventKind.TEST_START)
        write = os.write
        monkeypatch.setattr("harness.core.event_log.os.write", lambda file, data: write(file, data[: len(data) // 2]))
        with pytest.raises(HarnessError, match=r"took \d+ of \d+ bytes"):
            event_log.emit(EventKind.TEST_START)
        monkeypatch.undo()
        assert path.read_bytes().count(b"\n") == 1 and path.read_bytes().endswith(b"\n")
        event_log.emit(EventKind.TEST_START)
    assert [event.number for event in read(path)] == [1, 2]


@pytest.mark.parametrize("rest", [b'{"schema": 1, "ti', b"\0" * 70000, b"x" * 200000])
def test_what_a_killed_writer_left_does_not_spoil_the_next_ones_event(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, "r1", "a/0") as first, EventLog(path, "r1", "a/1") as second:
        first.emit(EventKind.TEST_START, test="x")
        with path.open("ab") as torn:
            torn.write(rest)
        second.emit(EventKind.TEST_START, test="y")
    assert [(event.writer, event.test) for event in read(path)] == [("a/0", "x"), ("a/1", "y")]


def test_the_log_is_on_the_disk_before_the_verdict_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    path = tmp_path / "events.jsonl"
    monkeypatch.setattr("harness.core.event_log.os.fsync", lambda file: synced.append(path.read_bytes()))
    with EventLog(path, "r1") as event_log:
        event_log.end()
        assert synced == [path.read_bytes()] and b"run-end" in synced[0]
        with pytest.raises(HarnessError, match="cannot write the event log"):
            monkeypatch.setattr("harness.core.event_log.os.fsync", failing_sync)
            event_log.end()


def failing_sync(file: int) -> None:
    raise OSError(5, "Input/output error")
