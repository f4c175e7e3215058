# SPDX-License-Identifier: GPL-2.0-only
"""Finding out where a kernel hangs, from its examination when it no longer answered (harness.machine.examine).

In this order: a CPU that was in the same function of the kernel before and after the kernel was asked; what a suite's
readers found wrong in the kernel's memory, both times; a task that is blocked (state D), its waker lost; a task of our
agent's that sleeps where it does not wait for us, or that could run and does not. Idle CPUs and those in user space are
never to blame, nor is what waits for another CPU or task, as long as there is anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from harness.core.records import Frame, render_frame
from harness.machine.examine import Examination
from harness.machine.registers import Cpu
from harness.oracles.splat import sysrq
from harness.oracles.splat.blame import base_name, is_helper
from harness.oracles.splat.frames import Raw, Symbolize, culprit, decode
from harness.oracles.splat.log import parse_console
from harness.oracles.splat.sysrq import SysrqReport, Task

Resolve = Callable[[Sequence[int]], tuple[tuple[Frame, ...], ...]]
"""Addresses of instructions to frames, innermost first (harness.kbuild.addresses)."""

AGENT = "agent"
"""The name of our agent's tasks (vm/agent)."""

MOST_LINES = 400
"""Lines of log in a finding: all blocked tasks and CPUs of a small machine, and the agent's own."""

_IDLE = re.compile(r"do_idle|default_idle\w*|cpu_startup_entry|cpu_do_idle|arch_cpu_idle|play_dead\w*|cpuidle_\w+")
_SERVES = re.compile(
    r"port_fops_\w+|do_wait|do_poll\w*|do_sys_poll|ep_poll|\w*nanosleep\w*|pipe_read|do_sigtimedwait|ptrace_stop"
)
"""Functions in which a task of the agent may sleep: waiting for us, for its children, or for a time."""

_ENTRY = frozenset({"vectors"})
"""Functions in which the interrupted function has not been saved to memory yet (arch/arm64/kernel/entry.S)."""

_INTERRUPT = re.compile(r"vectors|el1_interrupt|el1h_64_irq|(?:asm_)?sysvec_\w+|(?:asm_)?common_interrupt")

_BOUNDARY = re.compile(r"el(?:1h|0t)_64_irq|asm_sysvec_\w+|asm_common_interrupt")
_CLOCK = re.compile(r"hrtimer_interrupt|arch_timer_handler\w*|sysvec_apic_timer_interrupt|clockevents_program_event")
_CALLBACK = re.compile(r"_*hrtimer_run_queues|_*run_(?:hr)?timers?\w*|handle_softirqs")
"""The timer interrupt, which a guest that was briefly stopped takes first, and the functions that run code in it."""

_ON_OTHERS = re.compile(
    r"\w*flush_work\w*|\w*flush_workqueue|kthread_(?:flush|cancel|stop)\w*|kthread_flush_worker|_*mutex_lock\w*"
    r"|rwsem_down_\w+|percpu_(?:down|rwsem)_\w+|down_(?:read|write)\w*|\w*synchronize_\w+|\w*rcu_barrier\w*|\w*wait_rcu_gp\w*"
    r"|stop_(?:one_cpu|machine|cpus)\w*|cpu_stop_\w+"
)
"""Functions that wait for another task or CPU, which is then the one that hangs."""


@dataclass(frozen=True)
class Blame:
    """Where it hangs: `what` completes "the kernel hangs: ", `frames` are those of the CPU or task."""

    what: str
    function: str
    file: str | None
    line: int | None
    frames: tuple[Frame, ...]

    @property
    def names(self) -> list[str]:
        """For the signature: how far a stack can be followed depends on which CPU takes the console's interrupt."""
        return [self.function]


def blame(seen: Examination, symbolize: Symbolize | None, resolve: Resolve | None) -> Blame | None:
    """What hangs and where; None if the examination does not show it. Without `resolve` no CPU is to blame."""
    report = sysrq.read(parse_console(seen.said))
    return _of_cpus(seen, report, symbolize, resolve) or _of_readings(seen) or _of_tasks(report, symbolize)


