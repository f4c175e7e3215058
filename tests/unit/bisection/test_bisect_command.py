# SPDX-License-Identifier: GPL-2.0-only
"""Tests of `kharness bisect` from the command line to its report, on tiny trees in git and a conductor that builds nothing."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness import cli
from harness.bisect import commits, rows, show, steps
from harness.bisect.child import Answer
from harness.errors import Exit, GuestError, HarnessError, UsageError
from harness.host.cache import Cache
from harness.host.process import Done, run
from harness.host.progress import Progress
from harness.plan import Plan
from harness.records import Finding, MachineSpec, Outcome, Role, Verdict
from harness.report import results
from harness.sources import Sources
from harness.verdict import KernelRow, MachineRow, Results, RunRow, TestRow
from tests.unit.source.kernel_trees import FILES, MAKEFILE, fingerprint, git, git_tree, write_tree

TEST = "tests/kernel/dsq/test_lifecycle.py::test_create_and_destroy"
CORE = "kernel/sched/core.c"


@dataclass
class Conductor:
    """Stands for the conductor: what kernel/sched/core.c holds decides how the run ends.

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
            results.write(self._results(plan, id, text, 1), results.claim(Path(plan.out)).path)
            return Answer(0)
        text = subprocess.run(
            ["git", "-C", self.folder, "show", f"{id}:{CORE}"], check=True, capture_output=True, text=True
        ).stdout
        for patch in kernel.patches:
            if "mend" not in patch or "SLIP" not in text:
                return Answer(2, "DoesNotApply", f"{patch} does not apply")
            text = text.replace("SLIP", "")
        turn = self.turns[id] = self.turns.get(id, 0) + 1
        results.write(self._results(plan, id, text, turn), results.claim(Path(plan.out)).path)
        return Answer(0)

    def _results(self, plan: Plan, id: str, text: str, turn: int) -> Results:
        arch = plan.kernels[0].arch
        row = KernelRow(
            "k", Role.TREE, arch, "7.2", id, id, False, (), "" if "SLIP" in text else f"/cache/kernel/{id[:12]}/config",
            "", 60.0, turn > 1,
        )  # fmt: skip
        test = TEST
        found = Finding(
            "dmesg",
            "warn",
            "WARNING in destroy_dsq",
            "dmesg:warn:destroy_dsq",
            "destroy_dsq",
            "kernel/x.c",
            7,
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
            test, outcome, findings = (
                "boot",
                Outcome.FAIL,
                (Finding("crash", "panic", "panic", "crash:panic"),),
            )
        elif "ODD" in text:
            outcome, findings = Outcome.FAIL, (Finding("dmesg", "warn", "odd", "dmesg:warn:odd"),)
        elif "LAME" in text:
            outcome = Outcome.INCONCLUSIVE
        elif "BUG" in text or ("FLAKY" in text and self.shows(turn)):
            outcome, findings = Outcome.FAIL, (found,)
        tests: tuple[TestRow, ...] = (
            TestRow(test, arch, "k", "default", outcome, findings=findings, why="it said so"),
        )
        if self.company and plan.select == "lifecycle":
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


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "linux"


def start(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Conductor:
    it = Conductor(tree)
    monkeypatch.setattr(steps, "conduct", it)
    return it


def invoke(*args: str) -> tuple[int, str]:
    """Status and what is said; an error of ours is raised, as main() would see it."""
    done = CliRunner().invoke(cli.app, ["bisect", *args])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def ends(tree: Path, ids: Sequence[str]) -> list[str]:
    return ["--tree", str(tree), "--good", ids[0], "--bad", ids[-1]]


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
    assert {plan.select for plan in it.plans} == {"lifecycle", "(lifecycle) and (test_create_and_destroy)"}
    shown = CliRunner().invoke(cli.app, ["report", str(out)])
    assert (shown.exit_code, shown.stdout.splitlines()[0]) == (0, said.splitlines()[0])


def test_a_test_that_was_alone_is_not_run_alone_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "BUG", "BUG"])
    it = start(tree, monkeypatch)
    invoke(*ends(tree, ids), "-k", "lifecycle")
    assert {plan.select for plan in it.plans} == {"lifecycle"}
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
    status, said = invoke(
        *ends(tree, ids), "--fixup", "other.patch", "--fixup", "mend.patch", "--out", "with"
    )
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
        asked.append(" ".join(argv[3:]))
        return real(argv, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(commits, "run", counted)
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


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--good", "v9", "--bad", "HEAD"), r"--good v9: .*linux has no such revision; see 'git -C .* log --oneline'"),
        (("--good", "HEAD~1", "--bad", "nope"), r"--bad nope: .*linux has no such revision"),
        (("--good", "HEAD", "--bad", "HEAD~1"), r"--good HEAD \(\w{12}\) is no ancestor of --bad HEAD~1 \(\w{12}\); "
                                                r"exchange them, or search the other way with --find fixed"),
        (("--good", "other", "--bad", "HEAD"), r"--good other \(\w{12}\) is no ancestor of .*; they have no commit in common: name two"),
        (("--good", "side", "--bad", "HEAD"), r"--good side \(\w{12}\) is no ancestor of --bad HEAD \(\w{12}\); "
                                              r"give their merge base if it passes too: --good \w{12}$"),
        (("--bad", "side", "--good", "HEAD", "--find", "fixed"), r"--bad side .*if it fails too: --bad \w{12}$"),
        (("--good", "HEAD", "--bad", "main"), r"--good HEAD and --bad main are the same commit"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--find", "fixd"), r"--find: unknown word 'fixd'; near it: fixed"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--follow", "bild"), r"--follow: unknown word 'bild'; near it: build"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--confidence", "1"), r"--confidence 1 is no chance to stop at"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--fixup", "no.patch"), r"no.patch: no such file; check --fixup"),
        (("--good", "HEAD~1"), r"bisect needs --good REV and --bad REV"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_run(
    tree: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], says: str
) -> None:
    history(tree, ["fine", "fine", "BUG"])
    git(tree, "checkout", "-q", "--orphan", "other")
    git(tree, "commit", "-q", "-m", "elsewhere")
    git(tree, "checkout", "-q", "-b", "side", "main~1")
    git(tree, "commit", "-q", "--allow-empty", "-m", "side")
    git(tree, "checkout", "-q", "main")
    it = start(tree, monkeypatch)
    with pytest.raises(UsageError) as raised:
        invoke("--tree", str(tree), *args)
    assert re.match(says, raised.value.line()), raised.value.line()
    assert not it.plans and not Path("out").exists()


