# SPDX-License-Identifier: GPL-2.0-only
"""Owns a debugger on a machine: QEMU's stub on a Unix socket, and the line that connects gdb with it."""

from __future__ import annotations

import shlex
from pathlib import Path

from harness.definition import Definition
from harness.machine.qemu import Sockets

BUILT_IN = "/src"
"""Where the source lay for the compiler (harness.build.kbuild)."""


def stub(sockets: Sockets) -> list[str]:
    """More of the argv: gdb's remote protocol on a socket that only this user can reach, no TCP port."""
    return ["-chardev", f"socket,id=gdb,path={sockets.gdb},server=on,wait=off", "-gdb", "chardev:gdb"]


def command(definition: Definition, vmlinux: Path, source: Path, socket: Path) -> str:
    """The line that attaches gdb, which then stands at the machine's first instruction.

    The kernel is not unpacked and no page table is set up then: only a hardware breakpoint holds until start_kernel().
    """
    steps = [
        f"set architecture {definition.gdb.architecture}",
        f"set substitute-path {BUILT_IN} {source}",
        f"target remote {socket}",
        "hbreak start_kernel",
    ]
    program = "gdb" if definition.native else definition.gdb.cross
    return shlex.join([program, str(vmlinux), *(word for step in steps for word in ("-ex", step))])