def log(seen: Examination, resolve: Resolve | None) -> tuple[str, ...]:
    """The examination as text: what was not seen; blocked tasks and the agent's; each CPU's registers and stacks; idle
    CPUs last, as at most `MOST_LINES` are shown."""
    out = [f"not seen: {why}" for why in seen.why]
    out += [line for reading in seen.readings for line in reading.wrong]
    report = sysrq.read(parse_console(seen.said))
    for task in sorted(report.tasks, key=lambda task: task.state != "D"):
        if task.state == "D" or task.name == AGENT:
            out += task.lines
    both = zip(seen.cpus, _stacks(seen.cpus, resolve), strict=True)
    for cpu, frames in sorted(both, key=lambda one: (_idle(*one), one[0].index)):
        mode = "user space" if cpu.user else "idle" if _idle(cpu, frames) else "kernel"
        out.append(f"CPU {cpu.index}: in {mode}, interrupts {'off' if cpu.masked else 'on'}")
        out += [f"  {'' if frame.reliable else '? '}{_shown(frame)}" for frame in frames]
        out += [f"  {line.strip()}" for line in cpu.text.splitlines() if line.strip()]
        out += report.cpus[cpu.index].lines if cpu.index in report.cpus else []
    return tuple(out[:MOST_LINES])


def _shown(frame: Frame) -> str:
    return render_frame(frame) + (f" [{frame.module}]" if frame.module else "")


Seen: TypeAlias = tuple[Cpu, tuple[Frame, ...]]
"""A CPU and its stack."""


# --- CPUs ---------------------------------------------------------------------------------


def _of_cpus(
    seen: Examination, report: SysrqReport, symbolize: Symbolize | None, resolve: Resolve | None
) -> Blame | None:
    first = {cpu.index: (cpu, frames) for cpu, frames in zip(seen.cpus, _stacks(seen.cpus, resolve), strict=True)}
    later = list(zip(seen.later, _stacks(seen.later, resolve), strict=True))
    left = {cpu.index for cpu, frames in later if cpu.user or _idle(cpu, frames)}
    found: list[tuple[bool, bool, str, Frame, tuple[Frame, ...]]] = []
    for cpu, frames in later:
        before, earlier = first.get(cpu.index, (cpu, ()))
        if before.user or _idle(before, earlier):
            before, earlier = _moved(frames, [first[index] for index in sorted(left & first.keys())], before, earlier)
        if cpu.user or before.user or _idle(cpu, frames) or _idle(before, earlier):
            continue
        shown = report.cpus.get(cpu.index)
        spoken = decode(shown.interrupted(), symbolize) if shown and not shown.skipped else ()
        stood = _stood(_below_clock(earlier), spoken, _below_clock(frames))
        guilty = culprit(stood)
        if guilty is not None:
            masked = _masked(cpu, frames) and _masked(before, earlier)
            found.append((_waits(stood), not masked, base_name(guilty.function), guilty, stood))
    if not found:
        return None
    _, taken, name, guilty, frames = min(found, key=lambda one: one[:3])  # by name: numbers of CPUs change
    what = f"a CPU spins in {name}, interrupts {'on' if taken else 'off'}"
    return Blame(what, name, guilty.file, guilty.line, frames)


def _moved(now: Sequence[Frame], left: Sequence[Seen], before: Cpu, earlier: tuple[Frame, ...]) -> Seen:
    """Where the task that a CPU runs was before, if that CPU was idle: on a CPU that is idle now, in the same function.
    A preemptible kernel may move a spinning task to another CPU. Else the CPU itself."""
    own = [base_name(frame.function) for frame in _below_clock(now) if frame.reliable][:1]
    for cpu, frames in left:
        there = [base_name(frame.function) for frame in _below_clock(frames) if frame.reliable][:1]
        if own and own == there and not cpu.user and not _idle(cpu, frames):
            return cpu, frames
    return before, earlier


def _stood(earlier: Sequence[Frame], spoken: Sequence[Frame], later: Sequence[Frame]) -> tuple[Frame, ...]:
    """A CPU's stack from the innermost function on in which it was at least twice; the kernel's own, if it showed one.

    Twice is enough: a spinning task may have been off the CPU for a moment. If the interrupted function is unknown, a
    stack shows its callers only, and is left out where another one is whole.
    """
    whole = [stack for stack in (earlier, spoken, later) if stack and stack[0].function not in _ENTRY]
    for best, other in ((spoken, earlier), (later, earlier), (spoken, later)):
        if best in whole and other in whole and (both := _common(best, other)):
            return both
    if len(whole) > 1:
        return ()
    best = whole[0] if whole else later
    callers = [_callers(stack) for stack in (earlier, later) if stack and stack is not best]
    ours = _callers(best)
    return tuple(best) if any(names and names == ours[len(ours) - len(names) :] for names in callers) else ()


def _below_clock(stack: Sequence[Frame]) -> Sequence[Frame]:
    """A stack without the timer interrupt: a CPU that was resumed takes it at once, wherever it hangs.

    The result is empty for a CPU that ran user space.
    """
    end = next((n for n, frame in enumerate(stack) if _BOUNDARY.fullmatch(frame.function)), None)
    if end is None:
        return stack
    names = [frame.function for frame in stack[:end]]
    clock = any(_CLOCK.fullmatch(name) for name in names) and not any(_CALLBACK.fullmatch(name) for name in names)
    return stack[end + 1 :] if clock else stack


