# SPDX-License-Identifier: GPL-2.0-only
"""What stands for a guest in tests of fault injection: symbols, tracing objects, and the context that books."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from sched_ext.model.state import Features

from harness.core.records import Evidence, FaultSummary, Finding, Frame
from harness.core.wire import Binary, ByteOrder
from harness.faults.cause import Cause, Window
from harness.guest.guest import BpfObject, Guest
from harness.session.context import TestContext

GFP = {6: "IO", 7: "FS", 10: "DIRECT_RECLAIM", 11: "KSWAPD_RECLAIM"}
GFP_KERNEL = 0xCC0
SCALE = 2.0
"""The machine is so much slower than one that deadlines are made for."""

FUNCTIONS: dict[int, tuple[Frame, ...]] = {
    0x10: (Frame("should_failslab"),),
    0x20: (
        Frame("kmalloc_noprof", file="mm/slub.c", line=1, inlined=True),
        Frame("__kmalloc_noprof", file="mm/slub.c"),
    ),
    0x30: (Frame("pcpu_create_chunk", file="mm/percpu-vm.c", line=20), Frame("pcpu_alloc_noprof", file="mm/percpu.c")),
    0x40: (Frame("init_dsq", file="kernel/sched/ext/ext.c", line=40, inlined=True), Frame("create_dsq")),
    0x50: (Frame("scx_bpf_create_dsq", file="kernel/sched/ext/ext.c", line=50),),
    0x60: (Frame("__x64_sys_bpf"),),
    0x70: (Frame("bpf_prog_load"),),
    0x80: (Frame("bpf_trace_run5"), Frame("__do_trace_kmalloc")),
    0x90: (Frame("scx_root_enable_workfn", file="kernel/sched/ext/ext.c", line=90),),
}
"""Functions of a kernel by an address in their text; those beside it are unknown."""


class FakeSymbols:
    """Symbols of the kernel above. `asked` are the stacks that were looked up."""

    def __init__(self, spans: Mapping[str, tuple[tuple[int, int], ...]] | None = None) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.spans = dict(spans or {})

    def chain(self, addresses: Sequence[int]) -> tuple[Frame, ...]:
        self.asked.append(tuple(addresses))
        found: list[Frame] = []
        for address in addresses:
            found += FUNCTIONS.get(address, (Frame(f"{address:#x}", reliable=False),))
        return tuple(found)

    def extent(self) -> tuple[int, int]:
        return min(FUNCTIONS), max(FUNCTIONS) + 1

    def ranges(self, functions: Iterable[str]) -> dict[str, tuple[tuple[int, int], ...]]:
        return {name: self.spans.get(name, ()) for name in functions}


class FakeAgent:
    """An agent that answers from `answers`, by verb; what was asked is in `calls`."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {"ping": {"tid": 77}} | answers
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.order = ByteOrder.LITTLE

    def call(self, verb: str, /, *, check: bool = True, record: bool = True, seconds: float = 0.0, **args: Any) -> Any:
        self.calls.append((verb, args))
        answer = self.answers.get(verb, {})
        got = answer(**args) if callable(answer) else answer
        return {"ok": True} | got

    def asked(self, verb: str) -> list[dict[str, Any]]:
        """The arguments of each call of a verb."""
        return [args for name, args in self.calls if name == verb]


class FakeObject:
    """A BPF object: variables that are set and read, maps that are dumped and emptied, what was attached."""

    def __init__(self, name: str = "object1", maps: Mapping[str, Any] | None = None, **variables: Any) -> None:
        self.name = name
        self.variables: dict[str, Any] = dict(variables)
        self.maps: dict[str, list[tuple[bytes, bytes]]] = dict(maps or {})
        self.attached: list[str] = []
        self.unloaded = False
        self.history: list[tuple[str, int]] = []
        self.on_set: Callable[[str, int], None] = lambda variable, value: None

    def attach(self, what: str = "ops", *, check: bool = True) -> int:
        self.attached.append(what)
        return 0

    def set(self, variable: str, value: int, index: int = 0) -> None:
        self.history.append((variable, value))
        self.variables[f"{variable}[{index}]" if index else variable] = value
        self.on_set(variable, value)

    def get(self, *names: str, most: int = 0) -> dict[str, Any]:
        return {name: self.variables.get(name, 0) for name in names}

    def hex(self, context: Binary) -> str:
        return context.bytes(ByteOrder.LITTLE).hex()

    def unpack(self, layout: str, data: bytes, offset: int = 0) -> tuple[Any, ...]:
        return ByteOrder.LITTLE.unpack(layout, data, offset)

    def dump(self, name: str) -> list[tuple[bytes, bytes]]:
        return list(self.maps.get(name, ()))

    def clear(self, name: str) -> None:
        self.maps[name] = []

    def unload(self) -> None:
        self.unloaded = True


