# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the hunt for a leak: what is blamed, in which words, and after how many looks at guests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.errors import GuestError
from harness.core.records import Finding, Operation
from harness.faults.cause import Cause
from harness.leaks import hunt as leakhunt
from harness.leaks.hunt import Hunt
from harness.leaks.repeat import Clock, Deed, Run
from harness.session.context import TestContext
from harness.session.session import Target

BORN = 5035
LEAK = Finding(
    "kmemleak",
    "slab leak",
    "slab leak of 64 bytes",
    "kmemleak:slab leak:f",
    function="f",
    log=("unreferenced object 0x1 (size 64):", f'  comm "x", pid 7, jiffies {BORN}'),
)
COUNT = Finding("percpu", "percpu count", "2 percpu objects more than before", "percpu:percpu count:")
WARN = Finding("dmesg", "warn", "WARNING in g", "dmesg:warn:g")

LOAD = Operation("load", {"name": "x1"})
SWEEP = Operation("sweep-ops", {"during": "attach", "thread": "helper", "label": "attach [helper]", "observer": "o"})
TESTS = [
    *(Deed(f"x.py::test_{number}", (LOAD,)) for number in range(5)),
    Deed("x.py::test_sweeps", (LOAD, SWEEP, LOAD), highest={1: 40}),
    *(Deed(f"x.py::test_{number}", (LOAD,)) for number in range(6, 9)),
]
GUILTY = "x.py::test_sweeps"

Leaks = Callable[[str, Run, Operation], bool]


class Kernel:
    """Stands for all guests of a hunt: which operation leaks what, and how many guests there were."""

    def __init__(self, leaks: Leaks, findings: Sequence[Finding] = (LEAK,)) -> None:
        self.of = {finding.signature: leaks for finding in findings}
        self.findings = findings
        self.guests = 0
        self.said: list[str] = []
        self.fails = False
        self.leaked: set[str] = set()

    def shown(self, hunt: Hunt, do: Callable[[TestContext], None]) -> dict[str, list[int]]:
        self.guests += 1
        self.leaked = set()
        if self.fails:
            raise GuestError("the guest would not")
        agent = SimpleNamespace(call=lambda verb, **args: {"ok": False})
        do(cast(TestContext, SimpleNamespace(guest=SimpleNamespace(agent=agent))))
        return {what: [] for what in self.leaked}

    def note(self, test: str, run: Run, operation: Operation) -> None:
        self.leaked |= {what for what, leaks in self.of.items() if leaks(test, run, operation)}

    def once(self, agent: object, test: str, steps: Iterable[tuple[Run, Operation]], clock: Clock) -> object:
        for run, operation in steps:
            self.note(test, run, operation)
            yield run, operation, {}

    def again(self, agent: object, deeds: Sequence[Deed], *more: object) -> None:
        for one in deeds:
            for run, operation in one.steps():
                self.note(one.test, run, operation)


def sweep_leaks(nth: int) -> Leaks:
    def leaks(test: str, run: Run, operation: Operation) -> bool:
        args = operation.args
        return operation.verb == "sweep-ops" and int(args.get("from", 1)) <= nth <= int(args.get("to", 99))

    return leaks


@pytest.fixture
def hunted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Finding]]:
    """A whole hunt over TESTS on a kernel; `clock` is what the batch knows."""

    def run(kernel: Kernel, clock: Clock | None = None, tests: Sequence[Deed] = TESTS) -> list[Finding]:
        monkeypatch.setattr(leakhunt, "once", kernel.once)
        monkeypatch.setattr(leakhunt, "again", kernel.again)
        monkeypatch.setattr(Hunt, "_shown", lambda hunt, do: kernel.shown(hunt, do))
        cause = Cause("attach", "failslab", ("kmalloc", "f"), "{operation: attach, task: helper, nth: 17}")
        monkeypatch.setattr(leakhunt, "fault", lambda context, operation, nth, answer: cause)
        target = cast(Target, SimpleNamespace(pristine=SimpleNamespace(scale=1.0)))
        return Hunt(target, tests, lambda: cast(TestContext, None), clock or Clock(), kernel.said.append).find(
            [WARN, *kernel.findings]
        )

    return run


def knowing() -> Clock:
    clock = Clock()
    clock.compare(1_000_000, 5000)
    clock.begun(1_000_000, "x.py::test_0", Run(0, 0))
    clock.note(GUILTY, Run(1, 0), {"at": 1_100_000, "begun": [1_100_000] * 16 + [1_110_000, 1_200_000]})
    clock.compare(1_800_000, 5200)
    return clock


def test_an_injected_fault_is_found_by_halving(hunted: Callable[..., list[Finding]]) -> None:
    kernel = Kernel(sweep_leaks(17))
    warn, leak = hunted(kernel)
    assert warn == WARN
    assert (leak.operation, leak.site) == ("attach", "kmalloc < f")
    assert leak.fault == "{operation: attach, task: helper, nth: 17}"
    assert leak.title == f"{LEAK.title}; test_sweeps: attach [helper], allocation 17 failing"
    assert leak.signature == LEAK.signature
    assert any(GUILTY in line for line in leak.log)
    assert "no leak seen: 8 tests (test_0 to test_8)" in leak.log
    assert len([line for line in leak.log if line.startswith("step ")]) == kernel.guests


