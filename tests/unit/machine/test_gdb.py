# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the line that attaches gdb and of the stub that it attaches to."""

from __future__ import annotations

import dataclasses
import platform
import shlex
from pathlib import Path

import pytest

from harness.core import definition
from harness.machine import gdb
from harness.machine.qemu import Sockets


@pytest.mark.parametrize(("arch", "name"), [("x86_64", "i386:x86-64"), ("arm64", "aarch64"), ("riscv64", "riscv:rv64")])
@pytest.mark.parametrize("native", [True, False])
def test_the_line_names_program_symbols_source_and_socket(arch: str, name: str, native: bool) -> None:
    known = dataclasses.replace(definition.load(arch), host_arch=platform.machine() if native else "vax")
    words = shlex.split(gdb.command(known, Path("/c/vm linux"), Path("/s"), Path("/t/gdb.sock")))
    assert words[:2] == ["gdb" if native else "gdb-multiarch", "/c/vm linux"]
    steps = [word for word in words[2:] if word != "-ex"]
    assert steps == [
        f"set architecture {name}",
        "set substitute-path /src /s",
        "target remote /t/gdb.sock",
        "hbreak start_kernel",
    ]
    assert words[2::2] == ["-ex"] * 4


def test_the_stub_is_no_tcp_port() -> None:
    argv = gdb.stub(Sockets(Path("/t")))
    assert "socket,id=gdb,path=/t/gdb.sock,server=on,wait=off" in argv
    assert argv[argv.index("-gdb") + 1] == "chardev:gdb"
