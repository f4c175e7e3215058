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
class Memory:
    """A folder whose files are the guest's memory, one for each name in :func:`backends`.

    Where `private` is set QEMU maps them copy-on-write and the files stay as they are; else the guest's memory is in
    the files alone.
    """

    folder: Path
    private: bool


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


def backends(launch: Launch) -> dict[str, int]:
    """The MiB of each memory backend, by its id: one for each NUMA node that QEMU makes."""
    spec = launch.spec
    if spec.nodes == 1 or launch.definition.qemu.nodes:
        return {"memory": spec.memory_mib}
    return {f"node{node}": spec.memory_mib // spec.nodes for node in range(spec.nodes)}


def _wired(launch: Launch) -> list[str]:
    """How the machine uses its backends: the only one as its memory, several with the CPUs distributed evenly."""
    machine, nodes = launch.definition.qemu.machine, backends(launch)
    if len(nodes) == 1:
        return ["-M", f"{machine},memory-backend={next(iter(nodes))}"]
    cpus = launch.spec.possible_cpus // len(nodes)
    out = ["-M", machine]
    for node, name in enumerate(nodes):
        out += ["-numa", f"node,nodeid={node},cpus={node * cpus}-{(node + 1) * cpus - 1},memdev={name}"]
    return out


def _memory(launch: Launch, memory: Memory | None) -> list[str]:
    """The backends themselves: anonymous memory where there are no files."""
    out: list[str] = []
    for name, size in backends(launch).items():
        if memory is None:
            out += ["-object", f"memory-backend-ram,id={name},size={size}M"]
        else:
            how = "share=off,readonly=on,rom=off" if memory.private else "share=on"
            out += ["-object", f"memory-backend-file,id={name},size={size}M,mem-path={memory.folder / name},{how}"]
    return out


def hardware(launch: Launch, *, sequential: bool = False) -> list[str]:
    """The part of the argv that decides what the guest sees, and with it whether a snapshot fits.

    `sequential` changes nothing of that: see :func:`argv`.
    """
    qemu, spec = launch.definition.qemu, launch.spec
    return [
        qemu.binary,
        *_wired(launch),
        "-accel",
        "tcg,thread=single" if sequential and launch.accelerator == "tcg" else launch.accelerator,
        "-cpu",
        qemu.cpu[launch.accelerator],
        "-smp",
        str(spec.possible_cpus),
        "-m",
        str(spec.memory_mib),
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


def argv(
    launch: Launch, sockets: Sockets, memory: Memory | None = None, *, incoming: bool = False, sequential: bool = False
) -> list[str]:
    """The whole argv. The machine starts paused (-S), so that nothing is lost before we listen.

    With `incoming` it waits to be told where its state comes from (QMP's migrate-incoming). With `sequential` TCG has
    one thread for all CPUs, which take turns (QEMU's docs/devel/multi-thread-tcg.rst); KVM knows nothing of the kind.
    """

    def socket(name: str, path: Path) -> list[str]:
        return ["-chardev", f"socket,id={name},path={path},server=on,wait=off"]

    return [
        *hardware(launch, sequential=sequential),
        *_memory(launch, memory),
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
        *(["-incoming", "defer"] if incoming else []),
    ]
