# SPDX-License-Identifier: GPL-2.0-only
"""Owns the types that every room shares.

The ground floor: this module imports nothing of the project but its errors. Every type is a frozen
dataclass of plain values, so that it can be written to JSON with :func:`encode` and read
back with :func:`decode`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from harness.errors import Exit, UsageError

SCHEMA = 1
"""Version of events.jsonl, results.json and replay files."""


class Outcome(enum.StrEnum):
    """How one test ended."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    SKIP = "skip"


class Verdict(enum.StrEnum):
    """How one run ended."""

    PASS = "pass"
    FAIL = "fail"
    REGRESSED = "regressed"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit(self) -> Exit:
        return {
            Verdict.PASS: Exit.PASS,
            Verdict.FAIL: Exit.FAIL,
            Verdict.REGRESSED: Exit.FAIL,
            Verdict.INCONCLUSIVE: Exit.INCONCLUSIVE,
        }[self]


class Role(enum.StrEnum):
    """Why a kernel takes part in a run."""

    TREE = "tree"
    BASE = "base"
    PATCHED = "patched"


# --- what is tested ---------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """A built kernel. Paths are host paths into the cache.

    `tree` is the content hash of the source, `config_sha256` of the final .config. `path` is the
    cache entry that holds ``image``, ``vmlinux``, ``System.map`` and ``config``.
    """

    id: str
    arch: str
    role: Role
    release: str
    source: str
    commit: str
    tree: str
    dirty: bool
    patches: tuple[str, ...]
    config: str
    config_sha256: str
    toolchain: str
    image: str
    vmlinux: str
    path: str
    build_seconds: float
    cached: bool


@dataclass(frozen=True)
class MachineSpec:
    """The shape of a guest: CPUs are counts, memory is MiB."""

    arch: str
    name: str = "default"
    possible_cpus: int = 2
    online_cpus: int = 2
    nodes: int = 1
    memory_mib: int = 1024


@dataclass(frozen=True)
class Machine:
    """A machine as it was measured when its snapshot was made (seconds of wall time)."""

    kernel: str
    arch: str
    spec: MachineSpec
    accelerator: str
    why: str
    boot_seconds: float
    restore_seconds: float
    scale: float
    snapshot: str


# --- what is done -----------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What to make fail, where, and which occurrence.

    `what` is ``failslab``, ``page``, ``function`` or ``any`` (fail-nth does not choose); `within` names
    the functions under which a site must lie, `caller` the one whose alloc_percpu() it is; exactly one of `nth`,
    `every`, `probability` (in per cent) is set, or, in a fault plan, none: then each allocation fails once.
    """

    what: str = "any"
    within: tuple[str, ...] = ()
    task: str = "self"
    nth: int | None = None
    every: int | None = None
    probability: int | None = None
    seed: int | None = None
    caller: str = ""


@dataclass(frozen=True)
class Operation:
    """One request to the agent: a verb and its arguments, with the fault armed for it."""

    verb: str
    args: Mapping[str, Any] = field(default_factory=dict)
    fault: Fault | None = None


@dataclass(frozen=True)
class OpResult:
    """What an operation answered: `value` is the agent's JSON answer, seconds are guest time."""

    operation: Operation
    value: Mapping[str, Any]
    seconds: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """Operations on one machine; with a Kernel and the seed it is all that replay needs.

    `sequence` are the moves of a search that showed what was found: a replay does these alone.
    """

    machine: str
    operations: tuple[Operation, ...]
    seed: int
    sequence: tuple[Operation, ...] = ()


@dataclass(frozen=True)
class Injection:
    """One injected fault: at which site, the how-manieth, whether it fired, how it ended."""

    site: str
    occurrence: int
    fired: bool
    outcome: str


