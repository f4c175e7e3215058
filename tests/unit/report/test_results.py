# SPDX-License-Identifier: GPL-2.0-only
"""The tests of the output folder, results.json and replay files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.errors import HarnessError, UsageError
from harness.core.options import Options
from harness.core.plan import FaultPlan
from harness.core.records import SCHEMA, Fault, Operation, Outcome, Scenario
from harness.report import results
from harness.session import replay_file
from harness.verdict import judge
from tests.unit.report.eventlog import CREATE, LEAK, Log, kernel, result


def test_results_are_read_back_as_they_were(tmp_path: Path) -> None:
    judged = judge(Log().put(result(kernel(), CREATE, Outcome.FAIL, findings=(LEAK,))).events())
    path = results.write(judged, tmp_path)
    assert path.name == "results.json"
    assert results.read(path) == results.read(tmp_path) == judged
    assert json.loads(path.read_text())["verdict"] == "fail"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "verdict": "maybe"}'])
def test_a_file_that_is_no_results(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UsageError):
        results.read(tmp_path)
    with pytest.raises(UsageError, match="no results in"):
        results.read(tmp_path / "none")


def test_a_write_that_fails_leaves_nothing_and_spares_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results.json").write_text("old")

    def refuse(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(HarnessError, match="No space left") as error:
        results.write(judge([]), tmp_path)
    assert "free space" in error.value.step
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "old"


def test_by_default_a_new_folder_and_latest_points_at_it(tmp_path: Path) -> None:
    base = tmp_path / "out"
    first = results.claim(base=base)
    assert (base / "latest").resolve() == first.path.resolve()
    second = results.claim(base / "mine", base)
    assert (base / "latest").resolve() == second.path.resolve()
    assert not (base / "latest").readlink().is_absolute()
    first.release()
    second.release()


def test_a_named_folder_elsewhere_leaves_latest_alone(tmp_path: Path) -> None:
    results.claim(tmp_path / "elsewhere" / "x", tmp_path / "out").release()
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_ours_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        results.claim(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="not a folder"):
        results.claim(tmp_path / "thesis.tex")
    with pytest.raises(UsageError, match="cannot use"):
        results.claim(tmp_path / "thesis.tex" / "x")


def test_a_folder_of_an_earlier_run_shows_no_stale_verdict(tmp_path: Path) -> None:
    for run in range(3):
        out = results.claim(tmp_path / "mine")
        assert not (out.path / "results.json").exists()
        if run:
            assert (out.path / "old" / "results.json").read_text() == str(run - 1)
        (out.path / "results.json").write_text(str(run))
        out.release()


def test_two_runs_at_once_in_one_folder(tmp_path: Path) -> None:
    held = results.claim(tmp_path / "mine")
    code = f"from pathlib import Path; from harness.report.results import claim; claim(Path({str(held.path)!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert other.returncode == 1 and "another run is writing" in other.stderr
    held.release()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_something_of_the_users_named_latest_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    with pytest.raises(UsageError, match="in the way"):
        results.claim(tmp_path / "x", tmp_path)
    assert (tmp_path / "latest").is_dir() and not (tmp_path / "latest").is_symlink()
    results.claim(tmp_path / "x", tmp_path / "y").release()  # the refused claim holds no lock


def test_a_replay_file_is_read_back_as_it_was(tmp_path: Path) -> None:
    operation = Operation("run", {"prog": "create", "ids": [1, 2]}, Fault("failslab", ("init_dsq",), nth=3))
    scenario = Scenario("default", (operation,), 42)
    made = replay_file.Replay(
        SCHEMA,
        kernel(),
        CREATE,
        "default",
        42,
        (LEAK.signature,),
        scenario,
        ("kharness", "run"),
        faults=(FaultPlan("create", Fault("function", nth=1, caller="init_dsq")),),
    )
    path = replay_file.write(tmp_path / "a file.json", made)
    assert replay_file.read(path) == made
    assert replay_file.one_line(path) == f"kharness replay '{path}'"
    ours = ("kharness", "run", "--suite", "tests/kernel/sched_ext")
    assert replay_file.one_line(path, ours) == f"kharness replay '{path}'"
    for typed in (
        ("--suite", "/mine"),
        ("--suite=/mine", "-k", "x"),
    ):  # code of the user's, which no file may name alone
        assert replay_file.one_line(path, ("kharness", "run", *typed)) == f"kharness replay --suite /mine '{path}'"


def test_a_replay_file_has_the_options_that_a_replay_needs(tmp_path: Path) -> None:
    given = Options(cmdline="nosmp", coverage=True, keep=True, jobs=7)
    made = replay_file.Replay(SCHEMA, kernel(), CREATE, "default", 42, (), Scenario("default", (), 42), options=given)
    path = replay_file.write(tmp_path / "f.json", made)
    data = json.loads(path.read_text())
    assert (data["cmdline"], data["coverage"]) == ("nosmp", True), "each is a key of its own"
    assert not {"options", "keep", "jobs"} & data.keys()
    assert replay_file.read(path).options == Options(cmdline="nosmp", coverage=True)
    path.write_text(json.dumps({**data, "cmdline": 7}))
    with pytest.raises(UsageError, match=r"f\.json: .*\$\.cmdline"):
        replay_file.read(path)
    path.write_text(json.dumps({name: value for name, value in data.items() if name not in replay_file.KEPT}))
    assert replay_file.read(path).options == Options(), "an older file has none of them"


@pytest.mark.parametrize("text", ["x", "[1]", '{"schema": 7}', '{"schema": 1, "kernel": 3}'])
def test_a_file_that_is_no_replay(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"f\.json") as error:
        replay_file.read(path)
    assert error.value.step
    with pytest.raises(UsageError, match="cannot read"):
        replay_file.read(tmp_path / "none")
