# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what --coverage demands: a caller that never saw a failure, and all that keeps it from being known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.core.records import SCHEMA, Event, EventKind, Line, Outcome, Role, Verdict, encode
from harness.coverage.branches import Call, Covered
from harness.coverage.coverage import Coverage
from harness.verdict import Results, judge
from tests.unit.report.eventlog import CREATE, Log, kernel, renumbered, result

TREE, ARM = kernel(), kernel(arch="arm64")
SAW = Call("init_dsq", "scx_bpf_create_dsq", "kernel/sched/ext/ext.c", 9552, "ret = init_dsq(dsq);", failed=7)
NEVER = replace(SAW, function="alloc_pnode", line=7008, failed=0)
ROW = Covered(
    "alloc_pnode", "kernel/sched/ext/ext.c", 7001, 8, 5, 4, 2, 2, 1, (Line(7005, "if (!pnode) return NULL;"),)
)


def covered(*calls: Call, of: str = TREE.id, arch: str = "x86_64", why: str = "") -> Coverage:
    return Coverage(of, arch, 2, (ROW,), calls, why)


def judged(log: Log, *found: Coverage, **plan: object) -> Results:
    log.plan = {"suite": "dsq", "coverage": True, **plan}
    events = log.events()
    at = len(events) - 1
    events[at:at] = [
        Event(SCHEMA, events[at].time, "r1", EventKind.COVERAGE, one.kernel, "", encode(one)) for one in found
    ]
    return judge(renumbered(events))


def test_each_caller_saw_a_failure() -> None:
    results = judged(Log(TREE), covered(SAW))
    assert results.verdict is Verdict.PASS
    assert results.coverage == (covered(SAW),)


def test_a_caller_that_never_did() -> None:
    log = Log(TREE)
    log.argv = ["kharness", "run", "--coverage", "-k", "create"]
    results = judged(log, covered(SAW, NEVER))
    assert results.verdict is Verdict.INCONCLUSIVE
    assert results.why == ("tree-x86_64: alloc_pnode() never saw init_dsq() fail (kernel/sched/ext/ext.c:7008)",)
    assert results.next == "kharness run --coverage"  # what was left out may be what is missing


def test_a_caller_that_does_not_look() -> None:
    results = judged(Log(TREE), covered(replace(NEVER, why="its answer is not looked at")))
    assert results.verdict is Verdict.INCONCLUSIVE
    assert "cannot be seen to handle a failure of init_dsq(): its answer is not looked at" in results.why[0]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ((), "its coverage was not measured"),
        ((covered(why="no test gave counters"),), "no coverage: no test gave counters"),
    ],
)
def test_what_was_not_measured(found: tuple[Coverage, ...], says: str) -> None:
    results = judged(Log(TREE), *found)
    assert (results.verdict, results.why) == (Verdict.INCONCLUSIVE, (f"tree-x86_64: {says}",))


def test_of_a_patch_it_is_only_asked_that_its_lines_were_counted() -> None:
    base, patched = kernel(Role.BASE), kernel(Role.PATCHED)
    beside = replace(covered(NEVER, of=patched.id), beside=True)
    assert judged(Log(base, patched), beside).verdict is Verdict.PASS
    results = judged(Log(base, patched), replace(beside, why="no disk"))
    assert (results.verdict, results.why) == (
        Verdict.INCONCLUSIVE,
        ("patched-x86_64: its lines were not counted: no disk",),
    )


def test_a_test_that_fails_only_where_lines_are_counted_is_told() -> None:
    base, patched = kernel(Role.BASE), kernel(Role.PATCHED)
    beside = replace(covered(SAW, of=patched.id), beside=True, failing=(CREATE,))
    results = judged(Log(base, patched), beside)
    assert results.verdict is Verdict.INCONCLUSIVE
    assert results.why[0].startswith(f"patched-x86_64: {CREATE} fails on the kernel that counts lines, and not on this")
    both = Log(base, patched)
    for one in (base, patched):
        both.put(result(one, CREATE, Outcome.FAIL))
    assert not any("that counts lines" in line for line in judged(both, beside).why), "it fails on the plain one, too"


def test_each_architecture_speaks_for_itself() -> None:
    results = judged(Log(TREE, ARM), covered(SAW), covered(NEVER, of=ARM.id, arch="arm64"))
    assert [line.partition(":")[0] for line in results.why] == [ARM.id]


def test_nothing_is_demanded() -> None:
    """Of a run that did not ask, of a replay's one test, of base, and of a kernel that did not boot."""
    assert judged(Log(TREE), coverage=False).verdict is Verdict.PASS
    assert judged(Log(TREE, collected=[CREATE]).only(CREATE), test_id=CREATE).verdict is Verdict.PASS
    base, patched = kernel(Role.BASE), kernel(Role.PATCHED)
    assert judged(Log(base, patched), covered(NEVER, of=base.id), covered(SAW, of=patched.id)).verdict is Verdict.PASS
    assert not any("coverage" in line for line in judged(Log(TREE).fall(TREE)).why)


def test_a_failure_outranks_it() -> None:
    failed = result(TREE, CREATE, Outcome.FAIL, why="it failed")
    results = judged(Log(TREE).put(failed), covered(NEVER))
    assert results.verdict is Verdict.FAIL
    assert len(results.why) == 2
