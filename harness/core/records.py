# SPDX-License-Identifier: GPL-2.0-only
"""The types that every package shares.

This module imports nothing of the project but its errors. Every type is a frozen
dataclass of plain values, so that it can be written to JSON with :func:`encode` and read
back with :func:`decode`.
"""

from __future__ import annotations

import difflib
import enum
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from harness.core.errors import Exit, UsageError

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
    cache entry that holds ``image``, ``vmlinux``, ``System.map`` and ``config``. `profiles` are the objects whose
    execution it counts. `compiler` is what its .config says of the compiler, `fragments` are the names of the Kconfig
    fragments that it was made of, in their order.
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
    profiles: tuple[str, ...] = ()
    compiler: str = ""
    fragments: tuple[str, ...] = ()


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


class HunkState(enum.StrEnum):
    """What of a hunk the tree has."""

    MISSING = "missing"
    """It applies."""
    CONTAINED = "contained"
    DIFFERS = "differs"
    """It is there in other words."""
    NOWHERE = "nowhere"
    """It does not fit."""


@dataclass(frozen=True)
class PatchHunk:
    """A hunk, `number` of `count` in the patch's `file`, and what of it the tree has: `path` and `line` are where, or
    nearest; where it `differs` both texts are there, the patch's with its signs and the tree's. `lines` are those of
    `path` that the hunk added, where it is there."""

    file: str
    number: int
    count: int
    state: HunkState
    path: str = ""
    line: int = 0
    why: str = ""
    theirs: str = ""
    ours: str = ""
    lines: tuple[int, ...] = ()

    def told(self) -> str:
        """One line."""
        where = f" at {self.path}:{self.line}" if self.path else ""
        return f"{self.file}, hunk {self.number} of {self.count}: {self.why}{where}"

    def beside(self, width: int = 60) -> list[tuple[str, str]]:
        """Where the hunk's new lines and the tree's differ, side by side, each side at most so wide."""
        new = [line for line in self.theirs.split("\n") if line[:1] in ("+", " ") and line.strip("+ \t")]
        mine, tree = new, [line for line in self.ours.split("\n") if line.strip()]
        one, other = (["".join(line.lstrip("+").split()) for line in lines] for lines in (mine, tree))
        rows: list[tuple[str, str]] = []
        for kind, first, last, begin, end in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
            if kind != "equal":
                rows += itertools.zip_longest(mine[first:last], tree[begin:end], fillvalue="")
        return [(left.expandtabs(4)[:width], right.expandtabs(4)[:width]) for left, right in rows]


class PatchHow(enum.StrEnum):
    """What was done with a patch."""

    APPLIED = "applied"
    REPAIRED = "repaired"
    """Its white space or line numbers were made good by the tree, and it was applied."""
    COMPLETED = "completed"
    """Some of its hunks are in the tree already; the others were applied."""
    TAKEN_OUT = "taken-out"
    """All of it is in the tree already: base is the tree without it."""
    AS_IT_IS = "as-it-is"
    """It is in the tree already and cannot be taken out: the tree is tested as it is."""


