# SPDX-License-Identifier: GPL-2.0-only
"""Tests of private temporary folders: nobody else's, gone after use, swept after a SIGKILL, and nothing else is swept."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import HarnessError, UsageError
from harness.core.options import ShellOptions
from harness.core.plan import KernelRequest, Plan, SourceRequest
from harness.host import scratch
from harness.host.process import DiskFull
from harness.host.scratch import Scratch, private_folder, sweep
from harness.run import runner, shell

PLAN = Plan((KernelRequest(SourceRequest(version="7.2"), "x86_64"),), seed=1)


@pytest.fixture(autouse=True)
def tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(scratch, "FALLBACK", str(folder))
    yield folder


VICTIM = """
import sys, time
from harness.host.scratch import Scratch
one = Scratch(sys.argv[1])
(one.path / "console.log").write_bytes(bytes(3 << 20))
(one.path / "sub").mkdir(mode=0o500)
print(one.path, flush=True)
sys.stdin.readline()
"""


def killed(parent: Path) -> Path:
    """What a run that got SIGKILL leaves."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", VICTIM, str(parent)]
    with subprocess.Popen(argv, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        path = Path(child.stdout.readline().strip())
        sweep(print)
        assert path.is_dir()  # while it lives
        child.kill()
    return path


def test_it_is_private_and_gone_afterwards(tmpdir: Path) -> None:
    old = os.umask(0)
    try:
        with pytest.raises(KeyError), private_folder() as folder:
            assert folder.stat().st_mode & 0o7777 == folder.parent.stat().st_mode & 0o7777 == 0o700
            assert folder.parent.parent == tmpdir
            (folder / "x").mkdir(mode=0o500)
            raise KeyError
        with private_folder(0o755) as folder:
            assert folder.stat().st_mode & 0o7777 == folder.parent.stat().st_mode & 0o7777 == 0o755
    finally:
        os.umask(old)
    assert os.listdir(tmpdir) == []


def test_what_a_killed_run_left_is_swept_and_told(tmpdir: Path) -> None:
    one = killed(tmpdir)
    said: list[str] = []
    with private_folder() as mine:
        sweep(said.append)
        assert mine.is_dir()
    assert os.listdir(tmpdir) == []
    assert not one.exists()
    assert said == [f"removed 1 folder of runs that were killed from {tmpdir}: 3.0 MiB"]
    sweep(said.append)
    assert len(said) == 1


@pytest.mark.parametrize(
    "begin", [lambda: runner.conduct(PLAN), lambda: shell.Shell(PLAN, ShellOptions(command=("true",)))]
)
def test_a_run_and_a_shell_begin_with_a_sweep(
    tmpdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: Callable[[], object]
) -> None:
    def refuse(*arguments: object) -> None:
        raise UsageError("no further")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(runner, "Runner", refuse)
    killed(tmpdir)
    with contextlib.suppress(UsageError):
        begin()
    assert os.listdir(tmpdir) == []


def test_an_interrupt_while_it_is_made_leaves_nothing(tmpdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tempfile.mkdtemp

    def struck(*args: Any, **more: Any) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return str(made(*args, **more))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(tempfile, "mkdtemp", struck)
        with pytest.raises(KeyboardInterrupt), private_folder():
            pytest.fail("the block began")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(tmpdir.iterdir())


def test_close_twice(tmpdir: Path) -> None:
    one = Scratch()
    one.close()
    (one.path).mkdir(parents=True)
    one.close()
    assert one.path.is_dir()


def test_nothing_else_is_swept(tmpdir: Path, tmp_path: Path) -> None:
    """The folder may be shared with others, who may put anything there; and users call their results as they like."""
    precious = tmp_path / "precious"
    (precious / "t").mkdir(parents=True)
    (precious / "t/data").write_text("x")
    (precious / "lock").write_text("")
    (tmpdir / "kharness-abcdefgh").symlink_to(precious)
    results = tmpdir / "kharness-results1"
    (results / "t").mkdir(parents=True)
    (results / "lock").write_text("")
    (results / "report.html").write_text("x")
    mine = tmpdir / "kharness-verdict_"
    mine.mkdir()
    (mine / "report.html").write_text("x")
    linked = tmpdir / "kharness-linked00"
    linked.mkdir()
    (linked / "lock").symlink_to(precious / "t/data")
    (linked / "t").symlink_to(precious)
    inner = tmpdir / "kharness-inner000"
    inner.mkdir()
    (inner / "lock").write_text("")
    (inner / "t").symlink_to(precious)
    pipe = tmpdir / "kharness-pipe0000"
    pipe.mkdir()
    os.mkfifo(pipe / "lock")
    (tmpdir / "kharness-file0000").write_text("x")
    mixed = killed(tmpdir).parent
    (mixed / "theirs").write_text("x")
    said: list[str] = []
    sweep(said.append)
    assert (precious / "t/data").read_text() == "x" and (precious / "lock").exists()
    assert (tmpdir / "kharness-abcdefgh").is_symlink()
    assert (inner / "lock").exists()
    assert (results / "t").is_dir() and (mine / "report.html").exists() and linked.is_dir() and pipe.is_dir()
    assert (tmpdir / "kharness-file0000").exists()
    assert (mixed / "theirs").exists()
    assert (mixed / "t/console.log").exists()
    assert said == []


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder away, for which one has to be root")
def test_what_belongs_to_somebody_else_is_left(tmpdir: Path) -> None:
    path = killed(tmpdir)
    os.chown(path.parent, 65533, 65533)
    sweep(print)
    assert path.is_dir()


def test_a_maker_that_died_between_its_two_steps(tmpdir: Path) -> None:
    (tmpdir / "kharness-abcdefgh").mkdir(mode=0o700)
    sweep(print)
    assert os.listdir(tmpdir) == []


def test_a_sweep_at_any_moment_takes_no_folder_that_is_in_use(tmpdir: Path) -> None:
    over = threading.Event()
    broken: list[str] = []

    def sweeper() -> None:
        while not over.is_set():
            sweep(broken.append)

    threads = [threading.Thread(target=sweeper) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            with private_folder() as folder:
                (folder / "x").write_text("1")
                assert (folder / "x").read_text() == "1"
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert [line for line in broken if "stays" in line] == []


def test_folders_in_which_none_can_be_made(tmpdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HarnessError, match="cannot make a temporary folder in /proc/nowhere"):
        Scratch("/proc/nowhere")

    def full(path: object, *more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(os, "mkdir", full)
        Scratch()
    assert os.listdir(tmpdir) == []
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", None)
        patch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
        with pytest.raises(HarnessError, match="no folder for temporary files can be written"):
            Scratch()
        with pytest.raises(HarnessError, match="no folder for temporary files can be written"):
            sweep(print)


@pytest.mark.parametrize("name", ["with blanks", "it's", 'a "quote"', "gr\u00fcn", "a,b", "$HOME", "%s"])
def test_any_tmpdir_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", name)  # relative, too
    with private_folder() as folder:
        assert folder.is_absolute() and folder.parent.parent == tmp_path / name
    killed(tmp_path / name)
    sweep(print)
    assert os.listdir(name) == []