@dataclass(frozen=True)
class FaultSite:
    """One allocation site, keyed by operation, fault type and chain of functions (no offsets).

    `stack` is innermost first, `frames` the same decoded, with what was inlined. `size` is bytes (failslab) or order
    (page); `gfp` the flags as a number, `flags` by the names that this kernel has for them. `outcomes` counts how
    its injected faults ended: ``handled`` (an error came back and all is as before), ``absorbed`` (the operation
    succeeded), ``leaked``, ``splat``, ``wrong errno``, ``hang``, ``crash``; `outcome` is the worst of them, or
    ``none``. `answers` counts what the operation answered, `optional` says why the operation may succeed without this
    allocation, where that is declared; `findings` are signatures.
    """

    operation: str
    type: str
    stack: tuple[str, ...]
    size: int = 0
    gfp: int = 0
    reached: int = 0
    injected: int = 0
    outcome: str = "none"
    frames: tuple[Frame, ...] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)
    answers: Mapping[str, int] = field(default_factory=dict)
    optional: str = ""
    findings: tuple[str, ...] = ()
    flags: str = ""


@dataclass(frozen=True)
class FaultSummary:
    """Faults of one test, counted only under the functions under test."""

    reached: int = 0
    injected: int = 0
    handled: int = 0
    sites: tuple[FaultSite, ...] = ()


@dataclass(frozen=True)
class ModelSummary:
    """How many operations a test did, how many answers the model judged, the first it disputes."""

    operations: int = 0
    compared: int = 0
    first_disagreement: str | None = None


@dataclass(frozen=True)
class SearchSummary:
    """How much a search did: sequences, answers `compared`, guests, seconds in all; attempts to shrink are not counted.

    `spent` has, for each kind of thing (``operations`` on DSQs, ``loads`` of schedulers, ``loads with tasks`` that run
    meanwhile, ``cases``: a scheduler loaded anew, with tasks of its own until it ends), how many were done and the
    seconds that went into them alone.
    """

    sequences: int = 0
    compared: int = 0
    guests: int = 0
    seconds: float = 0.0
    spent: Mapping[str, tuple[int, float]] = field(default_factory=dict)


# --- what was seen ----------------------------------------------------------------------


@dataclass(frozen=True)
class LogRecord:
    """One line of the kernel log.

    `seq` is the record's sequence number from /dev/kmsg, or None if the line came from the console;
    `time` is seconds since boot, None if the line carries no timestamp; `caller` is ``T123`` or ``C1``
    (CONFIG_PRINTK_CALLER) or empty; `level` is 0..7, or None from the console. A record of several lines
    is several LogRecords with the same seq.
    """

    text: str
    seq: int | None = None
    time: float | None = None
    caller: str = ""
    level: int | None = None


@dataclass(frozen=True)
class Frame:
    """One stack frame. `offset` and `size` are bytes within the function as the splat prints them.

    `inlined` marks a frame that was inlined into the next one. `file` is relative to the source tree.
    """

    function: str
    offset: int | None = None
    size: int | None = None
    file: str | None = None
    line: int | None = None
    inlined: bool = False
    module: str | None = None
    reliable: bool = True


@dataclass(frozen=True)
class Line:
    """A line of a source file; lines are counted from 1."""

    line: int
    text: str


@dataclass(frozen=True)
class Stack:
    """A further stack of a report, in the report's words: who allocated the object, who freed it."""

    name: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Evidence:
    """What an oracle looked at. `watched` is False when the watch itself broke; `lost` counts lost records."""

    oracle: str
    payload: Any = None
    watched: bool = True
    lost: int = 0
    why: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or would be had it not been expected.

    `signature` is stable between runs and builds: no addresses, offsets, pids or CPUs. `expected` tells
    that the test itself provoked it; `allowed_by` names the allow-list entry. `operation`, `site` and `fault` tell
    under which injected fault it came: what was done, the chain of functions whose allocation failed, innermost first
    and joined by `` < ``, and a fault plan of one line that fails it again. `frames` are the defect's own stack,
    `stacks` what else the report shows. `excerpt` are a few lines of source around `line`, where it was at hand.
    """

    oracle: str
    kind: str
    title: str
    signature: str
    function: str | None = None
    file: str | None = None
    line: int | None = None
    frames: tuple[Frame, ...] = ()
    operation: str | None = None
    site: str | None = None
    fault: str | None = None
    expected: bool = False
    allowed_by: str | None = None
    count: int = 1
    log: tuple[str, ...] = ()
    stacks: tuple[Stack, ...] = ()
    excerpt: tuple[Line, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether this finding speaks against the kernel."""
        return not self.expected and self.allowed_by is None


