# SPDX-License-Identifier: GPL-2.0-only
"""Tests that whatever is lost of a passing run, its pass is lost with it: events, tails, writers, processes."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import HarnessError
from harness.core.event_log import RUNNER, EventLog, read
from harness.core.plan import SavedTarget
from harness.core.records import (
    Canary,
    Event,
    EventKind,
    Evidence,
    Outcome,
    Patches,
    PatchFate,
    PatchHow,
    Role,
    SearchSummary,
    SessionError,
    Verdict,
    WorkerEnd,
    encode,
)
from harness.coverage.branches import Call
from harness.coverage.coverage import Coverage
from harness.host.progress import Progress
from harness.run import workers
from harness.verdict import Results, judge
from tests.unit.report.eventlog import CREATE, DESTROY, LEAK, Log, kernel, machine, renumbered, result

TREE, ARM = kernel(), kernel(arch="arm64")
BASE, PATCHED = kernel(Role.BASE), kernel(Role.PATCHED, tree="fe" * 32)
SAW = Call("init_dsq", "scx_bpf_create_dsq", "kernel/sched/ext/ext.c", 9552, "ret = init_dsq(dsq);", failed=7)


def _wide() -> Log:
    log = Log(TREE)
    log.results.append(result(TREE, CREATE, machine="cpu8"))
    return log


def _many() -> Log:
    log = Log(TREE, ARM)
    log.shards, log.batches = 2, True
    return log


def _pair() -> Log:
    log = Log(BASE, PATCHED)
    log.shards = 2
    return log


def _known() -> Log:
    """What fails on base in the same way."""
    log = Log(BASE, PATCHED).put(*(result(of, CREATE, Outcome.FAIL, findings=(LEAK,)) for of in (BASE, PATCHED)))
    log.failed = 2
    return log


def _searched() -> Log:
    return Log(TREE).put(result(TREE, CREATE, search=SearchSummary(3, 4, 1, 2.0)))


def _selftests() -> Log:
    log = Log(TREE, collected=["selftests::init", "selftests::exit"])
    log.plan["suite"] = "tests/kernel/selftests"
    log.results = [result(TREE, test) for test in ("selftests::init", "selftests::exit")]
    return log


def _replay() -> Log:
    log = Log(PATCHED, collected=[CREATE]).only(CREATE)
    log.plan["test_id"] = CREATE
    return log


def _covered() -> list[Event]:
    log = _pair()
    log.plan["coverage"] = True
    *events, end = log.events()
    like = next(event for event in events if event.writer == RUNNER)
    for of in (BASE, PATCHED):
        found = Coverage(of.id, of.arch, 2, (), (SAW,))
        events.append(replace(like, kind=EventKind.COVERAGE, kernel=of.id, data=encode(found)))
    return renumbered([*events, end])


REAL = Path(__file__).parents[1] / "report" / "golden" / "passed.jsonl"
"""The log of a run of ``-k lifecycle`` on x86_64: two children, four machines."""

LOGS = {
    "a real run": list(read(REAL)),
    "single": Log(TREE).events(),
    "several machines": _wide().events(),
    "architectures and children": _many().events(),
    "base and patched": _pair().events(),
    "known failures": _known().events(),
    "search": _searched().events(),
    "selftests": _selftests().events(),
    "replay": _replay().events(),
    "coverage": _covered(),
}
each_log = pytest.mark.parametrize("log", LOGS.values(), ids=LOGS.keys())

HARMLESS = {"search", "coverage of base", "survey of a replay"}
"""What a log into which it was never written holds no less evidence without: how far a search was, which the test's end
has again, what base's tests cover, which no rule asks for, and the empty survey of a replay, whose test is in its plan."""


def harmless(event: Event) -> str:
    """By which word of HARMLESS an event is known, if by any."""
    if event.kind is EventKind.COVERAGE and event.kernel == BASE.id:
        return "coverage of base"
    if event.kind is EventKind.SURVEY and not event.data["due"]:
        return "survey of a replay"
    return str(event.kind)


def passes(events: list[Event]) -> bool:
    return judge(events).verdict is Verdict.PASS


def without(log: list[Event], *lost: int) -> list[Event]:
    return [event for number, event in enumerate(log) if number not in lost]


# --- events -------------------------------------------------------------------------------


@each_log
def test_whole_logs_pass_and_the_verdict_is_the_same_each_time(log: list[Event]) -> None:
    first = judge(log)
    assert (first.verdict, judge(log), judge(iter(log))) == (Verdict.PASS, first, first), first.why


@each_log
def test_no_one_event_and_no_two_neighbours_can_go(log: list[Event]) -> None:
    for number in range(len(log)):
        assert not passes(without(log, number)), log[number].kind
    for first, second in pairwise(range(len(log))):
        assert not passes(without(log, first, second)), (log[first].kind, log[second].kind)


