# SPDX-License-Identifier: GPL-2.0-only
"""Tests of one test's end: which evidence makes which outcome, and what outranks what."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import unquote

import pytest

from harness.core import definition
from harness.core.errors import Ended, GuestError, How, Inconclusive, MachineEnded
from harness.core.records import FaultSite, FaultSummary, Frame, MachineSpec, Outcome, TestResult
from harness.guest.agent import Agent
from harness.guest.guest import Guest
from harness.kbuild import kconfig
from harness.machine.deadline import Deadline
from harness.machine.vm import Vm
from harness.session.context import TestContext
from harness.session.session import Target
from harness.session.supplied import canonical
from tests.unit.fakes.suite import PLAIN, default

FIRST_SEQ = 500
WARN = (
    "4,500,2101932,-,caller=T91;------------[ cut here ]------------",
    "4,501,2101944,-,caller=T91;WARNING: kernel/sched/ext/ext.c:4890 at init_dsq+0x3c/0xc0, CPU#1: dsq_many/91",
    "4,502,2101964,-,caller=T91;RIP: 0010:init_dsq+0x3c/0xc0",
    "4,503,2101976,-,caller=T91;---[ end trace 0000000000000000 ]---",
)
LEAK = """unreferenced object (percpu) 0x00000010 (size 8):
  comm "dsq_many", pid 91, jiffies 4294668400
  backtrace (crc 0):
    pcpu_alloc_noprof+0x4a5/0x870
    init_dsq+0x9a/0xc0
    scx_bpf_create_dsq+0xd6/0x530
"""


def percpu_stats(current: int) -> str:
    names = {"nr_alloc": 900, "nr_dealloc": 900 - current, "nr_cur_alloc": current, "nr_max_alloc": 400}
    names |= {"nr_chunks": 2, "unit_size": 262144}
    return "".join(f"  {name:<20}: {value:12}\n" for name, value in names.items()) + "Per Chunk Stats:\n"


class FakeVm:
    """A machine whose console shows `console_lines`, and has lost so many bytes."""

    def __init__(self) -> None:
        self.console_lines: list[str] = []
        self.console = SimpleNamespace(lost=0)


class FakeGuest:
    """A guest whose evidence is what the test sets. Its agent is the real one, on a machine that is this object."""

    def __init__(self) -> None:
        self.kmsg: Sequence[str] = ()
        self.overruns = 0
        self.launch = SimpleNamespace(definition=definition.load("x86_64"))
        self.percpu = 100
        self.kmemleak = ""
        self.kmemleak_refuses = ""
        self.lockdep = ""
        self.scans = 1 << 20
        """So many more are done before kmemleak refuses."""
        self.places: list[list[int]] = []
        """What the ledger holds: kind, call site, size, objects."""
        self.books: dict[str, Any] = {}
        """What the ledger says otherwise than the places do."""
        self.dies: BaseException | None = None
        self.asked: list[str] = []
        self.agent = Agent(cast(Vm, self), 1.0)
        self.vm: Any = FakeVm()
        self._line = b""

    def send(self, data: bytes) -> None:
        number, verb, *args = data.decode().rstrip("\n").split("\t")
        given = dict(arg.partition("=")[::2] for arg in args)
        answer = self.call(verb, **{key: unquote(value) for key, value in given.items()})
        self._line = json.dumps({"id": int(number), **answer}).encode() + b"\n"

    def receive(self, deadline: Deadline, fatal: object = None, grace: float = 0.0) -> bytes:
        return self._line

    def log(self) -> list[str]:
        return Guest.log(cast(Guest, self))

    def __enter__(self) -> FakeGuest:
        return self

    def __exit__(self, *how: object) -> None:
        pass

    def reset(self) -> None:
        if self.dies is not None:
            raise self.dies

    def write(self, path: str, data: str) -> None:
        self.agent.call("write", path=path, data=data)

    def settle(self) -> str:
        return percpu_stats(self.percpu)

    def call(self, verb: str, /, **args: Any) -> dict[str, Any]:
        self.asked.append(f"{verb} {args.get('path', '')} {args.get('data', '')}".strip())
        if verb == "kmsg":
            # As do_kmsg() in vm/agent/files.c: what was read is gone.
            records, overruns, self.kmsg, self.overruns = list(self.kmsg), self.overruns, (), 0
            return {"ok": True, "records": records, "overruns": overruns}
        if args.get("path") == "/proc/lockdep_stats":
            return {"ok": True, "data": self.lockdep} if self.lockdep else {"ok": False, "error": "No such file"}
        if verb == "read":
            return {"ok": True, "data": self.kmemleak}
        if verb == "alive":
            return {"ok": True} | ledger_answer(self.places, self.percpu - 100) | self.books
        if args.get("data") in ("scan", "scan=off"):
            self.scans -= args["data"] == "scan"
            if self.scans < 0:
                self.kmemleak_refuses = "Operation not permitted"
            if self.kmemleak_refuses:
                return {"ok": False, "errno": 1, "error": self.kmemleak_refuses}
            if self.scans == 0:  # breaks off, and says nothing
                self.scans = -1
        return {"ok": True}


def ledger_answer(places: Sequence[Sequence[int]], more: int) -> dict[str, Any]:
    """As do_alive() of vm/agent/alive.c: what was freed before these places were made is older."""
    percpu = sum(place[3] for place in places if place[0] == 1)
    return {
        "places": [[*place, 0][:5] for place in places],
        "omitted": 0,
        "replaced": [],
        "percpu_allocated": percpu + 5,
        "percpu_freed": 5,
        "percpu_older": percpu - more,
        "slab_allocated": 9,
        "slab_alive": 0,
        "lost": 0,
        "programs": 3,
        "attached": 3,
        "missed": {"percpu_object_made": 0, "slab_object_gone": 4, "slab_object_gone_again": 2},
    }


INIT, PLANTED, ONCE = 0x1000, 0x2000, 0x3000
FUNCTIONS = {
    INIT - 1: (Frame("init_dsq", file="kernel/sched/ext/ext.c", line=40, inlined=True), Frame("scx_bpf_create_dsq")),
    PLANTED - 1: (Frame("kharness_leak_percpu", module="kharness"),),
    ONCE - 1: (Frame("scx_cid_arrays_alloc"), Frame("scx_cid_init")),
}
"""By the call's address, one before the return address that the ledger tells."""


