# SPDX-License-Identifier: GPL-2.0-only
"""The tests of harness/verdict: one for each rule that keeps a verdict honest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import Exit, HarnessError
from harness.core.event_log import RUNNER
from harness.core.records import Canary, Event, EventKind, Evidence, ModelSummary, Outcome, Role, Verdict, encode
from harness.verdict import Results, judge
from tests.unit.report.eventlog import CREATE, DESTROY, LEAK, MACHINE, Log, kernel, result

TREE = kernel()
BASE, PATCHED = kernel(Role.BASE), kernel(Role.PATCHED, tree="fe" * 32)
FAIL, INCONCLUSIVE, PASS, SKIP = Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS, Outcome.SKIP


def judged(log: Log) -> Results:
    return judge(log.events())


def shared(log: Log, shards: int) -> Log:
    """A run whose tests so many children share."""
    log.shards = shards
    return log


def without(log: Log, *kinds: EventKind) -> Results:
    return judge(event for event in log.events() if event.kind not in kinds)


def assert_inconclusive(results: Results, *words: str) -> None:
    assert results.verdict is Verdict.INCONCLUSIVE
    assert results.verdict.exit is Exit.INCONCLUSIVE
    assert results.next.startswith("kharness ")
    for word in words:
        assert word in "\n".join(results.why)


# --- a single tree ------------------------------------------------------------------------


def test_a_whole_log_passes() -> None:
    results = judged(Log())
    assert results.verdict is Verdict.PASS
    assert results.next == ""
    assert [test.id for test in results.tests] == ["build", "boot", CREATE, DESTROY]
    assert {test.outcome for test in results.tests} == {PASS}
    assert (results.run.seed, results.run.id, results.run.seconds) == (42, "r1", len(Log().events()) - 1)


def test_the_contract_of_results_json() -> None:
    data = encode(judged(Log(BASE, PATCHED).put(result(PATCHED, CREATE, FAIL, findings=(LEAK,)))))
    assert data.keys() >= {"schema", "verdict", "run", "kernels", "machines", "canaries", "tests", "comparison"}
    wanted = {
        "kernels": "id role arch release commit tree dirty patches config config_sha256 build_seconds cached",
        "machines": "arch spec accelerator why boot_seconds restore_seconds",
        "canaries": "oracle kernel caught",
        "tests": "id arch kernel machine outcome seconds attempts why replay faults model evidence findings kept",
        "comparison": "id arch change",
    }
    for part, names in wanted.items():
        assert data[part][-1].keys() >= set(names.split()), part
    assert data["run"].keys() >= {"argv", "seed", "plan", "version"}
    test = next(test for test in data["tests"] if test["findings"])
    assert test["faults"].keys() == {"reached", "injected", "handled", "sites"}
    site = "operation type stack size gfp reached injected outcome"
    assert test["faults"]["sites"][0].keys() >= set(site.split())
    assert test["model"].keys() == {"operations", "compared", "first_disagreement"}
    assert test["evidence"][0].keys() == {"oracle", "watched", "lost", "why"}  # and no payload
    finding = "oracle kind title function file line frames signature expected allowed_by log"
    assert test["findings"][0].keys() >= set(finding.split())


def test_a_failing_test_fails_the_tree() -> None:
    results = judged(Log().put(result(TREE, CREATE, FAIL, why="create answered 0\nmore")))
    assert results.verdict is Verdict.FAIL
    assert results.verdict.exit is Exit.FAIL
    assert results.why[0] == f"{CREATE} [{TREE.id}]: create answered 0"


def test_fail_outranks_inconclusive_and_the_reasons_say_so_in_that_order() -> None:
    log = Log().put(result(TREE, DESTROY, INCONCLUSIVE, why="the agent died"), result(TREE, CREATE, FAIL, why="x"))
    results = judged(log)
    assert results.verdict is Verdict.FAIL
    assert CREATE in results.why[0] and DESTROY in results.why[1]


@pytest.mark.parametrize("outcome", [PASS, INCONCLUSIVE, SKIP])
def test_a_finding_that_counts_fails_whatever_the_outcome_says(outcome: Outcome) -> None:
    results = judged(Log().put(result(TREE, CREATE, outcome, findings=(LEAK,))))
    assert results.verdict is Verdict.FAIL
    assert LEAK.title in results.why[0]


@pytest.mark.parametrize("excuse", [{"expected": True}, {"allowed_by": "entry 3"}])
def test_a_finding_that_does_not_count_fails_nothing(excuse: dict[str, Any]) -> None:
    assert judged(Log().put(result(TREE, CREATE, findings=(replace(LEAK, **excuse),)))).verdict is Verdict.PASS


def test_a_disputed_answer_fails_a_test_that_says_pass() -> None:
    log = Log().put(result(TREE, CREATE, model=ModelSummary(3, 3, "create answered 0")))
    assert judged(log).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("evidence", "word"),
    [
        ((Evidence("kmemleak", watched=False, why="disabled itself"),), "disabled itself"),
        ((Evidence("dmesg", lost=3),), "lost 3"),
        ((Evidence("dmesg", lost=3), Evidence("kmemleak")), "lost 3"),
        ((), "no oracle watched"),
    ],
)
def test_a_pass_that_nobody_watched_is_none(evidence: tuple[Evidence, ...], word: str) -> None:
    results = judged(Log().put(result(TREE, CREATE, evidence=evidence)))
    assert_inconclusive(results, word, CREATE)
    assert next(t for t in results.tests if t.id == CREATE).outcome is INCONCLUSIVE


def test_a_failure_stays_one_though_nobody_watched() -> None:
    log = Log().put(result(TREE, CREATE, FAIL, evidence=(Evidence("dmesg", lost=3),)))
    assert judged(log).verdict is Verdict.FAIL


def test_a_pass_at_the_second_attempt_is_no_pass() -> None:
    assert_inconclusive(judged(Log().put(result(TREE, CREATE, attempts=2))), "attempt 2")


def test_a_second_result_does_not_wipe_out_a_failure() -> None:
    log = Log()
    log.results.insert(0, result(TREE, CREATE, FAIL, why="first"))
    assert judged(log).verdict is Verdict.FAIL
    log.results.append(log.results.pop(0))
    assert judged(log).verdict is Verdict.FAIL


def test_no_test_collected() -> None:
    log = Log(collected=[])
    log.argv += ["-k", "nothing"]
    log.results, log.status = [], 5
    results = judged(log)
    assert_inconclusive(results, "no test was collected")
    assert results.next == "kharness run --tree linux"


def test_no_test_collected_because_of_the_plan_files_selection() -> None:
    log = Log(collected=[])
    log.argv, log.plan = ["kharness", "run", "mine.yaml"], {"select": "nothing"}
    log.results, log.status = [], 5
    assert judged(log).next == "kharness run mine.yaml -k ''"


def test_every_test_skipped() -> None:
    log = Log().put(*(result(TREE, test, SKIP, why="no NUMA") for test in (CREATE, DESTROY)))
    assert_inconclusive(judged(log), "every test was skipped", "no NUMA")
    assert judged(Log().put(result(TREE, CREATE, SKIP))).verdict is Verdict.PASS


def test_the_child_died() -> None:
    assert_inconclusive(without(Log(), EventKind.SESSION_END), "pytest died")
    gone = (EventKind.CHILDREN, EventKind.SESSION_START, EventKind.SESSION_END, EventKind.CHILD_END)
    assert_inconclusive(without(Log(), *gone), "pytest never started")


@pytest.mark.parametrize("status", [2, 3, 4, -9])
def test_the_child_ended_badly(status: int) -> None:
    log = Log()
    log.status = status
    assert_inconclusive(judged(log), f"status {status}")


def test_the_child_failed_and_no_result_says_why() -> None:
    log = Log()
    log.status = 1
    assert_inconclusive(judged(log), "no test's result shows")


def test_a_collected_test_that_never_ended_is_named() -> None:
    log = Log(collected=[CREATE, DESTROY, "tests/x.py::test_lost"])
    assert_inconclusive(judged(log), "tests/x.py::test_lost", "never ended")


def test_a_test_collected_for_one_kernel_only() -> None:
    arm = kernel(arch="arm64")
    log = Log(TREE, arm, collected=[{"id": CREATE, "kernel": TREE.id}, {"id": DESTROY, "kernel": TREE.id}])
    log.results = [r for r in log.results if (r.kernel, r.id) != (arm.id, CREATE)]
    assert judged(log).verdict is Verdict.PASS
    log.collected.append({"id": CREATE, "kernel": arm.id})
    assert_inconclusive(judged(log), f"{CREATE} [{arm.id} on {MACHINE}]")


def test_a_started_test_that_never_ended_is_named() -> None:
    log = Log(collected=[DESTROY])
    events = log.events()
    lost = [e for e in events if not (e.kind is EventKind.TEST_END and e.test == CREATE)]
    assert_inconclusive(judge(lost), CREATE, "started, but it never ended")


def test_a_missed_canary() -> None:
    log = Log()
    log.canaries[1] = Canary("kmemleak", TREE.id, False, "no report after two scans", MACHINE)
    results = judged(log)
    assert_inconclusive(results, "kmemleak missed its canary", "two scans")
    assert results.next == "kharness run --tree linux"


def test_no_canary_on_one_of_two_kernels() -> None:
    arm = kernel(arch="arm64")
    log = Log(TREE, arm)
    log.canaries = [canary for canary in log.canaries if canary.kernel == TREE.id]
    assert_inconclusive(judged(log), f"{arm.id} on {MACHINE}: no canary was run")


def test_a_canary_that_was_meant_to_run_and_did_not() -> None:
    log = Log()
    del log.canaries[2]
    assert_inconclusive(judged(log), "percpu canary was not run")


def test_a_run_that_was_cut_short() -> None:
    log = Log()
    log.why = "interrupted"
    assert_inconclusive(judged(log), "interrupted")
    assert_inconclusive(without(Log(), EventKind.RUN_END), "cut short")


def test_lost_lines_are_noticed_by_their_number() -> None:
    events = Log().events()
    end = replace(events[-1], data={"why": "", "events": len(events) - 1})
    assert judge([*events[:-1], end]).verdict is Verdict.PASS
    assert_inconclusive(judge([*events[:-1], replace(end, data={"why": "", "events": len(events)})]), "lost lines")


def test_a_kernel_on_which_nothing_ran() -> None:
    arm = kernel(arch="arm64")
    log = Log(TREE, arm, collected=[{"id": CREATE, "kernel": TREE.id}])
    log.results = [r for r in log.results if r.kernel == TREE.id]
    assert_inconclusive(judged(log), f"{arm.id}: no test ran")


def test_a_machine_or_kernel_that_the_log_does_not_describe() -> None:
    assert_inconclusive(without(Log(), EventKind.MACHINE), "does not describe")
    assert_inconclusive(without(Log(), EventKind.KERNEL), "does not describe")
    assert_inconclusive(judge([]), "no kernel under test")


# --- several machines ---------------------------------------------------------------------


def on(name: str, outcome: Outcome = PASS, asked: Sequence[str] = (), proved: bool = True) -> list[Event]:
    """A whole log, and in it one test on another machine."""
    log = Log()
    log.plan["machines"] = list(asked)
    log.unproved |= set() if proved else {name}
    log.results.append(result(TREE, CREATE, outcome, machine=name, why="a reason"))
    return log.events()


def but(events: list[Event], kind: EventKind, name: str) -> list[Event]:
    """Without what the log says of this kind on a machine."""
    return [e for e in events if e.kind is not kind or name not in str(e.data)]


def test_a_test_on_two_machines_is_two_rows() -> None:
    results = judge(on("cpu8"))
    assert results.verdict is Verdict.PASS
    assert sorted(test.machine for test in results.tests if test.id == CREATE) == ["cpu8", MACHINE]


def test_what_ended_on_one_machine_did_not_on_the_other() -> None:
    assert_inconclusive(judge(but(on("cpu8"), EventKind.TEST_END, "cpu8")), f"{CREATE} [{TREE.id} on cpu8]: started")


def test_each_machine_proves_its_oracles() -> None:
    assert_inconclusive(judge(on("cpu8", proved=False)), f"{TREE.id} on cpu8: no canary was run")


def test_a_machine_that_was_made_and_gave_no_test() -> None:
    events = but(but(on("cpu8"), EventKind.TEST_END, "cpu8"), EventKind.TEST_START, "cpu8")
    assert_inconclusive(judge(events), f"{TREE.id}: no test ran on machine cpu8")


def test_a_machine_that_was_asked_for_and_never_made() -> None:
    assert_inconclusive(judge(on("cpu8", asked=["cpu8", "cpu1"])), f"{TREE.id}: no test ran on machine cpu1")


def test_skips_are_enough_only_where_nobody_asked_for_the_machine() -> None:
    assert judge(on("cpu8", SKIP)).verdict is Verdict.PASS
    assert_inconclusive(judge(on("cpu8", SKIP, asked=["cpu8"])), "every test was skipped on machine cpu8", "a reason")


def test_a_kernel_that_does_not_boot_on_one_machine_fails_and_is_judged_on_the_other() -> None:
    log = Log()
    log.results.append(result(TREE, "boot", machine=MACHINE))
    log.results.append(result(TREE, "boot", FAIL, machine="cpu8", evidence=(), why="it does not boot"))
    results = judge(log.events())
    assert (results.verdict, len(results.why)) == (Verdict.FAIL, 1)
    rest = [event for event in log.events() if event.kind is not EventKind.CANARY]
    assert any("no canary was run" in line for line in judge(rest).why[1:])


def test_one_bad_architecture_is_enough_and_is_named() -> None:
    arm = kernel(arch="arm64")
    results = judged(Log(TREE, arm).put(result(arm, CREATE, FAIL, why="x")))
    assert results.verdict is Verdict.FAIL
    assert "arm64" in results.why[0]


@pytest.mark.parametrize("what", ["build", "boot", "selftests-build"])
def test_a_tree_that_does_not_come_up_fails(what: str) -> None:
    results = judged(Log(TREE).fall(TREE, what))
    assert results.verdict is Verdict.FAIL
    assert results.why == (f"{what} [{TREE.id}]: it does not {what}",)


def test_a_tree_without_selftests_is_one_reason_and_the_way_on_is_without_them() -> None:
    log = Log(TREE).fall(TREE, "selftests-build")
    log.argv += ["--suite", "selftests", "--full"]
    log.put(result(TREE, "selftests-build", INCONCLUSIVE, evidence=(), why="it has none"))
    results = judged(log)
    assert_inconclusive(results)
    assert results.why == (f"selftests-build [{TREE.id}]: it has none",)
    assert results.next == "kharness run --tree linux --full"


def test_the_next_step_replays_an_inconclusive_test_or_runs_it_alone() -> None:
    log = Log().put(result(TREE, CREATE, INCONCLUSIVE, why="x"))
    assert judged(log).next == "kharness run --tree linux -k test_enomem"
    log.put(result(TREE, CREATE, INCONCLUSIVE, why="x", replay="out/a b.json"))
    assert judged(log).next == "kharness replay 'out/a b.json'"


def test_a_damaged_event_is_an_error_and_no_verdict() -> None:
    events = [replace(e, data={"id": 3}) if e.kind is EventKind.TEST_END else e for e in Log().events()]
    with pytest.raises(HarnessError, match="damaged test-end"):
        judge(events)


# --- whatever is lost, a pass is lost with it ---------------------------------------------

SINGLE = Log().events()
MANY = shared(Log(TREE, kernel(arch="arm64")), 2).events()
COMPARED = Log(
    BASE, PATCHED, collected=[{"id": test, "kernel": k.id} for k in (BASE, PATCHED) for test in (CREATE, DESTROY)]
).events()


@given(
    st.sampled_from([SINGLE, COMPARED]).flatmap(
        lambda log: st.tuples(st.just(log), st.sets(st.integers(0, len(log) - 1), min_size=1))
    )
)
def test_no_part_of_a_passing_log_passes(drawn: tuple[list[Event], set[int]]) -> None:
    log, lost = drawn
    kept = [event for number, event in enumerate(log) if number not in lost]
    assert judge(log).verdict is Verdict.PASS
    assert judge(kept).verdict is not Verdict.PASS


@given(st.data())
def test_no_truncation_of_a_passing_log_passes(data: st.DataObject) -> None:
    log = data.draw(st.sampled_from([SINGLE, COMPARED]))
    length = data.draw(st.integers(0, len(log) - 1))
    assert judge(log[:length]).verdict is Verdict.INCONCLUSIVE


@given(st.permutations([event for event in MANY if "/" in event.writer]))
def test_the_order_of_what_parallel_workers_write_does_not_matter(middle: list[Event]) -> None:
    """As long as each writer's own events stand in their order."""
    own = {writer: iter([e for e in MANY if e.writer == writer]) for writer in {e.writer for e in middle}}
    mixed = [next(own[event.writer]) for event in middle]
    runner = [event for event in MANY if event.writer == RUNNER]
    assert judge([*runner[:-1], *mixed, runner[-1]]).verdict is Verdict.PASS