def test_the_structure_alone_shows_what_is_missing() -> None:
    """Also of a log whose writers never wrote the event, so that all numbers and counts fit."""
    spared = {
        harmless(log[number])
        for log in LOGS.values()
        for number in range(len(log))
        if passes(renumbered(without(log, number)))
    }
    assert spared == HARMLESS


@given(
    st.sampled_from(list(LOGS.values())).flatmap(
        lambda log: st.tuples(st.just(log), st.sets(st.integers(0, len(log) - 1), min_size=1, max_size=8))
    )
)
def test_nor_can_any_several(drawn: tuple[list[Event], set[int]]) -> None:
    log, lost = drawn
    assert not passes(without(log, *lost))
    if not all(harmless(log[number]) in HARMLESS for number in lost):
        assert not passes(renumbered(without(log, *lost)))


def test_no_byte_can_be_cut_off_a_log(tmp_path: Path) -> None:
    whole = REAL.read_bytes()
    path = tmp_path / "events.jsonl"
    for length in range(0, len(whole), 991):
        path.write_bytes(whole[:length])
        assert not passes(list(read(path)))
    for start in range(0, len(whole) - 500, 1009):
        path.write_bytes(whole[:start] + whole[start + start % 500 + 1 :])
        try:
            assert not passes(list(read(path)))
        except HarnessError:
            continue  # one clear line, and no verdict


@each_log
def test_no_tail_and_no_writer_can_go(log: list[Event]) -> None:
    for length in range(len(log)):
        assert not passes(log[:length])
        assert not passes(renumbered([*log[:length], log[-1]])) or {harmless(e) for e in log[length:-1]} <= HARMLESS
    for writer in {event.writer for event in log}:
        rest = [event for event in log if event.writer != writer]
        assert not passes(rest)
        assert not passes(renumbered(rest)), writer


@each_log
def test_nothing_comes_twice_or_out_of_place(log: list[Event]) -> None:
    for number, event in enumerate(log):
        assert not passes([*log[: number + 1], event, *log[number + 1 :]]), event.kind
        assert not passes([*log[:number], event, *log[number:-1], log[-1]]), event.kind
    for first, second in pairwise(range(len(log))):
        if log[first].writer == log[second].writer:
            swapped = [*log[:first], log[second], log[first], *log[second + 1 :]]
            assert not passes(swapped), (log[first].kind, log[second].kind)


@each_log
def test_what_is_lost_is_not_made_up_for_by_what_comes_twice(log: list[Event]) -> None:
    """The count of the lines is right then."""
    for lost, twice in pairwise(range(len(log) - 1)):
        assert not passes([*without(log[:-1], lost), log[twice], log[-1]])


def _forged() -> Iterator[tuple[str, list[Event]]]:
    log = LOGS["architectures and children"]
    *events, end = log
    last = {event.writer: event.number for event in log}
    at = [number for number, event in enumerate(log) if event.kind is EventKind.TEST_END][-1]
    yield "a second beginning", [*events, replace(log[0], number=end.number), replace(end, number=end.number + 1)]
    yield "a second end", [*log, replace(end, number=end.number + 1)]
    yield "goes on after its end", [*log, replace(log[at], number=last[log[at].writer] + 1)]
    yield "several runs", [replace(event, run="r2") if number == at else event for number, event in enumerate(log)]
    yield "of another run in between", [*log[:at], *[replace(event, run="r0") for event in LOGS["single"]], *log[at:]]
    yield "two runs in one file", [*log, *LOGS["single"]]
    yield "nobody numbered", [*log[:at], replace(log[at], writer="", number=0), *log[at + 1 :]]
    stranger = replace(log[at], writer="arm64/9", number=1)
    yield "a child that nobody started", [*events, stranger, end]


@pytest.mark.parametrize(("what", "events"), list(_forged()), ids=[what for what, _ in _forged()])
def test_what_does_not_belong_there(what: str, events: list[Event]) -> None:
    assert judge(events).verdict is Verdict.INCONCLUSIVE


def test_an_unknown_kind_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps(encode(LOGS["single"][0]) | {"kind": "rumour"}) + "\n")
    with pytest.raises(HarnessError, match=r"events\.jsonl:1: not an event"):
        list(read(path))


# --- children and sessions ----------------------------------------------------------------


def changed(log: list[Event], kind: EventKind, **data: object) -> Results:
    """The log judged with this in its last event of a kind."""
    at = max(number for number, event in enumerate(log) if event.kind is kind)
    return judge([*log[:at], replace(log[at], data={**log[at].data, **data}), *log[at + 1 :]])