def symbols(frame: Frame) -> Sequence[Frame]:
    return (frame,)


def made(config: str = "") -> tuple[TestContext, FakeGuest]:
    guest = FakeGuest()
    target = SimpleNamespace(
        restore=lambda sequential: guest,
        takes_turns=lambda sequential: sequential,
        symbols=symbols,
        addresses=lambda found: tuple(FUNCTIONS.get(address, ()) for address in found),
        kernel=SimpleNamespace(arch="x86_64", id="tree-x86_64-1"),
        machine=SimpleNamespace(spec=MachineSpec("x86_64")),
        pristine=SimpleNamespace(next_seq=FIRST_SEQ, percpu=percpu_stats(100), missed={}, blind="", age_ms=300),
        suite=PLAIN,
        code=default().code,
        allocates_once=default().allocates_once,
        readers=(),
        config=kconfig.parse(config, "config"),
    )
    return TestContext("tests/x.py::test_x", cast(Target, target), 7), guest


def conclude(change: Callable[[TestContext, FakeGuest], object], error: BaseException | None = None) -> TestResult:
    context, guest = made()
    change(context, guest)
    return context.conclude(error)


def test_a_pass_names_every_oracle_that_watched() -> None:
    result = conclude(lambda context, guest: None)
    assert (result.outcome, result.why, result.findings) == (Outcome.PASS, "", ())
    assert {seen.oracle for seen in result.evidence} == {"dmesg", "percpu", "ledger", "kmemleak", "console"}
    assert all(seen.watched and not seen.lost for seen in result.evidence)


