# SPDX-License-Identifier: GPL-2.0-only
"""Tests of `kharness bisect` from the command line to its report: how it goes, stops and goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.bisect import rows, show, steps
from harness.bisect.child import Answer
from harness.cli import main
from harness.core.errors import Exit, UsageError
from harness.core.plan import Plan
from harness.core.records import Verdict
from harness.host.process import Done, run
from harness.report import results
from harness.source import repository
from tests.unit.bisect.commanding import CORE, ends, history, invoke, start
from tests.unit.source.kernel_trees import fingerprint, git


def test_from_the_command_to_the_report(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*["fine"] * 9, "BUG", *["BUG"] * 6]
    ids = history(tree, texts)
    it = start(tree, monkeypatch)
    it.company = True
    before = fingerprint(tree)
    status, said = invoke(*ends(tree, ids), "-k", "lifecycle")
    assert status == Exit.PASS
    assert fingerprint(tree) == before, "the user's tree, index and refs stay as they are"
    assert re.match(
        rf"bisect: x86_64 BROUGHT IN BY {ids[10][:12]} 'sched: change 10', 9\d\.\d+ %", said.splitlines()[-1]
    )
    out = Path("out/latest")
    report = rows.read(out)
    (search,) = report.searches
    assert [(c.id, c.title, c.author) for c in search.candidates] == [(ids[10], "sched: change 10", "t@t")]
    assert "-/* fine 9 */\n+/* BUG 10 */" in search.candidates[0].diff
    assert search.failing and search.failing.id == ids[10]
    assert search.failing.run.findings[0].signature == "dmesg:warn:destroy_dsq"
    assert search.passing and search.passing.id == ids[9]
    assert search.interior <= 4
    assert len(search.steps) == len(it.plans)
    assert all(step.run.started > 0 for step in search.steps)
    for step in search.steps:
        assert results.read(out / "x86_64" / step.run.out).verdict in (Verdict.PASS, Verdict.FAIL)
    page = (out / "report.html").read_text()
    assert ids[10] in page and "dmesg:warn:destroy_dsq" in page and "+/* BUG 10 */" in page
    assert show.render(report, "x") in said.replace(str(Path("out") / out.readlink() / "report.html"), "x")
    assert all(plan.kernels[0].source.tree == str(tree) for plan in it.plans)
    assert len({plan.seed for plan in it.plans}) == 1 and it.plans[0].seed > 0
    assert {plan.options.select for plan in it.plans} == {"lifecycle", "(lifecycle) and (test_create_and_destroy)"}
    shown = CliRunner().invoke(main.app, ["report", str(out)])
    assert (shown.exit_code, shown.stdout.splitlines()[0]) == (0, said.splitlines()[0])


def test_a_test_that_was_alone_is_not_run_alone_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "BUG", "BUG"])
    it = start(tree, monkeypatch)
    invoke(*ends(tree, ids), "-k", "lifecycle")
    assert {plan.options.select for plan in it.plans} == {"lifecycle"}
    assert sum(plan.kernels[0].source.revision == ids[-1] for plan in it.plans) == 5


def test_git_replays_the_log(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (find, texts) in enumerate(
        (
            ("regression", ["fine", "fine", "SLIP", "fine", "fine", "BUG", "BUG", "BUG"]),
            ("fixed", ["BUG", "BUG", "fine", "fine"]),
        )
    ):
        folder = tree.parent / f"linux{number}"
        ids = history(folder, texts)
        start(folder, monkeypatch)
        old, new = (ids[0], ids[-1]) if find == "regression" else (ids[1], ids[-1])
        good, bad = (old, new) if find == "regression" else (new, old)
        invoke("--tree", str(folder), "--good", good, "--bad", bad, "--find", find, "--out", f"o{number}")
        log = (Path(f"o{number}") / "x86_64/bisect.log").resolve()
        said = git(folder, "bisect", "replay", str(log))
        word = "bad" if find == "regression" else "fixed"
        assert f"{ids[6 if find == 'regression' else 3]} is the first {word} commit" in said
        git(folder, "bisect", "reset")


def test_interrupted_and_gone_on_with(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, [*["fine"] * 5, "SLIP", "fine", "fine", "PANIC", "fine", "BUG", *["BUG"] * 9])
    it = start(tree, monkeypatch)
    it.dies = 6
    assert invoke(*ends(tree, ids))[0] == Exit.INTERRUPTED
    first = len(it.plans)
    it.dies = -1
    status, said = invoke(*ends(tree, ids))
    assert status == 0 and ids[11][:12] in said.splitlines()[-1]
    total = len(it.plans)
    assert first == 6
    again, same = invoke(*ends(tree, ids))
    assert (again, same, len(it.plans)) == (0, said, total), "it is finished: nothing is run"


def test_the_other_way_round(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, [*["BUG"] * 6, "fine", *["fine"] * 9])
    start(tree, monkeypatch)
    status, said = invoke("--tree", str(tree), "--bad", ids[1], "--good", ids[-1], "--find", "fixed")
    assert status == 0
    assert f"FIXED BY {ids[7][:12]}" in said.splitlines()[-1]
    assert f"\nfixed by   {ids[7]}" in said
    assert f"FIXED BY {ids[7][:12]}" in Path("out/latest/report.html").read_text()
    assert json.loads(Path("out/latest/bisect.json").read_text())["find"] == "fixed"
    assert f"# first fixed commit: [{ids[7]}]" in Path("out/latest/x86_64/bisect.log").read_text()


def test_now_and_then(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, [*["fine"] * 5, *["FLAKY"] * 11])
    it = start(tree, monkeypatch)
    it.shows = lambda turn: turn % 3 == 0
    status, said = invoke(*ends(tree, ids))
    assert status == 0 and ids[6][:12] in said.splitlines()[-1]
    assert rows.read(Path("out/latest")).searches[0].rate < 0.6


def test_a_build_break_is_bridged(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "SLIP", "SLIP", "SLIP", "BUG SLIP", "BUG SLIP", "BUG SLIP", "BUG"])
    start(tree, monkeypatch)
    for name in ("other.patch", "mend.patch"):
        Path(name).write_text("")
    status, said = invoke(*ends(tree, ids), "--out", "without")
    assert status == Exit.INCONCLUSIVE
    assert "BROUGHT IN BY ONE OF 7 commits" in said.splitlines()[-1]
    status, said = invoke(*ends(tree, ids), "--fixup", "other.patch", "--fixup", "mend.patch", "--out", "with")
    assert status == 0 and ids[5][:12] in said.splitlines()[-1]
    used = {step.run.fixups for step in rows.read(Path("with")).searches[0].steps}
    assert used == {(), ("mend.patch",)}


def test_a_fixup_that_is_edited_meanwhile_ends_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "SLIP", "SLIP", "BUG SLIP", "BUG SLIP", "BUG"])
    it = start(tree, monkeypatch)
    Path("mend.patch").write_text("")
    Path("mine.bpf.c").write_text("")
    words = [*ends(tree, ids), "--fixup", "mend.patch", "--bpf", "mine.bpf.c"]
    it.dies = 4
    assert invoke(*words)[0] == Exit.INTERRUPTED
    it.dies = -1
    real = it.__call__
    for name in ("mend.patch", "mine.bpf.c"):

        def edited(plan: Plan, log: Path, name: str = name) -> Answer:
            Path(name).write_text("something else")
            return real(plan, log)

        monkeypatch.setattr(steps, "conduct", edited)
        with pytest.raises(UsageError, match=f"{name}, or what it includes, was changed since this bisection began"):
            invoke(*words)
        Path(name).write_text("")
    monkeypatch.setattr(steps, "conduct", it)
    before = len(it.plans)
    assert invoke(*words)[0] == 0
    assert before < len(it.plans) and len(list(Path("out").glob("bisect-*"))) == 1


def test_each_architecture_has_its_own(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "fine", "BUG", "BUG"])
    it = start(tree, monkeypatch)
    status, said = invoke(*ends(tree, ids), "--arch", "x86_64,arm64")
    assert status == 0
    assert said.splitlines()[-1].count(ids[3][:12]) == 2
    assert {plan.kernels[0].arch for plan in it.plans} == {"x86_64", "arm64"}


def test_two_architectures_read_the_range_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And few git processes tell of a commit."""
    ids = history(tree, ["fine", "fine", "BUG", "BUG"])
    start(tree, monkeypatch)
    asked: list[str] = []
    real = run

    def counted(argv: Sequence[str], **more: object) -> Done:
        asked.append(" ".join(argv[1:]))
        return real(argv, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(repository, "run", counted)
    assert invoke(*ends(tree, ids), "--arch", "x86_64,arm64")[0] == 0
    assert sum(words.startswith("log --topo-order") for words in asked) == 1
    assert sum(ids[3] in words and " show " in words for words in asked) == 2 * 2, "two for each architecture's culprit"
    assert not any(words.startswith(("log -1", "diff-tree")) for words in asked)


def test_merges(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "fine"])
    git(tree, "checkout", "-q", "-b", "side", ids[1])
    (tree / "kernel/side.c").write_text("int side;\n")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "side")
    (tree / CORE).write_text("int core;\n/* BUG on the side */\n")
    git(tree, "commit", "-q", "-a", "-m", "the culprit")
    culprit = git(tree, "rev-parse", "HEAD")
    git(tree, "checkout", "-q", "main")
    git(tree, "merge", "-q", "-X", "theirs", "-m", "merge", "side")
    start(tree, monkeypatch)
    status, said = invoke("--tree", str(tree), "--good", ids[0], "--bad", "main")
    assert status == 0 and culprit[:12] in said.splitlines()[-1]
