# SPDX-License-Identifier: GPL-2.0-only
"""Owns pytest's command line, and its collecting pass: which machines the selected tests need.

The pass comes before anything is built: pytest never boots a machine itself, and a mistake in a test, in -k or in the
name of a machine is found in a second.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from harness.definition import load
from harness.errors import HarnessError, UsageError
from harness.host import process
from harness.plan import DEFAULT_MACHINE, Plan, Survey, Surveyed, Wanted
from harness.records import decode, encode

ROOT = Path(__file__).resolve().parents[1]
USER_SUITE = ROOT / "tests/kernel/user"
"""What is tested of the user's own BPF schedulers, whatever suite is run with them."""

FAULTS_SUITE = ROOT / "tests/kernel/plan"
"""What carries out the user's fault plan, whatever suite is run with it."""

SURVEY = "--kharness-survey"
SECONDS = 120.0
NO_TESTS, USAGE = 5, 4
"""Of pytest's ExitCode: NO_TESTS_COLLECTED, USAGE_ERROR."""


def argv(plan: Plan, *own: str) -> list[str]:
    """pytest over the plan's suite and selection, with our plugin and its options `own`."""
    words = [
        sys.executable, "-m", "pytest", "-p", "harness.suite.plugin", "-p", "no:cacheprovider", *own,
        "--tb=short", "-q", "-rN", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"),
    ]  # fmt: skip
    if not plan.full and not plan.test_id:  # a replay names its test, long or not
        words += ["-m", "not full"]
    if plan.select and not (plan.selftests and SURVEY in own):  # their names are known once they are built
        words += ["-k", plan.select]
    suite = Path(plan.suite)
    here = (suite if suite.exists() else ROOT / suite).resolve()
    own_suites = ((USER_SUITE, plan.bpf), (FAULTS_SUITE, plan.faults))
    too = [str(folder) for folder, given in own_suites if given and not folder.is_relative_to(here)]
    return [*words, str(here), *too]


def environment(scratch: Path) -> dict[str, str]:
    """What a pytest child sees; `scratch` is where its files go."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}


def machines(plan: Plan) -> dict[str, Counter[str]]:
    """How many tests each architecture has on each machine, in the order of vm/ARCH.yaml.

    A replay has named its machine and is not surveyed. Raises UsageError for a test, an expression or a machine that
    is not right, HarnessError when pytest itself fails.
    """
    arches = tuple(dict.fromkeys(kernel.arch for kernel in plan.kernels))
    wanted = () if plan.test_id else _survey(plan)
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


def _survey(plan: Plan) -> tuple[Wanted, ...]:
    with tempfile.TemporaryDirectory(prefix="kharness-survey-") as folder:
        scratch = Path(folder)
        asked, answer = scratch / "survey.json", scratch / "wanted.json"
        survey = Survey(str(answer), plan.kernels, plan.machines, plan.bpf, plan.faults)
        asked.write_text(json.dumps(encode(survey)))
        done = process.run(
            argv(plan, SURVEY, str(asked), "--collect-only"), what="collecting the tests",
            env=environment(scratch), deadline=SECONDS, check=False,
        )  # fmt: skip
        found = decode(json.loads(answer.read_text()), Surveyed) if answer.exists() else None
    text = f"{done.stdout}\n{done.stderr}".strip()
    if found is not None and found.errors:
        raise UsageError(f"cannot collect {found.errors[0]}", step="correct the suite", detail=text)
    if found is not None and done.status in (0, NO_TESTS):
        return found.wanted
    refused = next((line[7:] for line in text.splitlines() if line.startswith("ERROR: ")), "it does not say why")
    if done.status == USAGE:
        raise UsageError(f"pytest refuses: {refused}", step="correct the command", detail=text)
    raise HarnessError(f"pytest failed ({process.how_ended(done.status)})", step="see its words", detail=text)