LOCKDEP_STATS = """ lock-classes:                         1213 [max: 8192]
 debug_locks:                  {:11}
 max lockdep depth:                      14 [max: 48]
"""
"""As lockdep_stats_show() of kernel/locking/lockdep_proc.c prints it."""


@pytest.mark.parametrize(
    ("stats", "outcome", "why"),
    [
        (LOCKDEP_STATS.format(1), Outcome.PASS, ""),
        (LOCKDEP_STATS.format(0), Outcome.INCONCLUSIVE, "lockdep did not watch: lockdep turned itself off"),
        ("lock-classes: 1213", Outcome.INCONCLUSIVE, "does not say whether lockdep is on"),
        ("", Outcome.INCONCLUSIVE, "does not say whether lockdep is on"),
    ],
)
def test_lockdep_must_be_on_still(stats: str, outcome: Outcome, why: str) -> None:
    context, guest = made("CONFIG_LOCKDEP=y")
    guest.lockdep = stats
    result = context.conclude(None)
    assert result.outcome is outcome
    assert why in result.why


def test_lockdep_is_not_asked_where_there_is_none() -> None:
    context, guest = made()
    assert context.conclude(None).outcome is Outcome.PASS
    assert not any("lockdep" in asked for asked in guest.asked)


def test_a_warning_fails_a_test_that_raised_nothing() -> None:
    result = conclude(lambda context, guest: setattr(guest, "kmsg", WARN))
    assert result.outcome is Outcome.FAIL
    (found,) = result.findings
    assert (found.function, found.file, found.line) == ("init_dsq", "kernel/sched/ext/ext.c", 4890)
    assert "init_dsq" in result.why


def test_a_warning_that_was_announced_does_not() -> None:
    def provoke(context: TestContext, guest: FakeGuest) -> None:
        guest.kmsg = WARN
        context.expect(r"WARNING .* in init_dsq")

    result = conclude(provoke)
    assert result.outcome is Outcome.PASS
    assert [found.expected for found in result.findings] == [True]


def test_a_warning_that_the_test_read_itself_is_found_all_the_same() -> None:
    def read(context: TestContext, guest: FakeGuest) -> None:
        guest.kmsg = WARN
        assert guest.log() == list(WARN)
        assert guest.log() == [], "reading takes the records from the guest"

    result = conclude(read)
    assert (result.outcome, [found.function for found in result.findings]) == (Outcome.FAIL, ["init_dsq"])
    (seen,) = [evidence for evidence in result.evidence if evidence.oracle == "dmesg"]
    assert (seen.payload, seen.lost) == (4, 0)


def test_a_splat_read_in_two_parts_is_one() -> None:
    def read(context: TestContext, guest: FakeGuest) -> None:
        guest.kmsg = WARN[:2]
        guest.agent.call("kmsg")
        guest.kmsg = WARN[2:]

    result = conclude(read)
    assert [(found.kind, found.function) for found in result.findings] == [("warn", "init_dsq")]


@pytest.mark.parametrize(
    "parts",
    [((), WARN[1:]), (WARN[:1], ("6,502,1,-;one is missing",)), (("6,501,1,-;the first is missing",), ())],
    ids=["before", "between", "read by the test alone"],
)
def test_what_is_missing_between_two_reads_is_missed(parts: tuple[Sequence[str], Sequence[str]]) -> None:
    def read(context: TestContext, guest: FakeGuest) -> None:
        context.expect(r"WARNING")
        guest.kmsg = parts[0]
        guest.log()
        guest.kmsg = parts[1]

    result = conclude(read)
    assert (result.outcome, result.why) == (
        Outcome.INCONCLUSIVE,
        "dmesg did not watch: 1 record of the kernel log was lost",
    )


def test_an_overrun_that_the_test_saw_is_not_forgotten() -> None:
    def read(context: TestContext, guest: FakeGuest) -> None:
        guest.overruns = 1
        guest.log()

    assert conclude(read).outcome is Outcome.INCONCLUSIVE


OFF = "kmemleak: Memory pool empty, consider increasing CONFIG_DEBUG_KMEMLEAK_MEM_POOL_SIZE"


