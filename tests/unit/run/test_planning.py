# SPDX-License-Identifier: GPL-2.0-only
"""Tests of plan files: what the flags can say they can say too, and what is wrong in one is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.cli import main
from harness.core.checkout import CHECKOUT
from harness.core.errors import Exit, UsageError
from harness.core.options import DEFAULT_ARCHES, DEFAULT_SERIES, SEARCH_SECONDS, Options, options_of
from harness.core.plan import Plan
from harness.run import planning, runner
from harness.suite import loader

FOLDERS = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1).filter(
    lambda name: name not in (".", "..")
)


def options() -> dict[str, Any]:
    """The flags of `run`, by the names of their parameters."""
    command: Any = typer.main.get_command(main.app)
    parameters = command.commands["run"].params
    return {found.name: found for found in parameters if found.param_type_name == "option"}


def plan_file(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text)
    return file


# --- keys and flags -----------------------------------------------------------------------


def test_every_flag_is_a_key_and_every_key_a_flag() -> None:
    assert set(options()) - {"print_plan", "bisect_exit", "help"} == set(options_of(Options))


def test_a_flag_has_one_default() -> None:
    flags = options()
    for name, (field, _) in options_of(Options).items():
        default = flags[name].default
        mine = tuple(default or ()) if isinstance(field.default, tuple) else default
        assert mine == field.default, name


def test_what_takes_a_file_is_marked_as_one() -> None:
    """A name of a file that is not marked would depend on where the user stands."""
    named = {name for name, (_, meta) in options_of(Options).items() if meta.path}
    assert {"tree", "suite", "kconfig", "bpf", "faults", "out"} <= named


def test_rivals_name_each_other() -> None:
    rivals = {name: meta.rival for name, (_, meta) in options_of(Options).items() if meta.rival}
    assert rivals == {"tree": "kernel", "kernel": "tree", "patch": "head", "head": "patch"}


# --- reading ------------------------------------------------------------------------------


def test_a_plan_with_every_key(tmp_path: Path) -> None:
    file = plan_file(
        tmp_path,
        "tree: linux\narch: x86_64\nmachine: cpu8\nsuite: tests/unit\nselect: a or b\nfull: true\ncmdline: nosmp\n"
        "kconfig: [one.config, /two.config]\nseed: 7\nout: res\njobs: 3\ntoolchain: host\n",
    )
    assert planning.read(file) == Options(
        tree=str(tmp_path / "linux"),
        arch="x86_64",
        machine="cpu8",
        suite="tests/unit",
        select="a or b",
        full=True,
        cmdline="nosmp",
        kconfig=(str(tmp_path / "one.config"), "/two.config"),
        seed=7,
        out=str(tmp_path / "res"),
        jobs=3,
        toolchain="host",
    )


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("kernel: 7.10", "kernel", "7.10"),
        ("kernel: 7", "kernel", "7"),
        ("cmdline: on", "cmdline", "on"),
        ("select: 'no'", "select", "no"),
        ("arch: 2001-99-99", "arch", "2001-99-99"),
        ("seed: 0x10", "seed", 16),
        ("full: yes", "full", True),
        ("tree: ''", "tree", ""),
        ("kconfig: []", "kconfig", ()),
        ("{}", "seed", 0),
    ],
)
def test_text_stays_as_it_is_written(tmp_path: Path, text: str, key: str, value: object) -> None:
    """YAML takes 7.10 for the number 7.1 and on for true."""
    assert getattr(planning.read(plan_file(tmp_path, text + "\n")), key) == value


def test_home_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert planning.read(plan_file(tmp_path, "tree: ~/linux\n")).tree == "/home/me/linux"


def test_a_suite_is_the_checkouts_or_lies_beside_the_plan(tmp_path: Path) -> None:
    assert planning.read(plan_file(tmp_path, "suite: tests/kernel/sched_ext\n")).suite == "tests/kernel/sched_ext"
    assert planning.read(plan_file(tmp_path, "suite: ../mine\n")).suite == str(tmp_path.parent / "mine")


def test_one_word_is_the_selftests_of_the_tree(tmp_path: Path) -> None:
    """Also where a folder is called so: that one is ./selftests."""
    options = planning.read(plan_file(tmp_path, "suite: selftests\n"))
    assert options.suite == "selftests"
    plan = planning.request(options, ())
    assert plan.suite == "tests/kernel/selftests"
    assert loader.of(plan.suite).selftests is not None
    assert planning.read(plan_file(tmp_path, "suite: ./selftests\n")).suite == str(tmp_path / "selftests")


@pytest.mark.parametrize(
    ("suite", "wanted"),
    [
        ("tests/kernel/selftests", "selftests"),
        ("tests/kernel/selftests/test_selftests.py", "selftests"),
        (str(CHECKOUT / "tests/kernel/selftests"), "selftests"),
        ("tests/kernel/sched_ext/test_many.py", "sched_ext"),
        ("tests/e2e/suites/alive.py", "sched_ext"),
        ("/home/me/selftests", "sched_ext"),
    ],
)
def test_which_suite_tests_belong_to(suite: str, wanted: str) -> None:
    """The nearest suite.py, or the default suite."""
    assert loader.of(suite).name == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kconfigs: [a]", "mine.yaml:1: unknown key 'kconfigs'; near it: kconfig"),
        ("tree: a\n\nmachines: a", "mine.yaml:3: unknown key 'machines'; near it: machine"),
        ("xyzzy: 1", "mine.yaml:1: unknown key 'xyzzy'; one of: tree, kernel, "),
        ("{[a, b]: 1}", "unknown key '(a list or mapping)'"),
        ("<<: {seed: 1}", "unknown key '<<'"),
        ("seed: 1\nseed: 2", "mine.yaml:2: seed is there twice"),
        ("seed: seven", "mine.yaml:1: seed: Expected int, got str"),
        ("seed: 1.5", "mine.yaml:1: seed: Expected int"),
        ("seed: true", "mine.yaml:1: seed: Expected int, got bool"),
        ("full: 1", "mine.yaml:1: full: Expected bool, got int"),
        ("jobs: 0", "mine.yaml:1: jobs: Expected int >= 1"),
        ("tree:", "mine.yaml:1: tree: Expected str, got null"),
        ("tree: [a]", "mine.yaml:1: tree: Expected str, got array"),
        ("tree: {a: b}", "mine.yaml:1: tree: Expected str, got object"),
        ("kconfig: a", "mine.yaml:1: kconfig: Expected array, got str"),
        ("kconfig: [[a]]", "mine.yaml:1: kconfig: Expected str, got array - at $[0]"),
        ("kconfig: &a [*a]", "mine.yaml:1: kconfig: Expected str, got array"),
        ("kconfig: [~]", "mine.yaml:1: kconfig: Expected str, got null"),
        ("tree: 'a", "mine.yaml: not YAML: "),
        ("tree: a\n\tb: c", "mine.yaml: not YAML: "),
        ("a: 1\n---\nb: 2", "mine.yaml: not YAML: "),
        ("tree: *nothing", "mine.yaml: not YAML: "),
        ("x: " + "[" * 5000, "mine.yaml: not YAML: "),
        ("\0\1", "mine.yaml: not YAML: "),
        ("", "mine.yaml: no plan"),
        ("# nothing", "mine.yaml: no plan"),
        ("- a", "mine.yaml: no plan"),
        ("just words", "mine.yaml: no plan"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        planning.read(plan_file(tmp_path, text))
    assert says in raised.value.what
    assert raised.value.step and "\n" not in raised.value.line()
    assert raised.value.exit == Exit.USAGE


@pytest.mark.parametrize("file", ["nothing.yaml", "."])
def test_a_plan_that_cannot_be_read(tmp_path: Path, file: str) -> None:
    with pytest.raises(UsageError, match="cannot read the plan"):
        planning.read(tmp_path / file)


def test_latin_1_is_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"tree: caf\xe9\n")
    with pytest.raises(UsageError, match="not YAML"):
        planning.read(tmp_path / "mine.yaml")


# --- flags over the file ------------------------------------------------------------------


def test_flags_override_the_file_key_by_key(tmp_path: Path) -> None:
    file = plan_file(tmp_path, "seed: 7\njobs: 3\nkconfig: [a]\nfull: true\n")
    options = planning.gather(str(file), {"jobs": 4, "kconfig": ["b"], "full": False})
    assert (options.seed, options.jobs, options.kconfig, options.full) == (7, 4, ("b",), False)


@pytest.mark.parametrize(("file", "flag"), [("tree: linux", "kernel"), ("kernel: 6.12", "tree")])
def test_a_flag_takes_its_rival_out_of_the_plan(tmp_path: Path, file: str, flag: str) -> None:
    options = planning.gather(str(plan_file(tmp_path, file)), {flag: "x"})
    assert options == planning.gather("", {flag: "x"})
    assert {options.tree, options.kernel} == {"x", ""}


# --- the command --------------------------------------------------------------------------


class Asked:
    """What the runner was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plans: list[Plan] = []
        monkeypatch.setattr(runner, "conduct", self.conduct)

    def conduct(self, plan: Plan) -> Exit:
        self.plans.append(plan)
        return Exit.PASS

    def __call__(self, *args: str) -> str:
        done = CliRunner().invoke(main.app, ["run", *args])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == Exit.PASS, done.output
        return str(done.stdout)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def test_a_flag_at_its_default_overrides_too(asked: Asked, tmp_path: Path) -> None:
    file = plan_file(tmp_path, "machine: cpu8\nfull: true\narch: x86_64\n")
    asked(str(file), "--machine", "default", "--no-full")
    assert (asked.plans[0].machines, asked.plans[0].options.full) == (("default",), False)
    assert [kernel.arch for kernel in asked.plans[0].kernels] == ["x86_64"]


