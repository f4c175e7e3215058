# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the saved guest: what its key depends on, what its log and shape must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from harness.core import definition
from harness.core.errors import KernelFailure
from harness.guest import pristine
from harness.guest.agent import Agent
from harness.guest.pristine import _cpus, check_shape, key, next_seq
from harness.host.toolchain import Toolchain
from harness.machine.qemu import Launch


class Tools:
    """A toolchain as far as a key looks at it."""

    def __init__(self, name: str) -> None:
        self.id = name


def keyed(launch: Launch, kernel: str = "kernel-1", tools: str = "tools-1", functions: tuple[str, ...] = ()) -> str:
    return key(launch, kernel, cast(Toolchain, Tools(tools)), functions)


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    (tmp_path / "initramfs").write_bytes(b"cpio")
    vm = definition.load("x86_64")
    return Launch(vm, vm.spec("default"), "tcg", tmp_path / "image", tmp_path / "initramfs", {"tsc_khz": "1"})


def test_the_same_ingredients_give_the_same_key(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"cpio")
    moved = replace(launch, image=Path("/another/image"), initramfs=tmp_path / "elsewhere")
    assert keyed(moved) == keyed(launch), "content makes the key, not where it lies"


CHANGES: dict[str, Callable[[Launch], Launch]] = {
    "accelerator": lambda it: replace(it, accelerator="kvm"),
    "possible CPUs": lambda it: replace(it, spec=replace(it.spec, possible_cpus=3, online_cpus=3)),
    "online CPUs": lambda it: replace(it, spec=replace(it.spec, online_cpus=1)),
    "memory": lambda it: replace(it, spec=replace(it.spec, memory_mib=2048)),
    "the user's command line": lambda it: replace(it, cmdline="nosmp"),
    "a fact of the host": lambda it: replace(it, facts={"tsc_khz": "2"}),
    "QEMU's machine type": lambda it: replace(
        it, definition=replace(it.definition, qemu=replace(it.definition.qemu, machine="pc"))
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_each_part_of_the_machine_changes_the_key(launch: Launch, what: str) -> None:
    assert keyed(CHANGES[what](launch)) != keyed(launch)


def test_kernel_toolchain_initramfs_format_and_functions_under_test_change_the_key(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [keyed(launch), keyed(launch, kernel="kernel-2"), keyed(launch, tools="tools-2")]
    launch.initramfs.write_bytes(b"cpi0")
    keys.append(keyed(launch))
    monkeypatch.setattr(pristine, "FORMAT", pristine.FORMAT + 1)
    keys.append(keyed(launch))
    keys.append(keyed(launch, functions=("create_dsq",)))
    assert len(set(keys)) == len(keys)


def test_parts_cannot_run_into_each_other(launch: Launch) -> None:
    assert keyed(launch, "kernel-1", "2tools") != keyed(launch, "kernel-12", "tools")


@pytest.mark.parametrize(
    ("text", "count"), [("0\n", 1), ("0-1\n", 2), ("0-1,4\n", 3), ("0,2,4-7\n", 6), ("0-511\n", 512)]
)
def test_cpu_lists(text: str, count: int) -> None:
    assert _cpus(text) == count


def test_the_next_sequence_number_follows_the_last_record() -> None:
    records = ["6,0,0,-;Linux version 7.2", "6,1,5,-,caller=T1;two\n SUBSYSTEM=x", "4,417,9,-;a;b,c"]
    assert next_seq(records) == 418
    assert next_seq([]) == 0


class Files:
    """An agent that can only read files."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def call(self, verb: str, /, *, record: bool, path: str) -> dict[str, str]:
        assert verb == "read" and not record
        return {"data": self.files[path]}


SHAPE = {
    "/sys/devices/system/cpu/possible": "0-1\n",
    "/sys/devices/system/cpu/online": "0-1\n",
    "/sys/devices/system/node/online": "0\n",
}


def test_the_shape_that_was_asked_for(launch: Launch) -> None:
    check_shape(cast(Agent, Files(SHAPE)), launch)


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("/sys/devices/system/cpu/possible", "0\n", "1 possible CPUs, 2 were asked for"),
        ("/sys/devices/system/cpu/online", "0-2\n", "3 online CPUs, 2 were asked for"),
        ("/sys/devices/system/node/online", "0-1\n", "2 NUMA nodes, 1 were asked for"),
    ],
)
def test_another_shape_is_the_kernels_failure_to_boot(launch: Launch, path: str, text: str, says: str) -> None:
    with pytest.raises(KernelFailure, match=says) as raised:
        check_shape(cast(Agent, Files({**SHAPE, path: text})), launch)
    assert raised.value.kind == "boot"