@dataclass(frozen=True)
class PatchFate:
    """What became of one patch, and where its hunks are in the tree where it was not simply applied."""

    name: str
    how: PatchHow
    hunks: tuple[PatchHunk, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Patches:
    """What became of the patches of a run, and what was left out of the places that they came from."""

    fates: tuple[PatchFate, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether the tree was tested as it is, with no base to compare it with."""
        return bool(self.fates) and all(fate.how is PatchHow.AS_IT_IS for fate in self.fates)


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

    `spent` has, for each kind of thing (``operations``, ``loads`` of programs, ``loads with tasks`` that run
    meanwhile, ``cases``: a scheduler loaded again, with tasks of its own until it ends), how many were done and the
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
    """A further stack of a report, named as the report does: where the object was allocated, where it was freed."""

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
    """One thing that is wrong, or would be if it were not expected.

    `signature` is stable between runs and builds: no addresses, offsets, pids or CPUs. `expected` says
    that the test itself caused it; `allowed_by` names the allow-list entry. `operation`, `site` and `fault` say
    under which injected fault it came: the operation, the chain of functions whose allocation failed, innermost first
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


# --- what is reported -------------------------------------------------------------------


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

    `step` are arguments that would make the same run report more. `turns`: its CPUs took turns, no two ran at the same
    instant.
    """

    __test__ = False  # not a test class for pytest to collect

    id: str
    arch: str
    kernel: str
    machine: str
    outcome: Outcome
    seconds: float = 0.0
    attempts: int = 1
    turns: bool = False
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


@dataclass(frozen=True)
class Protection:
    """What protects the host from what is built and booted: `how` the sandbox is entered, which of its promises were
    `held` when a probe tried to get out, and which were not (`lacking`), each with what the probe found."""

    how: str = ""
    held: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()

    def describe(self) -> str:
        """Describe it in one line."""
        missing = f"; not held: {', '.join(self.lacking)}" if self.lacking else ""
        return f"{self.how}: {', '.join(self.held)}{missing}"


class EventKind(enum.StrEnum):
    """Kinds of the event log. The payload's type is in brackets."""

    RUN_START = "run-start"  # {"argv", "seed", "plan", "version"}
    PROTECTION = "protection"  # [Protection], of the sandbox on this host
    PATCHES = "patches"  # [Patches], of a run that is given some
    SURVEY = "survey"  # [Selection], before anything is built
    KERNEL = "kernel"  # [Kernel]
    MACHINE = "machine"  # [Machine]
    CHILDREN = "children"  # [Workers], before the first worker is started
    SESSION_START = "session-start"  # [SessionStart]
    CANARY = "canary"  # [Canary]
    TEST_START = "test-start"  # {"machine": str}
    RETRY = "retry"  # [Retry]
    SEARCH = "search"  # {"seconds": of its budget, "done": [SearchSummary]}
    TEST_END = "test-end"  # [TestResult]
    ERROR = "error"  # [SessionError]
    COVERAGE = "coverage"  # [harness.coverage.branches.Coverage], of a kernel, with --coverage
    SESSION_END = "session-end"  # [SessionEnd]
    CHILD_END = "child-end"  # [WorkerEnd], for each worker, whatever ended it
    RUN_END = "run-end"  # {"why": str, "events": how many came before, "sha256": over their lines}


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl; `time` is seconds since the epoch.

    `writer` is the process that wrote it, ``conductor`` (the runner) or ``ARCH/SHARD`` (a worker), and `number` counts
    this writer's events from 1, so that a missing, repeated or misplaced one is noticed. 0: it was not numbered.
    """

    schema: int
    time: float
    run: str
    kind: EventKind
    kernel: str = ""
    test: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    writer: str = ""
    number: int = 0


# --- what is due in a run, written down before it begins -----------------------------------


@dataclass(frozen=True)
class DueResult:
    """One test, by its canonical id, on one kernel and machine."""

    id: str
    kernel: str
    machine: str


@dataclass(frozen=True)
class DueCanary:
    """One canary that is due, by the oracle that it proves."""

    oracle: str
    kernel: str
    machine: str


@dataclass(frozen=True)
class DueTest:
    """A selected test and where it must run: the collecting pass knows no kernel ids yet."""

    id: str
    arch: str
    role: Role
    machine: str


@dataclass(frozen=True)
class Selection:
    """What the collecting pass selected. Not `exact` where the names of the tests are known only after a build."""

    due: tuple[DueTest, ...] = ()
    exact: bool = True


@dataclass(frozen=True)
class Workers:
    """The workers that are about to be started for one architecture, and the targets that they share."""

    arch: str
    shards: int
    targets: tuple[tuple[str, str], ...] = ()
    """Kernel and machine of each."""


@dataclass(frozen=True)
class SessionStart:
    """What one worker will do: part `shard` (from 0) of `shards`.

    `collected` and `canaries` are its own; `due` and `planted` those of all workers together, without the leak
    batches, which each worker makes for itself.
    """

    collected: tuple[DueResult, ...] = ()
    canaries: tuple[DueCanary, ...] = ()
    due: tuple[DueResult, ...] = ()
    planted: tuple[DueCanary, ...] = ()
    optional: tuple[Any, ...] = ()
    arch: str = ""
    shard: int = 0
    shards: int = 1


@dataclass(frozen=True)
class SessionEnd:
    """How pytest ended in one worker: `failed` is how many failures and errors it reported."""

    exitstatus: int = -1
    arch: str = ""
    shard: int = 0
    failed: int = 0


@dataclass(frozen=True)
class SessionError:
    """A failure that pytest reported and no test's result shows: of a teardown, of a test without a guest."""

    test: str
    when: str
    why: str
    arch: str = ""
    shard: int = 0


@dataclass(frozen=True)
class Retry:
    """A guest that was lost before its test began, and is restored once more."""

    machine: str
    why: str


@dataclass(frozen=True)
class WorkerEnd:
    """How the process of one worker ended: `status` is negative for a signal, `how` says it in words."""

    arch: str
    shard: int
    status: int
    how: str


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
    """A frame as one line: ``copy_process+0x3c/0x120 (kernel/fork.c:2011)``."""
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
