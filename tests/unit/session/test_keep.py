# SPDX-License-Identifier: GPL-2.0-only
"""Tests of keeping guests: which ones and when, what is said where there is nothing to keep, what a folder must hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core import definition
from harness.core.errors import Ended, How, MachineEnded, MachineLost, UsageError
from harness.core.records import SCHEMA, Kept, encode
from harness.guest import kept
from harness.guest.guest import Guest
from harness.host.toolchain import Toolchain
from harness.report.text import kept_line
from harness.session.keep import Keeper
from harness.session.session import Target
from harness.verdict import TestRow
from tests.unit.core.test_plan import SESSION
from tests.unit.session.test_context import WARN, made

TARGET = SESSION.targets[0]
TOOLS = cast(Toolchain, SimpleNamespace(kind="root", id="tools-1"))


class FakeVm:
    """Writes a state file, or fails to; knows whether the guest runs."""

    def __init__(self) -> None:
        self.fails: BaseException | None = None
        self.runs = True

    def save(self, path: Path) -> None:
        self.runs = False
        if self.fails is not None:
            raise self.fails
        path.write_bytes(b"state")

    def resume(self) -> None:
        self.runs = True


class FakeGuest:
    def __init__(self, folder: Path) -> None:
        self.vm = FakeVm()
        self.dead: BaseException | None = None
        for name in ("image", "initramfs"):
            (folder / name).write_text(name)
        self.pristine = SimpleNamespace(launch=SimpleNamespace(image=folder / "image", initramfs=folder / "initramfs"))
        self.agent = SimpleNamespace(call=self.call)

    def call(self, verb: str, **args: Any) -> None:
        if self.dead is not None:
            raise self.dead


@pytest.fixture
def fake(tmp_path: Path) -> FakeGuest:
    return FakeGuest(tmp_path)


def keep(fake: FakeGuest, out: Path) -> Kept:
    keeper = Keeper(replace(SESSION, out=str(out)), TOOLS)
    target = cast(Target, SimpleNamespace(name="tree-x86_64-default", saved=TARGET))
    return keeper.keep(cast(Guest, fake), target, "tests/a.py::test_x[1]", "it broke")


def test_a_kept_guest_is_whole_and_goes_on(fake: FakeGuest, tmp_path: Path) -> None:
    row = keep(fake, tmp_path)
    folder = Path(row.path)
    assert folder.parent == tmp_path / "kept"
    assert sorted(path.name for path in folder.iterdir()) == ["image", "initramfs", "kept.json", "state"]
    assert fake.vm.runs
    read = kept.read(folder)
    assert (read.test, read.why, read.target, read.tools) == ("tests/a.py::test_x[1]", "it broke", TARGET, "tools-1")
    guest = kept.restore(folder, read, TOOLS)
    assert guest.pristine.launch.image == folder / "image", "not the cache's, which may be pruned"
    assert guest.agent.scale == TARGET.machine.scale
    guest.vm.close()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MachineEnded("x", Ended(How.EXITED, status=0), [], expired=False), "it is dead"),
        (MachineEnded("x", Ended(How.RUNNING), [], expired=True), "it hangs"),
    ],
)
def test_a_guest_that_cannot_be_kept_is_said_to_be(
    fake: FakeGuest, tmp_path: Path, error: Exception, says: str
) -> None:
    fake.dead = error
    assert keep(fake, tmp_path) == Kept(why=says)
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("error", [MachineLost("no room", step="free space"), OSError(28, "No space left on device")])
def test_a_full_disk_costs_the_guest_and_not_the_test(fake: FakeGuest, tmp_path: Path, error: Exception) -> None:
    fake.vm.fails = error
    row = keep(fake, tmp_path)
    assert not row.path and ("free space" in row.why or "No space left" in row.why)
    assert fake.vm.runs, "it would be taken for one that hangs"
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("kept.json", None, "no kept guest in"),
        ("kept.json", "{", "not JSON"),
        ("kept.json", '{"schema": 99}', "schema 99"),
        ("kept.json", json.dumps({"schema": SCHEMA, "test": 5}), "KeptGuest"),
        ("state", None, "it has no state"),
    ],
)
def test_a_damaged_folder_is_refused(fake: FakeGuest, tmp_path: Path, name: str, text: str | None, says: str) -> None:
    folder = Path(keep(fake, tmp_path).path)
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(UsageError, match=says):
        kept.read(folder)


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        (("target", "kernel", "arch"), "/tmp/evil", "no machine definition"),
        (("target", "machine", "accelerator"), "tcg,plugin=/tmp/evil.so", "no accelerator"),
        (("target", "machine", "spec", "nodes"), 0, "0 nodes"),
        (("target", "machine", "spec", "possible_cpus"), 10**9, "CPUs"),
        (("target", "machine", "spec", "memory_mib"), -1, "MiB"),
        (("target", "facts"), {}, "does not say"),
    ],
)
def test_a_machine_that_nobody_has_is_refused(
    fake: FakeGuest, tmp_path: Path, where: tuple[str, ...], value: object, says: str
) -> None:
    """The folder may come from anybody."""
    folder = Path(keep(fake, tmp_path).path)
    data = json.loads((folder / "kept.json").read_text())
    *above, last = where
    part = data
    for name in above:
        part = part[name]
    part[last] = value
    (folder / "kept.json").write_text(json.dumps(data))
    if where == ("target", "facts") and "{" not in definition.load(TARGET.kernel.arch).qemu.cmdline:
        pytest.skip("nothing is measured for this architecture's command line")
    with pytest.raises(UsageError, match=says) as raised:
        kept.read(folder)
    assert "kept.json" in raised.value.what and raised.value.step


def test_a_kept_file_that_is_nested_too_deep(fake: FakeGuest, tmp_path: Path) -> None:
    folder = Path(keep(fake, tmp_path).path)
    (folder / "kept.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="not JSON"):
        kept.read(folder)


def test_another_qemu_cannot_restore_it(fake: FakeGuest, tmp_path: Path) -> None:
    folder = Path(keep(fake, tmp_path).path)
    other = cast(Toolchain, SimpleNamespace(kind="root", id="tools-2"))
    with pytest.raises(UsageError, match="tools-1, this is tools-2") as raised:
        kept.restore(folder, kept.read(folder), other)
    assert "--keep" in raised.value.step


class Recorder:
    """Stands for the keeper and remembers what the guest had been asked by then."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def keep(self, guest: Any, target: Any, test: str, why: str) -> Kept:
        self.calls.append((why, len(guest.asked)))
        return Kept(path="/kept/x")


