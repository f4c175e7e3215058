# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the QEMU argv and the kernel command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.core import definition
from harness.machine.qemu import AGENT_PORT, Launch, Memory, Sockets, argv, backends, command_line, hardware


@pytest.fixture
def launch() -> Launch:
    vm = definition.load("x86_64")
    return Launch(vm, vm.spec("default"), "tcg", Path("/k/image"), Path("/k/initramfs"), {"tsc_khz": "2450000"})


def after(command: list[str], option: str) -> list[str]:
    return [command[i + 1] for i, word in enumerate(command) if word == option]


def test_command_line_is_one_line_with_its_facts(launch: Launch) -> None:
    line = command_line(launch)
    assert "tsc_early_khz=2450000" in line.split()
    assert "\n" not in line and "  " not in line and "{" not in line
    assert "console=ttyS0" in line.split()
    assert any(word.startswith("earlycon") for word in line.split()), "a kernel that dies before its console says why"
    assert "kmemleak=on" in line.split()


def test_a_quiet_kernel_would_hide_its_warnings(launch: Launch) -> None:
    assert not {"quiet", "loglevel=3"} & set(command_line(launch).split())


def test_a_missing_fact_is_not_passed_over(launch: Launch) -> None:
    with pytest.raises(KeyError, match="tsc_khz"):
        command_line(replace(launch, facts={}))


def test_the_users_words_come_last_so_that_they_win(launch: Launch) -> None:
    assert command_line(replace(launch, cmdline="panic=0  nosmp")).endswith(" panic=0 nosmp")


@pytest.mark.parametrize(("online", "wanted"), [(2, True), (4, False)])
def test_fewer_cpus_online_than_possible(launch: Launch, online: int, wanted: bool) -> None:
    small = replace(launch, spec=replace(launch.spec, possible_cpus=4, online_cpus=online))
    assert (f"maxcpus={online}" in command_line(small).split()) is wanted
    assert after(hardware(small), "-smp") == ["4"]


def test_a_guest_that_reboots_ends_qemu_and_none_gets_out(launch: Launch) -> None:
    command = hardware(launch)
    assert "-no-reboot" in command
    assert "-nodefaults" in command
    assert not [word for word in command if "net" in word]


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
def test_the_cpu_fits_the_accelerator(launch: Launch, accelerator: str) -> None:
    command = hardware(replace(launch, accelerator=accelerator))
    assert after(command, "-accel") == [accelerator]
    assert after(command, "-cpu") == [launch.definition.qemu.cpu[accelerator]]


def test_the_machine_starts_paused_with_a_socket_for_each_channel(launch: Launch) -> None:
    sockets = Sockets(Path("/tmp/x"))
    command = argv(launch, sockets)
    assert "-S" in command and "-incoming" not in command
    paths = [word.partition("path=")[2].partition(",")[0] for word in after(command, "-chardev")]
    assert paths == [str(sockets.console), str(sockets.agent), str(sockets.ssh), str(sockets.qmp)]
    assert f"virtserialport,chardev=agent,name={AGENT_PORT}" in after(command, "-device")
    assert after(command, "-append") == [command_line(launch)]


def test_a_restored_machine_differs_only_in_where_its_state_comes_from(launch: Launch) -> None:
    sockets = Sockets(Path("/tmp/x"))
    cold, warm = argv(launch, sockets), argv(launch, sockets, incoming=True)
    assert warm == [*cold, "-incoming", "defer"]


def test_a_restored_machine_cannot_write_to_the_memory_that_was_saved(launch: Launch) -> None:
    """QEMU's documentation of memory-backend-file: readonly=on,rom=off maps a file privately and opens it for reading."""
    place, sockets = Path("/snap/memory"), Sockets(Path("/tmp/x"))
    saved = after(argv(launch, sockets, Memory(place, private=False)), "-object")
    restored = after(argv(launch, sockets, Memory(place, private=True), incoming=True), "-object")
    first = "memory-backend-file,id=memory,size=1024M,mem-path=/snap/memory/memory"
    assert saved == [f"{first},share=on"]
    assert restored == [f"{first},share=off,readonly=on,rom=off"]
    assert after(argv(launch, sockets), "-object") == ["memory-backend-ram,id=memory,size=1024M"]


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_every_backend_is_used_by_the_machine(launch: Launch, arch: str) -> None:
    vm = definition.load(arch)
    for name in ("default", "node2"):
        one = replace(launch, definition=vm, spec=vm.spec(name))
        used = [word.rpartition("memdev=")[2] for word in after(hardware(one), "-numa")]
        used += [word.partition("memory-backend=")[2] for word in after(hardware(one), "-M")]
        assert [word for word in used if word] == list(backends(one))
        assert sum(backends(one).values()) == one.spec.memory_mib


def test_no_path_of_a_run_decides_what_the_guest_sees(launch: Launch) -> None:
    assert not [word for word in hardware(launch) if "/" in word]


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_nodes_come_from_the_kernel_or_from_qemu_but_not_from_both(launch: Launch, arch: str) -> None:
    vm = definition.load(arch)
    two = replace(launch, definition=vm, spec=vm.spec("node2"))
    by_kernel = "numa=fake=2" in command_line(two).split()
    by_qemu = after(hardware(two), "-numa")
    assert by_kernel != bool(by_qemu)
    assert by_qemu in ([], ["node,nodeid=0,cpus=0-2,memdev=node0", "node,nodeid=1,cpus=3-5,memdev=node1"])
    one = replace(two, spec=vm.spec("default"))
    assert "numa" not in command_line(one) and "-numa" not in hardware(one)


def test_cpus_take_turns_on_the_same_hardware(launch: Launch) -> None:
    """A snapshot fits both, as its key shows."""
    sockets = Sockets(Path("/tmp/x"))
    turns, once = (argv(launch, sockets, incoming=True, sequential=how) for how in (True, False))
    assert after(turns, "-accel") == ["tcg,thread=single"]
    assert [word for word in turns if "thread" not in word] == [word for word in once if word != "tcg"]
    kvm = replace(launch, accelerator="kvm")
    assert argv(kvm, sockets, sequential=True) == argv(kvm, sockets)
