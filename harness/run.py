# SPDX-License-Identifier: GPL-2.0-only
"""Owns the conductor: builds and saves everything, runs pytest as a child, then judges and reports."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import children, collect, coverage, prepare
from harness.errors import Exit, HarnessError, KharnessError, UsageError
from harness.host import capacity, doctor
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import Toolchain, open_toolchain
from harness.journal import Journal, read
from harness.plan import Plan, Session, Target
from harness.records import SCHEMA, Event, EventKind, Role, encode
from harness.report import excerpt, html, junit, results, terminal
from harness.sources import Sources
from harness.verdict import Results, judge

VERSION = "0.1.0"

class Conductor:
    """One run of a plan. Nothing here judges: the verdict comes from the event log."""

    def __init__(self, plan: Plan, progress: Progress, cache: Cache) -> None:
        self.plan = plan
        self.progress = progress
        self.cache = cache
        self.out = results.claim(Path(plan.out) if plan.out else None)
        self.run_id = self.out.path.resolve().name
        self.journal = Journal(self.out.path / "events.jsonl", self.run_id)
        self.judged: Results | None = None
        self._trees: dict[tuple[str, Role], Path] = {}
        """The sources, as they were built, by architecture and role."""
        self._tested = False

    def run(self) -> Exit:
        """Does everything; returns the exit status. Raises what is not a result: usage and host trouble."""
        why, pointless = "", False
        self.journal.emit(
            EventKind.RUN_START,
            {
                "argv": list(self.plan.argv),
                "seed": self.plan.seed,
                "plan": encode(self.plan),
                "version": VERSION,
            },
        )
        try:
            if self.plan.toolchain == "host":
                doctor.require_host_tools(self._architectures)
            self._each_architecture()
        except KeyboardInterrupt:
            why = "interrupted"
            raise
        except UsageError as error:
            why = error.line()
            pointless = not self.plan.out and not self._tested
            raise
        except KharnessError as error:
            why = error.line()
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.journal.end(why)
            self.journal.close()
            if pointless:
                self._forget()
            else:
                self.judged = self.report(quiet=bool(why))
            self.out.release()
        assert self.judged is not None
        return self.judged.verdict.exit

    def _forget(self) -> None:
        """Removes the folder of a run that was a mistake of the caller's, if it holds no results."""
        shutil.rmtree(self.out.path)
        latest = self.out.path.parent / "latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()

    @property
    def _architectures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(request.arch for request in self.plan.kernels))

    def _each_architecture(self) -> None:
        """Builds, saves and tests one architecture after the other: the first one's verdict need not wait for the rest.

        A kernel that does not build or boot is a result, not an end. Toolchains come first: what the host lacks for
        the last architecture is said before the first kernel is built.
        """
        names = self._architectures
        toolchains = [open_toolchain(self.plan.toolchain, name, self.cache, self.progress) for name in names]
        needed = collect.machines(self.plan)
        if not self.plan.test_id and not any(count.total() for count in needed.values()):
            # Nothing would be tested, so nothing is built.
            self.journal.emit(EventKind.SESSION_START, {"collected": [], "canaries": []})
            self.journal.emit(EventKind.SESSION_END, {"exitstatus": collect.NO_TESTS})
            return
        sources = Sources(self.plan, toolchains[0], self.cache, self.progress, self.out.path)
        sources.take()
        self._trees = {(r.arch, r.role): sources.tree(r).path for r in self.plan.kernels}
        for number, (name, toolchain) in enumerate(zip(names, toolchains, strict=True), 1):
            workbench = prepare.Workbench(self.plan, toolchain, self.cache, self.progress, self.journal, sources)
            requests = [request for request in self.plan.kernels if request.arch == name]
            targets = workbench.targets(requests, tuple(needed[name]))
            if targets:
                tests = max(needed[name].total(), sum(len(target.selftests) for target in targets))
                self._pytest(toolchain, targets, tests, sources.patches())
                self._coverage(toolchain, targets)
            if number < len(names):
                self._so_far(name, names[number:])

    def _coverage(self, toolchain: Toolchain, targets: Sequence[Target]) -> None:
        """With --coverage, what the tests took on each kernel."""
        kernels = {target.kernel.id: target.kernel for target in targets} if self.plan.coverage else {}
        for kernel in kernels.values():
            coverage.measure(kernel, self._trees[kernel.arch, kernel.role], toolchain, self.journal)

    def _so_far(self, done: str, left: Sequence[str]) -> None:
        """What would be the verdict if the run ended here."""
        events = read(self.out.path / "events.jsonl")
        end = Event(SCHEMA, time.time(), self.run_id, EventKind.RUN_END, data={"why": ""})
        judged = judge([*events, end])
        self.progress.say(f"{done}: {str(judged.verdict).upper()} so far; {', '.join(left)} to come")

    # --- the child --------------------------------------------------------------------------

    def _pytest(
        self, toolchain: Toolchain, targets: Sequence[Target], tests: int, patches: tuple[str, ...]
    ) -> None:
        """pytest over the suite, as children that are told everything in plan.json, one for each guest at a time."""
        self._tested = True
        session = Session(
            run=self.run_id, out=str(self.out.path.resolve()), seed=self.plan.seed, cache=str(self.cache.root),
            toolchain=toolchain.kind, targets=tuple(targets), keep=self.plan.keep, dump=self.plan.dump,
            coverage=self.plan.coverage, cache_cap_gib=self.plan.cache_cap_gib, argv=self.plan.argv,
            test_id=self.plan.test_id, kconfig=self.plan.kconfig, suite=self.plan.suite, machines=self.plan.machines,
            search=self.plan.search, sequence=self.plan.sequence,
            patches=patches, bpf=self.plan.bpf, faults=self.plan.faults, allow=self.plan.allow,
        )  # fmt: skip
        plan_file = self.out.path / f"plan-{targets[0].kernel.arch}.json"
        plan_file.write_text(json.dumps(encode(session), indent=1))
        largest = max(target.machine.spec.memory_mib for target in targets)
        shards = capacity.guests(self.plan.guests, largest, tests)
        own = ["--kharness-plan", str(plan_file.resolve())]
        argvs = [
            collect.argv(self.plan, *own, "--kharness-shard", f"{shard}/{shards}") for shard in range(shards)
        ]
        arch = targets[0].kernel.arch
        # How long it takes depends on what is selected, and on how many kernels.
        key = f"tests {arch} {len(targets)} {self.plan.select} {self.plan.suite} {self.plan.full}"
        with tempfile.TemporaryDirectory(prefix="kharness-", ignore_cleanup_errors=True) as scratch:
            children.run(
                argvs, collect.environment(Path(scratch)), self.out.path, self.progress, f"tests on {arch}", key
            )

    # --- the end ----------------------------------------------------------------------------

    def report(self, *, quiet: bool) -> Results:
        """Judges the event log and writes results.json, junit.xml and report.html; shows the summary unless `quiet`."""
        judged = judge(read(self.out.path / "events.jsonl"))
        trees = {k.id: self._trees[k.arch, k.role] for k in judged.kernels if (k.arch, k.role) in self._trees}
        judged = excerpt.excerpts(judged, trees)
        results.write(judged, self.out.path)
        junit.write(judged, self.out.path / "junit.xml")
        html.write(judged, self.out.path / "report.html")
        if not quiet:
            terminal.show(judged, sys.stdout, self._report_path())
        return judged

    def _report_path(self) -> str:
        path = self.out.path / "report.html"
        latest = Path("out/latest")
        if latest.is_symlink() and latest.resolve() == self.out.path.resolve():
            return "out/latest/report.html"
        return str(path)


def conduct(plan: Plan, status: Callable[[Results], int] | None = None) -> int:
    """Runs a plan to its end and returns the exit status; every failure becomes one clear line.

    `status` makes the exit status of the results, where it is not the verdict's own.
    """
    cache = Cache.default(plan.cache_cap_gib << 30)
    progress = Progress(cache.folder("durations"))
    start = time.time()
    try:
        conductor = Conductor(plan, progress, cache)
        ended = conductor.run()
        return status(conductor.judged) if status and conductor.judged else ended
    except KharnessError:
        raise
    except KeyboardInterrupt:
        raise
    except Exception as error:
        place = cache.folder("crashes") / f"{int(start)}-{os.getpid()}.txt"
        place.write_text(traceback.format_exc())
        raise HarnessError(
            f"kharness itself failed: {type(error).__name__}: {error}", step=f"report it with {place}"
        ) from error
