# SPDX-License-Identifier: GPL-2.0-only
"""Tests of a held reader: what is done in which order, and what each course of events comes to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_ext.dsq import Dsqs
from sched_ext.reader import CPU, OTHER, PROGRAM, HeldReader

from harness.core.errors import GuestError, Inconclusive
from harness.guest.freed import FLUSH, WATCHED
from harness.oracles import read_freed
from tests.unit.fakes.context import SCALE, FakeAgent, FakeContext, FakeGuest, FakeObject

DSQ, PERCPU = 0xABC0, 0x6080
LIVE = f"grace 0\n{DSQ:x} live\n{PERCPU:x} live\n"
GONE = f"grace 1\n{DSQ:x} freed 30 50\n{PERCPU:x} freed 30 50\n"
EARLY = f"grace 0\n{DSQ:x} live\n{PERCPU:x} freed 70 30 50 60\n"


class Rig:
    """A reader on a guest of fakes; `shown` is what is known of the parts while it reads, and when it has left."""

    def __init__(self, *shown: str, **state: int) -> None:
        self.shown = list(shown)
        self.api = FakeObject("dsq_api1", sought_at=DSQ, sought_pcpu=PERCPU)
        self.api.run = lambda program, context, **more: [0]  # type: ignore[attr-defined]
        self.program = FakeObject(f"{PROGRAM}1", stage=1, refused=0, gave_up=0, cpu=CPU)
        self.program.variables |= state
        self.program.on_set = self._released
        self.agent = FakeAgent(read=lambda path: {"data": self.shown.pop(0)})
        self.guest = FakeGuest(self.agent, **{PROGRAM: self.program})
        self.context = FakeContext(self.guest)
        self.reader = HeldReader(self.context.as_context, cast(Dsqs, SimpleNamespace(api=self.api)))

    def _released(self, variable: str, value: int) -> None:
        if variable == "release":
            self.agent.call("released")
            self.program.variables["stage"] = 2

    def run(self, error: Exception | None = None) -> None:
        with self.reader.holding(7):
            self.agent.call("destroy")
            if error is not None:
                raise error

    @property
    def steps(self) -> list[Any]:
        """What was done, in order: verbs, writes by their file and what was written."""
        return [
            (args["path"], args["data"]) if verb == "write" else (verb, args["cpu"]) if verb == "pin" else verb
            for verb, args in self.agent.calls
        ]


def test_nothing_is_freed_while_it_reads_and_all_when_it_has_left() -> None:
    rig = Rig(LIVE, GONE)
    rig.run()
    assert rig.steps == [
        ("pin", OTHER),
        "run-beside",
        (WATCHED, f"{DSQ:x} {PERCPU:x}\n"),
        "destroy",
        (FLUSH, str(CPU)),
        "read",
        "released",
        "reap",
        ("pin", -1),
        "read",
        (WATCHED, "\n"),
    ]
    assert rig.api.variables["sought"] == 7
    assert rig.agent.asked("run-beside")[0]["ctx"] == "0700000000000000"
    assert rig.program.variables["patience_ns"] == 8 * SCALE * 1e9
    assert not rig.context.findings and rig.guest.settled == 1
    assert [name for name, _ in rig.program.history] == ["release"]
    assert rig.context.evidence[0].payload == {
        "held": ["the DSQ itself", "the percpu data of a DSQ"],
        "freed early": 0,
        "freed": 2,
    }


def test_what_is_freed_while_it_reads_is_a_finding_that_says_by_whom() -> None:
    rig = Rig(EARLY, GONE)
    rig.context.symbols.chain([0])  # what is looked up is recorded
    rig.run()
    (found,) = rig.context.findings
    assert found.kind == read_freed.KIND and found.title.startswith("the percpu data of a DSQ was freed by ")
    assert [name for name, _ in rig.program.history] == ["keep_off", "release"], "freed memory is not touched"
    assert rig.context.symbols.asked[-1] == (0, 0x70, 0x30, 0x50, 0x60)
    assert "scx_bpf_create_dsq" in [frame.function for frame in found.frames]


@pytest.mark.parametrize("shown", [(LIVE, LIVE), (LIVE, EARLY)])
def test_what_is_never_freed_is_the_kernels_failure(shown: tuple[str, str]) -> None:
    with pytest.raises(AssertionError, match="the DSQ itself"):
        Rig(*shown).run()


@pytest.mark.parametrize("state", [{"gave_up": 1}, {"cpu": 1}])
def test_a_reader_that_did_not_hold_on_proves_nothing(state: dict[str, int]) -> None:
    with pytest.raises(Inconclusive, match="did not hold on"):
        Rig(LIVE, GONE, **state).run()


def test_nor_does_one_that_no_grace_period_waited_for() -> None:
    with pytest.raises(Inconclusive, match="grace period went by: True"):
        Rig(LIVE.replace("grace 0", "grace 1"), GONE).run()


def test_a_reader_that_finds_no_dsq_is_let_go() -> None:
    rig = Rig(stage=2, refused=-2)
    with pytest.raises(GuestError, match="answered -2"):
        rig.run()
    assert rig.steps[-3:] == ["released", "reap", ("pin", -1)]


def test_a_block_that_fails_lets_it_go() -> None:
    rig = Rig()
    with pytest.raises(GuestError, match="no such thing"):
        rig.run(GuestError("no such thing"))
    assert rig.steps[-3:] == ["released", "reap", ("pin", -1)]


def test_a_dsq_that_is_not_there() -> None:
    rig = Rig()
    rig.api.variables["sought_at"] = 0
    with pytest.raises(GuestError, match="DSQ 7 is not in the kernel's table"):
        rig.run()


def test_a_dsq_without_percpu_data() -> None:
    rig = Rig(f"grace 0\n{DSQ:x} live\n", f"grace 1\n{DSQ:x} freed\n")
    rig.api.variables["sought_pcpu"] = 0
    rig.run()
    assert (WATCHED, f"{DSQ:x}\n") in rig.steps
