# SPDX-License-Identifier: GPL-2.0-only
"""One step: a run of the runner on one kernel, in a child process, and its results.json."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from harness.bisect import judge
from harness.bisect.child import Answer
from harness.bisect.judge import Wanted
from harness.bisect.state import Outcome, Run
from harness.core.errors import Exit, GuestError, HarnessError, UsageError
from harness.core.plan import KernelRequest, Plan
from harness.core.records import decode, encode
from harness.host import interrupts, python
from harness.host.process import end, spawn
from harness.host.scratch import private_folder
from harness.report import results
from harness.source.patched import DoesNotApply
from harness.verdict import Results

GOODBYE_SECONDS = 40.0
"""Seconds for the runner to end its guests after an interrupt."""


class Source(Protocol):
    """Makes the kernel of a point."""

    def kernel(self, id: str) -> KernelRequest: ...

    def kconfig(self, id: str) -> tuple[str, ...]:
        """Kconfig fragments in addition to the plan's. Raises Impossible where there can be no such kernel."""


class Impossible(Exception):
    """There is no kernel for a point: `str()` says why. That is a result."""


class Stepper:
    """Makes runs. `plan` is what every one of them has in common; results go to folders below `out`.

    `check` is called before each run, and raises an error that forbids it.
    """

    def __init__(
        self,
        plan: Plan,
        source: Source,
        out: Path,
        fixups: Sequence[str] = (),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._plan = plan
        self._source = source
        self._out = out
        self._fixups = tuple(fixups)
        self._check = check

    def __call__(self, id: str, number: int, wanted: Wanted | None, select: str) -> Run:
        """Do one run of a point, the `number`-th of this bisection, with a fixup if it does not build without.

        Raises UsageError and HarnessError for errors that say nothing about the kernel, KeyboardInterrupt after the
        child has ended.
        """
        label = f"{number:04}-{id[:12]}"
        start, clock = time.time(), time.monotonic()
        try:
            more = self._source.kconfig(id)
            # A folder is of one .config: where each point has its own, it would only take space.
            kconfig = (*self._plan.kconfig, *more)
            plan = replace(self._plan, kconfig=kconfig, incremental=not more).with_options(select=select)
        except Impossible as error:
            return Run(Outcome.BUILD, str(error), started=start)
        run = self._bridged(plan, self._source.kernel(id), label, wanted)
        return replace(run, seconds=time.monotonic() - clock, started=start)

    def _bridged(self, plan: Plan, kernel: KernelRequest, label: str, wanted: Wanted | None) -> Run:
        """The run without a fixup or, where it does not build, with as many of them as needed."""
        run = self._run(replace(plan, kernels=(kernel,)), label, wanted)
        used: tuple[str, ...] = ()
        for number, fixup in enumerate(self._fixups, 1):
            if run.outcome is not Outcome.BUILD:
                break
            patches = (*kernel.patches, *used, fixup)
            try:
                again = self._run(
                    replace(plan, kernels=(replace(kernel, patches=patches),)), f"{label}-fixup{number}", wanted
                )
            except DoesNotApply:
                continue  # it fixes another break
            used = (*used, fixup)
            run = replace(
                again,
                fixups=tuple(Path(path).name for path in used),
                build_seconds=run.build_seconds + again.build_seconds,
            )
        return run

    def _run(self, plan: Plan, label: str, wanted: Wanted | None) -> Run:
        """Run one child to its end."""
        self._check()
        out = self._out / "steps" / label
        if out.exists():  # left by a run that was cut short
            shutil.rmtree(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        carry_out(plan.with_options(out=str(out)), out.with_suffix(".log"))
        judged = results.read(out)
        return of(judged, wanted, str(out.relative_to(self._out)))


def of(judged: Results, wanted: Wanted | None, out: str = "") -> Run:
    """A run's results as a Run without its times."""
    ended, why = judge.outcome(judged, wanted)
    kernel = judged.kernels[-1] if judged.kernels else None
    built = kernel is not None and bool(kernel.config)
    fresh = built and kernel is not None and not kernel.cached
    return Run(
        ended,
        why,
        judge.findings(judged),
        out=out,
        tests=judge.tests(judged),
        kernel=Path(kernel.config).parent.name if built and kernel else "",
        fresh=fresh,
        build_seconds=kernel.build_seconds if fresh and kernel else 0.0,
    )


def carry_out(plan: Plan, log: Path) -> None:
    """:func:`conduct`, and raise what the runner raised."""
    answer = conduct(plan, log)
    if answer.error:
        raise_again(answer)


def conduct(plan: Plan, log: Path) -> Answer:
    """Run the runner on a plan in a child; its summary goes to `log`, its progress to our stderr.

    Raises HarnessError when the child dies without an answer, KeyboardInterrupt when it was interrupted.
    """
    with private_folder() as scratch:
        asked, answer = scratch / "plan.json", scratch / "answer.json"
        asked.write_text(json.dumps(encode(plan)))
        argv = python.module("harness.bisect.child", str(asked), str(answer))
        with log.open("wb") as said:
            child = spawn(argv, env=python.environment(), stdout=said, stderr=None)
            try:
                status = child.wait()
            except BaseException:
                _interrupt(child)
                raise
            finally:
                end(child)
        if answer.exists():
            return decode(json.loads(answer.read_text()), Answer)
    if status == Exit.INTERRUPTED:
        raise KeyboardInterrupt
    raise HarnessError(
        f"a run ended with status {status} and no message", step=f"see {log}, then the same command goes on"
    )


def _interrupt(child: subprocess.Popen[bytes]) -> None:
    """Let the runner end its guests and write its results."""
    child.send_signal(signal.SIGINT)
    if not interrupts.wait(child, GOODBYE_SECONDS):
        print("kharness: the run did not end in time: killed", file=sys.stderr)


def raise_again(answer: Answer) -> None:
    """Raise the runner's exception, if it matters here."""
    kinds = {"DoesNotApply": DoesNotApply, "GuestError": GuestError}
    kind = kinds.get(answer.error, UsageError if answer.exit == Exit.USAGE else HarnessError)
    raise kind(answer.what, step=answer.step, detail=answer.detail)