# --- what is told -----------------------------------------------------------------------


@dataclass(frozen=True)
class Canary:
    """A deliberate defect and whether the oracle saw it on this kernel and machine."""

    oracle: str
    kernel: str
    caught: bool
    why: str = ""
    machine: str = ""


@dataclass(frozen=True)
class Kept:
    """What became of a guest that was to be kept: `path` is its folder, or `why` there is none."""

    path: str = ""
    why: str = ""


@dataclass(frozen=True)
class Dump:
    """The memory of a guest that crashed or hangs: `path` is the file, of `mib` MiB, or `why` there is none."""

    path: str = ""
    mib: int = 0
    why: str = ""


@dataclass(frozen=True)
class TestResult:
    """One test on one kernel and machine; `id` is canonical (leaves kernel and machine out).

    `step` are arguments that would make the same run tell more.
    """

    __test__ = False  # not a test class for pytest to collect

    id: str
    arch: str
    kernel: str
    machine: str
    outcome: Outcome
    seconds: float = 0.0
    attempts: int = 1
    why: str = ""
    replay: str | None = None
    step: str = ""
    faults: FaultSummary = field(default_factory=FaultSummary)
    model: ModelSummary = field(default_factory=ModelSummary)
    evidence: tuple[Evidence, ...] = ()
    findings: tuple[Finding, ...] = ()
    kept: Kept | None = None
    dump: Dump | None = None
    search: SearchSummary | None = None


class EventKind(enum.StrEnum):
    """Kinds of the event log. The payload's type is in brackets."""

    RUN_START = "run-start"  # {"argv", "seed", "plan", "version"}
    KERNEL = "kernel"  # [Kernel]
    MACHINE = "machine"  # [Machine]
    SESSION_START = "session-start"  # {"collected": [{"id", "kernel", "machine"}], "canaries": [{"oracle", ...}]}
    CANARY = "canary"  # [Canary]
    TEST_START = "test-start"  # {"machine": str}
    SEARCH = "search"  # {"seconds": of its budget, "done": [SearchSummary]}
    TEST_END = "test-end"  # [TestResult]
    COVERAGE = "coverage"  # [harness.oracles.coverage.Coverage], of a kernel, with --coverage
    SESSION_END = "session-end"  # {"exitstatus": int}
    RUN_END = "run-end"  # {"why": str}


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl; `time` is seconds since the epoch."""

    schema: int
    time: float
    run: str
    kind: EventKind
    kernel: str = ""
    test: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """One test on base against patched."""

    id: str
    arch: str
    change: str


T = TypeVar("T")


def encode(value: Any) -> Any:
    """A record as plain dicts, lists and scalars, ready for JSON or YAML."""
    return msgspec.to_builtins(value)


def decode(data: Any, kind: type[T]) -> T:
    """A record read back from what :func:`encode` made.

    Raises UsageError naming the field when the data does not fit, for it comes from a file.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"not a valid {kind.__name__}: {error}") from error


def render_frame(frame: Frame) -> str:
    """A frame as one line: ``init_dsq+0x3c/0x120 (kernel/sched/ext/ext.c:4711)``."""
    where = f" ({frame.file}:{frame.line})" if frame.file else ""
    offset = "" if frame.offset is None else f"+{frame.offset:#x}/{frame.size or 0:#x}"
    mark = " [inlined]" if frame.inlined else ""
    return f"{frame.function}{offset}{where}{mark}"


def blamed(frames: Sequence[Frame], skip: Sequence[str] = ()) -> Frame | None:
    """The first reliable frame whose function is not one of the helpers in `skip`."""
    for frame in frames:
        if frame.reliable and frame.function not in skip:
            return frame
    return None
