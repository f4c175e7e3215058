# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the Makefile: what is given to make reaches kharness as it was written, and is run by no one on the way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.checkout import CHECKOUT
from harness.suite import loader

NASTY = (
    "`touch ran`",
    "$(touch ran)",
    "$$(touch ran)",
    "$(shell touch ran)",
    "${shell touch ran}",
    '"; touch ran; "',
    "'; touch ran; '",
    "a;touch ran",
    "a && touch ran",
    "a\ntouch ran",
    "-x",
    "--help",
    "*",
    "a  b",
    "\\",
    "#x",
    "$HOME",
    "$$",
    "%",
    "a,b)",
    "~",
)


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """Stands for Python: writes its arguments and the environment down."""
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/.ready").touch()
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable} -I\nimport json, os, sys\n"
        f"open({str(tmp_path / 'called')!r}, 'a').write(json.dumps([sys.argv[1:], dict(os.environ)]) + '\\n')\n"
    )
    script.chmod(0o755)
    return tmp_path


def make(stub: Path, *words: str, **env: str) -> tuple[list[str], dict[str, str]]:
    """What a target of the Makefile calls, with these words on make's command line and this in its environment."""
    argv = ["make", "-C", str(CHECKOUT), f"PY={stub}/python", f"VENV={stub}/venv", *words]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    (stub / "called").unlink(missing_ok=True)
    done = subprocess.run(argv, cwd=stub, env={**clean, **env}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (line,) = (stub / "called").read_text().splitlines()
    called, seen = json.loads(line)
    assert not (CHECKOUT / "ran").exists() and not (stub / "ran").exists()
    return called, seen


NAMES = ("KERNEL", "ARCH", "PATCH", "BASE", "HEAD", "K", "OUT", "FAULTS", "SUITE", "PLAN")


@pytest.mark.parametrize("origin", ["command line", "environment"])
@pytest.mark.parametrize("first", range(0, len(NASTY), len(NAMES)))
def test_each_variable_is_taken_literally(stub: Path, first: int, origin: str) -> None:
    given = {name: NASTY[(first + place) % len(NASTY)] for place, name in enumerate(NAMES)}
    if origin == "environment":
        called, _ = make(stub, "run", **given)
    else:
        called, _ = make(stub, "run", *(f"{name}={value}" for name, value in given.items()))
    tree, arch, patch, base, head, select, out, faults, suite, plan = given.values()
    assert called == [
        "-m",
        "harness",
        "run",
        f"--tree={tree}",
        f"--arch={arch}",
        f"--patch={patch}",
        f"--base={base}",
        f"--head={head}",
        "-k",
        select,
        f"--out={out}",
        f"--faults={faults}",
        f"--suite={suite}",
        "--",
        plan,
    ]


def test_programs_are_separated_by_blanks(stub: Path) -> None:
    called, _ = make(stub, "run", "BPF=one.bpf.c *.bpf.c $(shell touch ran) `touch ran` -x")
    words = ["one.bpf.c", "*.bpf.c", "$(shell", "touch", "ran)", "`touch", "ran`", "-x"]
    assert called == ["-m", "harness", "run", *(f"--bpf={word}" for word in words)]


@pytest.mark.parametrize("target", ["unit", "e2e", "mutants"])
def test_the_other_targets_too(stub: Path, target: str) -> None:
    text = "`touch ran`$(shell touch ran)\"'"
    called, seen = make(stub, target, f"K={text}", f"KERNEL={text}", f"ARCH={text}")
    assert called[-2:] == ["-k", text]
    assert {"e2e": seen.get("KHARNESS_TREE"), "mutants": seen.get("KHARNESS_ARCH"), "unit": text}[target] == text


def test_nothing_given_gives_nothing(stub: Path) -> None:
    called, seen = make(stub, "run")
    assert called == ["-m", "harness", "run"]
    assert not {"K", "KERNEL", "OUT"} & seen.keys()


def test_the_users_python_is_not_ours(stub: Path) -> None:
    theirs = {"PYTHONOPTIMIZE": "1", "PYTHONPATH": "/evil", "PYTHONSTARTUP": "/evil", "PYTEST_ADDOPTS": "-k x"}
    _, seen = make(stub, "unit", **theirs)
    assert {name: value for name, value in seen.items() if name.startswith(("PYTHON", "PYTEST_"))} == {
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONSAFEPATH": "1",
    }


def test_it_is_for_its_own_folder(stub: Path) -> None:
    """As make -f it would take a tests/unit of the current folder for ours."""
    done = subprocess.run(
        ["make", "-n", "-f", str(CHECKOUT / "Makefile"), "unit"], cwd=stub, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "make -C" in done.stderr


# --- the lock file --------------------------------------------------------------------------


def requirements(name: str) -> dict[str, str]:
    """Names (as the index has them) and versions that a file of requirements pins."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (CHECKOUT / name).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


def test_each_requirement_is_locked_with_hashes() -> None:
    wanted, locked = requirements("requirements.txt"), requirements("requirements.lock")
    assert wanted.items() <= locked.items(), "run 'make lock'"
    entries = re.split(r"^(?=\S)", (CHECKOUT / "requirements.lock").read_text(), flags=re.MULTILINE)
    for entry in filter(None, entries):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry.splitlines()[0]
        assert "://" not in entry


def test_what_is_imported_is_required() -> None:
    """Not only there because something else needs it."""
    imported = re.compile(r"^(?:from|import) (\w+)", re.MULTILINE)
    folders = ("harness", "benchmarks")
    names = {
        name
        for folder in folders
        for file in (CHECKOUT / folder).rglob("*.py")
        for name in imported.findall(file.read_text())
    }
    distributions = {
        "yaml": "pyyaml",
        "elftools": "pyelftools",
        "qemu": "qemu-qmp",
        "tree_sitter": "tree-sitter",
        "tree_sitter_c": "tree-sitter-c",
    }
    others = names - sys.stdlib_module_names - {*folders, *loader.known(), "tests", "click"}
    assert {distributions.get(name, name.lower()) for name in others} <= requirements("requirements.txt").keys()


def test_the_makefile_installs_by_hash_only() -> None:
    recipe = (CHECKOUT / "Makefile").read_text()
    installs = [line for line in recipe.replace("\\\n", "").splitlines() if "pip install" in line]
    assert [("--require-hashes" in line, "--only-binary" in line) for line in installs] == [
        (True, True),
        (False, False),
    ]
    assert "$(LOCKER)" in installs[1]
