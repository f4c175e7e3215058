# SPDX-License-Identifier: GPL-2.0-only
"""Tests of blaming a hang: which CPU or task, which function, and what of it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from sched_ext.local_dsqs import LocalDsqs
from sched_ext.rq_memory import Layout, LocalDsq

from harness.core.errors import Ended, How, MachineEnded
from harness.core.records import Frame
from harness.machine.examine import Examination, Hung, Reading
from harness.machine.registers import Cpu, Return
from harness.oracles import crash, dmesg, hang
from harness.oracles.splat import sysrq
from harness.oracles.splat.blame import is_helper
from harness.oracles.splat.log import parse_console

GOLDEN = Path(__file__).parent / "golden"

NAMES = {
    0x1000: "spins_here",
    0x2000: "caller",
    0x3000: "default_idle",
    0x4000: "do_idle",
    0x5000: "_raw_spin_lock",
    0x6000: "wants_lock",
    0x7000: "sysvec_apic_timer_interrupt",
    0x8000: "another",
    0x9000: "vectors",
    0xA000: "reads_clock",
    0xB000: "hrtimer_interrupt",
    0xC000: "el1h_64_irq",
    0xD000: "__hrtimer_run_queues",
}


def resolve(addresses: Sequence[int]) -> tuple[tuple[Frame, ...], ...]:
    found = [NAMES.get(address & ~0xFFF) for address in addresses]
    return tuple(
        (Frame(name, address & 0xFFF, 0x100),) if name else () for name, address in zip(found, addresses, strict=True)
    )


def cpu(index: int, pc: int, *stack: int, masked: bool = True, user: bool = False, halted: bool = False) -> Cpu:
    sure = tuple(Return(address + 5, sure=True) for address in stack)
    return Cpu(index, pc, user, masked, halted, sure, f"RIP={pc:016x}")


def blamed(cpus: Sequence[Cpu], later: Sequence[Cpu] | None = None, said: Sequence[str] = ()) -> str | None:
    seen = Examination(tuple(cpus), tuple(cpus if later is None else later), tuple(said))
    found = hang.blame(seen, None, resolve)
    return found.what if found else None


IDLE = cpu(0, 0x3000, 0x4000, masked=False)
SPINS = cpu(1, 0x1000, 0x2000)


def test_a_cpu_that_spins_is_to_blame_and_not_one_that_idles() -> None:
    assert blamed([IDLE, SPINS]) == "a CPU spins in spins_here, interrupts off"
    assert blamed([IDLE, cpu(1, 0x1000, 0x2000, masked=False)]) == "a CPU spins in spins_here, interrupts on"
    assert blamed([IDLE, cpu(1, 0x1000, user=True)]) is None
    assert blamed([IDLE, cpu(1, 0x1000, halted=True)]) is None
    assert blamed([IDLE, IDLE]) is None


def test_what_was_passing_is_not() -> None:
    """Only the function in which it was both times; none if it was somewhere else."""
    assert blamed([IDLE, SPINS], [IDLE, cpu(1, 0x8000, 0x2000)]) == "a CPU spins in caller, interrupts off"
    assert blamed([IDLE, SPINS], [IDLE, cpu(1, 0x8000)]) is None
    assert blamed([IDLE, SPINS], [IDLE, cpu(1, 0x3000, 0x4000)]) is None


def test_what_was_put_off_its_cpu_for_a_moment_still_spins() -> None:
    put_off = ("NMI backtrace for cpu 1", "RIP: 0010:finish_task_switch+0x7/0x9", " worker_thread+0x1/0x2")
    spoken = [f"[   24.000000][    C1] {line}" for line in put_off]
    assert blamed([SPINS], said=spoken) == "a CPU spins in spins_here, interrupts off"
    assert blamed([SPINS], [IDLE], spoken) is None


def test_a_task_that_spins_is_followed_to_another_cpu() -> None:
    """Where the kernel may be preempted: it was on CPU 1, which idles now, and is on CPU 0, which idled."""
    idle, on = cpu(1, 0x3000, 0x4000), cpu(0, 0x1000, 0x2000, masked=False)
    assert (
        blamed([IDLE, cpu(1, 0x1000, 0x2000, masked=False)], [on, idle]) == "a CPU spins in spins_here, interrupts on"
    )
    assert blamed([IDLE, cpu(1, 0x8000, 0x2000)], [on, idle]) is None, (
        "another function: another task, or one that gets on"
    )
    assert blamed([IDLE, cpu(1, 0x1000, 0x2000)], [on, cpu(1, 0x8000)]) is None, "what was there is there still"


def test_interrupts_that_were_off_once_only_are_on() -> None:
    """The sample fell into an interrupt's own code."""
    timer = cpu(1, 0x7000, 0x1000, 0x2000)
    assert blamed([cpu(1, 0x1000, 0x2000, masked=False)], [timer]) == "a CPU spins in spins_here, interrupts on"


