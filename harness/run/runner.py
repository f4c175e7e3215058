# SPDX-License-Identifier: GPL-2.0-only
"""The runner: builds and saves everything, starts the workers, then judges and reports."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.definition import load
from harness.core.errors import Exit, HarnessError, KharnessError, UsageError
from harness.core.event_log import EventLog, read
from harness.core.plan import Plan, SavedTarget, Session, Wanted
from harness.core.records import DueTest, EventKind, Role, Selection, SessionEnd, SessionStart, Verdict, encode
from harness.coverage import measure
from harness.coverage.coverage import Coverage
from harness.host import capacity, doctor, mishaps, protection
from harness.host.cache import Cache
from harness.host.files import filling
from harness.host.progress import Progress
from harness.host.scratch import private_folder, sweep
from harness.host.toolchain import Toolchain, open_toolchain
from harness.report import excerpt, html, junit, results, terminal
from harness.run import counted, survey, workers
from harness.run import targets as prepare
from harness.run.trees import Sources
from harness.suite import loader
from harness.verdict import Results, judge

VERSION = "0.1.0"


class Runner:
    """One run of a plan. Nothing here judges: the verdict comes from the event log."""

    def __init__(self, plan: Plan, progress: Progress, cache: Cache) -> None:
        self.plan = plan
        self.suite = loader.of(plan.suite)
        self.progress = progress
        self.cache = cache
        self.out = results.claim(Path(plan.options.out) if plan.options.out else None)
        self.run_id = self.out.path.resolve().name
        self.event_log = EventLog(self.out.path / "events.jsonl", self.run_id)
        self.judged: Results | None = None
        self._trees: dict[tuple[str, Role], Path] = {}
        """The sources that were built, by architecture and role."""
        self._tested = False

    def run(self) -> Exit:
        """Do everything and show the summary; returns the exit status. Raises what :meth:`carry_out` does."""
        judged = self.carry_out()
        self._show(judged)
        return judged.verdict.exit

    def carry_out(self) -> Results:
        """Do everything. Raises errors of usage and of the host, which are no results.

        Whatever ends it is recorded in a last event, and the results are judged from the events alone.
        """
        try:
            self._record_plan()
            if self.plan.options.toolchain == "host":
                doctor.require_host_tools(self._architectures)
            self._each_architecture()
            self.event_log.end()
            return self.report()
        except BaseException as error:
            self._cut_short(error)
            if isinstance(error, Exception | KeyboardInterrupt):
                raise
            # An exit by other code: its status would be taken for the kernel's.
            raise HarnessError(
                f"kharness itself was ended by {type(error).__name__}: {error}", step="see the messages before"
            ) from error
        finally:
            self.event_log.close()
            self.out.release()

    def _record_plan(self) -> None:
        self.event_log.emit(
            EventKind.RUN_START,
            {"argv": list(self.plan.argv), "seed": self.plan.seed, "plan": self.plan.flat(), "version": VERSION},
        )

    def _cut_short(self, error: BaseException) -> None:
        """End the log of a run that was cut short, and write the results of what there is.

        Failures here are reported and not raised: `error` has priority.
        """
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else _line(error)
        steps: list[Callable[[], None]] = [lambda: self.event_log.end(why), self._report_all]
        if isinstance(error, UsageError) and not self.plan.options.out and not self._tested:
            steps = [self._forget]
        for step in steps:
            try:
                step()
            except Exception as late:
                self.progress.say(f"the run's end: {_line(late)}")

    def _report_all(self) -> None:
        """The results of a run that was cut short: never a pass, so that each file is better than none."""
        judged, out = self._judged(), self.out.path
        for name, render in ((results.RESULTS, results.render), (junit.FILE, junit.render), (html.FILE, html.render)):
            try:
                results.store(out / name, render(judged))
            except Exception as error:
                self.progress.say(f"cannot write {name}: {_line(error)}")

    def _forget(self) -> None:
        """Remove the folder of a run with wrong arguments, if it has no results."""
        shutil.rmtree(self.out.path)
        latest = self.out.path.parent / "latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink(missing_ok=True)  # another run may be as wrong

    @property
    def _architectures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(request.arch for request in self.plan.kernels))

    def _each_architecture(self) -> None:
        """Build, save and test one architecture after the other: the first one's verdict need not wait for the rest.

        A kernel that does not build or boot is a result, and the run goes on. Toolchains come first: what the host
        lacks for the last architecture is reported before the first kernel is built.
        """
        names = self._architectures
        toolchains = [open_toolchain(self.plan.options.toolchain, name, self.cache, self.progress) for name in names]
        tests = survey.survey(self.plan)
        sources = Sources(self.plan, toolchains[0], self.cache, self.progress, self.out.path)
        if any(request.patches for request in self.plan.kernels) and (tests or self.plan.test_id):
            sources.take()
            self.event_log.emit(EventKind.PATCHES, sources.fates)
            tests = _of(sources.plan, tests)
            self.plan = sources.plan
        due = tuple(DueTest(test.id, test.arch, test.role, test.machine) for test in tests)
        self.event_log.emit(EventKind.SURVEY, Selection(due, exact=self.suite.selftests is None))
        needed = survey.machines(self.plan, tests)
        emulators = [(one, load(name).qemu.binary) for one, name in zip(toolchains, names, strict=True)]
        self.event_log.emit(EventKind.PROTECTION, protection.probe(toolchains[0], emulators))
        if not self.plan.test_id and not any(count.total() for count in needed.values()):
            # Nothing to test, so nothing is built.
            self.event_log.emit(EventKind.SESSION_START, SessionStart())
            self.event_log.emit(EventKind.SESSION_END, SessionEnd(survey.NO_TESTS))
            return
        sources.take()
        self._trees = {(r.arch, r.role): sources.tree(r).path for r in self.plan.kernels}
        beside = self.plan.options.coverage and not self.plan.added and any(sources.added(name) for name in names)
        if beside:  # the verdict is about kernels that do not count
            self.plan = self.plan.with_options(coverage=False)
        for number, (name, toolchain) in enumerate(zip(names, toolchains, strict=True), 1):
            workbench = prepare.Workbench(self.plan, toolchain, self.cache, self.progress, self.event_log, sources)
            requests = [request for request in self.plan.kernels if request.arch == name]
            targets = workbench.targets(requests, tuple(needed[name]))
            if targets:
                most = max(needed[name].total(), sum(len(target.selftests) for target in targets))
                self._pytest(toolchain, targets, most, sources.patches())
                self._coverage(toolchain, targets, sources)
                if beside:
                    self._count_lines(targets, sources)
            if number < len(names):
                self._so_far(names[:number], names[number:])

    def _coverage(self, toolchain: Toolchain, targets: Sequence[SavedTarget], sources: Sources) -> None:
        """With --coverage, measure each kernel."""
        kernels = {target.kernel.id: target.kernel for target in targets} if self.plan.options.coverage else {}
        for kernel in kernels.values():
            tree = self._trees[kernel.arch, kernel.role]
            added = sources.added(kernel.arch) if kernel.role is not Role.BASE else {}
            what = measure.Measured(kernel, self.suite.code, tree, added)
            with self.progress.phase(f"coverage of {kernel.id}", f"coverage-{kernel.arch}"):
                measure.measure(what, toolchain, self.event_log)

    def _count_lines(self, targets: Sequence[SavedTarget], sources: Sources) -> None:
        """With --coverage of a patch, run the tests once more on a kernel that counts its lines.

        What keeps them from being counted is in the event, and the verdict says so.
        """
        kernel = next((target.kernel for target in targets if target.kernel.role is not Role.BASE), None)
        if kernel is None:
            return
        request = next(one for one in self.plan.kernels if (one.arch, one.role) == (kernel.arch, kernel.role))
        added, out = sources.added(kernel.arch), self.out.path
        self.progress.say(f"{kernel.arch}: the tests once more, on a kernel that counts the lines of the patch")
        try:
            plan = counted.plan_of(self.plan, request, sources.tree(request), added, out)
            found = counted.taken(Runner(plan, self.progress, self.cache).carry_out(), kernel, out)
        except KharnessError as error:
            found = Coverage(kernel.id, kernel.arch, why=error.line(), beside=True)
        self.event_log.emit(EventKind.COVERAGE, found, kernel=kernel.id)

    def _so_far(self, done: Sequence[str], left: Sequence[str]) -> None:
        """Report the verdict of the architectures that are done. A pass is not reported before the end."""
        judged = judge(read(self.event_log.path), done)
        verdict = "no failure" if judged.verdict is Verdict.PASS else str(judged.verdict).upper()
        self.progress.say(f"{', '.join(done)}: {verdict} so far; {', '.join(left)} to come")

    # --- the workers ------------------------------------------------------------------------

    def _pytest(
        self, toolchain: Toolchain, targets: Sequence[SavedTarget], tests: int, patches: tuple[str, ...]
    ) -> None:
        """Run pytest over the suite in workers, one for each guest at a time, whose input is plan.json."""
        self._tested = True
        session = Session(
            run=self.run_id,
            out=str(self.out.path.resolve()),
            seed=self.plan.seed,
            cache=str(self.cache.root),
            toolchain=toolchain.kind,
            targets=tuple(targets),
            options=self.plan.options,
            cache_cap_gib=self.plan.cache_cap_gib,
            argv=self.plan.argv,
            test_id=self.plan.test_id,
            kconfig=self.plan.kconfig,
            suite=self.plan.suite,
            machines=self.plan.machines,
            search=self.plan.search,
            sequence=self.plan.sequence,
            patches=patches,
            bpf=self.plan.bpf,
            faults=self.plan.faults,
            allow=self.plan.allow,
        )
        plan_file = self.out.path / f"plan-{targets[0].kernel.arch}.json"
        with filling(self.out.path):
            plan_file.write_text(json.dumps(encode(session), indent=1))
        largest = max(target.machine.spec.memory_mib for target in targets)
        shards = capacity.guests(self.plan.options.guests, largest, tests)
        own = ["--kharness-plan", str(plan_file.resolve())]
        argvs = [survey.argv(self.plan, *own, "--kharness-shard", f"{shard}/{shards}") for shard in range(shards)]
        arch = targets[0].kernel.arch
        # Its duration depends on the selected tests, and on the number of kernels.
        key = f"tests {arch} {len(targets)} {self.plan.options.select} {self.plan.suite} {self.plan.options.full}"
        with private_folder() as scratch:
            env = survey.environment(scratch)
            workers.run(argvs, env, self.out.path, self.progress, f"tests on {arch}", key, targets)

    # --- the end ----------------------------------------------------------------------------

    def _judged(self) -> Results:
        """Judge the event log, and add the source of its findings."""
        judged = judge(read(self.event_log.path))
        trees = {k.id: self._trees[k.arch, k.role] for k in judged.kernels if (k.arch, k.role) in self._trees}
        self.judged = excerpt.excerpts(judged, trees)
        return self.judged

    def report(self) -> Results:
        """Judge the event log and write results.json, junit.xml and report.html: all of them, or none."""
        judged = self._judged()
        out = self.out.path
        # results.json, which has the verdict, comes last.
        files = {out / junit.FILE: junit.render(judged), out / html.FILE: html.render(judged)}
        results.store_all({**files, out / results.RESULTS: results.render(judged)})
        return judged

    def _show(self, judged: Results) -> None:
        """Show the summary. The results are written already: a failure here does not change them."""
        try:
            terminal.show(judged, sys.stdout, self._report_path())
        except (KeyboardInterrupt, SystemExit, OSError, ValueError, AttributeError) as error:
            self.progress.say(f"the summary could not be shown ({_line(error)}); it is in {self.out.path}")

    def _report_path(self) -> str:
        path = self.out.path / "report.html"
        latest = Path("out/latest")
        if latest.is_symlink() and latest.resolve() == self.out.path.resolve():
            return "out/latest/report.html"
        return str(path)


def _of(plan: Plan, tests: Sequence[Wanted]) -> tuple[Wanted, ...]:
    """The tests of a plan in which the tree alone is left of base and patched."""
    if any(request.role is not Role.TREE for request in plan.kernels):
        return tuple(tests)
    return tuple(replace(test, role=Role.TREE) for test in tests if test.role is not Role.BASE)


def _line(error: BaseException) -> str:
    """An exception in one line."""
    if isinstance(error, KharnessError):
        return error.line()
    return f"{type(error).__name__}: {error}".removesuffix(": ").replace("\n", " ")


def conduct(plan: Plan, status: Callable[[Results], int] | None = None) -> int:
    """Run a plan to its end and return the exit status; every failure becomes one clear line.

    `status` makes the exit status of the results, where it is not the verdict's own.
    """
    cache = Cache.default(plan.cache_cap_gib << 30)
    progress = Progress(cache.folder("durations"))
    sweep(progress.say)
    cache.sweep(progress.say)
    try:
        runner = Runner(plan, progress, cache)
        ended = runner.run()
        return status(runner.judged) if status and runner.judged else ended
    except KharnessError:
        raise
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise mishaps.explained(error) from error
