# SPDX-License-Identifier: GPL-2.0-only
"""Running a selftest of the tree in a guest: by its own runner, whose result counts if it is consistent."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.core.errors import Inconclusive
from harness.core.printable import clean
from harness.core.words import file_name
from harness.guest.agent import AgentError
from harness.guest.guest import Guest
from harness.kbuild.image import SELFTESTS_RUNNER
from harness.oracles import dmesg
from harness.session.context import TestContext
from selftests.expected import ExpectedFailure
from selftests.results import Word, contradiction, parse

OUTPUT = "/tmp/selftest"
GROUP = "selftest"

SECONDS = 600.0
"""Nominal, for one test; the longest (reload_loop) takes 35 on x86_64 and 98 on arm64, both under TCG."""

PATIENCE_SECONDS = 60.0
"""Nominal: a scheduler that keeps the agent itself from running is ended by the kernel after 45 (tests/kernel/user)."""


class Late(Exception):
    """The runner did not end in time; `output` is its output so far."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output


def call(guest: Guest, arguments: Sequence[str], seconds: float = SECONDS) -> tuple[str, int]:
    """The runner's output, errors included, and its exit status, or 128 + the signal that ended it.

    `seconds` is nominal. Raises Late.
    """
    guest.agent.patience = PATIENCE_SECONDS
    words = {f"a{number}": word for number, word in enumerate([SELFTESTS_RUNNER, *arguments])}
    guest.agent.call("spawn", name=GROUP, out=OUTPUT, **words)  # type: ignore[arg-type]
    wait = int(seconds * guest.pristine.scale * 1000)
    ended = guest.agent.call("reap", seconds=seconds + 5, check=False, name=GROUP, timeout_ms=wait)
    output = guest.read(OUTPUT).encode("latin-1").decode(errors="replace")
    if ended["ok"]:
        return output, int(ended["status"])
    if ended["errno"] == errno.ETIMEDOUT:
        raise Late(output)
    raise AgentError("reap", ended)


def listed(guest: Guest) -> list[str]:
    """The tests that the runner itself lists. Raises Inconclusive when it does not end well."""
    output, status = call(guest, ["-l"])
    if status:
        raise Inconclusive(f"the runner does not list its tests: it ended with status {status}")
    return output.split()


def carry_out(context: TestContext, name: str, kept: Path, expected: Sequence[ExpectedFailure] = ()) -> None:
    """Run one selftest alone; its runner's output is also written to `kept`, a folder. `expected` does not count.

    Raises AssertionError if it is not ok or does not end, pytest's skip with its reason, Inconclusive when the runner
    contradicts itself.
    """
    context.expect(*(entry.log for entry in expected))
    try:
        output, status = call(context.guest, ["-t", name])
    except Late as late:
        _keep(context, name, kept, late.output)
        lines = [line for line in late.output.splitlines() if line.strip()]
        last = f"; it last said: {lines[-1]}" if lines else ""
        raise AssertionError(f"{name} did not end within {SECONDS:.0f} s{last}") from late
    _keep(context, name, kept, output)
    report = parse(output)
    if why := contradiction(report, name, status):
        raise Inconclusive(why)
    (said,) = report.tests
    if said.word is Word.SKIP:
        context.gather()  # its setup is judged nevertheless
        pytest.skip(said.reason or "its runner gives no reason")
    if said.word is not Word.OK:
        _not_by_slowness(context, [entry for entry in expected if entry.accelerator])
        raise AssertionError(f"{name} {said.word or 'gave up'}: {said.reason or 'its runner gives no reason'}")


def _not_by_slowness(context: TestContext, slow: Sequence[ExpectedFailure]) -> None:
    """Raise Inconclusive where the log has a report that only a slow machine causes."""
    records, _ = context.log()
    for found in dmesg.findings(records):
        for entry in slow:
            if re.search(entry.log, found.title):
                raise Inconclusive(f"{found.title}: {entry.reason}")


def _keep(context: TestContext, name: str, folder: Path, output: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{file_name(name)}-{context.target.name}.txt").write_text(clean(output), encoding="utf-8")