@pytest.mark.parametrize("scans", [0, 1, 2])
def test_the_ledger_speaks_where_kmemleak_stopped_watching(scans: int) -> None:
    """Before the first scan, during the second, and after it: what the file holds then is not all that is left."""

    def off(context: TestContext, guest: FakeGuest) -> None:
        guest.percpu, guest.scans, guest.kmsg = 102, scans, (f"4,500,1,-;{OFF}",)
        guest.places, guest.kmemleak = [[1, INIT, 8, 2]], LEAK

    result = conclude(off)
    shown = [(found.oracle, found.kind, found.function, found.count) for found in result.findings]
    assert (result.outcome, shown) == (Outcome.FAIL, [("ledger", "percpu leak", "init_dsq", 2)])
    (seen,) = [evidence for evidence in result.evidence if evidence.oracle == "kmemleak"]
    assert (seen.watched, seen.why) == (False, f"kmemleak stopped watching: {OFF}")


def test_what_kmemleak_says_of_its_end_is_the_reason() -> None:
    context, guest = made()
    guest.kmemleak_refuses, guest.kmsg = "Operation not permitted", (f"4,500,1,-;{OFF}",)
    with pytest.raises(Inconclusive, match=f"^kmemleak did not watch: kmemleak stopped watching: {OFF}$"):
        context.unreferenced()
    guest.kmemleak_refuses = ""
    guest.kmemleak = LEAK
    assert [leak.function for leak in context.unreferenced()] == ["init_dsq"]


def test_kmemleak_is_not_asked_without_need() -> None:
    context, guest = made()
    context.conclude(None)
    assert not any(asked.endswith("scan") for asked in guest.asked), "a scan is the dearest wait of all"


@pytest.mark.parametrize(
    ("change", "oracle"),
    [
        (lambda context, guest: setattr(guest, "overruns", 3), "dmesg"),
        (lambda context, guest: setattr(guest, "kmsg", ("6,505,1,-;five records later",)), "dmesg"),
        (lambda context, guest: setattr(guest, "kmemleak_refuses", "Device or resource busy"), "kmemleak"),
    ],
    ids=["overrun", "gap", "kmemleak-off"],
)
def test_an_oracle_that_did_not_watch_is_not_a_clean_log(
    change: Callable[[TestContext, FakeGuest], object], oracle: str
) -> None:
    result = conclude(change)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert result.why.startswith(f"{oracle} did not watch")


def test_a_finding_outranks_a_blind_oracle() -> None:
    def both(context: TestContext, guest: FakeGuest) -> None:
        guest.kmsg, guest.overruns = WARN, 1

    assert conclude(both).outcome is Outcome.FAIL


def faults(injected: int, operation: str = "create") -> FaultSummary:
    site = FaultSite(operation, "failslab", ("pcpu_alloc_noprof", "init_dsq"), reached=9, injected=injected)
    return FaultSummary(9, injected, injected, (site,))


@pytest.mark.parametrize(
    ("summaries", "outcome"),
    [([], Outcome.INCONCLUSIVE), ([faults(0)], Outcome.INCONCLUSIVE), ([faults(0), faults(2, "attach")], Outcome.PASS)],
)
def test_a_test_that_was_to_inject_must_have(summaries: list[FaultSummary], outcome: Outcome) -> None:
    def inject(context: TestContext, guest: FakeGuest) -> None:
        context.must_inject = ("pcpu_alloc_noprof",)
        for summary in summaries:
            context.count_faults(summary)

    result = conclude(inject)
    assert result.outcome is outcome
    assert ("pcpu_alloc_noprof" in result.why) is (outcome is Outcome.INCONCLUSIVE)


def test_each_function_that_was_to_be_hit_must_have_been() -> None:
    def inject(context: TestContext, guest: FakeGuest) -> None:
        context.must_inject = ("init_dsq", "rhashtable_insert")
        context.count_faults(faults(2))

    result = conclude(inject)
    assert (result.outcome, result.why) == (Outcome.INCONCLUSIVE, "no fault was injected under rhashtable_insert")


