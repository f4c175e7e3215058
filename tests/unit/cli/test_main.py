# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the command line: what is refused before anything is built, and how it is said."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import main
from harness.core.errors import Exit, UsageError
from harness.core.options import DEFAULT_SERIES, ShellOptions
from harness.core.plan import BpfRequest, FaultPlan, KernelRequest, Plan, SourceRequest
from harness.core.records import Fault
from harness.run import runner, shell

ROOT = Path(main.__file__).resolve().parents[2]


class Asked:
    """Stands for the runner and remembers what it was asked."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.status = Exit.PASS

    def conduct(self, plan: Plan) -> Exit:
        self.plans.append(plan)
        return self.status


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    it = Asked()
    monkeypatch.setattr(runner, "conduct", it.conduct)
    return it


def invoke(*args: str) -> tuple[int, str]:
    """Status and what is said; an error of ours is raised, as main() would see it."""
    done = CliRunner().invoke(main.app, args)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_no_argument_runs_the_default_kernel(asked: Asked) -> None:
    assert invoke("run")[0] == Exit.PASS
    (plan,) = asked.plans
    assert plan.kernels == tuple(
        KernelRequest(SourceRequest(version=DEFAULT_SERIES), name) for name in ("x86_64", "arm64")
    )
    assert plan.seed > 0, "a seed that was chosen must be there to be printed"


@pytest.mark.parametrize("status", list(Exit))
def test_the_conductors_status_is_the_commands(asked: Asked, status: Exit) -> None:
    asked.status = status
    assert invoke("run")[0] == int(status)


def test_everything_asked_for_reaches_the_plan(asked: Asked, tmp_path: Path) -> None:
    fragment = tmp_path / "mine.config"
    fragment.write_text("CONFIG_X=y\n")
    invoke(
        "run",
        "--tree",
        str(tmp_path),
        "--arch",
        "x86_64,,x86_64",
        "-k",
        "duplicate or node",
        "--full",
        "--seed",
        "7",
        "--cmdline",
        "nosmp",
        "--kconfig",
        str(fragment),
        "--out",
        "o",
        "--jobs",
        "3",
        "--suite",
        str(tmp_path),
        "--toolchain",
        "host",
    )
    (plan,) = asked.plans
    assert plan.kernels == (KernelRequest(SourceRequest(tree=str(tmp_path)), "x86_64"),)
    assert (plan.options.select, plan.options.full, plan.seed, plan.options.cmdline) == (
        "duplicate or node",
        True,
        7,
        "nosmp",
    )
    assert (plan.kconfig, plan.options.out, plan.options.jobs) == ((str(fragment),), "o", 3)
    assert (plan.suite, plan.options.toolchain) == (str(tmp_path), "host")


def test_bpf_programs_are_named_for_good(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.bpf.c").write_text("")
    monkeypatch.chdir(tmp_path)
    invoke("run", "--bpf", "one.bpf.c", "--bpf", str(tmp_path / "two.bpf.c"))
    (plan,) = asked.plans
    assert plan.bpf == (BpfRequest(str(tmp_path / "one.bpf.c")), BpfRequest(str(tmp_path / "two.bpf.c")))
    assert [request.name for request in plan.bpf] == ["one", "two"]


def test_a_fault_plan_is_read_before_anything_is_done(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faults.yaml").write_text("- {operation: attach, task: kthreadd, nth: 2}\n- operation: cgroup-create\n")
    monkeypatch.chdir(tmp_path)
    invoke("run", "--faults", "faults.yaml")
    assert asked.plans[0].faults == (
        FaultPlan("attach", Fault(task="kthreadd", nth=2)),
        FaultPlan("cgroup-create", Fault()),
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine.yaml").write_text("faults: ../faults.yaml\n")
    invoke("run", "elsewhere/mine.yaml")
    assert asked.plans[1].faults == asked.plans[0].faults
    (tmp_path / "faults.yaml").write_text("operation: atach\n")
    with pytest.raises(UsageError, match="unknown operation 'atach'; near it: attach"):
        invoke("run", "--faults", "faults.yaml", "--print-plan")


def test_allow_lists_are_read_before_anything_is_done(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = "- {signature: 'dmesg:warn:f', reason: NAME, expires: 2999-12-31}\n"
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(known.replace("NAME", name))
    monkeypatch.chdir(tmp_path)
    invoke("run", "--allow", "one.yaml", "--allow", "two.yaml")
    assert [(entry.reason, entry.place) for entry in asked.plans[0].allow] == [
        ("one", "one.yaml:1"),
        ("two", "two.yaml:1"),
    ]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/plan.yaml").write_text("allow: [../two.yaml]\n")
    invoke("run", "elsewhere/plan.yaml")
    assert [entry.reason for entry in asked.plans[1].allow] == ["two"]
    (tmp_path / "one.yaml").write_text("- signature: 'dmesg:warn:f'\n")
    with pytest.raises(UsageError, match="one.yaml:1: an entry without reason"):
        invoke("run", "--allow", "one.yaml", "--print-plan")


def test_a_relative_tree_does_not_depend_on_where_we_stand(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "linux").mkdir()
    monkeypatch.chdir(tmp_path)
    invoke("run", "--tree", "linux")
    assert asked.plans[0].kernels[0].source.tree == str(tmp_path / "linux")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--tree", "/", "--kernel", "7.2"), "exclude each other"),
        (("--tree", "/no/such/linux"), "/no/such/linux: no such folder"),
        (("--arch", "vax"), "architecture 'vax'"),
        (("--arch", "x86_64,vax"), "architecture 'vax'"),
        (("--machine", "huge"), "no machine 'huge'"),
        (("--kconfig", "/no/such.config"), "/no/such.config: no such Kconfig fragment"),
        (("--bpf", "/no/such.bpf.c"), "/no/such.bpf.c: no such BPF program"),
        (("--faults", "/no/such.yaml"), "cannot read the fault plan /no/such.yaml"),
        (("--bpf", str(ROOT / "Makefile")), "Makefile: no name for a BPF program"),
        (
            (
                "--bpf",
                f"{ROOT}/bpf_progs/sched_ext/dsq_fifo.bpf.c",
                "--bpf",
                f"{ROOT}/bpf_progs/sched_ext/dsq_fifo.bpf.c",
            ),
            "two files of --bpf are called dsq_fifo.bpf.c",
        ),
        (("--suite", "no/such/suite"), "no/such/suite: no such suite"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_done(asked: Asked, args: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError) as raised:
        invoke("run", *args)
    assert says in raised.value.what
    assert raised.value.step, "each error names the next step"
    assert raised.value.exit == Exit.USAGE
    assert not asked.plans


@pytest.mark.parametrize(
    "args", [("run", "--tre", "x"), ("run", "--jobs", "0"), ("run", "--seed", "x"), ("rum",), ("replay",)]
)
def test_a_flag_that_is_none_is_the_callers_mistake(asked: Asked, args: tuple[str, ...]) -> None:
    assert invoke(*args)[0] == Exit.USAGE
    assert not asked.plans


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Plan, ShellOptions]]:
    """What `kharness shell` was asked; its status is 7."""
    asked: list[tuple[Plan, ShellOptions]] = []

    def visit(plan: Plan, options: ShellOptions) -> int:
        asked.append((plan, options))
        return 7

    monkeypatch.setattr(shell, "visit", visit)
    return asked


def test_a_commands_own_options_are_not_ours(visited: list[tuple[Plan, ShellOptions]]) -> None:
    status, _ = invoke("shell", "--arch", "arm64", "--put", "a:/b", "--put", "c:/d", "grep", "--kernel", "-k", "x")
    ((plan, options),) = visited
    assert status == 7
    assert options.command == ("grep", "--kernel", "-k", "x")
    assert options.put == ("a:/b", "c:/d")
    assert plan.kernels == (KernelRequest(SourceRequest(version=DEFAULT_SERIES), "arm64"),)


def test_a_shell_is_built_as_a_run_is(visited: list[tuple[Plan, ShellOptions]], tmp_path: Path) -> None:
    fragment = tmp_path / "mine.config"
    fragment.write_text("CONFIG_X=y\n")
    invoke(
        "shell", "--tree", str(tmp_path), "--machine", "cpu8", "--cmdline", "nosmp", "--kconfig", str(fragment), "--gdb"
    )
    ((plan, options),) = visited
    assert plan.kernels[0].source == SourceRequest(tree=str(tmp_path))
    assert (plan.machines, plan.options.cmdline, plan.kconfig) == (("cpu8",), "nosmp", (str(fragment),))
    assert options == ShellOptions(gdb=True)


def test_run_keeps_guests_only_when_asked(asked: Asked) -> None:
    invoke("run")
    invoke("run", "--keep")
    assert [plan.options.keep for plan in asked.plans] == [False, True]


def test_run_dumps_memory_only_when_asked(asked: Asked) -> None:
    invoke("run")
    invoke("run", "--dump")
    assert [plan.options.dump for plan in asked.plans] == [False, True]


def kharness(*args: str, cache: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    return subprocess.run([sys.executable, "-m", "harness", *args], cwd=cache, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("run", "--arch", "vax"), "kharness: no machine definition for architecture 'vax'; one of: "),
        (("report", "out"), "kharness: no results in out/results.json: No such file or directory; give the folder"),
        (("replay", "nothing.json"), "kharness: cannot read the replay file nothing.json: "),
    ],
)
def test_one_clear_line_and_nothing_left_behind(tmp_path: Path, args: tuple[str, ...], line: str) -> None:
    done = kharness(*args, cache=tmp_path)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("raised", "status", "last"),
    [
        (KeyboardInterrupt(), Exit.INTERRUPTED, "kharness: interrupted; "),
        (RuntimeError("boom"), Exit.UNJUDGED, "kharness: kharness itself failed: RuntimeError: boom"),
        (UsageError("no such tree", step="give one"), Exit.USAGE, "kharness: no such tree; give one"),
    ],
)
def test_every_end_has_its_status_and_last_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    raised: BaseException,
    status: Exit,
    last: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # of the report of a crash

    def conduct(plan: Plan) -> Exit:
        raise raised

    monkeypatch.setattr(runner, "conduct", conduct)
    monkeypatch.setattr("harness.cli.main.signal.signal", lambda number, handler: None)
    monkeypatch.setattr(sys, "argv", ["kharness", "run"])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == status
    assert capsys.readouterr().err.splitlines()[-1].startswith(last)


def test_an_empty_cache_is_listed_as_such(tmp_path: Path) -> None:
    done = kharness("cache", "list", cache=tmp_path)
    assert done.returncode == Exit.PASS, done.stderr
    assert done.stdout.strip()


def test_each_default_that_says_something_has_a_name() -> None:
    """One that is written twice is two some day: in harness/cli there are names, and what is empty."""
    commands = [
        node
        for file in sorted(Path(main.__file__).parent.glob("*.py"))
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef)
    ]
    assert {"run", "bisect", "shell", "import_releases"} <= {command.name for command in commands}
    for command in commands:
        for node in command.args.defaults:
            if not isinstance(node, ast.Attribute | ast.Name):
                assert not ast.literal_eval(node), command.name
