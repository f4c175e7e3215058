# SPDX-License-Identifier: GPL-2.0-only
"""Tests of a bisection in the formats that are for others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.bisect import formats, rows
from harness.bisect.drive import Ending
from harness.bisect.rows import Candidate, Report
from harness.bisect.search import Find
from harness.cli import main
from harness.core.errors import Exit, UsageError
from harness.report import results
from tests.unit.bisect.test_show import ONE, report
from tests.unit.report.test_columns import TRAILER
from tests.unit.report.test_mail import failing


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "x86_64/steps/2").mkdir(parents=True)
    results.write(failing(), tmp_path / "x86_64/steps/2")
    return tmp_path


def test_the_mail_is_the_failing_runs_and_names_the_commit(out: Path) -> None:
    text = formats.mail(report(Ending.FOUND, ONE), out)
    assert text.startswith("Subject: percpu leak in init_dsq() on Linux 7.2.13\n")
    assert f"- culprit: {'b' * 40}" in text and "99.83 %" in text
    assert '  | Fixes: bbbbbbbbbbbb ("sched: <script>alert(1)</script> \\x1b[31m & more")\n' in text
    assert not any(TRAILER.match(line) for line in text.splitlines())


@pytest.mark.parametrize(
    "found",
    [
        report(Ending.SEVERAL, ONE, replace(ONE, id="c" * 40)),
        report(Ending.CONTRADICTION),
        report(Ending.FOUND, ONE, find=Find.FIXED),
        report(Ending.FOUND, replace(ONE, title="Linux 7.2.13")),
    ],
    ids=["several", "contradiction", "fixed", "a release"],
)
def test_only_the_one_commit_that_brought_it_becomes_a_tag(out: Path, found: Report) -> None:
    assert "Fixes:" not in formats.mail(found, out)


def test_a_patch_of_a_series_is_no_commit(out: Path) -> None:
    found = report(Ending.FOUND, Candidate("0002-x.patch", 1.0, "x"))
    (search,) = found.searches
    assert "Fixes:" not in formats.mail(replace(found, searches=(replace(search, what="patch"),)), out)


def test_no_run_that_failed_is_an_error_of_one_line(out: Path) -> None:
    found = report(Ending.CONTRADICTION)
    (search,) = found.searches
    with pytest.raises(UsageError, match="no run of this bisection failed"):
        formats.mail(replace(found, searches=(replace(search, failing=None),)), out)


def test_the_command_knows_a_bisection_by_its_folder(out: Path) -> None:
    found = report(Ending.FOUND, ONE)
    rows.write(found, out)
    done = CliRunner().invoke(main.app, ["report", str(out), "--format", "mail"])
    assert (done.exit_code, done.stdout) == (Exit.PASS, formats.mail(found, out))
    done = CliRunner().invoke(main.app, ["report", str(out), "--format", "json"])
    assert json.loads(done.stdout) == json.loads((out / rows.BISECT).read_text())
    done = CliRunner().invoke(main.app, ["report", str(out), "--format", "kcidb"])
    assert isinstance(done.exception, UsageError) and "no format of a bisection" in done.exception.line()