@pytest.mark.parametrize("status", [2, 3, 4, -9, -11, 137])
def test_a_child_that_ended_in_another_way_is_named(status: int) -> None:
    log = LOGS["architectures and children"]
    results = changed(log, EventKind.CHILD_END, status=status, how="killed by SIGKILL")
    assert results.verdict is Verdict.INCONCLUSIVE
    assert "worker 2 of 2 on arm64 did not end as pytest does: killed by SIGKILL" in results.why


def test_a_childs_status_is_that_of_its_session() -> None:
    results = changed(LOGS["single"], EventKind.CHILD_END, status=1, how="exit status 1")
    assert results.why == ("worker 1 of 1 on x86_64 ended with exit status 1, its session with status 0",)


def test_a_status_without_tests_where_there_were_some() -> None:
    results = changed(LOGS["single"], EventKind.SESSION_END, exitstatus=5)
    assert any("pytest says that it had no tests" in line for line in results.why)


@pytest.mark.parametrize(
    ("log", "failed", "says"),
    [("single", 1, "and status 0"), ("known failures", 3, "pytest reported 3 failures, its events have 2")],
)
def test_each_failure_must_be_told_by_that_very_session(log: str, failed: int, says: str) -> None:
    """An excused failure elsewhere explains no other one."""
    results = changed(LOGS[log], EventKind.SESSION_END, failed=failed)
    assert results.verdict is Verdict.INCONCLUSIVE
    assert any(says in line for line in results.why)


def test_a_failing_row_of_one_child_explains_nothing_of_another() -> None:
    log = _pair()
    log.put(*(result(of, CREATE, Outcome.FAIL, findings=(LEAK,)) for of in (BASE, PATCHED)))
    results = judge(log.events())  # both children ended with status 1, and one of them has had both failures
    assert results.verdict is Verdict.INCONCLUSIVE
    assert any("pytest reported a failure that no test's result shows" in line for line in results.why)


def test_an_error_of_a_teardown_spoils_a_pass_and_is_told() -> None:
    for log in (LOGS["single"], LOGS["known failures"]):
        at = next(number for number, event in enumerate(log) if event.kind is EventKind.SESSION_END)
        error = SessionError(DESTROY, "teardown", "OSError: no counters", "x86_64", 0)
        shown = replace(log[at], kind=EventKind.ERROR, data=encode(error))
        results = judge(renumbered([*log[:at], shown, *log[at:]]))
        assert results.verdict is Verdict.INCONCLUSIVE
        assert f"{DESTROY}: pytest reports an error in its teardown: OSError: no counters" in results.why


def test_a_canary_that_was_missed_explains_a_status() -> None:
    log = Log(TREE)
    log.canaries[0] = Canary("dmesg", TREE.id, False, "nothing was seen", "default")
    log.status, log.failed = 1, 1
    assert [line for line in judge(log.events()).why if "pytest" in line] == []


def test_a_kernel_that_was_asked_for_and_never_came() -> None:
    log = LOGS["architectures and children"]
    first = replace(log[0], data={**log[0].data, "plan": {"kernels": [{"arch": "x86_64", "role": "tree"}]}})
    assert "arm64: a tree kernel took part that was not asked for" in judge([first, *log[1:]]).why
    only = [event for event in log if "arm64" not in f"{event.writer}{event.kernel}"]
    results = judge(renumbered(only))
    assert "arm64: the tree kernel was asked for, and is not in the event log" in results.why
    going_on = [event for event in renumbered(only) if event.kind is not EventKind.RUN_END]
    assert judge(going_on, ["x86_64"]).verdict is Verdict.PASS
    assert judge(going_on, ["x86_64", "arm64"]).verdict is Verdict.INCONCLUSIVE
    assert judge(going_on).verdict is Verdict.INCONCLUSIVE


def test_a_test_that_was_selected_and_that_no_child_had() -> None:
    log = Log(TREE)
    events = log.events()
    log.collected.append("tests/x.py::test_more")
    selected = log.events()[1]
    assert selected.kind is EventKind.SURVEY
    results = judge([events[0], selected, *events[2:]])
    assert results.why == (f"tests/x.py::test_more [{TREE.id} on default]: selected, and no worker had it",)


def test_what_a_run_that_was_cut_short_lacks_is_not_told_test_by_test() -> None:
    log = Log(TREE, ARM)
    first, selected, *_ = log.events()
    end = replace(log.events()[-1], data={"why": "interrupted", "events": 2})
    results = judge(renumbered([first, selected, end]))
    assert results.why == ("the run ended early: interrupted", "no kernel under test took part")


def test_evidence_that_a_skipped_test_lost_is_no_pass() -> None:
    lost = (Evidence("dmesg", lost=3),)
    log = Log(TREE).put(result(TREE, CREATE, Outcome.SKIP, evidence=lost, why="no NUMA"))
    assert judge(log.events()).verdict is Verdict.INCONCLUSIVE


# --- processes ----------------------------------------------------------------------------