def test_what_is_no_repository(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.mkdir()
    with pytest.raises(UsageError, match="is no git tree: it has no history"):
        invoke("--tree", str(tree), "--good", "a", "--bad", "b")
    with pytest.raises(UsageError, match="bisect needs --tree: a Debian source has no history"):
        invoke("--good", "a", "--bad", "b")


def test_edits_in_the_tree_do_not_matter(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "BUG", "BUG"])
    (tree / CORE).write_text("BUG in an edit\n")
    start(tree, monkeypatch)
    status, said = invoke(*ends(tree, ids))
    assert status == 0 and ids[2][:12] in said.splitlines()[-1]
    assert (tree / CORE).read_text() == "BUG in an edit\n"


@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        (["fine", "fine"], UsageError, r"--bad .* does not fail: it passed in 10 runs"),
        (["BUG", "BUG"], UsageError, r"--good .* fails as --bad .* does: WARNING in destroy_dsq"),
        (
            ["ODD", "BUG"],
            UsageError,
            r"--good .* does not pass, it fails in another way: .*test_create_and_destroy",
        ),
        (["LAME", "BUG"], GuestError, r"--good .* cannot be judged: "),
        (["fine", "LAME"], GuestError, r"--bad .* cannot be judged: "),
    ],
)
def test_ends_that_do_not_do(
    tree: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], error: type[Exception], says: str
) -> None:
    ids = history(tree, texts)
    start(tree, monkeypatch)
    with pytest.raises(error) as raised:
        invoke("--tree", str(tree), "--good", ids[1], "--bad", ids[2])
    assert re.match(says, str(raised.value)), str(raised.value)


def test_trouble_of_the_host_ends_it_and_is_not_a_skip(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, [*["fine"] * 4, *["BUG"] * 4])
    it = start(tree, monkeypatch)
    it.raises = [Answer(4, "DiskFull", "no space left on device in /cache", "free space")]
    with pytest.raises(HarnessError, match="no space left on device"):
        invoke(*ends(tree, ids))
    status, said = invoke(*ends(tree, ids))
    assert status == 0 and ids[5][:12] in said.splitlines()[-1]


