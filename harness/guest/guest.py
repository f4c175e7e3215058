# SPDX-License-Identifier: GPL-2.0-only
"""A restored guest as tests see it: BPF objects, workloads, files, quiescence."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from harness.core.errors import GuestError, MachineEnded
from harness.core.plan import Scheduler
from harness.core.records import Operation
from harness.core.wire import NOTHING, Binary
from harness.guest.agent import CALL_SECONDS, Agent, AgentError, encode_steps
from harness.guest.pristine import BPF_FOLDER, Pristine, quiesce
from harness.host.toolchain import Toolchain
from harness.kbuild.image import USER_FOLDER
from harness.machine.examine import look_into
from harness.machine.vm import Vm

Answer = dict[str, Any]
"""An answer of the agent; the verb's C file describes its fields."""

KILL_SECONDS = 10.0
"""Nominal, for a program to come to wait for a mutex, and to die there."""

RUN_SECONDS = 0.01
"""Nominal, for each run of a program: a test with 3000 that fail for want of memory took 3 s, on a busy host 11.5."""


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
        """Associate SYSCALL programs of this object with its struct_ops map: the scheduler that their kfuncs act on.

        It is permanent: another association is refused (bpf_prog_assoc_struct_ops(), kernel/bpf/bpf_struct_ops.c).
        """
        for program in programs:
            self._agent.call("assoc", name=self.name, prog=program, what=what)

    def detach(self, what: str | None = None) -> None:
        """Detach `what`, or everything of this object. Returns once the scheduler is gone."""
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

    def hex(self, context: Binary) -> str:
        """The context of a SYSCALL program as the agent takes it."""
        return context.bytes(self._agent.order).hex()

    def unpack(self, layout: str, data: bytes, offset: int = 0) -> tuple[Any, ...]:
        """The numbers of what a map holds (:meth:`ByteOrder.unpack`)."""
        return self._agent.order.unpack(layout, data, offset)

    def dump(self, map_name: str) -> list[tuple[bytes, bytes]]:
        """Every entry of a map as (key, value)."""
        answer = self._agent.call("dump", record=False, name=self.name, map=map_name)
        try:
            return [(bytes.fromhex(key), bytes.fromhex(value)) for key, value in answer["entries"]]
        except ValueError as error:
            raise GuestError(f"the guest's agent answered garbage to 'dump': {error}") from error

    def run(
        self, program: str, context: Binary = NOTHING, *, repeat: int = 1, fifo: bool = False, record: bool = True
    ) -> list[int]:
        """The results of a SYSCALL program, one for each run; with `repeat` the id (first 8 bytes) rises by one.

        `fifo` runs them at real-time priority.
        """
        answer = self._agent.call(
            "run",
            record=record,
            seconds=CALL_SECONDS + repeat * RUN_SECONDS,
            name=self.name,
            prog=program,
            ctx=self.hex(context),
            repeat=repeat,
            fifo=fifo,
        )
        rets = answer["rets"]
        if any(times < 0 for _, times in rets) or sum(times for _, times in rets) > repeat:
            raise GuestError(f"the guest's agent answered garbage to 'run': more answers than {repeat}")
        return [value for value, times in rets for _ in range(times)]

    def run_killed(self, program: str, context: Binary, mutex: int, function: str) -> bool:
        """Run a program in a child that is killed while it waits, in `function`, for the kernel's mutex at an address.

        Returns whether the child died of it while the mutex was still held.
        """
        where: dict[str, Any] = {"in": function, "timeout_ms": int(KILL_SECONDS * 1000 * self._agent.scale)}
        answer = self._agent.call(
            "run-killed",
            seconds=KILL_SECONDS + 5,
            name=self.name,
            prog=program,
            ctx=self.hex(context),
            mutex=f"{mutex:#x}",
            **where,
        )
        return bool(answer["killed"])

    def sweep(self, program: str, undo: str, check: str, context: Binary, tracers: Tracers, **settings: Any) -> Answer:
        """A fail-nth sweep over one program; see do_sweep() in vm/agent/run.c for settings and the answer's fields."""
        budget = settings.pop("budget_ms")  # nominal, like every deadline
        return self._agent.call(
            "sweep",
            seconds=15.0 + budget / 1000,
            name=self.name,
            prog=program,
            undo=undo,
            verify=check,
            ctx=self.hex(context),
            timeout_ms=int(budget * self._agent.scale),
            **tracers.arguments(),
            **settings,
        )

    def clear(self, map_name: str) -> None:
        """Empties a map."""
        self._agent.call("clear-map", name=self.name, map=map_name)


@dataclass(frozen=True)
class Tracers:
    """The observers of a sweep: `observer` is fault_sites, `ledger` (or none) the object of that name; `label` names
    the operation on the console if the kernel dies of it."""

    observer: BpfObject
    ledger: BpfObject | None
    label: str

    def arguments(self) -> dict[str, Any]:
        """The arguments of the agent's sweeps."""
        return {"observer": self.observer.name, "ledger": self.ledger.name if self.ledger else "", "label": self.label}


