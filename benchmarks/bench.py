# SPDX-License-Identifier: GPL-2.0-only
"""The measurements: each is done with the harness's own classes, on a real kernel."""

from __future__ import annotations

import difflib
import json
import subprocess
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from sched_ext.dsq import Dsqs, dsq_context
from sched_ext.operations import ENABLER, FIRST, action

from benchmarks.rows import Row
from harness.core.definition import load
from harness.core.errors import GuestError, HarnessError
from harness.core.event_log import EventLog
from harness.core.options import DEFAULT_ARCHES, DEFAULT_JOBS, DEFAULT_MACHINE, DEFAULT_SERIES, Options
from harness.core.plan import KernelRequest, Plan, SourceRequest
from harness.core.records import Role, decode
from harness.faults.sweep import Faults
from harness.guest import pristine
from harness.guest.agent import Agent
from harness.guest.guest import Guest
from harness.host import python
from harness.host.cache import Cache, remove
from harness.host.process import end, spawn
from harness.host.progress import Progress
from harness.host.toolchain import Toolchain
from harness.kbuild import kbuild
from harness.kbuild.make import BuildRequest
from harness.machine.vm import Vm
from harness.mutants.command import TABLE
from harness.mutants.judge import Fate
from harness.mutants.rows import RUN, Table
from harness.run.targets import Workbench
from harness.run.trees import Sources
from harness.session.context import TestContext
from harness.session.session import Target
from harness.source import debian, series
from harness.suite import loader

ROOT = Path(__file__).resolve().parents[1]
BOOTS = 5
RESTORES = 20
SWEEPS, SWEEP_IDS = 5, 1000
ATTACH_SWEEPS = 3
RUNS, RUN_IDS = 5, 5000
LOADS = 10
THREAD_MAILS, THREAD_READS = 300, 5
GRACE_SECONDS = 30.0


def prepare(toolchain: Toolchain, cache: Cache, progress: Progress) -> Target:
    """The default kernel on the default machine, built and saved if they are not there yet."""
    request = KernelRequest(SourceRequest(version=DEFAULT_SERIES), DEFAULT_ARCHES[0])
    with tempfile.TemporaryDirectory(prefix="kharness-bench-") as out:
        with EventLog(Path(out) / "events.jsonl", "bench") as event_log:
            plan = Plan((request,), seed=1, options=Options(out=out))
            sources = Sources(plan, toolchain, cache, progress, Path(out))
            bench = Workbench(plan, toolchain, cache, progress, event_log, sources)
            targets = bench.targets([request], (DEFAULT_MACHINE,))
    if not targets:
        raise HarnessError(f"{request.source} did not build or boot", step="see 'kharness run'")
    return Target(targets[0], toolchain, loader.of(loader.default()))


def thread() -> Row:
    """A thread of 300 mails, 30 patches and 270 replies with a tag each, from its mailbox to patches."""
    mails = [_mail(f"p{number}", f"[PATCH {number}/30] a: b{number}", _patch(number)) for number in range(1, 31)]
    for number in range(THREAD_MAILS - len(mails)):
        of, who = number % 30 + 1, f"B{number} <b{number}@example.org>"
        mails.append(_mail(f"r{number}", f"Re: [PATCH {of}/30] a: b{of}", f"Reviewed-by: {who}\n", f"p{of}", who))
    values = []
    with tempfile.TemporaryDirectory(prefix="kharness-bench-") as folder:
        box = Path(folder) / "t.mbox"
        box.write_text("".join(mails))
        for _ in range(THREAD_READS):
            start = time.monotonic()
            found = series.read([str(box)])
            values.append(time.monotonic() - start)
    if len(found) != 30:
        raise HarnessError(f"the thread gave {len(found)} patches", step="report this")
    return Row("read a thread of 300 mails", "s", tuple(values), 2, f"{len(found)} patches")


def _patch(number: int) -> str:
    names = f"--- a/kernel/a{number}.c\n+++ b/kernel/a{number}.c\n"
    body = "".join(f" int line_{line};\n" for line in range(100))
    return f"Why.\n\n---\n\n{names}@@ -1,100 +1,101 @@\n{body}+int more;\n"


def _mail(id: str, subject: str, body: str, to: str = "p1", who: str = "A <a@example.org>") -> str:
    above = f"In-Reply-To: <{to}@example.org>\n" if to != id else ""
    head = f"From: {who}\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nSubject: {subject}\nMessage-ID: <{id}@example.org>\n"
    return f"From mboxrd@z Thu Jan  1 00:00:00 1970\n{head}{above}\n{body}\n\n"