def test_the_failure_that_is_asked_for(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "BUG", "BUG"])
    start(tree, monkeypatch)
    assert invoke(*ends(tree, ids), "--signature", "dmesg:*destroy*")[0] == 0
    with pytest.raises(UsageError) as raised:
        invoke(*ends(tree, ids), "--signature", "kmemleak:*")
    assert raised.value.line().endswith("it has: dmesg:warn:destroy_dsq")


def test_a_build_break_may_be_what_is_looked_for(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, [*["fine"] * 6, *["SLIP"] * 6])
    start(tree, monkeypatch)
    status, said = invoke(*ends(tree, ids))
    assert status == 0 and ids[7][:12] in said.splitlines()[-1]


def test_the_report_is_json(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "BUG", "BUG"])
    start(tree, monkeypatch)
    invoke(*ends(tree, ids), "--out", "here")
    data = json.loads(Path("here/bisect.json").read_text())
    assert data["schema"] == 1
    assert data["searches"][0]["candidates"][0]["id"] == ids[2]
    with pytest.raises(UsageError, match="holds another bisection"):
        invoke(*ends(tree, ids[:2]), "--bad", ids[2], "--out", "here", "--seed", "3")


def test_a_folder_that_holds_something_else_stays_as_it_is(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "BUG", "BUG"])
    it = start(tree, monkeypatch)
    Path("mine").mkdir()
    Path("mine/letter").write_text("")
    with pytest.raises(UsageError, match=r"mine is not empty and holds no bisection \(there is letter\)"):
        invoke(*ends(tree, ids), "--out", "mine")
    assert [path.name for path in Path("mine").iterdir()] == ["letter"] and not it.plans
    Path("mine/letter").unlink()
    Path("mine/x86_64").mkdir()  # as one leaves it that was killed before it wrote anything
    assert invoke(*ends(tree, ids), "--out", "mine")[0] == 0


