# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the formats that `kharness report` writes for others."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from harness.cli import main
from harness.core.errors import Exit, UsageError
from harness.report import formats, mail, results, schema
from tests.unit.report.test_mail import compared, failing


def test_json_fits_the_schema() -> None:
    for judged in (failing(), compared()):
        data = json.loads(formats.FORMATS["json"](judged))
        jsonschema.Draft202012Validator(schema.schema()).validate(data)
        assert data["verdict"] == str(judged.verdict)


@pytest.mark.parametrize(
    ("name", "step"),
    [("mial", "do you mean mail?"), ("x", f"choose one of text, {', '.join(formats.FORMATS)}"), ("", "choose one of")],
)
def test_a_format_that_is_none_is_one_line(name: str, step: str) -> None:
    with pytest.raises(UsageError) as caught:
        formats.of(name, formats.FORMATS, "a run")
    assert caught.value.line().startswith(f"--format {name}: no format of a run; {step}")


@pytest.mark.parametrize("name", formats.FORMATS)
def test_the_command_writes_it_and_ends_as_the_run_did(tmp_path: Path, name: str) -> None:
    results.write(failing(), tmp_path)
    done = CliRunner().invoke(main.app, ["report", str(tmp_path), "--format", name])
    assert (done.exit_code, done.stderr) == (Exit.FAIL, "")
    assert done.stdout == formats.FORMATS[name](failing())
    assert not (tmp_path / "report.html").exists()


def test_without_a_folder_it_is_the_newest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out/latest").mkdir(parents=True)
    results.write(failing(), tmp_path / "out/latest")
    done = CliRunner().invoke(main.app, ["report", "--format", "mail"])
    assert done.stdout == mail.mail(failing())
    shown = CliRunner().invoke(main.app, ["report"])
    assert shown.stdout.splitlines()[-1].endswith("out/latest/report.html")
