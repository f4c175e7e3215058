# SPDX-License-Identifier: GPL-2.0-only
"""Owns a restored guest as tests see it: BPF objects, workloads, files, quiescence."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from harness.build.image import USER_FOLDER
from harness.errors import MachineEnded
from harness.guest.agent import Agent, AgentError, encode_steps
from harness.guest.pristine import BPF_FOLDER, Pristine, quiet
from harness.host.toolchain import Toolchain
from harness.machine.vm import Vm
from harness.plan import Scheduler
from harness.records import Operation

Answer = dict[str, Any]
"""What the agent answered: its fields are told where it answers."""


class BpfObject:
    """A loaded BPF object, by the name it was loaded under."""

    def __init__(self, agent: Agent, name: str) -> None:
        self._agent = agent
        self.name = name

    def attach(self, what: str = "ops", *, check: bool = True) -> int:
        """Attaches a struct_ops map or a program; returns 0 or, without `check`, a negative errno."""
        answer = self._agent.call("attach", check=check, name=self.name, what=what)
        return 0 if answer["ok"] else -int(answer["errno"])

    def associate(self, *programs: str, what: str = "ops") -> None:
        """Ties SYSCALL programs of this object to its struct_ops map: the scheduler that their kfuncs then mean.

        For good: another association is refused (bpf_prog_assoc_struct_ops(), kernel/bpf/bpf_struct_ops.c).
        """
        for program in programs:
            self._agent.call("assoc", name=self.name, prog=program, what=what)

    def detach(self, what: str | None = None) -> None:
        """Detaches `what`, or everything of this object. Returns once the scheduler is gone."""
        chosen: dict[str, Any] = {"what": what} if what else {}
        self._agent.call("detach", name=self.name, **chosen)

    def unload(self) -> None:
        """Detaches and closes the object."""
        self._agent.call("unload", name=self.name)

    def get(self, *variables: str, most: int = 4096) -> dict[str, Any]:
        """Values of global variables: numbers, lists (at most `most` entries), strings."""
        answer = self._agent.call("get", record=False, name=self.name, vars=",".join(variables), max=most)
        return {name: answer[name] for name in variables}

    def set(self, variable: str, value: int, index: int = 0) -> None:
        """Sets a global variable of the loaded object, of an array one element."""
        self._agent.call("set", name=self.name, var=variable, value=value, index=index)

    def dump(self, map_name: str) -> list[tuple[bytes, bytes]]:
        """Every entry of a map as (key, value)."""
        answer = self._agent.call("dump", record=False, name=self.name, map=map_name)
        return [(bytes.fromhex(key), bytes.fromhex(value)) for key, value in answer["entries"]]

    def run(
        self, program: str, context: bytes = b"", *, repeat: int = 1, fifo: bool = False, record: bool = True
    ) -> list[int]:
        """Answers of a SYSCALL program, one a run; with `repeat` the id (first 8 bytes) rises by one.

        `fifo` runs them at real-time priority.
        """
        answer = self._agent.call(
            "run", record=record, seconds=15.0 + repeat / 1000, name=self.name, prog=program,
            ctx=context.hex(), repeat=repeat, fifo=fifo,
        )  # fmt: skip
        return [value for value, times in answer["rets"] for _ in range(times)]

    def run_killed(self, program: str, context: bytes, mutex: int, function: str) -> bool:
        """Runs a program in a child that is killed while it waits, in `function`, for the kernel's mutex at an address.

        Whether the child died of it while the mutex was still held.
        """
        where: dict[str, Any] = {"in": function}
        answer = self._agent.call(
            "run-killed", name=self.name, prog=program, ctx=context.hex(), mutex=f"{mutex:#x}", **where
        )
        return bool(answer["killed"])

    def sweep(self, program: str, undo: str, check: str, context: bytes, tracers: Tracers, **settings: Any) -> Answer:
        """A fail-nth sweep over one program; see do_sweep() in vm/agent/run.c for settings and the answer's fields."""
        budget = settings.pop("budget_ms")  # nominal, like every deadline
        return self._agent.call(
            "sweep", seconds=15.0 + budget / 1000, name=self.name, prog=program, undo=undo, verify=check,
            ctx=context.hex(), timeout_ms=int(budget * self._agent.scale), **tracers.arguments(), **settings,
        )  # fmt: skip

    def clear(self, map_name: str) -> None:
        """Empties a map."""
        self._agent.call("clear-map", name=self.name, map=map_name)


