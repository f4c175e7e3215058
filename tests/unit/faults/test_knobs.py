# SPDX-License-Identifier: GPL-2.0-only
"""The tests of the fault knobs: the writes are held against a re-telling of should_fail_ex()."""

from __future__ import annotations

import dataclasses

import pytest

from harness.core.errors import UsageError
from harness.core.records import Fault
from harness.faults import types
from harness.faults.knobs import FUNCTION, ULONG_MAX, arm, disarm, resolve

FAILSLAB, PAGE = types.SLAB.folder, types.PAGE.folder

RANGES = {
    "pcpu_alloc_noprof": (0xFFFFFFFF81200000, 0xFFFFFFFF81201000),
    "init_dsq.constprop.0": (0xFFFFFFFF81300000, 0xFFFFFFFF81300100),
    "split.part.0": (0x10, 0x20),
    "split.cold": (0x30, 0x40),
    "zero": (0, 0),
}
INSIDE = 0xFFFFFFFF81200800


@dataclasses.dataclass
class Attr:
    """One fault_attr of a kernel, from its boot defaults (include/linux/fault-inject.h)."""

    knobs: dict[str, str] = dataclasses.field(
        default_factory=lambda: {
            "probability": "0",
            "interval": "1",
            "times": "1",
            "space": "0",
            "verbose": "2",
            "task-filter": "N",
            "stacktrace-depth": "32",
            "require-start": "0",
            "require-end": hex(ULONG_MAX),
            "ignore-gfp-wait": "Y",
            "ignore-gfp-highmem": "Y",
            "min-order": "1",
            "cache-filter": "N",
        }
    )
    count: int = 0

    def number(self, name: str) -> int:
        return int(self.knobs[name], 0)

    def stack_ok(self, stack: list[int]) -> bool:
        start, end = self.number("require-start"), self.number("require-end")
        return (start, end) == (0, ULONG_MAX) or any(start <= a < end for a in stack)


class Kernel:
    """The parts of should_fail_ex() that the knobs steer, for one task."""

    def __init__(self) -> None:
        self.attrs = {FAILSLAB: Attr(), PAGE: Attr(), FUNCTION: Attr()}
        self.proc = {"fail-nth": 0, "make-it-fail": 0}
        self.injected: list[str] = []
        self.order: list[str] = []

    def write(self, writes: tuple[tuple[str, str], ...]) -> None:
        for path, value in writes:
            directory, _, name = path.rpartition("/")
            self.order.append(path)
            if directory.startswith("/proc/"):
                self.proc[name] = int(value)
            elif path == f"{FUNCTION}/inject":
                assert value == "\n" or not self.injected, "EBUSY"
                self.injected = [] if value == "\n" else [value]
            elif name == "retval":
                assert directory.removeprefix(FUNCTION + "/") in self.injected, "no such directory yet"
            else:
                assert name in self.attrs[directory].knobs, path
                self.attrs[directory].knobs[name] = value

    def fails(self, directory: str, size: int = 1, stack: list[int] | None = None, order: int = 0) -> bool:
        attr, stack = self.attrs[directory], stack or []
        if attr.knobs["ignore-gfp-wait"] == "Y" and directory != FUNCTION:
            return False
        if directory == PAGE and (attr.knobs["ignore-gfp-highmem"] == "Y" or order < attr.number("min-order")):
            return False
        if self.proc["fail-nth"]:
            if attr.stack_ok(stack):
                self.proc["fail-nth"] -= 1
                return self.proc["fail-nth"] == 0
            return False
        if attr.number("probability") == 0 or (attr.knobs["task-filter"] == "Y" and not self.proc["make-it-fail"]):
            return False
        if attr.number("times") == 0 or not attr.stack_ok(stack):
            return False
        if attr.number("space") > size:
            attr.knobs["space"] = str(attr.number("space") - size)
            return False
        attr.count += 1
        if attr.number("interval") > 1 and attr.count % attr.number("interval"):
            return False
        if attr.number("times") > 0:
            attr.knobs["times"] = str(attr.number("times") - 1)
        return attr.number("probability") == 100


def armed(fault: Fault) -> Kernel:
    kernel = Kernel()
    kernel.write(arm(fault, RANGES))
    return kernel


def test_the_boot_defaults_inject_nothing() -> None:
    kernel = Kernel()
    kernel.write(((f"{FAILSLAB}/probability", "100"), ("/proc/self/fail-nth", "1")))
    assert not kernel.fails(FAILSLAB) and not kernel.fails(PAGE)


@pytest.mark.parametrize("directory", [FAILSLAB, PAGE])
def test_fail_nth_of_any_type(directory: str) -> None:
    kernel = armed(Fault("any", nth=3))
    assert [kernel.fails(FAILSLAB), kernel.fails(PAGE), kernel.fails(directory)] == [False, False, True]
    assert not kernel.fails(FAILSLAB) and not kernel.fails(PAGE), "it fires once"
    assert kernel.order[-1] == "/proc/self/fail-nth"


@pytest.mark.parametrize(("what", "mine", "other"), [("failslab", FAILSLAB, PAGE), ("page", PAGE, FAILSLAB)])
def test_fail_nth_of_one_type_does_not_count_the_other(what: str, mine: str, other: str) -> None:
    kernel = armed(Fault("any", nth=1))
    kernel.write(disarm(Fault("any", nth=1)))  # leaves ignore-gfp-wait=N behind for both
    kernel.write(arm(Fault(what, nth=2), RANGES))
    assert [kernel.fails(d) for d in (other, mine, other, other, mine)] == [False, False, False, False, True]