def recorded(context: Any) -> Recorder:
    context.keeper = recorder = Recorder()
    return recorder


def test_a_failed_assertion_is_kept_before_the_guest_is_quietened() -> None:
    context, _ = made()
    recorder = recorded(context)
    assert context.conclude(AssertionError("wrong answer")).kept == Kept(path="/kept/x")
    assert recorder.calls == [("wrong answer", 0)]


def test_what_only_the_evidence_shows_is_kept_after() -> None:
    context, guest = made()
    guest.kmsg = WARN
    recorder = recorded(context)
    result = context.conclude(None)
    assert result.kept == Kept(path="/kept/x")
    assert len(recorder.calls) == 1 and recorder.calls[0][1] > 0


def test_a_pass_and_a_skip_are_not_kept() -> None:
    raised: list[Callable[[], BaseException | None]] = [lambda: None, lambda: pytest.skip.Exception("no")]
    for error in raised:
        context, _ = made()
        recorder = recorded(context)
        assert context.conclude(error()).kept is None
        assert not recorder.calls


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (None, ""),
        (Kept(path="/out/a b"), "kharness shell --kept '/out/a b'"),
        (Kept(why="it is dead"), "guest not kept: it is dead"),
    ],
)
def test_the_report_says_what_to_type_or_why_not(row: Kept | None, line: str) -> None:
    test = TestRow(id="t", arch="x86_64", kernel="k", machine="default", outcome=cast(Any, "fail"), kept=row)
    assert kept_line(test) == line
    assert encode(test)["kept"] == (None if row is None else {"path": row.path, "why": row.why})