class Workload:
    """Processes in the guest that run until they are killed, with their `pids`."""

    def __init__(self, agent: Agent, name: str, pids: tuple[int, ...] = ()) -> None:
        self._agent = agent
        self.name = name
        self.pids = pids

    def progress(self) -> list[int]:
        """How many turns each process has done."""
        return [int(n) for n in self._agent.call("progress", record=False, name=self.name)["progress"]]

    def kill(self) -> None:
        """Kill them; returns when they are gone."""
        self._agent.call("kill", name=self.name)


class Guest:
    """A pristine guest, restored. Use as a context manager: leaving it ends QEMU.

    With `linger` its memory is still there when it has crashed. With `sequential` its CPUs take turns.
    """

    def __init__(
        self, pristine: Pristine, toolchain: Toolchain, *, linger: bool = False, sequential: bool = False
    ) -> None:
        self.pristine = pristine
        self._linger = linger
        self.vm = Vm(pristine.launch, toolchain, pristine.state, pristine.memory, sequential=sequential)
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
            # The clock and the random pool must not be the same in every test.
            now = time.time_ns()
            self.agent.call("settime", record=False, sec=now // 10**9, nsec=now % 10**9)
            self.agent.call("entropy", record=False, seed=os.urandom(32).hex())
        except MachineEnded as error:
            ended = look_into(self.vm, error, self.pristine.scale)  # while the machine is still there
            self.vm.close()
            raise ended from error
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
        an empty string to leave it out.
        """
        return self._load(program, BPF_FOLDER, variables, ops)

    def load_user(self, scheduler: Scheduler) -> BpfObject:
        """Load a BPF scheduler of the user's; only its variables for the kernel's enumerators are set."""
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

    def work(self, kind: str, workers: int = 1, *, us: int = 1000, cpu: int = -1, policy: int = 0) -> Workload:
        """Starts `workers` of a kind: spin, sleep (`us` microseconds a turn), yield, fork, nudge (changes a spinning
        child's niceness and CPUs, and sleeps), cgroup (makes one, moves there and back, removes it).

        `cpu` pins them; `policy` is their scheduling policy (include/uapi/linux/sched.h), 0 the ordinary one.
        """
        self._names += 1
        name = f"{kind}{self._names}"
        answer = self.agent.call("work", name=name, kind=kind, nr=workers, us=us, cpu=cpu, policy=policy)
        return Workload(self.agent, name, tuple(answer["pids"]))

    def sweep(
        self,
        during: Sequence[Operation],
        before: Sequence[Operation],
        after: Sequence[Operation],
        tracers: Tracers,
        thread: str,
        **settings: Any,
    ) -> Answer | None:
        """A fail-nth sweep over operations, of the allocations of `thread` (empty: of the one that does them).

        See do_sweep_ops() in vm/agent/sweep.c for settings and the answer's fields; None where there is no such thread.
        """
        budget = settings.pop("budget_ms")  # nominal, like every deadline
        answer = self.agent.call(
            "sweep-ops",
            check=False,
            seconds=15.0 + budget / 1000,
            timeout_ms=int(budget * self.pristine.scale),
            before=encode_steps(before),
            during=encode_steps(during),
            after=encode_steps(after),
            thread=thread,
            **tracers.arguments(),
            **settings,
        )
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
        """Wait in the guest until the file contains `text`; returns its last content."""
        wait: dict[str, Any] = {"path": path, "contains": text, "timeout_ms": int(seconds * self.pristine.scale * 1000)}
        return str(self.agent.call("wait-file", seconds=seconds + 5, **wait)["data"])

    def log(self) -> list[str]:
        """The records of the kernel log since the last call or the restore, as /dev/kmsg gives them.

        The test's end judges them nevertheless: the agent keeps what was read.
        """
        return [str(record) for record in self.agent.call("kmsg", record=False)["records"]]

    def settle(self) -> str:
        """Waits for quiescence; returns percpu_stats as text."""
        return quiesce(self.agent)

    @contextlib.contextmanager
    def pinned(self, cpu: int) -> Iterator[None]:
        """Pin the agent, and the processes that it starts, to that CPU within the block."""
        self.agent.call("pin", record=False, cpu=cpu)
        try:
            yield
        except MachineEnded:
            raise  # the agent is gone: nothing to unpin
        except BaseException:
            self.agent.call("pin", record=False, cpu=-1)
            raise
        self.agent.call("pin", record=False, cpu=-1)

    def visit(self, cpus: int) -> None:
        """Run the agent on each of so many CPUs once: each has then left any section without preemption."""
        for cpu in (*range(cpus), -1):
            self.agent.call("pin", record=False, cpu=cpu)

    def reset(self) -> None:
        """Ends every workload and unloads every object."""
        self.agent.call("reset", seconds=30.0)