@dataclass(frozen=True)
class Tracers:
    """What watches a sweep: `observer` is fault_sites, `ledger` (or none) the object of that name; `tell` names the
    operation on the console should the kernel die of it."""

    observer: BpfObject
    ledger: BpfObject | None
    tell: str

    def arguments(self) -> dict[str, Any]:
        """As the agent's sweeps want them."""
        return {"observer": self.observer.name, "ledger": self.ledger.name if self.ledger else "", "tell": self.tell}


class Workload:
    """Workers that run until they are killed; `pids` are theirs."""

    def __init__(self, agent: Agent, name: str, pids: tuple[int, ...] = ()) -> None:
        self._agent = agent
        self.name = name
        self.pids = pids

    def progress(self) -> list[int]:
        """How many turns each worker has done."""
        return [int(n) for n in self._agent.call("progress", record=False, name=self.name)["progress"]]

    def kill(self) -> None:
        """Ends them; returns when they are gone."""
        self._agent.call("kill", name=self.name)


class Guest:
    """A pristine guest, restored. Use as a context manager: leaving it ends QEMU.

    With `linger` its memory is still there when it has crashed.
    """

    def __init__(self, pristine: Pristine, toolchain: Toolchain, *, linger: bool = False) -> None:
        self.pristine = pristine
        self._linger = linger
        self.vm = Vm(pristine.launch, toolchain, pristine.state)
        self.agent = Agent(self.vm, pristine.scale)
        self.restore_seconds = 0.0
        self._names = 0

    def __enter__(self) -> Guest:
        start = time.monotonic()
        self.vm.__enter__()
        try:
            if self._linger:
                self.vm.linger()
            self.vm.resume()
            # What a snapshot must not hand to every test alike: the clock and the random pool.
            now = time.time_ns()
            self.agent.call("settime", record=False, sec=now // 10**9, nsec=now % 10**9)
            self.agent.call("entropy", record=False, seed=os.urandom(32).hex())
        except BaseException:
            self.vm.close()
            raise
        self.restore_seconds = time.monotonic() - start
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vm.close()

    def load(self, program: str, ops: Mapping[str, int | str] | None = None, /, **variables: int) -> BpfObject:
        """Loads bpf_progs/PROGRAM.bpf.c with these of its global variables set.

        `ops` are members of its struct_ops map "ops": numbers, strings, and for a callback the name of a program, or
        nothing where it is to be left out.
        """
        return self._load(program, BPF_FOLDER, variables, ops)

    def load_user(self, scheduler: Scheduler) -> BpfObject:
        """Loads a BPF scheduler of the user's; what holds the kernel's enumerators is set, the rest is as it was."""
        return self._load(scheduler.name, USER_FOLDER, scheduler.constants)

    def _load(
        self, program: str, folder: str, variables: Mapping[str, int], ops: Mapping[str, int | str] | None = None
    ) -> BpfObject:
        self._names += 1
        name = f"{program[:20]}{self._names}"
        settings: dict[str, Any] = {f"set.{variable}": value for variable, value in variables.items()}
        settings |= {f"ops.{member}": value for member, value in (ops or {}).items()}
        self.agent.call("load", name=name, path=f"{folder}/{program}.bpf.o", **settings)
        return BpfObject(self.agent, name)

    def work(
        self, kind: str, workers: int = 1, *, us: int = 1000, cpu: int = -1, ext: bool = False
    ) -> Workload:
        """Starts `workers` of a kind: spin, sleep (`us` microseconds a turn), yield, fork, nudge (changes a spinning
        child's niceness and CPUs, and sleeps), cgroup (makes one, moves there and back, removes it).

        `cpu` pins them; `ext` makes them SCHED_EXT, which a scheduler that takes over some tasks only has as well.
        """
        self._names += 1
        name = f"{kind}{self._names}"
        answer = self.agent.call("work", name=name, kind=kind, nr=workers, us=us, cpu=cpu, ext=ext)
        return Workload(self.agent, name, tuple(answer["pids"]))

    def sweep(
        self, during: Sequence[Operation], before: Sequence[Operation], after: Sequence[Operation], tracers: Tracers,
        thread: str, **settings: Any,
    ) -> Answer | None:
        """A fail-nth sweep over operations, of the allocations of `thread` (empty: of the one that does them).

        See do_sweep_ops() in vm/agent/sweep.c for settings and the answer's fields; None where there is no such thread.
        """  # fmt: skip
        budget = settings.pop("budget_ms")  # nominal, like every deadline
        answer = self.agent.call(
            "sweep-ops", check=False, seconds=15.0 + budget / 1000, timeout_ms=int(budget * self.pristine.scale),
            before=encode_steps(before), during=encode_steps(during), after=encode_steps(after), thread=thread,
            **tracers.arguments(), **settings,
        )  # fmt: skip
        if answer["ok"]:
            return answer
        if answer["errno"] == errno.ESRCH:
            return None
        raise AgentError("sweep-ops", answer)

    def thread(self, name: str) -> int:
        """The id of the process or kthread of this whole name; 0 if there is none."""
        return int(self.agent.call("thread", record=False, name=name)["tid"])

    def tid(self) -> int:
        """The thread id of the agent, which does the operations."""
        return int(self.agent.call("ping", record=False)["tid"])

    def read(self, path: str) -> str:
        """A file of the guest, as Latin-1 (any byte survives)."""
        return str(self.agent.call("read", record=False, path=path)["data"])

    def write(self, path: str, data: str) -> None:
        """Writes a knob."""
        self.agent.call("write", path=path, data=data)

    def wait_for(self, path: str, text: str, seconds: float = 10.0) -> str:
        """Waits in the guest until the file holds `text`; returns what it held last."""
        wait: dict[str, Any] = {
            "path": path,
            "contains": text,
            "timeout_ms": int(seconds * self.pristine.scale * 1000),
        }
        return str(self.agent.call("wait-file", seconds=seconds + 5, **wait)["data"])

    def log(self) -> list[str]:
        """The records of the kernel log since the last call or the restore, as /dev/kmsg gives them.

        The test's end judges them all the same: the agent keeps what was read.
        """
        return [str(record) for record in self.agent.call("kmsg", record=False)["records"]]

    def settle(self) -> str:
        """Waits for quiescence; returns percpu_stats as text."""
        return quiet(self.agent)

    @contextlib.contextmanager
    def pinned(self, cpu: int) -> Iterator[None]:
        """Within the block the agent, and what it runs, is on that CPU."""
        self.agent.call("pin", record=False, cpu=cpu)
        try:
            yield
        except MachineEnded:
            raise  # nobody is there to be let go
        except BaseException:
            self.agent.call("pin", record=False, cpu=-1)
            raise
        self.agent.call("pin", record=False, cpu=-1)

    def visit(self, cpus: int) -> None:
        """The agent runs on each of so many CPUs once: what any of them did in one go is then done."""
        for cpu in (*range(cpus), -1):
            self.agent.call("pin", record=False, cpu=cpu)

    def reset(self) -> None:
        """Ends every workload and unloads every object."""
        self.agent.call("reset", seconds=30.0)


def dsq_context(dsq_id: int, node: int = -1) -> bytes:
    """struct api_args of bpf_progs/calls.bpf.h."""
    return struct.pack("<Qii", dsq_id, node, 0)