def cold_build(toolchain: Toolchain, cache: Cache, progress: Progress) -> Row:
    """The default kernel built with an empty ccache and an empty cache; toolchain and source are there."""
    tree = debian.fetch(DEFAULT_SERIES, toolchain, cache, progress)
    request = BuildRequest(tree, load(DEFAULT_ARCHES[0]), jobs=DEFAULT_JOBS)
    # Beside the cache: /tmp may be too small for a build folder.
    folder = Path(tempfile.mkdtemp(prefix="kharness-cold-", dir=cache.root.parent))
    try:
        start = time.monotonic()
        kernel = kbuild.build(request, toolchain, Cache(folder, 0), progress, Role.TREE)
        seconds = time.monotonic() - start
        objects = len((Path(kernel.path) / "objects").read_text().splitlines())
    finally:
        remove(folder)
    return Row("cold kernel build", "s", (seconds,), 420, f"{objects} objects, -j{DEFAULT_JOBS}")


def boot(target: Target, toolchain: Toolchain) -> Row:
    """From starting QEMU to the agent's first answer. The agent is asked at once and answers when it is up."""
    return Row("boot to agent", "s", tuple(_to_answer(target, toolchain) for _ in range(BOOTS)), 3)


def restore(target: Target, toolchain: Toolchain, boots: Row) -> Row:
    """From starting QEMU on the saved guest to the first operation answered."""
    values = tuple(_to_answer(target, toolchain, saved=True) for _ in range(RESTORES))
    row = Row("restore to first operation", "s", values, 0.3)
    return Row(row.name, row.unit, values, row.goal, f"{boots.figure / row.figure:.1f} times faster than boot")


def _to_answer(target: Target, toolchain: Toolchain, *, saved: bool = False) -> float:
    found = target.pristine
    start = time.monotonic()
    with Vm(found.launch, toolchain, *((found.state, found.memory) if saved else ())) as vm:
        vm.resume()
        Agent(vm, target.pristine.scale).call("ping", seconds=pristine.boot_seconds())
        return time.monotonic() - start


def whole_run() -> Row:
    """What `make run` does, everything cached: all tests, canaries and the leak batch. It must pass."""
    with tempfile.TemporaryDirectory(prefix="kharness-bench-") as folder:
        seconds, last = _command(Path(folder), "run")
    return Row("make run, all cached", "s", (seconds,), 60, last.removeprefix("verdict: ").partition(", ")[0])


def _command(folder: Path, *words: str, passes: Collection[int] = (0,)) -> tuple[float, str]:
    """Seconds and last line of a kharness command, whose results go to OUT in `folder`.

    Raises HarnessError where it does not end with one of the statuses `passes`.
    """
    said = folder / "said"
    argv = python.module("harness", *words, "--out", str(folder / "out"))
    start = time.monotonic()
    with said.open("wb") as log:
        child = spawn(argv, cwd=ROOT, env=python.environment(), stdout=log, stderr=subprocess.STDOUT)
        try:
            child.wait()
        finally:
            status = end(child, GRACE_SECONDS)  # an interrupted run ends its guests and removes its files
    seconds = time.monotonic() - start
    last = (said.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    if status not in passes:
        raise HarnessError(f"kharness {words[0]} ended with status {status}: {last}", step=f"see 'kharness {words[0]}'")
    return seconds, last


def patched(toolchain: Toolchain, cache: Cache, progress: Progress) -> list[Row]:
    """What is asked of a patch beside its verdict: that its lines are counted, and one more broken version of it.

    Kernels are built before anything is timed.
    """
    tree = debian.fetch(DEFAULT_SERIES, toolchain, cache, progress)
    with tempfile.TemporaryDirectory(prefix="kharness-bench-") as name:
        folder = Path(name)
        file = folder / "odd.patch"
        file.write_text(_odd(tree.path))
        words = ("--patch", str(file), "--arch", DEFAULT_ARCHES[0], "--machine", DEFAULT_MACHINE, "-k", "lifecycle")
        took = {}
        for number, (flag, passes) in enumerate({"--no-coverage": (0,), "--coverage": (0, 3)}.items()):
            for turn in ("built", "timed"):  # 3: these tests alone do not cover every caller
                place = folder / f"{number}-{turn}"
                place.mkdir()
                took[flag], _ = _command(place, "run", flag, *words, passes=passes)
        plain, counted = took["--no-coverage"], took["--coverage"]
        note = f"{counted:.0f} s and {plain:.0f} s, base and patched kernel"
        place = folder / "mutants"
        place.mkdir()
        _command(place, "mutants", *words)
        table = decode(json.loads((place / "out" / TABLE).read_text()), Table)
    seconds = tuple(row.seconds for row in table.of(*RUN))
    if not seconds:
        raise HarnessError("no mutant could be run", step="see 'kharness mutants'")
    return [
        Row("lines of a patch, to without", "times", (counted / plain,), 1.5, note),
        Row("one more mutant", "s", seconds, 60, f"{len(table.of(Fate.CAUGHT))} of {len(seconds)} caught"),
    ]


def _odd(tree: Path) -> str:
    """A patch of create: one more id that is refused, of two lines."""
    name = next(name for name in ("kernel/sched/ext/ext.c", "kernel/sched/ext.c") if (tree / name).is_file())
    before = (tree / name).read_text()
    refused = "\tif (unlikely(dsq_id & SCX_DSQ_FLAG_BUILTIN))\n\t\treturn -EINVAL;\n"
    more = f"{refused}\tif (dsq_id == 0x7ead000000000001LLU)\n\t\treturn -EPERM;\n"
    after = before.replace(refused, more, 1)
    return "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{name}", f"b/{name}"))


