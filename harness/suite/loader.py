# SPDX-License-Identifier: GPL-2.0-only
"""Finds and loads suites. An error in a suite is one line, before anything is built."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
import tomllib
import traceback
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from harness.core.checkout import CHECKOUT
from harness.core.errors import UsageError
from harness.oracles.registry import by_name, defects
from harness.oracles.splat import blame, rules
from harness.suite.interface import Suite

FILE = "suite.py"
OURS = CHECKOUT / "tests/kernel"
"""The folder of the checkout's suites, which --suite knows by name."""

HOWTO = "see docs/howto/suite.md"


def default() -> str:
    """The suite that runs when none is named, relative to the checkout (pyproject.toml, tool.kharness)."""
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["tool"]["kharness"]["suite"])


def known() -> dict[str, Path]:
    """The suites of the checkout by name."""
    return {path.parent.name: path.parent for path in sorted(OURS.glob(f"*/{FILE}"))}


def foreign(suite: str) -> bool:
    """Whether a suite is code from outside the checkout's tests."""
    return suite not in ("", *known()) and not (CHECKOUT / suite).resolve().is_relative_to(CHECKOUT / "tests")


def folder_of(tests: Path) -> Path:
    """The folder of the suite that a test file or folder belongs to: the nearest with a suite.py, in it or above.

    Tests that belong to none run under the default suite.
    """
    start = tests if tests.is_dir() else tests.parent
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder
    return CHECKOUT / default()


def of(tests: str) -> Suite:
    """The suite of these tests: a path, or one relative to the checkout; empty: the default suite.

    Raises UsageError for one that is wrong.
    """
    return load(folder_of((CHECKOUT / (tests or default())).resolve()))


@functools.cache
def load(folder: Path) -> Suite:
    """The suite in this folder; its log rules and never-blamed functions are registered for this process.

    Raises UsageError, naming file and line, for one that cannot be imported or does not fit the interface.
    """
    file = folder / FILE
    suite = getattr(_imported(file), "SUITE", None)
    if not isinstance(suite, Suite):
        raise UsageError(f"{file}: holds no SUITE = Suite(...)", step=HOWTO)
    suite = replace(suite, folder=folder)
    _check(suite, file)
    rules.register(suite.rules)
    blame.register(suite.never_blamed)
    return suite


def _imported(file: Path) -> ModuleType:
    """suite.py as a module; of a package by its full name, which test files of the folder share."""
    folder = file.parent
    name = folder.name
    if not (folder / "__init__.py").is_file():
        name = f"kharness_suite_{re.sub(r'[^A-Za-z0-9_]', '_', folder.name)}"
        return _executed(name, file)
    if not name.isidentifier():
        raise UsageError(f"{folder}: no name for a Python package", step="use letters, digits and _")
    spec = importlib.util.find_spec(name)
    found = Path(spec.origin).parent if spec is not None and spec.origin else None
    if spec is not None and (found is None or found.resolve() != folder.resolve()):
        raise UsageError(f"{folder}: {name} is the name of another Python module", step="rename the folder")
    if spec is None:
        sys.path.append(str(folder.parent))  # at the end: it shadows nothing
        importlib.invalidate_caches()
    with _Refusing(file):
        return importlib.import_module(f"{name}.suite")


def _executed(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    with _Refusing(file):
        spec.loader.exec_module(module)
    return module


class _Refusing:
    """Turns an exception of a suite's import into one line with the place in the suite's own code."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if error is None or isinstance(error, UsageError) or not isinstance(error, Exception):
            return
        trace = traceback.extract_tb(error.__traceback__)
        own = [at for at in trace if Path(at.filename).is_relative_to(self._file.parent)]
        place = f"{own[-1].filename}:{own[-1].lineno}" if own else str(self._file)
        if isinstance(error, SyntaxError) and error.filename:
            place = f"{error.filename}:{error.lineno}"
        said = " ".join(str(error).split())
        raise UsageError(f"{place}: {type(error).__name__}: {said}", step=f"correct the suite; {HOWTO}") from error


def _check(suite: Suite, file: Path) -> None:
    """Raise UsageError for a suite that does not fit the interface: wrong types, missing files, duplicate names."""

    def refuse(what: str) -> UsageError:
        return UsageError(f"{file}: {what}", step=f"correct the suite; {HOWTO}")

    if not suite.name or not re.fullmatch(r"[A-Za-z0-9_.-]+", suite.name):
        raise refuse(f"no name for a suite: {suite.name!r}")
    for name in ("kconfig", "rules", "never_blamed", "oracles", "readers", "defects", "fixtures"):
        if not isinstance(getattr(suite, name), tuple):
            raise refuse(f"{name} is no tuple")
    wanted = {"oracles": "Oracle", "defects": "Defect", "rules": "Rule"}
    for name, kind in wanted.items():
        for one in getattr(suite, name):
            if type(one).__name__ != kind:
                raise refuse(f"{name}: {one!r} is no {kind}")
    files = {
        "kconfig": suite.kconfig,
        "bpf": (suite.bpf,),
        "plan_tests": (suite.plan_tests,),
        "user_tests": (suite.user_tests,),
    }
    for name, paths in files.items():
        for path in filter(None, paths):
            if not suite.path(path).exists():
                raise refuse(f"{name}: {suite.path(path)} is not there")
    for pattern in suite.never_blamed:
        try:
            re.compile(pattern)
        except re.error as error:
            raise refuse(f"never_blamed: {pattern!r} is no regular expression: {error}") from error
    try:
        by_name(defects(suite.oracles, suite.defects))
    except ValueError as error:
        raise refuse(f"defects: {error}") from error
    proved = {oracle for defect in defects(suite.oracles, suite.defects) for oracle in defect.proves}
    unproved = [oracle.name for oracle in suite.oracles if oracle.name not in proved]
    if unproved:
        raise refuse(f"no defect proves the oracle {unproved[0]!r}: an oracle that no defect proves shows nothing")