def _common(best: Sequence[Frame], other: Sequence[Frame]) -> tuple[Frame, ...]:
    names = {base_name(frame.function) for frame in other if frame.reliable}
    start = next((n for n, frame in enumerate(best) if frame.reliable and base_name(frame.function) in names), None)
    return tuple(best[start:]) if start is not None else ()


def _callers(stack: Sequence[Frame]) -> list[str]:
    """Functions of a stack that are certain, without inlined ones and without the entry of an interrupt."""
    return [f.function for f in stack if f.reliable and not f.inlined and f.function not in _ENTRY]


def _waits(frames: Sequence[Frame]) -> bool:
    """Whether a CPU only waits for a lock, or for another CPU."""
    own = next((frame for frame in frames if frame.reliable and not frame.inlined), None)
    return own is not None and is_helper(own.function)


def _idle(cpu: Cpu, frames: Sequence[Frame]) -> bool:
    return cpu.halted or any(_IDLE.fullmatch(base_name(f.function)) for f in frames if f.reliable)


def _masked(cpu: Cpu, frames: Sequence[Frame]) -> bool:
    """Whether the code has interrupts off; in an interrupt they are off because they were on before."""
    return cpu.masked and not any(_INTERRUPT.fullmatch(f.function) for f in frames if f.reliable)


def _stacks(cpus: Sequence[Cpu], resolve: Resolve | None) -> list[tuple[Frame, ...]]:
    """The stack of each CPU; none of one in user space, or whose registers were not understood."""
    if resolve is None:
        return [() for _ in cpus]
    resolve([address for cpu in cpus for address in _addresses(cpu)])  # all at once: the answers are kept
    return [_stack(cpu, resolve) for cpu in cpus]


def _addresses(cpu: Cpu) -> list[int]:
    if cpu.pc is None or cpu.user:
        return []
    callees = [back.callee for back in cpu.stack if back.callee is not None]
    return [cpu.pc, *(back.address - 1 for back in cpu.stack), *callees]


def _stack(cpu: Cpu, resolve: Resolve) -> tuple[Frame, ...]:
    """A CPU's stack. A guess is believed when it is the return from a call of the function whose frame came before."""
    if cpu.pc is None or cpu.user:
        return ()
    out = list(resolve([cpu.pc])[0])
    last = out[-1].function if out else ""
    for back in cpu.stack:
        (found,) = resolve([back.address - 1])
        if not found:
            continue
        callee = resolve([back.callee])[0] if back.callee is not None else ()
        sure = back.sure or (bool(callee) and callee[-1].function == last)
        out += [replace(frame, reliable=sure) for frame in found]
        last = found[-1].function if sure else last
    return tuple(out)


# --- memory -------------------------------------------------------------------------------


def _of_readings(seen: Examination) -> Blame | None:
    found = next(((reading, lines) for reading in seen.readings if (lines := reading.wrong)), None)
    return Blame(found[1][0], found[0].reader.culprit, None, None, ()) if found else None


# --- tasks --------------------------------------------------------------------------------


def _of_tasks(report: SysrqReport, symbolize: Symbolize | None) -> Blame | None:
    blocked = [task for task in report.tasks if task.state == "D" and task.raws]
    ours = [task for task in report.tasks if task.name == AGENT and task.raws]
    asleep = [task for task in ours if task.state in ("S", "I", "K") and not _any(task, _SERVES)]
    ready = [task for task in ours if task.state == "R"]
    starved = "could run, but does not: it left the CPU"
    for tasks, how in ((blocked, "is blocked"), (asleep, "sleeps"), (ready, starved)):
        for task in sorted(tasks, key=lambda task: (_any(task, _ON_OTHERS), task.name != AGENT)):
            frames = decode(_own(task.raws), symbolize)
            guilty = culprit(frames)
            if guilty is not None:
                name = base_name(guilty.function)
                return Blame(f"{task.name} {how} in {name}", name, guilty.file, guilty.line, frames)
    return None


def _own(raws: Sequence[Raw]) -> list[Raw]:
    """A task's stack without __switch_to(), with which arm64 begins it."""
    return [raw for raw in raws if raw.frame.function != "__switch_to"]


def _any(task: Task, pattern: re.Pattern[str]) -> bool:
    return any(pattern.fullmatch(base_name(raw.frame.function)) for raw in task.raws if raw.frame.reliable)
