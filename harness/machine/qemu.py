# SPDX-License-Identifier: GPL-2.0-only
"""The QEMU argv: a pure function of definition, shape, accelerator and paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.definition import Definition
from harness.core.records import MachineSpec

AGENT_PORT = "kharness.agent"
"""Name of the virtio-serial port that the guest's agent serves (vm/init links it into /dev)."""

SSH_PORT = "kharness.ssh"
"""Name of the port for SSH. A guest has no network: it can reach nothing, and its kernel needs no TCP/IP."""


@dataclass(frozen=True)
class Launch:
    """The parts of one machine. Paths are host paths; `facts` fills the command line's placeholders."""

    definition: Definition
    spec: MachineSpec
    accelerator: str
    image: Path
    initramfs: Path
    facts: Mapping[str, str]
    cmdline: str = ""


@dataclass(frozen=True)
class Sockets:
    """The sockets and files of one running machine, all in one private folder."""

    folder: Path

    @property
    def console(self) -> Path:
        return self.folder / "console.sock"

    @property
    def agent(self) -> Path:
        return self.folder / "agent.sock"

    @property
    def ssh(self) -> Path:
        return self.folder / "ssh.sock"

    @property
    def qmp(self) -> Path:
        return self.folder / "qmp.sock"

    @property
    def gdb(self) -> Path:
        return self.folder / "gdb.sock"


def command_line(launch: Launch) -> str:
    """The kernel command line."""
    spec = launch.spec
    parts = [launch.definition.qemu.cmdline.format_map(dict(launch.facts))]
    if spec.nodes > 1 and launch.definition.qemu.nodes:
        parts.append(launch.definition.qemu.nodes.format(nodes=spec.nodes))
    if spec.online_cpus < spec.possible_cpus:
        parts.append(f"maxcpus={spec.online_cpus}")
    if launch.cmdline:
        parts.append(launch.cmdline)
    return " ".join(" ".join(parts).split())


def _nodes(spec: MachineSpec) -> list[str]:
    """CPUs and memory distributed evenly over the nodes; nothing for a machine of one."""
    if spec.nodes == 1:
        return []
    cpus, memory = spec.possible_cpus // spec.nodes, spec.memory_mib // spec.nodes
    out: list[str] = []
    for node in range(spec.nodes):
        out += ["-object", f"memory-backend-ram,id=node{node},size={memory}M"]
        out += ["-numa", f"node,nodeid={node},cpus={node * cpus}-{(node + 1) * cpus - 1},memdev=node{node}"]
    return out


def hardware(launch: Launch) -> list[str]:
    """The part of the argv that decides what the guest sees, and with it whether a snapshot fits."""
    qemu, spec = launch.definition.qemu, launch.spec
    return [
        qemu.binary,
        "-M",
        qemu.machine,
        "-accel",
        launch.accelerator,
        "-cpu",
        qemu.cpu[launch.accelerator],
        "-smp",
        str(spec.possible_cpus),
        "-m",
        str(spec.memory_mib),
        *([] if qemu.nodes else _nodes(spec)),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        # A guest that reboots ends QEMU: so a panic (panic=-1) becomes an exit to wait for.
        "-no-reboot",
        "-device",
        f"virtio-serial-{qemu.virtio}",
        "-device",
        f"virtserialport,chardev=agent,name={AGENT_PORT}",
        "-device",
        f"virtserialport,chardev=ssh,name={SSH_PORT}",
        "-device",
        f"virtio-rng-{qemu.virtio}",
        "-serial",
        "chardev:console",
    ]


def argv(launch: Launch, sockets: Sockets, incoming: Path | None = None) -> list[str]:
    """The whole argv. The machine starts paused (-S), so that nothing is lost before we listen."""

    def socket(name: str, path: Path) -> list[str]:
        return ["-chardev", f"socket,id={name},path={path},server=on,wait=off"]

    return [
        *hardware(launch),
        *socket("console", sockets.console),
        *socket("agent", sockets.agent),
        *socket("ssh", sockets.ssh),
        *socket("qmp", sockets.qmp),
        "-mon",
        "chardev=qmp,mode=control",
        "-kernel",
        str(launch.image),
        "-initrd",
        str(launch.initramfs),
        "-append",
        command_line(launch),
        "-S",
        *(["-incoming", f"file:{incoming}"] if incoming else []),
    ]