def test_a_stack_of_an_interrupt_s_entry_speaks_for_callers_only() -> None:
    """arm64's vectors: the interrupted function is in a register that QEMU does not show."""
    entry, whole = cpu(1, 0x9000, 0x2000), cpu(1, 0x1000, 0x2000, masked=False)
    assert blamed([entry], [whole]) == blamed([whole], [entry]) == "a CPU spins in spins_here, interrupts on"
    assert blamed([cpu(1, 0x9000, 0x6000)], [whole]) is None, "with other callers"
    assert blamed([entry], [entry]) == "a CPU spins in caller, interrupts on"
    spoken = [f"[   24.000000][    C1] {line}" for line in ("NMI backtrace for cpu 1", "RIP: 0010:spins_here+0x7/0x9")]
    assert blamed([entry], [whole], spoken) == "a CPU spins in spins_here, interrupts on", "said once, and seen"


def test_the_clock_s_interrupt_is_not_to_blame() -> None:
    """Each look may fall into it; but what it runs for others may hang as well."""
    clock = cpu(1, 0xA000, 0xB000, 0xC000, 0x1000, 0x2000)
    assert blamed([clock]) == "a CPU spins in spins_here, interrupts on"
    callback = cpu(1, 0x8000, 0xD000, 0xB000, 0xC000, 0x1000, 0x2000)
    assert blamed([callback]) == "a CPU spins in another, interrupts on"
    assert blamed([cpu(1, 0xA000, 0xB000, 0xC000)]) is None, "it interrupted user space"


def test_who_waits_for_a_lock_is_not_who_holds_it() -> None:
    waits = cpu(0, 0x5000, 0x6000)
    assert blamed([waits, SPINS]) == "a CPU spins in spins_here, interrupts off"
    alone = blamed([IDLE, cpu(1, 0x5000, 0x6000)])
    assert alone == "a CPU spins in wants_lock, interrupts off", "unless nobody else is to blame"


def test_the_same_whatever_the_cpus_numbers_are() -> None:
    other = cpu(0, 0x8000, 0x2000)
    assert blamed([SPINS, other]) == blamed([cpu(0, 0x1000, 0x2000), cpu(1, 0x8000, 0x2000)])


def test_a_guess_is_believed_when_it_returns_from_the_frame_before() -> None:
    stack = (
        Return(0x8005, sure=False),
        Return(0x2005, sure=False, callee=0x1000),
        Return(0x6005, sure=False, callee=0x5000),
    )
    one = Cpu(0, 0x1010, user=False, masked=True, halted=False, stack=stack)
    found = hang.blame(Examination((one,), (one,)), None, resolve)
    assert found is not None
    assert [(f.function, f.reliable) for f in found.frames] == [
        ("spins_here", True),
        ("another", False),
        ("caller", True),
        ("wants_lock", False),
    ]