class FakeGuest:
    """A guest whose BPF objects are those of `objects`, by program; it makes others when asked."""

    def __init__(self, agent: FakeAgent, **objects: FakeObject) -> None:
        self.agent = agent
        self.objects = objects
        self.pristine = SimpleNamespace(scale=SCALE)
        self.threads: dict[str, int] = {"scx_enable_helper": 88}
        self.writes: list[tuple[str, str]] = []
        self.settled = 0

    def load(self, program: str, **variables: int) -> FakeObject:
        found = self.objects.setdefault(program, FakeObject(f"{program}1"))
        found.variables |= variables
        return found

    def pinned(self, cpu: int) -> contextlib.AbstractContextManager[None]:
        return Guest.pinned(cast(Guest, self), cpu)

    def tid(self) -> int:
        return int(self.agent.call("ping")["tid"])

    def thread(self, name: str) -> int:
        return self.threads.get(name, 0)

    def write(self, path: str, data: str) -> None:
        self.writes.append((path, data))

    def settle(self) -> str:
        self.settled += 1
        return ""


class FakeContext:
    """A context that only keeps books."""

    def __init__(self, guest: FakeGuest | None = None, symbols: FakeSymbols | None = None) -> None:
        self.guest = guest or FakeGuest(FakeAgent())
        self.symbols = symbols or FakeSymbols()
        self.target = SimpleNamespace(
            symbols=self.symbols, gfp_bits=GFP, pristine=self.guest.pristine, features=Features(init="init_dsq")
        )
        self.findings: list[Finding] = []
        self.evidence: list[Evidence] = []
        self.windows: list[Window] = []
        self.summaries: list[FaultSummary] = []
        self.learned: list[tuple[Cause, Cause]] = []
        self.model: list[tuple[int, int]] = []
        self.expected: list[str] = []
        self.blamed: list[tuple[str, list[Finding]]] = []
        self.causes: list[Cause | None] = []
        self.armed: list[tuple[int, int]] = []
        self.arming_began: list[tuple[int, bool]] = []
        """At which call of the agent's, and whether what it does is all armed."""
        self.next_seq = 900

    def next_record(self) -> int:
        return self.next_seq

    @contextlib.contextmanager
    def arming(self, *, whole: bool = True) -> Iterator[None]:
        self.arming_began.append((len(self.guest.agent.calls), whole))
        yield

    def expect(self, *patterns: str) -> None:
        self.expected.extend(patterns)

    def count_faults(self, summary: FaultSummary) -> None:
        self.summaries.append(summary)

    def count_model(self, operations: int, compared: int) -> None:
        self.model.append((operations, compared))

    def blame_sites(self, outcome: str, findings: Sequence[Finding], causes: Sequence[Any]) -> None:
        self.blamed.append((outcome, list(findings)))

    @contextlib.contextmanager
    def under(self, cause: Cause) -> Iterator[None]:
        outer = self.causes[-1] if self.causes else None
        self.causes.append(cause)
        yield
        self.causes.append(outer)

    def learn(self, cause: Cause, more: Cause) -> None:
        self.learned.append((cause, more))

    @property
    def as_context(self) -> TestContext:
        return cast(TestContext, self)


def site(
    key: int, *stack: int, injected: int = 1, reached: int = 1, kind: int = 1, size: int = 64
) -> tuple[bytes, bytes]:
    """An entry of the observer's map: struct site of bpf_progs/observers/fault_sites.bpf.c, its stack 32 deep."""
    head = struct.pack("<QQIIII", reached, injected, kind, size, GFP_KERNEL, len(stack))
    return struct.pack("<Q", key), head + struct.pack("<32Q", *stack, *[0] * (32 - len(stack)))


def observer(*entries: tuple[bytes, bytes]) -> BpfObject:
    """An observer that saw these sites."""
    return cast(BpfObject, FakeObject("fault_sites1", {"sites": list(entries)}, lost=0, last_site=0))
