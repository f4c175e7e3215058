# SPDX-License-Identifier: GPL-2.0-only
"""Comparing a run with what was due: kernels, targets, workers, sessions and tests, each written to the event log
before it began."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from harness.core.plan import SELFTESTS_SUITE
from harness.core.records import DueResult, Outcome, Role, SessionEnd, SessionStart, WorkerEnd, Workers
from harness.core.words import plural
from harness.verdict.log import Log
from harness.verdict.rows import BATCH, BOOT, BUILD, PATCH, SELFTESTS_BUILD, KernelRow

FINE = (0, 1, 5)
"""Of pytest's ExitCode: OK, TESTS_FAILED, NO_TESTS_COLLECTED."""

FURTHER_BATCH = f"{BATCH}kmemleak"
IN_A_BATCH = ("kmemleak slab", "kmemleak percpu")
"""The leak batch of a machine that has none of the kernel's own canaries, and what session/batch.py proves in it."""

SHOWN = 10
"""Missing tests that are listed."""

BAD = (Outcome.FAIL, Outcome.INCONCLUSIVE)


def gaps(log: Log) -> Iterator[str]:
    """What was due in the run and is missing, one line each. Each makes the run inconclusive."""
    yield from _workers(log)
    for error in log.errors:
        yield f"{error.test}: pytest reports an error in its {error.when}: {error.why}"
    if log.order.cut_short:
        return  # that is why anything is missing
    yield from _planned(log)
    if log.kernels and not log.protection.how:
        yield "the event log does not say what protected the host from what was built and booted"
    yield from _prepared(log)
    yield from _batches(log)
    yield from _shared_out(log)
    yield from _selected(log)


def _batches(log: Log) -> Iterator[str]:
    """Whether the leak batch of each further machine, in which kmemleak is proved, has a result of its canaries."""
    known = {(canary.kernel, canary.machine, canary.oracle) for canary in log.canaries}
    for test in log.rows():
        if test.id == FURTHER_BATCH and test.outcome is Outcome.PASS:
            for oracle in IN_A_BATCH:
                if (test.kernel, test.machine, oracle) not in known:
                    yield f"{test.kernel} on {test.machine}: the {oracle} canary was not run"


def _several(lines: Iterable[str]) -> Iterator[str]:
    """The first lines, and how many more there are."""
    every = list(lines)
    yield from every[:SHOWN]
    if len(every) > SHOWN:
        yield f"and {len(every) - SHOWN} more tests like this"


# --- kernels and machines ---------------------------------------------------------------


def _planned(log: Log) -> Iterator[str]:
    """Whether each requested kernel took part."""
    asked = log.plan.get("kernels")
    if log.run is None or (not log.kernels and log.sessions):
        return  # said already: no beginning, or nothing was selected
    if not isinstance(asked, list | tuple):
        yield "the event log does not say which kernels were asked for"
        return
    wanted = Counter((str(one["arch"]), str(one["role"])) for one in asked)
    if log.patches.alone:
        wanted = Counter({(str(one["arch"]), str(Role.TREE)): 1 for one in asked})
    came = Counter((kernel.arch, str(kernel.role)) for kernel in log.kernels.values())
    for arch, role in wanted - came:
        if log.archs is None or arch in log.archs:
            yield f"{arch}: the {role} kernel was asked for, and is not in the event log"
    for arch, role in came - wanted:
        yield f"{arch}: a {role} kernel took part that was not asked for"


