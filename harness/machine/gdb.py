# SPDX-License-Identifier: GPL-2.0-only
"""A debugger on a machine: QEMU's stub on a Unix socket, and the line that connects gdb with it."""

from __future__ import annotations

import shlex
from pathlib import Path

from harness.core.definition import Definition
from harness.machine.qemu import Sockets

BUILT_IN = "/src"
"""The folder of the source during compilation (harness.kbuild.kbuild)."""


def stub(sockets: Sockets) -> list[str]:
    """Further arguments: gdb's remote protocol on a socket that only this user can reach, no TCP port."""
    return ["-chardev", f"socket,id=gdb,path={sockets.gdb},server=on,wait=off", "-gdb", "chardev:gdb"]


def command(definition: Definition, vmlinux: Path, source: Path, socket: Path) -> str:
    """The command that attaches gdb at the machine's first instruction.

    The kernel is not unpacked and no page table is set up then: until start_kernel() only a hardware breakpoint works.
    """
    steps = [
        f"set architecture {definition.gdb.architecture}",
        f"set substitute-path {BUILT_IN} {source}",
        f"target remote {socket}",
        "hbreak start_kernel",
    ]
    program = "gdb" if definition.native else definition.gdb.cross
    return shlex.join([program, str(vmlinux), *(word for step in steps for word in ("-ex", step))])
