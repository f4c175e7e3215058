# SPDX-License-Identifier: GPL-2.0-only
"""Owns one step: a run of the conductor on one kernel, as a child, and what its results.json says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from harness.bisect import judge
from harness.bisect.child import Answer
from harness.bisect.judge import Wanted
from harness.bisect.state import Outcome, Run
from harness.collect import ROOT
from harness.errors import Exit, GuestError, HarnessError, UsageError
from harness.host.process import end, spawn
from harness.plan import KernelRequest, Plan
from harness.records import decode, encode
from harness.report import results
from harness.source.patched import DoesNotApply
from harness.verdict import Results

GOODBYE_SECONDS = 40.0
"""For the conductor to end its guests after an interrupt."""


class Source(Protocol):
    """What tells how the kernel of a point is made."""

    def kernel(self, id: str) -> KernelRequest: ...

    def kconfig(self, id: str) -> tuple[str, ...]:
        """Kconfig fragments beside those of the plan. Raises Impossible where there can be no such kernel."""


class Impossible(Exception):
    """There is no kernel for a point: `str()` says why. That is a result."""


class Stepper:
    """Makes runs. `plan` is what every one of them has in common; results go to folders below `out`.

    `check` comes before each run, and raises what forbids it.
    """

    def __init__(
        self, plan: Plan, source: Source, out: Path, fixups: Sequence[str] = (),
        check: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._source = source
        self._out = out
        self._fixups = tuple(fixups)
        self._check = check

    def __call__(self, id: str, number: int, wanted: Wanted | None, select: str) -> Run:
        """One run of a point, the `number`-th of this bisection. Build breaks are bridged where a fixup does it.

        Raises UsageError and HarnessError for what says nothing of the kernel, KeyboardInterrupt after the child has
        ended.
        """
        label = f"{number:04}-{id[:12]}"
        start, clock = time.time(), time.monotonic()
        try:
            more = self._source.kconfig(id)
            # A folder is of one .config: where each point has its own, it would only take space.
            plan = replace(
                self._plan, select=select, kconfig=(*self._plan.kconfig, *more), incremental=not more
            )
        except Impossible as error:
            return Run(Outcome.BUILD, str(error), started=start)
        run = self._bridged(plan, self._source.kernel(id), label, wanted)
        return replace(run, seconds=time.monotonic() - clock, started=start)

    def _bridged(self, plan: Plan, kernel: KernelRequest, label: str, wanted: Wanted | None) -> Run:
        """The run without a fixup or, where it does not build, with as many of them as it takes."""
        run = self._run(replace(plan, kernels=(kernel,)), label, wanted)
        used: tuple[str, ...] = ()
        for number, fixup in enumerate(self._fixups, 1):
            if run.outcome is not Outcome.BUILD:
                break
            patches = (*kernel.patches, *used, fixup)
            try:
                again = self._run(
                    replace(plan, kernels=(replace(kernel, patches=patches),)),
                    f"{label}-fixup{number}",
                    wanted,
                )
            except DoesNotApply:
                continue  # it is for another break
            used = (*used, fixup)
            run = replace(
                again,
                fixups=tuple(Path(path).name for path in used),
                build_seconds=run.build_seconds + again.build_seconds,
            )
        return run

    def _run(self, plan: Plan, label: str, wanted: Wanted | None) -> Run:
        """One child, to its end."""
        self._check()
        out = self._out / "steps" / label
        if out.exists():  # of a run that was cut short
            shutil.rmtree(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        answer = conduct(replace(plan, out=str(out)), out.with_suffix(".log"))
        if answer.error:
            raise_again(answer)
        told = results.read(out)
        return of(told, wanted, str(out.relative_to(self._out)))


def of(told: Results, wanted: Wanted | None, out: str = "") -> Run:
    """What the results of a run say, as a Run without its times."""
    ended, why = judge.outcome(told, wanted)
    kernel = told.kernels[-1] if told.kernels else None
    built = kernel is not None and bool(kernel.config)
    fresh = built and kernel is not None and not kernel.cached
    return Run(
        ended, why, judge.findings(told), out=out, tests=judge.tests(told),
        kernel=Path(kernel.config).parent.name if built and kernel else "",
        fresh=fresh, build_seconds=kernel.build_seconds if fresh and kernel else 0.0,
    )  # fmt: skip


def conduct(plan: Plan, log: Path) -> Answer:
    """The conductor on a plan, in a child; its summary goes to `log`, its progress to our stderr.

    Raises HarnessError when the child dies without an answer, KeyboardInterrupt when it was interrupted.
    """
    with tempfile.TemporaryDirectory(prefix="kharness-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        asked, answer = scratch / "plan.json", scratch / "answer.json"
        asked.write_text(json.dumps(encode(plan)))
        argv = [sys.executable, "-m", "harness.bisect.child", str(asked), str(answer)]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        with log.open("wb") as said:
            child = spawn(argv, env=env, stdout=said, stderr=None)
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
        f"a run ended with status {status} and no word", step=f"see {log}, then the same command goes on"
    )


def _interrupt(child: subprocess.Popen[bytes]) -> None:
    """Lets the conductor end its guests and write its results."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(GOODBYE_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"kharness: the run did not end within {GOODBYE_SECONDS:.0f} s: killed", file=sys.stderr)


def raise_again(answer: Answer) -> None:
    """Raises what the conductor raised, as far as it matters here."""
    kinds = {"DoesNotApply": DoesNotApply, "GuestError": GuestError}
    kind = kinds.get(answer.error, UsageError if answer.exit == Exit.USAGE else HarnessError)
    raise kind(answer.what, step=answer.step, detail=answer.detail)