def task(name: str, state: str, *stack: str) -> list[str]:
    shown = "R  running task    " if state == "R" else state
    lines = [f"task:{name:<15} state:{shown} stack:0     pid:{60 + len(name)}    tgid:61    ppid:1", "Call Trace:"]
    return [f"[   24.000000][    C1] {line}" for line in [*lines, *(f" {name}+0x10/0x20" for name in stack)]]


WAITING = ("__schedule", "schedule", "__mutex_lock", "wants_mutex", "vfs_write")
BLOCKED = ("__schedule", "schedule", "lost_wakeup", "vfs_write")


def test_a_blocked_task_is_to_blame_when_no_cpu_is() -> None:
    said = task("agent", "D", *BLOCKED)
    assert blamed([IDLE], said=said) == "agent is blocked in lost_wakeup"
    assert blamed([SPINS], said=said) == "a CPU spins in spins_here, interrupts off"


def test_a_task_that_waits_for_another_one_is_not() -> None:
    said = [*task("agent", "D", *WAITING), *task("kworker/1:1", "D", *BLOCKED)]
    assert blamed([IDLE], said=said) == "kworker/1:1 is blocked in lost_wakeup"
    assert blamed([IDLE], said=task("agent", "D", *WAITING)) == "agent is blocked in wants_mutex"


def test_a_task_of_the_agents_that_sleeps_elsewhere_is() -> None:
    serves = task("agent", "S", "__schedule", "schedule", "port_fops_read", "vfs_read")
    assert blamed([IDLE], said=serves) is None
    assert blamed([IDLE], said=task("other", "S", *BLOCKED)) is None
    assert blamed([IDLE], said=task("agent", "S", *BLOCKED)) == "agent sleeps in lost_wakeup"
    starved = "agent could run, but does not: it left the CPU in lost_wakeup"
    assert blamed([IDLE], said=task("agent", "R", *BLOCKED)) == starved


@pytest.mark.parametrize("lines", [["task:"], ["NMI backtrace for cpu"], ["sysrq: "], ["\x00\xff+0x1/0x2"], [""]])
def test_garbage_blames_nobody(lines: list[str]) -> None:
    assert blamed([], said=lines) is None


def ended(seen: Examination, *lines: str) -> MachineEnded:
    raised = MachineEnded("waited", Ended(How.RUNNING), lines, expired=True, waiting="an answer, 3 s")
    return Hung(raised, seen)


def test_the_finding_tells_where_and_shows_what_was_seen() -> None:
    seen = Examination((IDLE, SPINS), (IDLE, SPINS), tuple(task("agent", "D", *BLOCKED)), ("sysrq-l: no answer",))
    (found,) = crash.of(ended(seen, "last line"), None, (), resolve)
    assert (
        found.title == "the kernel hangs: a CPU spins in spins_here, interrupts off: waited in vain for an answer, 3 s"
    )
    assert (found.function, found.signature) == ("spins_here", "crash:hang:spins_here")
    assert found.log[:2] == ("last line", "not seen: sysrq-l: no answer")
    assert "CPU 1: in kernel, interrupts off" in found.log and "  spins_here+0x0/0x100" in found.log
    assert "CPU 0: in idle, interrupts on" in found.log
    order = [line.split()[0] + line.split()[1] for line in found.log if line.startswith(("task:", "CPU "))]
    assert order == ["task:agentstate:D", "CPU1:", "CPU0:"], "what is cut off at the end is worth least"
    (expected,) = crash.of(ended(seen), None, [r"spins in spins_here"], resolve)
    assert expected.expected


def test_a_hang_of_which_nothing_was_seen_stays_one() -> None:
    (found,) = crash.of(ended(Examination(why=("the console takes no break",))), None, (), resolve)
    assert found.title == "the kernel hangs: waited in vain for an answer, 3 s, and nothing on the console says why"
    assert found.function is None
    assert "not seen: the console takes no break" in found.log