WRITES = """
import json, os, signal, sys
from pathlib import Path
from harness.core.event_log import EventLog
from harness.core.records import EventKind
path, writer, count, rest, how = sys.argv[1:]
events = [json.loads(line) for line in open(rest)]
event_log = EventLog(Path(path), "r1", writer)
for event in events[:int(count)]:
    event_log.emit(EventKind(event["kind"]), event["data"], event["kernel"], event["test"])
if how == "torn" and int(count) < len(events):
    os.write(os.open(path, os.O_WRONLY | os.O_APPEND), json.dumps(events[int(count)])[:-9].encode())
if how != "ends":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def ran(folder: Path, log: list[Event], counts: tuple[int, int], how: str) -> Results:
    """A run of two workers in processes of their own: of the first, so many events are written, then it dies."""
    out = folder / "r1"
    out.mkdir()
    events, argvs = out / "events.jsonl", []
    for shard in range(2):
        rest = out / f"{shard}.jsonl"
        mine = [json.dumps(encode(event)) + "\n" for event in log if event.writer == f"x86_64/{shard}"]
        rest.write_text("".join(mine))
        ends = "ends" if shard else how
        argvs.append(
            [sys.executable, "-c", WRITES, str(events), f"x86_64/{shard}", str(counts[shard]), str(rest), ends]
        )
    targets = [SavedTarget(of, machine(of), "/i") for of in (TREE,)]
    with EventLog(events, "r1") as event_log:
        for event in log[:-1]:
            if event.writer == RUNNER:
                event_log.emit(event.kind, event.data, event.kernel, event.test)
        workers.run(argvs, dict(os.environ), out, Progress(None, io.StringIO()), "tests", "key", targets)
        event_log.end()
    return judge(read(events))


def test_a_child_that_dies_at_any_moment_takes_the_pass_with_it(tmp_path: Path) -> None:
    log = Log(TREE)
    log.shards = 2
    events = log.events()
    most = sum(event.writer == "x86_64/0" for event in events)
    whole = tmp_path / "whole"
    whole.mkdir()
    assert ran(whole, events, (most, 99), "ends").verdict is Verdict.PASS
    for how in ("dies", "torn"):
        for count in range(most + 1):
            folder = tmp_path / f"{how}{count}"
            folder.mkdir()
            results = ran(folder, events, (count, 99), how)
            assert results.verdict is Verdict.INCONCLUSIVE, (how, count)
            assert "killed by SIGKILL" in "\n".join(results.why)
            assert DESTROY in {test.id for test in results.tests}, "what the other child did stays"


def test_a_child_that_never_began_is_named_with_the_tests_that_it_had(tmp_path: Path) -> None:
    log = Log(TREE)
    log.shards = 2
    results = ran(tmp_path, log.events(), (0, 99), "dies")
    assert "worker 1 of 2 on x86_64: pytest never began its session (killed by SIGKILL)" in results.why
    assert f"{CREATE} [{TREE.id} on default]: due, and in no worker's part" in results.why


def test_how_a_child_ended_is_written_down_also_where_none_could_be_started(tmp_path: Path) -> None:
    out = tmp_path / "r1"
    out.mkdir()
    EventLog(out / "events.jsonl", "r1").close()
    argvs = [[sys.executable, "-c", "import time; time.sleep(60)"], ["/no/such/program"]]
    with pytest.raises(HarnessError, match="no such command"):
        workers.run(argvs, dict(os.environ), out, Progress(None, io.StringIO()), "tests", "key")
    shown = [event for event in read(out / "events.jsonl") if event.kind is EventKind.CHILD_END]
    assert [WorkerEnd(**event.data).shard for event in shown] == [0]


def test_a_tree_that_was_tested_as_it_is_has_no_base() -> None:
    """The plan asked for base and patched; that the patch cannot be taken out is written down before the tests."""
    log = LOGS["architectures and children"]
    asked = [{"arch": arch, "role": role} for arch in ("x86_64", "arm64") for role in ("base", "patched")]
    first = replace(log[0], data={**log[0].data, "plan": {**log[0].data["plan"], "kernels": asked}})
    assert "x86_64: the base kernel was asked for, and is not in the event log" in judge([first, *log[1:]]).why
    fates = Patches((PatchFate("a patch", PatchHow.AS_IT_IS),))
    told = replace(log[1], kind=EventKind.PATCHES, data=encode(fates))
    results = judge(renumbered([first, told, *log[1:]]))
    assert (results.verdict, results.patches) == (Verdict.PASS, fates)
    # One that was applied, or taken out, has a base.
    for how in set(PatchHow) - {PatchHow.AS_IT_IS}:
        other = replace(told, data=encode(Patches((PatchFate("a patch", how),))))
        assert judge(renumbered([first, other, *log[1:]])).verdict is Verdict.INCONCLUSIVE
