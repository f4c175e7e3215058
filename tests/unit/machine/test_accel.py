# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the accelerator's choice: what is remembered, for how long, and what a probe's end means."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from harness.core import definition
from harness.core.errors import Ended, How, MachineEnded, MachineLost
from harness.host.cache import Cache
from harness.host.toolchain import Toolchain
from harness.machine import accel
from harness.machine.accel import Accelerator, Trust
from harness.machine.qemu import Launch


class Tools:
    """A toolchain as far as the choice looks at it."""

    def __init__(self, name: str) -> None:
        self.id = name


class Host:
    """The host around the choice: its boot, its /dev/kvm, and a probe that counts how often it is asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = Cache(folder / "cache", 0)
        self.boot_id = folder / "boot_id"
        self.boot_id.write_text("boot-1\n")
        self.answer = Accelerator("kvm", "it spoke")
        self.probes = 0
        self.trust = Trust.SURE
        self.openable = True
        vm = definition.load("x86_64")
        here = replace(vm, host_arch=platform.machine())
        self.launch = Launch(here, vm.spec("default"), "tcg", Path("i"), Path("r"), {"tsc_khz": "0"})
        monkeypatch.setattr(accel, "BOOT_ID", self.boot_id)
        monkeypatch.setattr(accel, "_probe", self.probe)
        monkeypatch.setattr("harness.machine.accel.os.access", lambda path, mode: self.openable)

    def probe(self, launch: Launch, toolchain: Toolchain) -> tuple[Accelerator, Trust]:
        self.probes += 1
        return self.answer, self.trust

    def choose(self, toolchain: str = "t1") -> Accelerator:
        return accel.choose(self.launch, cast(Toolchain, Tools(toolchain)), self.cache)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_another_architecture_needs_no_probe(host: Host) -> None:
    host.launch = replace(host.launch, definition=replace(host.launch.definition, host_arch="vax"))
    assert host.choose() == Accelerator("tcg", f"the host is {platform.machine()}")
    assert host.probes == 0


def test_no_kvm_needs_no_probe_and_says_so(host: Host) -> None:
    host.openable = False
    chosen = host.choose()
    assert chosen.name == "tcg" and "/dev/kvm" in chosen.why
    assert host.probes == 0


def test_one_probe_a_boot(host: Host) -> None:
    assert host.choose() == host.choose() == host.answer
    assert host.probes == 1


@pytest.mark.parametrize("what", ["boot", "toolchain"])
def test_a_new_boot_or_qemu_is_probed_again(host: Host, what: str) -> None:
    host.choose()
    host.answer = Accelerator("tcg", "it broke")
    if what == "boot":
        host.boot_id.write_text("boot-2\n")
    assert host.choose("t2" if what == "toolchain" else "t1") == host.answer
    assert host.probes == 2


@pytest.mark.parametrize(("trust", "probes"), [(Trust.SURE, 1), (Trust.TWICE, 2), (Trust.NEVER, 4)])
def test_what_may_pass_is_not_remembered(host: Host, trust: Trust, probes: int) -> None:
    host.answer, host.trust = Accelerator("tcg", "it broke"), trust
    assert host.choose() == host.choose() == host.answer
    assert host.probes == probes


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"key": "boot-1 t1"}'])
def test_a_damaged_memory_is_no_memory(host: Host, text: str) -> None:
    host.choose()
    (memory,) = host.cache.folder("probes").iterdir()
    memory.write_text(text)
    assert host.choose() == host.answer
    assert host.probes == 2


PROBE = accel._probe  # before any fixture puts another in its place


class Guest:
    """A Vm whose console wait ends as given."""

    end: BaseException | None = None

    def __init__(self, launch: Launch, toolchain: Toolchain) -> None:
        assert launch.accelerator == "kvm"

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *args: object) -> None:
        return None

    def resume(self) -> None:
        return None

    def expect(self, patterns: Any, deadline: Any) -> int:
        if self.end is not None:
            raise self.end
        return 0


@pytest.mark.parametrize(
    ("end", "name", "says", "trust"),
    [
        (None, "kvm", "printed its first line", Trust.SURE),
        (MachineEnded("x", Ended(How.RUNNING), [], True), "tcg", "printed nothing", Trust.TWICE),
        (MachineEnded("x", Ended(How.KILLED, signal=6), [], False), "tcg", "ended", Trust.SURE),
        (MachineEnded("x", Ended(How.KILLED, signal=9), [], False), "tcg", "ended", Trust.NEVER),
        (MachineEnded("x", Ended(How.GUEST_PANIC), [], False), "tcg", "ended", Trust.NEVER),
        (MachineLost("kvm_buf_set_msrs: assertion failed"), "tcg", "kvm_buf_set_msrs", Trust.SURE),
    ],
    ids=["works", "silent", "dies", "killed", "panics", "refuses"],
)
def test_only_a_line_from_a_guest_proves_kvm(
    host: Host, monkeypatch: pytest.MonkeyPatch, end: BaseException | None, name: str, says: str, trust: Trust
) -> None:
    monkeypatch.setattr(accel, "Vm", Guest)
    monkeypatch.setattr(Guest, "end", end)
    chosen, trusted = PROBE(host.launch, cast(Toolchain, Tools("t")))
    assert chosen.name == name and says in chosen.why
    assert trusted is trust