def test_fail_nth_within_a_function() -> None:
    kernel = armed(Fault("any", within=("pcpu_alloc_noprof",), nth=2))
    seen = [kernel.fails(FAILSLAB, stack=s) for s in ([5], [INSIDE], [5], [5, INSIDE])]
    assert seen == [False, False, False, True]


@pytest.mark.parametrize(("what", "directory"), [("failslab", FAILSLAB), ("page", PAGE)])
def test_every_occurrence_within_a_function(what: str, directory: str) -> None:
    kernel = armed(Fault(what, within=("pcpu_alloc_noprof",), every=1))
    assert all(kernel.fails(directory, size=4096, stack=[INSIDE]) for _ in range(5)), "times is not 1"
    assert not kernel.fails(directory, stack=[5])
    assert not kernel.fails({FAILSLAB: PAGE, PAGE: FAILSLAB}[directory], stack=[INSIDE])
    kernel.proc["make-it-fail"] = 0
    assert not kernel.fails(directory, stack=[INSIDE]), "another task is spared"


def test_every_third() -> None:
    kernel = armed(Fault("failslab", every=3))
    assert [kernel.fails(FAILSLAB) for _ in range(6)] == [False, False, True] * 2


def test_probability_is_per_cent_and_for_all_tasks_when_asked() -> None:
    kernel = armed(Fault("any", task="all", probability=7))
    for directory in (FAILSLAB, PAGE):
        assert kernel.attrs[directory].knobs["probability"] == "7"
        assert kernel.attrs[directory].knobs["task-filter"] == "N"
        assert kernel.attrs[directory].knobs["interval"] == "1"
    assert kernel.order[-1].endswith("/probability")
    assert kernel.proc == {"fail-nth": 0, "make-it-fail": 0}


@pytest.mark.parametrize("nth", [1, 2, 5])
def test_the_nth_call_of_a_function(nth: int) -> None:
    kernel = armed(Fault("function", within=("init_dsq",), nth=nth))
    stack = [RANGES["init_dsq.constprop.0"][0]]
    seen = [(kernel.fails(FUNCTION), kernel.fails(FUNCTION, stack=stack)) for _ in range(8)]
    assert seen == [(False, call == nth) for call in range(1, 9)], "exactly the n-th, and once"
    assert kernel.injected == ["pcpu_alloc_noprof"]


def test_every_call_of_another_function() -> None:
    kernel = Kernel()
    kernel.write(arm(Fault("function", task="all", every=1), RANGES, target="vzalloc_noprof"))
    assert kernel.fails(FUNCTION) and kernel.fails(FUNCTION)
    assert kernel.injected == ["vzalloc_noprof"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("any", nth=1),
        Fault("failslab", within=("pcpu_alloc_noprof",), nth=1),
        Fault("page", every=2),
        Fault("any", task="all", probability=50),
        Fault("function", nth=9),
        Fault("function", task="77", every=1),
    ],
)
def test_disarm_and_arm_again(fault: Fault) -> None:
    kernel = armed(fault)
    kernel.write(disarm(fault))
    assert set(kernel.proc.values()) == {0} and not kernel.injected
    for directory, attr in kernel.attrs.items():
        assert not any(kernel.fails(directory, stack=[INSIDE]) for _ in range(5))
        assert attr.stack_ok([]), "no filter stays behind"
    kernel.write(arm(fault, RANGES))
    kernel.write(arm(fault, RANGES))


@pytest.mark.parametrize("fault", [Fault("any", nth=1), Fault("function", every=1), Fault("page", probability=1)])
def test_nothing_is_printed_and_all_of_the_stack_is_looked_at(fault: Fault) -> None:
    writes = arm(fault, RANGES)
    assert {v for p, v in writes if p.endswith("/verbose")} == {"0"}
    assert {v for p, v in writes if p.endswith("/stacktrace-depth")} == {"32"}


def test_a_thread_by_its_id() -> None:
    assert arm(Fault(task="123", nth=4), RANGES)[-1] == ("/proc/123/fail-nth", "4")
    assert arm(Fault("page", task="123", every=1), RANGES)[-1] == ("/proc/123/make-it-fail", "1")


def test_resolve() -> None:
    assert resolve("pcpu_alloc_noprof", RANGES) == RANGES["pcpu_alloc_noprof"]
    assert resolve("init_dsq", RANGES) == RANGES["init_dsq.constprop.0"]
    with pytest.raises(UsageError, match=r"only as split\.cold, split\.part\.0"):
        resolve("split", RANGES)


def test_an_unknown_function_suggests_near_names() -> None:
    with pytest.raises(UsageError) as caught:
        arm(Fault(within=("pcpu_alloc_nopro",), nth=1), RANGES)
    assert caught.value.line() == (
        "this kernel has no function pcpu_alloc_nopro (misspelt, or inlined into its callers); "
        "did you mean pcpu_alloc_noprof?"
    )
    with pytest.raises(UsageError, match="no function xyzzy"):
        arm(Fault(within=("xyzzy",), nth=1), RANGES)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("slab", nth=1), "no such fault"),
        (Fault(), "not none of them"),
        (Fault(nth=1, every=1), "not nth and every"),
        (Fault(nth=0), "nth 0"),
        (Fault(every=-1), "every -1"),
        (Fault(probability=101), "probability 101"),
        (Fault(probability=5, seed=1), "seeded"),
        (Fault(task="me", nth=1), "no such task"),
        (Fault("function", caller="init_dsq", nth=1), "does not distinguish callers"),
        (Fault(task="all", nth=1), "sites of one task"),
        (Fault(within=("a", "b"), nth=1), "one range"),
        (Fault(within=("zero",), nth=1), "no usable text range"),
    ],
)
def test_faults_that_contradict_themselves(fault: Fault, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        arm(fault, RANGES)
