# SPDX-License-Identifier: GPL-2.0-only
"""The golden summaries of the terminal report."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.records import Canary, Outcome, Role
from harness.report import terminal
from harness.verdict import Results, judge
from tests.unit.report.eventlog import CREATE, DESTROY, LEAK, MACHINE, SPLAT, Log, kernel, result

GOLDEN = Path(__file__).parent / "golden"
TREE = kernel(dirty=True)
PAIR = (kernel(Role.BASE), kernel(Role.PATCHED, patches=("0001-x.patch",), cached=False))


def failing() -> Results:
    leak = result(TREE, CREATE, Outcome.FAIL, findings=(LEAK,), replay="out/latest/replay/enomem.json")
    also = result(TREE, DESTROY, Outcome.FAIL, findings=(LEAK, SPLAT))
    return judge(Log(TREE).put(leak, also).events())


def inconclusive() -> Results:
    log = Log(TREE)
    log.canaries[1] = Canary("kmemleak", TREE.id, False, "disabled itself", MACHINE)
    return judge(log.put(result(TREE, DESTROY, Outcome.SKIP, why="needs 2 nodes")).events())


def compared() -> Results:
    log = Log(*PAIR)
    for of in PAIR:
        log.put(result(of, CREATE, Outcome.FAIL, findings=(LEAK,)))
    return judge(log.put(result(PAIR[1], DESTROY, Outcome.FAIL, findings=(SPLAT,))).events())


CASES = {
    "pass": lambda: judge(Log(TREE).events()),
    "fail": failing,
    "inconclusive": inconclusive,
    "regressed": compared,
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """To renew a golden file after an intended change, write the new text over it and read the diff."""
    text = terminal.render(CASES[name]())
    assert text == (GOLDEN / f"{name}.txt").read_text()


def test_a_pass_fits_one_screen_with_two_architectures_and_two_kernels_each() -> None:
    kernels = [kernel(role, arch, dirty=True) for arch in ("x86_64", "arm64") for role in (Role.BASE, Role.PATCHED)]
    log = Log(*kernels)
    log.put(*(result(of, DESTROY, Outcome.SKIP, why="needs 2 nodes") for of in kernels))
    lines = terminal.render(judge(log.events())).splitlines()
    assert lines[-1].startswith("verdict: PASS  ")
    assert all(len(line) <= 80 for line in lines[:-1])
    assert sum(1 + (len(line) - 1) // 80 for line in lines) <= 24


def test_many_findings_stay_on_one_screen() -> None:
    many = tuple(replace(SPLAT, signature=f"s{n}", title=f"WARNING {n}") for n in range(40))
    lines = terminal.render(judge(Log(TREE).put(result(TREE, CREATE, findings=many)).events())).splitlines()
    assert lines[0] == "FINDING   WARN: WARNING 0"
    assert "          and 37 more findings in out/latest/report.html" in lines
    assert len(lines) <= 23


def test_what_a_guest_prints_cannot_drive_the_terminal() -> None:
    nasty = replace(LEAK, title="\x1b[2J\x07[red]gone[/red]\r\udc80")
    stream = io.StringIO()
    terminal.show(judge(Log(TREE).put(result(TREE, CREATE, findings=(nasty,))).events()), stream)
    assert "\\x1b[2J\\x07[red]gone[/red]\\x0d\\xdc80" in stream.getvalue()
    assert "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    results = judge(Log(TREE).events())
    plain, tty, refused = io.StringIO(), Tty(), Tty()
    terminal.show(results, plain)
    terminal.show(results, tty)
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.show(results, refused)
    assert plain.getvalue() == refused.getvalue() == terminal.render(results)
    assert "\x1b[1;32mverdict: PASS\x1b[0m" in tty.getvalue()