def guest_rates(target: Target) -> list[Row]:
    """Creates, injections and whole schedulers a second, all in one restored guest. Guest time where it counts."""
    bench = TestContext("benchmark", target, seed=1)
    with bench.guest as guest:
        loads = _loads(guest)
        dsq, faults = Dsqs(bench), Faults(bench)
        scheduler = dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
        create = _creates(dsq)
        sweeps = _sweeps(bench, dsq, faults, create)
        dsq.detach(scheduler)
        rows = [sweeps, _attaches(dsq, faults), create, loads]
    if bench.findings:
        raise GuestError(f"a sweep found what it should not have: {bench.findings[0].title}")
    return rows


def _creates(dsq: Dsqs) -> Row:
    """The SYSCALL program alone, nothing failing."""
    rates = []
    for _ in range(RUNS):
        answers = dsq.api.run("create", dsq_context(FIRST), repeat=RUN_IDS)
        rates.append(RUN_IDS / dsq.guest.agent.history[-1].seconds)
        if any(answers):
            raise GuestError(f"a create answered {next(filter(None, answers))}")
        dsq.api.run("destroy", dsq_context(FIRST), repeat=RUN_IDS)
    return Row("SYSCALL creates", "/s", tuple(rates), note=f"{RUN_IDS} ids at a time")


def _sweeps(bench: TestContext, dsq: Dsqs, faults: Faults, create: Row) -> Row:
    """As tests sweep creates: each run is looked at for its answer, its site, objects that it left, and the log."""
    rates, runs = [], []
    for turn in range(SWEEPS):
        before = bench.model.operations
        dsq.sweep_create(faults, (FIRST << 1) + turn * SWEEP_IDS, ids=SWEEP_IDS, budget_ms=60000)
        rate = faults.rates[-1]
        if rate.injected < SWEEP_IDS:
            raise GuestError(f"a sweep of {SWEEP_IDS} creates injected {rate.injected} faults")
        rates.append(rate.injected / rate.seconds)
        runs.append((bench.model.operations - before) / rate.seconds)
    share = Row("", "/s", tuple(runs)).figure / create.figure
    note = f"its runs come to {share:.2f} of the bare creates"
    return Row("fail-nth injections on create", "/s", tuple(rates), 5000, note)


def _attaches(dsq: Dsqs, faults: Faults) -> Row:
    """The kthread that enables, swept as tests do it, all rounds: a run is an attach and a detach, both waited for."""
    attach = action("attach", dsq)
    rates, injected = [], 0
    for _ in range(ATTACH_SWEEPS):
        first = len(faults.rates)
        if faults.sweep(attach, thread=ENABLER) is None:
            raise GuestError(f"this kernel has no kthread {ENABLER}")
        rounds = faults.rates[first:]
        faulty = sum(rate.injected for rate in rounds)
        rates.append(faulty / sum(rate.seconds for rate in rounds))
        injected += faulty
    return Row("fail-nth injections on attach", "/s", tuple(rates), 10, f"{injected} faults in {ENABLER}")


def _loads(guest: Guest) -> Row:
    """A whole scheduler loaded, attached, detached and unloaded, as a test does it: wall time."""
    rates = []
    for _ in range(LOADS):
        start = time.monotonic()
        scheduler = guest.load("dsq_many", nr_dsqs=1)
        scheduler.attach()
        scheduler.detach()
        scheduler.unload()
        rates.append(1 / (time.monotonic() - start))
    return Row("scheduler load, attach, detach", "/s", tuple(rates), note="one DSQ in ops.init")