def _prepared(log: Log) -> Iterator[str]:
    """Whether each kernel that tests ran on has events of its build and boot, and of the patch's change."""
    rows = {(test.kernel, test.machine, test.id) for test in log.rows()}
    names = {(kernel, name) for kernel, _, name in rows}
    suite = f"/{log.plan.get('suite', '')}/"
    for kernel in log.standing():
        made = [machine.spec.name for machine in log.machines if machine.kernel == kernel.id]
        due = [BUILD]
        if f"/{SELFTESTS_SUITE}/" in suite:
            due.append(SELFTESTS_BUILD)
        if kernel.role is Role.PATCHED and log.of(kernel.arch, Role.BASE) and not log.alone:
            base = log.of(kernel.arch, Role.BASE)[0]
            due += [PATCH] if not log.fell(base) or any(m.kernel == base.id for m in log.machines) else []
        for name in due:
            if (kernel.id, name) not in names:
                yield f"{kernel.id}: the event log has no '{name}'"
        for machine in made:
            if (kernel.id, machine, BOOT) not in rows:
                yield f"{kernel.id} on {machine}: the event log does not say how it booted"
        for workers in log.workers:
            if workers.arch == kernel.arch:
                announced = [machine for of, machine in workers.targets if of == kernel.id]
                if sorted(announced) != sorted(made):
                    have, were = ", ".join(announced) or "none", ", ".join(made) or "none"
                    yield f"{kernel.id}: its machines were to be {have}, the event log has {were}"


# --- workers and their sessions --------------------------------------------------------


def _workers(log: Log) -> Iterator[str]:
    """Whether each worker began, ended, and ended as pytest does normally."""
    announced = Counter(workers.arch for workers in log.workers)
    for arch in dict.fromkeys(kernel.arch for kernel in log.standing()):
        if not announced[arch] and not log.order.cut_short:
            yield f"pytest never started on {arch}"
    for arch, number in announced.items():
        if number > 1:
            yield f"{arch}: its workers were started {number} times"
    known = {(workers.arch, shard) for workers in log.workers for shard in range(workers.shards)}
    seen: list[SessionStart | SessionEnd | WorkerEnd] = [*log.sessions, *log.session_ends, *log.worker_ends]
    for arch, shard in dict.fromkeys((one.arch, one.shard) for one in seen):
        if (arch, shard) not in known and log.kernels:
            yield f"worker {shard + 1} on {arch or 'no architecture'} was never started"
    for workers in log.workers:
        for shard in range(workers.shards):
            yield from _worker(log, workers, shard)


def _worker(log: Log, workers: Workers, shard: int) -> Iterator[str]:
    """The gaps of one worker."""
    name = f"worker {shard + 1} of {workers.shards} on {workers.arch}"
    here = (workers.arch, shard)
    starts = [one for one in log.sessions if (one.arch, one.shard) == here]
    ends = [one for one in log.session_ends if (one.arch, one.shard) == here]
    exits = [one for one in log.worker_ends if (one.arch, one.shard) == here]
    how = f" ({exits[0].how})" if exits else ""
    if not starts:
        yield f"{name}: pytest never began its session{how}"
    elif not ends:
        yield f"{name}: pytest died before its end{how}"
    for what, number in (("began", len(starts)), ("ended its session", len(ends)), ("ended", len(exits))):
        if number > 1:
            yield f"{name} {what} {number} times"
    if starts and starts[0].shards != workers.shards:
        yield f"{name} took itself for one of {starts[0].shards}"
    if not exits:
        yield f"{name}: how its process ended is not known"
    yield from _ending(log, name, starts[:1], ends[:1], exits[:1])


def _ending(
    log: Log, name: str, starts: Collection[SessionStart], ends: Collection[SessionEnd], exits: Collection[WorkerEnd]
) -> Iterator[str]:
    """The gaps in pytest's own status and the process's."""
    for end in ends:
        if end.exitstatus not in FINE:
            yield f"{name}: pytest ended with status {end.exitstatus}"
        for start in starts:
            yield from _explained(log, name, start, end)
    for exit in exits:
        known = {end.exitstatus for end in ends}
        if exit.status not in FINE and exit.status not in known:
            yield f"{name} did not end as pytest does: {exit.how}"
        elif known and exit.status not in known:
            yield f"{name} ended with {exit.how}, its session with status {known.pop()}"


