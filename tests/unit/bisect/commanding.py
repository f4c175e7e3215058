# SPDX-License-Identifier: GPL-2.0-only
"""A runner that builds nothing, and `kharness bisect` asked from its command line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.bisect import steps
from harness.bisect.child import Answer
from harness.cli import main
from harness.core.plan import Plan
from harness.core.records import Finding, MachineSpec, Outcome, Role, Verdict
from harness.report import results
from harness.verdict import KernelRow, MachineRow, Results, RunRow, TestRow
from tests.unit.source.kernel_trees import git, git_tree

TEST = "tests/kernel/sched_ext/test_lifecycle.py::test_create_and_destroy"
CORE = "kernel/sched/core.c"
PATCH = """--- a/kernel/sched/core.c
+++ b/kernel/sched/core.c
@@ -1 +1,2 @@
 int core;
+/* {} */
"""


@dataclass
class Runner:
    """Stands for the runner: what kernel/sched/core.c holds decides how the run ends.

    BUG fails, SLIP does not build, PANIC does not boot, ODD fails in another way, LAME is inconclusive; FLAKY fails in
    the runs whose turn (of that commit) is in `shows`.
    """

    folder: Path
    plans: list[Plan] = field(default_factory=list)
    raises: list[Answer] = field(default_factory=list)
    dies: int = -1
    company: bool = False
    shows: Callable[[int], bool] = lambda turn: True
    turns: dict[str, int] = field(default_factory=dict)

    def __call__(self, plan: Plan, log: Path) -> Answer:
        if self.dies == 0:
            raise KeyboardInterrupt
        self.dies -= 1
        self.plans.append(plan)
        if self.raises:
            return self.raises.pop(0)
        (kernel,) = plan.kernels
        id = kernel.source.revision
        if not id:  # a series on a base: what its last patch adds decides
            id = f"{len(kernel.patches)}"
            text = Path(kernel.patches[-1]).read_text(errors="replace") if kernel.patches else "fine"
            results.write(self._results(plan, id, text, 1), results.claim(Path(plan.options.out)).path)
            return Answer(0)
        text = subprocess.run(
            ["git", "-C", self.folder, "show", f"{id}:{CORE}"], check=True, capture_output=True, text=True
        ).stdout
        for patch in kernel.patches:
            if "mend" not in patch or "SLIP" not in text:
                return Answer(2, "DoesNotApply", f"{patch} does not apply")
            text = text.replace("SLIP", "")
        turn = self.turns[id] = self.turns.get(id, 0) + 1
        results.write(self._results(plan, id, text, turn), results.claim(Path(plan.options.out)).path)
        return Answer(0)

    def _results(self, plan: Plan, id: str, text: str, turn: int) -> Results:
        arch = plan.kernels[0].arch
        row = KernelRow(
            "k",
            Role.TREE,
            arch,
            "7.2",
            id,
            id,
            False,
            (),
            "" if "SLIP" in text else f"/cache/kernel/{id[:12]}/config",
            "",
            60.0,
            turn > 1,
        )
        test = TEST
        found = Finding(
            "dmesg", "warn", "WARNING in destroy_dsq", "dmesg:warn:destroy_dsq", "destroy_dsq", "kernel/x.c", 7
        )
        findings: tuple[Finding, ...] = ()
        outcome = Outcome.PASS
        if "SLIP" in text:
            test, outcome, findings = (
                "build",
                Outcome.FAIL,
                (Finding("build", "build", "x.c:1: slip", "build:build"),),
            )
        elif "PANIC" in text:
            test, outcome, findings = ("boot", Outcome.FAIL, (Finding("crash", "panic", "panic", "crash:panic"),))
        elif "ODD" in text:
            outcome, findings = Outcome.FAIL, (Finding("dmesg", "warn", "odd", "dmesg:warn:odd"),)
        elif "LAME" in text:
            outcome = Outcome.INCONCLUSIVE
        elif "BUG" in text or ("FLAKY" in text and self.shows(turn)):
            outcome, findings = Outcome.FAIL, (found,)
        tests: tuple[TestRow, ...] = (
            TestRow(test, arch, "k", "default", outcome, findings=findings, why="it said so"),
        )
        if self.company and plan.options.select == "lifecycle":
            tests += (TestRow(TEST + "_too", arch, "k", "default", Outcome.PASS),)
        verdict = {Outcome.PASS: Verdict.PASS, Outcome.FAIL: Verdict.FAIL}.get(outcome, Verdict.INCONCLUSIVE)
        machine = MachineRow(arch, MachineSpec(arch), "tcg", "", 1.0, 1.0)
        return Results(1, verdict, RunRow(), (row,), (machine,), (), tests, why=("it said so",))


def history(folder: Path, texts: Sequence[str]) -> list[str]:
    """A kernel tree whose commits give kernel/sched/core.c these texts; the ids, the first commit's first."""
    git_tree(folder)
    ids = [git(folder, "rev-parse", "HEAD")]
    for number, text in enumerate(texts, 1):
        (folder / CORE).write_text(f"int core;\n/* {text} {number} */\n")
        git(folder, "commit", "-q", "-a", "-m", f"sched: change {number}")
        ids.append(git(folder, "rev-parse", "HEAD"))
    return ids


def start(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    it = Runner(tree)
    monkeypatch.setattr(steps, "conduct", it)
    return it


def invoke(*args: str) -> tuple[int, str]:
    """Status and what is said; an error of ours is raised, as main() would see it."""
    done = CliRunner().invoke(main.app, ["bisect", *args])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def ends(tree: Path, ids: Sequence[str]) -> list[str]:
    return ["--tree", str(tree), "--good", ids[0], "--bad", ids[-1]]