def test_a_panic_is_no_hang_whatever_was_seen_later() -> None:
    panic = "[    9.000000][  T123] Kernel panic - not syncing: x"
    (found,) = crash.of(ended(Examination((SPINS,), (SPINS,)), panic), None, (), resolve)
    assert found.kind == "panic"


# --- what real kernels said -------------------------------------------------------------------

RECORDED = ("sysrq_sleep_x86", "sysrq_sleep_arm64", "sysrq_spin_x86", "sysrq_spin_arm64")


def recorded(name: str) -> list[str]:
    return (GOLDEN / name / "console.txt").read_text().split("\n")


@pytest.mark.parametrize("name", RECORDED)
def test_every_task_and_cpu_is_read(name: str) -> None:
    lines = recorded(name)
    report = sysrq.read(parse_console(lines))
    shown = {line.partition(" pid:")[2].split()[0] for line in lines if " pid:" in line and "task:" in line}
    assert {str(task.pid) for task in report.tasks} == shown and len(shown) > 40
    assert set(report.cpus) == {0, 1}
    assert all(task.raws for task in report.tasks if task.state in "DSI"), [t.name for t in report.tasks if not t.raws]


@pytest.mark.parametrize("arch", ["x86", "arm64"])
def test_a_lost_wake_up_is_named(arch: str) -> None:
    found = hang.blame(Examination(said=tuple(recorded(f"sysrq_sleep_{arch}"))), None, None)
    assert found is not None
    assert found.what == "agent is blocked in kharness_sleep"
    assert [frame.function for frame in found.frames if frame.reliable][2:5] == [
        "kharness_sleep",
        "canary_write",
        "full_proxy_write",
    ]


@pytest.mark.parametrize("arch", ["x86", "arm64"])
def test_a_cpu_that_spins_is_seen_behind_its_interrupt(arch: str) -> None:
    report = sysrq.read(parse_console(recorded(f"sysrq_spin_{arch}")))
    stacks = [[raw.frame.function for raw in cpu.interrupted()] for cpu in report.cpus.values()]
    assert [stack[:1] for stack in stacks if "full_proxy_write" in stack] == [["kharness_spin"]]


@pytest.mark.parametrize("name", RECORDED)
def test_what_was_asked_for_is_no_report(name: str) -> None:
    assert dmesg.findings(parse_console(recorded(name))) == []


def test_a_cpu_that_runs_none_for_a_wrong_count_is_to_blame_before_tasks() -> None:
    """It spares itself ops.dispatch; the tasks that then wait are not the defect. One that spins is reported first."""
    wrong, right = (LocalDsq(0, 3, 0),), (LocalDsq(0, 0, 0),)
    waits = tuple(task("agent", "D", *BLOCKED))
    reader = LocalDsqs(Layout(0, 0, 0, 0, 1))
    seen = Examination((IDLE,), (IDLE,), waits, (), (Reading(reader, wrong, wrong),))
    found = hang.blame(seen, None, resolve)
    assert found and found.function == "task_unlink_from_dsq"
    assert found.what == "the local DSQ of CPU 0 counts 3 tasks and holds none (task_unlink_from_dsq, dispatch_enqueue)"
    assert found.what in hang.log(seen, resolve)
    passing = hang.blame(Examination((IDLE,), (IDLE,), waits, (), (Reading(reader, wrong, right),)), None, resolve)
    assert passing and passing.function != "task_unlink_from_dsq"
    spinning = hang.blame(Examination((SPINS,), (SPINS,), waits, (), (Reading(reader, wrong, wrong),)), None, resolve)
    assert spinning and spinning.function == "spins_here"


@pytest.mark.parametrize(
    "function", ["arch_local_irq_restore", "raw_local_irq_save", "native_restore_fl", "local_daif_mask"]
)
def test_what_turns_interrupts_off_and_on_is_nobody_s_defect(function: str) -> None:
    """It is inlined into what spins, and a CPU may be seen in it twice."""
    assert is_helper(function)