def test_where_the_plan_lies_decides_not_where_we_stand(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plans/linux", "here/linux"):
        (tmp_path / name).mkdir(parents=True)
    plan_file(tmp_path / "plans", "tree: linux\n")
    monkeypatch.chdir(tmp_path / "here")
    asked("../plans/mine.yaml")
    assert asked.plans[0].kernels[0].source.tree == str(tmp_path / "plans/linux")
    asked("../plans/mine.yaml", "--tree", "linux")
    assert asked.plans[1].kernels[0].source.tree == str(tmp_path / "here/linux")


def test_the_printed_plan_asks_for_the_same_from_anywhere(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "linux").mkdir()
    (tmp_path / "my.config").write_text("")
    monkeypatch.chdir(tmp_path)
    flags = ("--tree", "linux", "--kconfig", "my.config", "--seed", "7", "-k", "a or b", "--out", "o", "--full")
    text = asked(*flags, "--print-plan")
    assert not asked.plans, "it runs nothing"
    (tmp_path / "elsewhere").mkdir()
    file = plan_file(tmp_path / "elsewhere", text)
    monkeypatch.chdir("/")
    assert asked(str(file), "--print-plan") == text
    asked(str(file))
    monkeypatch.chdir(tmp_path)
    asked(*flags)
    one, two = asked.plans
    assert replace(one, argv=(), options=two.options) == replace(two, argv=())
    whole = replace(two.options, arch=one.options.arch, kernel=one.options.kernel, suite=one.options.suite)
    assert one.options == planning.rooted(whole, tmp_path)


def test_the_printed_plan_says_what_is_the_default(asked: Asked) -> None:
    text = asked("--print-plan")
    assert f"kernel: '{DEFAULT_SERIES}'\n" in text
    assert all(name in text for name in DEFAULT_ARCHES)
    assert f"suite: {loader.default()}\n" in text
    assert {line.partition(":")[0].replace("-", "_") for line in text.splitlines()} == set(options_of(Options))


def test_a_plan_that_cannot_be_carried_out_is_not_printed(asked: Asked) -> None:
    with pytest.raises(UsageError, match="no machine 'huge'"):
        asked("--machine", "huge", "--print-plan")


@settings(deadline=None)
@given(
    tree=FOLDERS,
    out=st.one_of(st.just(""), FOLDERS),
    select=st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    cmdline=st.sampled_from(["", "on", "7.10", "a: b", "# x", "nosmp  quiet", "null", "~", "é"]),
    kconfig=st.lists(FOLDERS, max_size=3),
    seed=st.integers(-(1 << 63), (1 << 63) - 1),
    full=st.booleans(),
)
def test_what_is_printed_is_read_back(tmp_path_factory: pytest.TempPathFactory, **options: Any) -> None:
    options = {
        name: [f"/d/{path}" for path in value] if name == "kconfig" else value for name, value in options.items()
    }
    options |= {name: options[name] and f"/d/{options[name]}" for name in ("tree", "out")}
    asked = planning.gather("", options | {"arch": "x86_64", "suite": loader.default()})
    file = tmp_path_factory.mktemp("plan") / "mine.yaml"
    file.write_text(planning.render(asked))
    assert planning.read(file) == asked


def test_a_kernel_of_ours_is_asked_for_by_name(tmp_path: Path) -> None:
    options = planning.read(plan_file(tmp_path, "kconfig: [kasan, mine.config]\n"))
    assert options.kconfig == ("kasan", str(tmp_path / "mine.config"))
    assert planning.fragment("kasan") == str(planning.VARIANTS / "kasan.config")
    assert {"kasan", "lockdep", "preempt"} <= planning.variants().keys()


def test_a_file_of_that_name_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kasan").write_text("CONFIG_BUG=y\n")
    monkeypatch.chdir(tmp_path)
    assert planning.fragment("kasan") == str(tmp_path / "kasan")
    assert planning.read(plan_file(tmp_path, "kconfig: [kasan]\n")).kconfig == (str(tmp_path / "kasan"),)


@pytest.mark.parametrize(
    ("text", "near"), [("kassan", "a file, or kasan"), ("zzz", "a file, or kasan, lockdep, preempt")]
)
def test_a_mistyped_kernel_of_ours(text: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        planning.fragment(text)
    assert f"{text}: no such Kconfig fragment" in caught.value.line()
    assert caught.value.line().endswith(f"check --kconfig: {near}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", SEARCH_SECONDS), ("60s", 60.0), ("10m", 600.0), ("1h", 3600.0), ("90", 90.0), ("2.5s", 2.5)],
)
def test_the_budget_of_a_search(text: str, seconds: float) -> None:
    assert planning.budget(text) == seconds


@pytest.mark.parametrize("text", ["0s", "soon", "10 m", "-5s", "10d", "s"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError, match="--search .*: no time") as raised:
        planning.budget(text)
    assert "60s" in raised.value.step
