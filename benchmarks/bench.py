# SPDX-License-Identifier: GPL-2.0-only
"""Owns the measurements: each is done with the harness's own classes, on a real kernel."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rows import Row
from harness.build import kbuild
from harness.build.make import BuildRequest
from harness.definition import load
from harness.errors import GuestError, HarnessError
from harness.guest import pristine
from harness.guest.agent import Agent
from harness.guest.guest import Guest, dsq_context
from harness.host.cache import Cache, remove
from harness.host.process import end, spawn
from harness.host.progress import Progress
from harness.host.toolchain import Toolchain
from harness.journal import Journal
from harness.machine.vm import Vm
from harness.plan import (
    DEFAULT_ARCHES,
    DEFAULT_JOBS,
    DEFAULT_MACHINE,
    DEFAULT_SERIES,
    KernelRequest,
    Plan,
    SourceRequest,
)
from harness.prepare import Workbench
from harness.records import Role
from harness.source import debian
from harness.sources import Sources
from harness.suite.bench import Bench
from harness.suite.dsq import Dsqs
from harness.suite.operations import ENABLER, FIRST, action
from harness.suite.session import Ready
from harness.suite.sweep import Faults

ROOT = Path(__file__).resolve().parents[1]
BOOTS = 5
RESTORES = 20
SWEEPS, SWEEP_IDS = 5, 1000
ATTACH_SWEEPS = 3
RUNS, RUN_IDS = 5, 5000
LOADS = 10
GRACE_SECONDS = 30.0


def prepare(toolchain: Toolchain, cache: Cache, progress: Progress) -> Ready:
    """The default kernel on the default machine, built and saved if they are not there yet."""
    request = KernelRequest(SourceRequest(version=DEFAULT_SERIES), DEFAULT_ARCHES[0])
    with tempfile.TemporaryDirectory(prefix="kharness-bench-") as out:
        with Journal(Path(out) / "events.jsonl", "bench") as journal:
            plan = Plan((request,), seed=1, out=out)
            sources = Sources(plan, toolchain, cache, progress, Path(out))
            bench = Workbench(plan, toolchain, cache, progress, journal, sources)
            targets = bench.targets([request], (DEFAULT_MACHINE,))
    if not targets:
        raise HarnessError(f"{request.source} did not build or boot", step="see 'kharness run'")
    return Ready(targets[0], toolchain)


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


def boot(ready: Ready, toolchain: Toolchain) -> Row:
    """From starting QEMU to the agent's first answer. The agent is asked at once and answers when it is up."""
    return Row("boot to agent", "s", tuple(_to_answer(ready, toolchain) for _ in range(BOOTS)), 3)


def restore(ready: Ready, toolchain: Toolchain, boots: Row) -> Row:
    """From starting QEMU on the saved guest to the first operation answered."""
    state = ready.pristine.state
    values = tuple(_to_answer(ready, toolchain, state) for _ in range(RESTORES))
    row = Row("restore to first operation", "s", values, 0.3)
    return Row(row.name, row.unit, values, row.goal, f"{boots.figure / row.figure:.1f} times faster than boot")


def _to_answer(ready: Ready, toolchain: Toolchain, state: Path | None = None) -> float:
    start = time.monotonic()
    with Vm(ready.pristine.launch, toolchain, state) as vm:
        vm.resume()
        Agent(vm, ready.pristine.scale).call("ping", seconds=pristine.boot_seconds())
        return time.monotonic() - start


def whole_run() -> Row:
    """What `make run` does, everything cached: all tests, canaries and the leak batch. It must pass."""
    with tempfile.TemporaryDirectory(prefix="kharness-bench-") as folder:
        said = Path(folder) / "said"
        argv = [sys.executable, "-m", "harness", "run", "--out", str(Path(folder) / "out")]
        start = time.monotonic()
        with said.open("wb") as log:
            child = spawn(argv, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            try:
                child.wait()
            finally:
                status = end(child, GRACE_SECONDS)  # an interrupted run ends its guests and removes its files
        seconds = time.monotonic() - start
        last = (said.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    if status != 0:
        raise HarnessError(f"the run ended with status {status}: {last}", step="see 'make run'")
    return Row("make run, all cached", "s", (seconds,), 60, last.removeprefix("verdict: ").partition(", ")[0])


def guest_rates(ready: Ready) -> list[Row]:
    """Creates, injections and whole schedulers a second, all in one restored guest. Guest time where it counts."""
    bench = Bench("benchmark", ready, seed=1)
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


def _sweeps(bench: Bench, dsq: Dsqs, faults: Faults, create: Row) -> Row:
    """As tests sweep creates: each run is looked at for its answer, its site, objects that it left, and the log."""
    rates, runs = [], []
    for turn in range(SWEEPS):
        before = bench.model.operations
        faults.sweep_create(dsq, (FIRST << 1) + turn * SWEEP_IDS, ids=SWEEP_IDS, budget_ms=60000)
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
