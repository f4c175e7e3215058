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
from harness.definition import load
from harness.faults import knobs
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
from harness.records import Fault, GuestError, HarnessError, Role
from harness.source import debian
from harness.sources import Sources
from harness.suite.session import Ready

ROOT = Path(__file__).resolve().parents[1]
BOOTS = 5
RESTORES = 20
SWEEPS, SWEEP_IDS = 5, 1000
RUNS, RUN_IDS = 5, 5000
LOADS = 10
FIRST = 1 << 20
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
    request = kbuild.BuildRequest(tree, load(DEFAULT_ARCHES[0]), jobs=DEFAULT_JOBS)
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
    with ready.restore() as guest:
        loads = _loads(guest)
        api = guest.load("dsq_api")
        guest.load("dsq_many", nr_dsqs=1).attach()
        creates = []
        for _ in range(RUNS):
            answers = api.run("create", dsq_context(FIRST), repeat=RUN_IDS)
            creates.append(RUN_IDS / guest.agent.history[-1].seconds)
            if any(answers):
                raise GuestError(f"a create answered {next(filter(None, answers))}")
            api.run("destroy", dsq_context(FIRST), repeat=RUN_IDS)
        create = Row("SYSCALL creates", "/s", tuple(creates), note=f"{RUN_IDS} ids at a time")
        return [_sweeps(guest, create), create, loads]


def _sweeps(guest: Guest, create: Row) -> Row:
    """The agent's own time in the sweep: one injection is an armed fail-nth, a create, and its reading back."""
    api, observer = guest.load("dsq_api"), guest.load("fault_sites")
    observer.attach("slab_site")
    observer.attach("page_site")
    for path, value in knobs.arm(Fault(nth=1), {})[:-1]:  # the last is the fail-nth file, which the agent writes
        guest.write(path, value)
    rates, runs = [], []
    for turn in range(SWEEPS):
        context = dsq_context((FIRST << 1) + turn * SWEEP_IDS)
        got = api.sweep("create", "destroy", context, observer, ids=SWEEP_IDS, keep=True, budget_ms=60000)
        if got["ids"] != SWEEP_IDS or got["injected"] < SWEEP_IDS or got["disputed"] or got["lost"]:
            raise GuestError(f"a sweep did not inject what it should have: {got}")
        rates.append(got["injected"] / (got["sweep_us"] / 1e6))
        runs.append(got["runs"] / (got["sweep_us"] / 1e6))
    share = Row("", "/s", tuple(runs)).figure / create.figure
    note = f"its runs come to {share:.2f} of the bare creates"
    return Row("fail-nth injections on create", "/s", tuple(rates), 5000, note)


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
