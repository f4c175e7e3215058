# SPDX-License-Identifier: GPL-2.0-only
"""Pytest's command line, and its collecting pass: which machines the selected tests need.

The pass comes before anything is built: pytest never boots a machine itself, and a mistake in a test, in -k or in the
name of a machine is found in a second.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.core.checkout import CHECKOUT
from harness.core.definition import load
from harness.core.errors import HarnessError, UsageError
from harness.core.options import DEFAULT_MACHINE
from harness.core.plan import Plan, Survey, Surveyed, Wanted
from harness.core.records import decode, encode
from harness.host import process, python
from harness.host.scratch import private_folder
from harness.suite import loader

ROOT = CHECKOUT
SURVEY = "--kharness-survey"
SECONDS = 120.0
NO_TESTS, USAGE = 5, 4
"""Of pytest's ExitCode: NO_TESTS_COLLECTED, USAGE_ERROR."""


def argv(plan: Plan, *own: str) -> list[str]:
    """pytest over the plan's suite and selection, with our plugin and its options `own`."""
    words = python.module(
        "pytest",
        "-p",
        "harness.session.plugin",
        "-p",
        "no:cacheprovider",
        *own,
        "--color=no",
        "--tb=short",
        "-q",
        "-rN",
        "--rootdir",
        str(ROOT),
        "-c",
        str(ROOT / "pyproject.toml"),
    )
    if not plan.options.full and not plan.test_id:  # a replay names its test, which may be a long one
        words += ["-m", "not full"]
    unknown = loader.of(plan.suite).selftests and SURVEY in own  # until selftests are built
    if plan.options.select and not unknown:
        words += ["-k", plan.options.select]
    here = (ROOT / (plan.suite or loader.default())).resolve()
    return [*words, str(here), *(str(file) for file in also(plan) if not file.is_relative_to(here))]


def also(plan: Plan) -> list[Path]:
    """Files of the suite that run in any selection: those for the user's own programs and fault plan.

    Raises UsageError for a suite that has none.
    """
    suite = loader.of(plan.suite)
    asked = (("--bpf", plan.bpf, suite.user_tests), ("--faults", plan.faults, suite.plan_tests))
    for flag, given, name in asked:
        if given and not name:
            raise UsageError(f"the suite {suite.name} has no tests for {flag}", step=f"leave {flag} out")
    return [suite.path(name) for _, given, name in asked if given]


def environment(scratch: Path) -> dict[str, str]:
    """The environment of a worker, with the folder `scratch` for its files."""
    return python.environment(TMPDIR=str(scratch))


def machines(plan: Plan, tests: Sequence[Wanted] | None = None) -> dict[str, Counter[str]]:
    """How many tests each architecture has on each machine, in the order of vm/ARCH.yaml.

    `tests` is the result of :func:`survey`, if that was called already. Raises UsageError for an unknown machine, and
    what :func:`survey` does.
    """
    arches = tuple(dict.fromkeys(kernel.arch for kernel in plan.kernels))
    wanted = survey(plan) if tests is None else tests
    needed = {arch: Counter({load(arch).spec(name).name: 0 for name in plan.machines}) for arch in arches}
    for test in wanted:
        try:
            load(test.arch).spec(test.machine)
        except UsageError as error:
            raise UsageError(f"{test.test}: {error.what}", step=error.step) from error
        needed[test.arch][test.machine] += 1
    for arch, count in needed.items():
        known = load(arch).machines
        needed[arch] = Counter({name: count[name] for name in known if name in count} or {DEFAULT_MACHINE: 0})
    return needed


def survey(plan: Plan) -> tuple[Wanted, ...]:
    """The selected tests. A replay has named its machine and is not surveyed.

    Raises UsageError for a wrong test or expression, HarnessError when pytest itself fails.
    """
    if plan.test_id:
        return ()
    with private_folder() as scratch:
        asked, answer = scratch / "survey.json", scratch / "wanted.json"
        request = Survey(str(answer), plan.kernels, plan.machines, plan.bpf, plan.faults, plan.suite)
        asked.write_text(json.dumps(encode(request)))
        done = process.run(
            argv(plan, SURVEY, str(asked), "--collect-only"),
            what="collecting the tests",
            env=environment(scratch),
            deadline=SECONDS,
            check=False,
        )
        found = decode(json.loads(answer.read_text()), Surveyed) if answer.exists() else None
    text = f"{done.stdout}\n{done.stderr}".strip()
    if found is not None and found.errors:
        raise UsageError(f"cannot collect {found.errors[0]}", step="correct the suite", detail=text)
    if found is not None and done.status in (0, NO_TESTS):
        return found.wanted
    refused = next((line[7:] for line in text.splitlines() if line.startswith("ERROR: ")), "it does not say why")
    if done.status == USAGE:
        raise UsageError(f"pytest refuses: {refused}", step="correct the command", detail=text)
    raise HarnessError(f"pytest failed ({process.how_ended(done.status)})", step="see its output", detail=text)