def test_a_series_is_not_written_over_the_copies_of_another(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git_tree(tree)
    for name, word in (("one", "BUG"), ("two", "BUG again")):
        Path(name).mkdir()
        for number in range(1, 4):
            Path(f"{name}/{number}.patch").write_text(PATCH.format(word if number >= 2 else "fine"))
    start(tree, monkeypatch)
    assert invoke("--tree", str(tree), "--patch", "one", "--out", "here")[0] == 0
    before = fingerprint(Path("here"))
    with pytest.raises(UsageError, match="here/x86_64 holds another bisection"):
        invoke("--tree", str(tree), "--patch", "two", "--out", "here")
    assert fingerprint(Path("here")) == before


def test_a_patch_that_is_not_utf_8(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git_tree(tree)
    for number in (1, 2):
        text = PATCH.format(f"J\xfcrgen: {'BUG' if number == 2 else 'fine'}")
        Path(f"{number}.patch").write_bytes(text.encode("latin-1"))
    it = start(tree, monkeypatch)
    status, said = invoke("--tree", str(tree), "--patch", "1.patch", "--patch", "2.patch")
    assert status == 0 and "BROUGHT IN BY p0002" in said.splitlines()[-1]
    copies = next(plan.kernels[0].patches for plan in it.plans if plan.kernels[0].patches)
    assert b"J\xfcrgen" in Path(copies[0]).read_bytes()


def test_what_the_first_architecture_gave_is_said_though_the_second_gives_nothing(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = history(tree, ["fine", "BUG", "BUG"])
    it = start(tree, monkeypatch)
    real = it.__call__

    def one_alone(plan: Plan, log: Path) -> Answer:
        return real(plan, log) if plan.kernels[0].arch == "x86_64" else Answer(4, "DiskFull", "disk full")

    monkeypatch.setattr(steps, "conduct", one_alone)
    said: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda self, line: said.append(line))
    with pytest.raises(HarnessError, match="disk full"):
        invoke(*ends(tree, ids), "--arch", "x86_64,arm64", "--out", "here")
    assert any(f"x86_64 BROUGHT IN BY {ids[2][:12]}" in line and line.endswith("; arm64 to come") for line in said)
    assert len(rows.read(Path("here")).searches) == 1


# --- releases ---------------------------------------------------------------------------------


def test_the_release_that_mended_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history imported from four folders; the failure is gone from the third on."""
    texts = {6: "BUG", 9: "BUG", 11: "fine", 13: "fine"}
    for point, text in texts.items():
        makefile = MAKEFILE.replace("SUBLEVEL = 13", f"SUBLEVEL = {point}")
        write_tree(Path(f"linux-7.2.{point}"), {**FILES, "Makefile": makefile, CORE: f"/* {text} */\n"})
    done = CliRunner().invoke(
        cli.app, ["source", "import", *(f"linux-7.2.{point}" for point in texts), "--into", str(tree)]
    )
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == f"next: kharness bisect --tree {tree} --good v7.2.6 --bad v7.2.13"
    start(tree, monkeypatch)
    status, said = invoke("--tree", str(tree), "--bad", "v7.2.6", "--good", "v7.2.13", "--find", "fixed")
    assert status == 0
    assert "FIXED BY" in said.splitlines()[-1] and "'Linux 7.2.11'" in said.splitlines()[-1]
    with pytest.raises(UsageError, match=r"--good v7.2.11 .* passes|--bad v7.2.13 .* does not fail"):
        invoke("--tree", str(tree), "--good", "v7.2.11", "--bad", "v7.2.13")


# --- patches and symbols ------------------------------------------------------------------------

PATCH = """--- a/kernel/sched/core.c
+++ b/kernel/sched/core.c
@@ -1 +1,2 @@
 int core;
+/* {} */
"""


def test_a_patch_of_a_series(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git_tree(tree)
    Path("series").mkdir()
    for number in range(1, 13):
        Path(f"series/{number:04}.patch").write_text(PATCH.format("BUG" if number >= 8 else "fine"))
    it = start(tree, monkeypatch)
    status, said = invoke("--tree", str(tree), "--patch", "series")
    assert status == 0
    assert "BROUGHT IN BY p0008 '0008.patch'" in said.splitlines()[-1]
    report = rows.read(Path("out/latest"))
    assert report.searches[0].names == ("the base", "all 12 patches")
    assert "+/* BUG */" in report.searches[0].candidates[0].diff
    assert all(plan.kernels[0].role is Role.TREE for plan in it.plans)
    assert {len(plan.kernels[0].patches) for plan in it.plans} >= {0, 7, 8, 12}
    (tree / CORE).write_text("int core;\nint edited;\n")
    assert invoke("--tree", str(tree), "--patch", "series")[0] == 0
    assert len(list(Path("out").glob("bisect-*"))) == 2, "another base is another bisection"
    with pytest.raises(UsageError, match="0001.patch is one patch: there is nothing to search"):
        invoke("--tree", str(tree), "--patch", "series/0001.patch")
    with pytest.raises(UsageError, match="--good and --bad, --patch and --kconfig exclude each other"):
        invoke("--tree", str(tree), "--patch", "series", "--good", "HEAD")
    with pytest.raises(UsageError, match="no.patch: no such file; check --patch"):
        try:
            invoke("--tree", str(tree), "--patch", "no.patch")
        except UsageError as error:
            raise UsageError(error.line()) from error


def test_edits_meanwhile_do_not_change_the_base_of_a_series(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lay in the tree when the command was given is the base of all steps, committed or not."""
    git_tree(tree)
    for number in range(1, 9):
        Path(f"{number}.patch").write_text(PATCH.format("BUG" if number >= 5 else "fine"))
    (tree / CORE).write_text("int core;\nint edited;\n")
    it = start(tree, monkeypatch)
    real = it.__call__
    bases: list[str] = []

    def edited(plan: Plan, log: Path) -> Answer:
        cache = Cache.default(0)
        sources = Sources(plan, None, cache, Progress(cache.folder("durations")), log.parent)  # type: ignore[arg-type]
        base = sources.tree(replace(plan.kernels[0], patches=()))
        bases.append((base.path / CORE).read_text())
        (tree / CORE).write_text(f"int core;\nint edited_{len(bases)};\n")
        git(tree, "commit", "-q", "-a", "-m", f"edit {len(bases)}")
        return real(plan, log)

    monkeypatch.setattr(steps, "conduct", edited)
    words = [word for number in range(1, 9) for word in ("--patch", f"{number}.patch")]
    status, said = invoke("--tree", str(tree), *words)
    assert status == 0 and "BROUGHT IN BY p0005" in said.splitlines()[-1]
    assert len(bases) > 8 and set(bases) == {"int core;\nint edited;\n"}