def test_who_knows_when_it_was_born_needs_three_looks(hunted: Callable[..., list[Finding]]) -> None:
    """At the run, at its test without a fault, and at all others."""
    kernel = Kernel(sweep_leaks(17))
    _, leak = hunted(kernel, knowing())
    assert leak.fault == "{operation: attach, task: helper, nth: 17}"
    assert kernel.guests == 3


def test_a_wrong_time_of_birth_misleads_nobody(hunted: Callable[..., list[Finding]]) -> None:
    kernel = Kernel(sweep_leaks(31))
    _, leak = hunted(kernel, knowing())
    assert leak.title.endswith("test_sweeps: attach [helper], allocation 31 failing")


def test_a_leak_without_a_fault_is_not_laid_to_one(hunted: Callable[..., list[Finding]]) -> None:
    kernel = Kernel(lambda test, run, operation: test == GUILTY and run.place == 2)
    _, leak = hunted(kernel)
    assert leak.title.endswith("test_sweeps: with operation 2 of 2, load x1, without a fault")
    assert (leak.operation, leak.fault) == ("load x1", None)


def test_several_leaks_of_one_run_are_found_together(hunted: Callable[..., list[Finding]]) -> None:
    kernel = Kernel(sweep_leaks(17), (LEAK, COUNT))
    _, leak, count = hunted(kernel, knowing())
    assert leak.fault == count.fault == "{operation: attach, task: helper, nth: 17}"
    assert kernel.guests == 3


def test_two_leaks_of_one_test_have_each_its_run(hunted: Callable[..., list[Finding]]) -> None:
    """What one run leaks must not hide that another one of the same test leaks, too."""
    kernel = Kernel(sweep_leaks(17))
    late = replace(LEAK, signature="kmemleak:slab leak:g", log=(LEAK.log[0], '  comm "x", pid 7, jiffies 5010'))
    kernel.findings = (LEAK, late)
    kernel.of = {LEAK.signature: sweep_leaks(17), late.signature: sweep_leaks(30)}
    _, first, second = hunted(kernel, knowing())
    assert first.title.endswith("test_sweeps: attach [helper], allocation 17 failing")
    assert second.title.endswith("test_sweeps: attach [helper], allocation 30 failing")


def test_each_of_two_tests_is_named(hunted: Callable[..., list[Finding]]) -> None:
    kernel = Kernel(lambda test, run, operation: test in ("x.py::test_1", "x.py::test_7"))
    _, leak = hunted(kernel)
    assert "test_1: with operation 1 of 1" in leak.title
    assert "test_7: with operation 1 of 1" in leak.title


def test_what_leaks_only_together_is_told_so(hunted: Callable[..., list[Finding]]) -> None:
    done: set[str] = set()

    def leaks(test: str, run: Run, operation: Operation) -> bool:
        done.add(test)
        return {"x.py::test_1", "x.py::test_7"} <= done

    kernel = Kernel(leaks)
    shown = kernel.shown

    def fresh(hunt: Hunt, do: Callable[[TestContext], None]) -> dict[str, list[int]]:
        done.clear()
        return shown(hunt, do)

    kernel.shown = fresh  # type: ignore[method-assign]
    _, leak = hunted(kernel)
    assert leak.title.endswith("seen only with all of test_1, test_7")


def test_what_is_never_seen_again_is_blamed_on_nobody(hunted: Callable[..., list[Finding]]) -> None:
    kernel = Kernel(lambda test, run, operation: False)
    _, leak = hunted(kernel, tests=TESTS[:3])
    assert leak.title.endswith("seen only with all of test_0, test_1, test_2")
    assert leak.fault is None


def test_a_guest_that_fails_does_not_lose_the_finding(hunted: Callable[..., list[Finding]]) -> None:
    kernel = Kernel(sweep_leaks(17))
    kernel.fails = True
    _, leak = hunted(kernel, tests=TESTS[:3])
    assert leak.counts
    assert any("not known, the guest would not" in line for line in leak.log)


def test_when_time_is_over_it_says_what_it_knows(
    hunted: Callable[..., list[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leakhunt, "SECONDS", 0.0)
    kernel = Kernel(sweep_leaks(17))
    _, leak = hunted(kernel)
    assert kernel.guests == 0
    assert leak.title.endswith("time was over, one or more of 9 tests (test_0 to test_8)")


def test_nothing_to_hunt(hunted: Callable[..., list[Finding]]) -> None:
    kernel = Kernel(sweep_leaks(17), ())
    assert hunted(kernel) == [WARN]
    assert (kernel.guests, kernel.said) == (0, [])
