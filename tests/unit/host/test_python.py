# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what our Python imports: nothing from the current folder, nothing that the environment names."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.bisect import steps
from harness.core.checkout import CHECKOUT
from harness.core.errors import UsageError
from harness.core.options import Options
from harness.core.plan import KernelRequest, Plan, SourceRequest
from harness.host import python
from harness.run import survey

ROOT = CHECKOUT

MODULES = (
    "harness/__init__.py",
    "harness/__main__.py",
    "harness/session/plugin.py",
    "yaml.py",
    "typer.py",
    "msgspec.py",
    "rich/__init__.py",
    "hypothesis.py",
    "evil.py",
    "sitecustomize.py",
    "usercustomize.py",
    "conftest.py",
    "__init__.py",
    "tests/kernel/conftest.py",
    "tests/kernel/test_evil.py",
    "tests/conftest.py",
    "json.py",
    "pytest.py",
)
"""What a tree under test may hold, to be imported instead of ours."""


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: whatever is imported or read from it leaves a file beside it. The environment points there."""
    folder = tmp_path / "tree"
    for name in MODULES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + '\\n')\n")
    (folder / "tests/kernel/allow.yaml").write_text("- no allow-list\n")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p evil\npython_files = nothing.py\n")
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '-p evil'\n")
    (folder / ".venv/bin").mkdir(parents=True)
    for name, value in {
        "PYTHONPATH": str(folder),
        "PYTHONSTARTUP": str(folder / "evil.py"),
        "PYTHONWARNINGS": "error::evil.Warning",
        "PYTHONOPTIMIZE": "1",
        "PYTHONBREAKPOINT": "evil.x",
        "PYTEST_ADDOPTS": "-p evil -k nothing_of_this_name",
        "PYTEST_PLUGINS": "evil",
        "PYTHONINSPECT": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    return folder


def ran(hostile: Path) -> list[str]:
    """What of the hostile folder was run."""
    log = hostile.parent / "ran"
    return log.read_text().split() if log.exists() else []


def cache_with_python(folder: Path) -> Path:
    """An XDG_CACHE_HOME whose virtual environment is the Python of these tests, so that nothing is installed."""
    key = hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()[:16]
    venv = folder / "kharness/venv" / key
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (venv / "bin/python").chmod(0o755)
    (venv / ".ready").touch()
    return folder


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--print-plan"], ["run", "--tree", "/nowhere"]])
def test_the_launcher_in_a_hostile_folder(hostile: Path, tmp_path: Path, arguments: list[str]) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": str(cache_with_python(tmp_path / "cache"))}
    done = subprocess.run([ROOT / "kharness", *arguments], env=env, capture_output=True, text=True, timeout=300)
    assert ran(hostile) == []
    assert done.returncode == (2 if "/nowhere" in arguments else 0), done.stderr
    assert "Traceback" not in done.stderr


def test_the_collecting_pass_in_a_hostile_folder(hostile: Path) -> None:
    found = survey.machines(Plan((KernelRequest(SourceRequest(version="7.2"), "x86_64"),), seed=1))
    assert ran(hostile) == []
    assert found["x86_64"]["default"] > 50, "PYTEST_ADDOPTS selected tests"


def test_a_step_of_a_bisection_in_a_hostile_folder(hostile: Path, tmp_path: Path) -> None:
    """It gets as far as the tree, which is none."""
    cache_with_python(tmp_path / "cache")
    request = KernelRequest(SourceRequest(tree="/nowhere"), "x86_64")
    plan = Plan((request,), seed=1, options=Options(out=str(tmp_path / "out"), toolchain="nonsense"))
    answer = steps.conduct(plan, tmp_path / "log")
    assert ran(hostile) == []
    assert answer.error == UsageError.__name__, answer


def test_nothing_of_the_users_python_reaches_a_child(hostile: Path) -> None:
    shown = python.environment(TMPDIR="/x")
    ours = {name: shown.pop(name) for name in ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE", "TMPDIR")}
    assert ours == {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "/x"}
    assert not [name for name in shown if name.startswith(("PYTHON", "PYTEST", "HYPOTHESIS"))]
    assert shown["PATH"] == os.environ["PATH"]


# --- assertions -----------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "variable"), [(["-O"], ""), ([], "1"), ([], "2")])
def test_a_python_without_assertions_is_refused(flags: list[str], variable: str) -> None:
    argv = [sys.executable, *flags, "-m", "harness", "run", "--print-plan"]
    env = python.environment() | ({"PYTHONOPTIMIZE": variable} if variable else {})
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("kharness: ") and "unset PYTHONOPTIMIZE" in done.stderr
    assert done.stderr.count("\n") == 1


def narrows(test: ast.expr) -> bool:
    """Whether an assertion tells mypy a type and no more: ``x is not None``, ``isinstance(...)``, ``child.stdout and ...``."""
    if isinstance(test, ast.BoolOp):
        return all(narrows(value) for value in test.values)
    if isinstance(test, ast.Call):
        return isinstance(test.func, ast.Name) and test.func.id == "isinstance"
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.IsNot) and isinstance(test.comparators[0], ast.Constant)
    return isinstance(test, ast.Attribute)


def test_no_assertion_of_ours_judges() -> None:
    """Without assertions (python -O) each verdict is the same: those in harness/ are for mypy."""
    judging = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in sorted((ROOT / "harness").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Assert) and not narrows(node.test)
    ]
    assert judging == []


def test_assertions_on_the_kernel_are_where_pytest_rewrites_them() -> None:
    """It makes an if and a raise of those in test modules, which no flag of Python's removes; of those elsewhere not."""
    elsewhere = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in sorted((ROOT / "tests/kernel").rglob("*.py"))
        if not file.name.startswith("test_")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert elsewhere == []