@pytest.mark.parametrize("error", [GuestError("the worker never started"), TypeError("oops")])
def test_a_warning_is_not_lost_because_the_test_broke_off(error: BaseException) -> None:
    result = conclude(lambda context, guest: setattr(guest, "kmsg", WARN), error)
    assert (result.outcome, [found.kind for found in result.findings]) == (Outcome.FAIL, ["warn"])


def test_the_first_reason_is_kept_when_the_evidence_fails_too() -> None:
    result = conclude(lambda context, guest: setattr(guest, "dies", GuestError("later")), GuestError("first"))
    assert (result.outcome, result.why) == (Outcome.INCONCLUSIVE, "first")


def test_an_assertion_keeps_its_words_and_the_evidence_joins_it() -> None:
    result = conclude(lambda context, guest: setattr(guest, "kmsg", WARN), AssertionError("seen was 3"))
    assert (result.outcome, result.why) == (Outcome.FAIL, "seen was 3")
    assert [found.kind for found in result.findings] == ["assertion", "warn"]


@pytest.mark.parametrize("error", [GuestError("the verifier refused it"), TypeError("oops")])
def test_what_is_not_the_kernels_stays_inconclusive(error: BaseException) -> None:
    result = conclude(lambda context, guest: None, error)
    assert (result.outcome, result.findings) == (Outcome.INCONCLUSIVE, ())


def test_a_guest_that_dies_of_it_only_afterwards_fails_the_test() -> None:
    panic = ("[    9.000000][    T1] Kernel panic - not syncing: Fatal exception",)
    death = MachineEnded("no answer", Ended(How.EXITED, status=0), panic, False)
    result = conclude(lambda context, guest: setattr(guest, "dies", death))
    assert (result.outcome, [found.kind for found in result.findings]) == (Outcome.FAIL, ["panic"])


def test_qemu_killed_afterwards_does_not() -> None:
    death = MachineEnded("no answer", Ended(How.KILLED, signal=9), (), False)
    result = conclude(lambda context, guest: setattr(guest, "dies", death))
    assert result.outcome is Outcome.INCONCLUSIVE and "SIGKILL" in result.why


def test_qemu_killed_afterwards_does_not_wipe_out_a_failure() -> None:
    death = MachineEnded("no answer", Ended(How.KILLED, signal=9), (), False)
    result = conclude(lambda context, guest: setattr(guest, "dies", death), AssertionError("seen was 3"))
    assert (result.outcome, result.why) == (Outcome.FAIL, "seen was 3")


def test_the_first_disagreement_is_kept() -> None:
    context, _ = made()
    context.count_model(10, 10)
    context.count_model(1, 1, "first")
    context.count_model(1, 1, "second")
    assert (context.model.operations, context.model.compared, context.model.first_disagreement) == (12, 12, "first")


@pytest.mark.parametrize(
    ("nodeid", "wanted"),
    [
        ("tests/a.py::test_x[tree-x86_64-default]", "tests/a.py::test_x"),
        ("tests/a.py::test_x[tree-x86_64-default-failslab]", "tests/a.py::test_x[failslab]"),
        ("tests/a.py::test_x[1-2-tree-x86_64-default]", "tests/a.py::test_x[1-2]"),
        ("tests/a.py::test_x[base-x86_64-default]", "tests/a.py::test_x[base-x86_64-default]"),
        ("tests/kernel/selftests/test_selftests.py::test_selftest[tree-x86_64-default-exit]", "selftests::exit"),
        (
            "tests/kernel/selftests/test_selftests.py::test_other[tree-x86_64-default]",
            "tests/kernel/selftests/test_selftests.py::test_other",
        ),
    ],
)
def test_the_canonical_id_leaves_this_target_out_and_no_other(nodeid: str, wanted: str) -> None:
    target = SimpleNamespace(name="tree-x86_64-default")
    assert canonical(nodeid, cast(Target, target)) == wanted