def _explained(log: Log, name: str, start: SessionStart, end: SessionEnd) -> Iterator[str]:
    """Whether each failure that pytest reports in a session is in this session's events."""
    mine = {(item.kernel, item.machine, item.id) for item in start.collected}
    bad = {key for test in log.raw if test.outcome in BAD and (key := (test.kernel, test.machine, test.id)) in mine}
    planted = {(one.kernel, one.machine, one.oracle) for one in start.canaries}
    missed = {(c.kernel, c.machine, c.oracle) for c in log.canaries if not c.caught} & planted
    errors = [error for error in log.errors if (error.arch, error.shard) == (start.arch, start.shard)]
    recorded = len(bad) + len(missed) + len(errors)
    if end.exitstatus == 1 and not recorded:
        yield f"{name}: pytest reported a failure that no test's result shows"
    elif end.failed > recorded:
        yield f"{name}: pytest reported {plural(end.failed, 'failure')}, its events have {recorded}"
    if end.exitstatus == 5 and (mine or planted):
        yield f"{name}: pytest says that it had no tests, and had {len(mine) + len(planted)}"
    if end.exitstatus == 0 and end.failed:
        yield f"{name}: pytest reported {plural(end.failed, 'failure')}, and status 0"


# --- tests ------------------------------------------------------------------------------


def _shared_out(log: Log) -> Iterator[str]:
    """Whether the workers' parts together are what each of them announced as due on their architecture."""
    for arch in dict.fromkeys(session.arch for session in log.sessions):
        sessions = [session for session in log.sessions if session.arch == arch]
        if len({(frozenset(one.due), frozenset(one.planted)) for one in sessions}) > 1:
            yield f"{arch}: the workers do not agree on what there is to test"
        due = {item: None for session in sessions for item in session.due}
        parts = Counter(item for session in sessions for item in session.collected if not item.id.startswith(BATCH))
        yield from _several(f"{_named(item)}: due, and in no worker's part" for item in due if not parts[item])
        yield from _several(f"{_named(item)}: in a worker's part, and not due" for item in parts if item not in due)
        yield from _several(f"{_named(item)}: in {number} parts" for item, number in parts.items() if number > 1)
        planted = {one: None for session in sessions for one in session.planted}
        shared = Counter(one for session in sessions for one in session.canaries)
        for one in planted:
            if not shared[one]:
                yield f"{one.kernel} on {one.machine}: the {one.oracle} canary is in no worker's part"


def _selected(log: Log) -> Iterator[str]:
    """Whether the workers had what was selected before anything was built."""
    parts = {item: None for s in log.sessions for item in s.collected if not item.id.startswith(BATCH)}
    if log.alone:
        only = str(log.plan["test_id"])
        for kernel in log.standing():
            if {item.id for item in parts if item.kernel == kernel.id} != {only}:
                yield f"{kernel.id}: {only} was to be replayed, and was not, or not alone"
        return
    if not log.selections:
        if log.kernels:
            yield "the event log does not say which tests were selected"
        return
    if len(log.selections) > 1:
        yield "tests were selected more than once"
    if not all(selection.exact for selection in log.selections):
        return  # their names are known only after a build
    due: set[DueResult] = set()
    for kernel in log.standing():
        due |= {*_due(log, kernel)}
    lost = sorted(due - {*parts}, key=_named)
    yield from _several(f"{_named(item)}: selected, and no worker had it" for item in lost)
    standing = {kernel.id for kernel in log.standing()}
    extra = (item for item in parts if item.kernel in standing and item not in due)
    yield from _several(f"{_named(item)}: a worker had it, and it was not selected" for item in extra)


def _due(log: Log, kernel: KernelRow) -> Iterator[DueResult]:
    """The tests that were selected for a kernel, on the machines that it came up on."""
    for selection in log.selections:
        for one in selection.due:
            if (one.arch, one.role) == (kernel.arch, kernel.role) and not log.fell(kernel, one.machine):
                yield DueResult(one.id, kernel.id, one.machine)


def _named(item: DueResult) -> str:
    return f"{item.id} [{item.kernel} on {item.machine}]"
