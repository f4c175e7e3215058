# SPDX-License-Identifier: GPL-2.0-only
"""What this machine can do: each tool with its version, what is needed, why, and how to get it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.definition import load
from harness.core.errors import HarnessError
from harness.core.options import DEFAULT_ARCHES
from harness.host.cache import Cache
from harness.host.process import run
from harness.host.protection import probe
from harness.host.rootfs import NEEDED, can_sudo, install_command, missing_packages
from harness.host.sandbox import device_group
from harness.host.toolchain import HostToolchain

GIB = 1 << 30
DISK_BYTES = 12 * GIB
"""Root 1.3 GB, source 2 GB, two builds of 2 GB each, ccache, snapshots."""
MEMORY_BYTES = 3 * GIB
KVM_API_VERSION = 0xAE00
"""KVM_GET_API_VERSION of include/uapi/linux/kvm.h."""


LEAST = {"mmdebstrap": "0.4", "bwrap": "0.8"}
"""Oldest versions; bubblewrap has had --disable-userns since 0.8 and --size since 0.7."""


@dataclass(frozen=True)
class Row:
    """One line of the doctor's table. To fix it, install Debian's `packages` and do `step`."""

    tool: str
    found: str
    needed: str
    ok: bool
    why: str
    step: str = ""
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Need:
    """A tool for ``--toolchain host``: its command, Debian packages, least version, and what for."""

    tool: str
    packages: tuple[str, ...]
    least: str
    why: str
    option: str = "--version"


HOST_NEEDS: tuple[Need, ...] = (
    Need("gcc", ("gcc",), "8.1", "compiles the kernel (scripts/min-tool-version.sh)"),
    Need("ld", ("binutils",), "2.30", "links the kernel (scripts/min-tool-version.sh)"),
    Need("make", ("make",), "4.0", "kbuild (Documentation/process/changes.rst)"),
    Need("flex", ("flex",), "2.5.35", "kconfig's lexer"),
    Need("bison", ("bison",), "2.0", "kconfig's parser"),
    Need("bc", ("bc",), "1.06.95", "kernel/time/timeconst.h", "--version"),
    Need("perl", ("perl",), "5.10", "kbuild's scripts", "-v"),
    Need("rsync", ("rsync",), "3.0", "kbuild's header installation"),
    Need("cpio", ("cpio",), "2.0", "the initramfs"),
    Need("ccache", ("ccache",), "4.0", "the second build in seconds"),
    Need("clang-19", ("clang-19",), "19", "BPF objects"),
    Need("llvm-symbolizer-19", ("llvm-19",), "19", "file and line of stack frames"),
    Need("pahole", ("pahole",), "1.26", "BTF: older ones get kfunc prototypes wrong since 7.0"),
    Need("bpftool", ("bpftool",), "7.0", "reads the kernel's BTF", "version"),
    Need("mmdebstrap", ("mmdebstrap",), "0.4", "the guests' programs, libraries and headers"),
)
"""And QEMU and a cross compiler for each architecture, as its vm/ARCH.yaml has them."""

HOST_FILES: tuple[tuple[str, str, str, str], ...] = (
    ("libelf.h", "include", "libelf-dev", "objtool, resolve_btfids"),
    ("zlib.h", "include", "zlib1g-dev", "resolve_btfids"),
    ("debian-archive-keyring.gpg", "share/keyrings", "debian-archive-keyring", "verifies the guests' packages"),
)
"""File, where below /usr, Debian package, what for."""


def check(toolchain_kind: str, cache: Cache, arches: Sequence[str] = DEFAULT_ARCHES) -> list[Row]:
    """What this host offers for ``root`` or ``host`` and kernels of `arches`; each Row says how to fix it."""
    rows = [
        _python(),
        _tool(Need("make", ("make",), "4.0", "starts everything")),
        _tool(Need("git", ("git",), "2.38", "snapshots of the tree (safe.directory by environment)")),
        _may_install(),
    ]
    rows += _root_rows() if toolchain_kind == "root" else _host_rows(arches)
    return [*rows, *_sandbox_rows(toolchain_kind, cache, arches), _kvm(), *_size_rows(cache)]


def require_host_tools(arches: Sequence[str]) -> None:
    """Refuse ``--toolchain host`` on a host that lacks what kernels of `arches` need, before anything is built.

    Raises HarnessError naming each tool, with the one command that installs them as its step.
    """
    lacking = [row for row in _host_rows(arches) if not row.ok]
    if not lacking:
        return
    wrong = ", ".join(
        f"{row.tool} is missing" if row.found == "missing" else f"{row.tool} is {row.found}, {row.needed} is needed"
        for row in lacking
    )
    packages = [package for row in lacking for package in row.packages]
    step = f"{install_command(packages)}, or leave --toolchain host away"
    raise HarnessError(f"this host's tools do not suffice: {wrong}", step=step)


def _host_rows(arches: Sequence[str]) -> list[Row]:
    """What ``--toolchain host`` needs: the tools, and for each architecture QEMU and, if foreign, its compiler."""
    needs = list(HOST_NEEDS)
    for known in map(load, arches):
        needs.append(Need(known.qemu.binary, known.packages.always, "8.2", f"{known.arch} guests"))
        if known.cross_compile:
            compiler = f"{known.cross_compile}gcc"
            needs.append(Need(compiler, known.packages.cross, "8.1", f"compiles for {known.arch}"))
    needs.append(Need("bwrap", ("bubblewrap",), LEAST["bwrap"], "the sandbox"))
    return [_tool(need) for need in needs] + [_file(*need) for need in HOST_FILES]


def parse_version(text: str) -> tuple[int, ...]:
    """The first dotted number of a version line, empty if there is none."""
    found = re.search(r"(?<![\w.:])v?(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def _python() -> Row:
    found = ".".join(map(str, sys.version_info[:3]))
    return Row("python", found, "3.11", sys.version_info >= (3, 11), "the harness itself")


def _tool(need: Need) -> Row:
    if shutil.which(need.tool) is None:
        return Row(need.tool, "missing", need.least, False, need.why, packages=need.packages)
    done = run([need.tool, need.option], what=f"asking {need.tool} its version", deadline=20, check=False)
    version = parse_version(done.stdout + done.stderr)
    if not version:
        return Row(need.tool, "version unknown", need.least, False, need.why, f"see '{need.tool} {need.option}'")
    ok = version >= tuple(int(part) for part in need.least.split("."))
    found = ".".join(map(str, version))
    if ok:
        return Row(need.tool, found, need.least, True, need.why)
    step = f"where {' '.join(need.packages)} is no newer than {found}: leave --toolchain host away"
    return Row(need.tool, found, need.least, False, need.why, step, need.packages)


def _file(name: str, below: str, package: str, why: str) -> Row:
    place = Path("/usr") / below
    found = next((path for path in (place / name, *place.glob(f"*/{name}")) if path.exists()), None)
    if found is not None:
        return Row(name, str(found), "present", True, why)
    return Row(name, "missing", "present", False, why, packages=(package,))


def _may_install() -> Row:
    why = "installs mmdebstrap and bubblewrap by itself"
    if os.geteuid() == 0:
        return Row("root or sudo", "root", "either", True, why)
    if can_sudo():
        return Row("root or sudo", "sudo without a password", "either", True, why)
    lacking = tuple(missing_packages())
    return Row("root or sudo", "neither", "either", not lacking, why, packages=lacking)


def _root_rows() -> list[Row]:
    rows = [_tool(Need(command, (package,), LEAST[command], "the toolchain root")) for command, package in NEEDED]
    apt = shutil.which("apt-get")
    rows.append(
        Row(
            "apt-get",
            apt or "missing",
            "present",
            apt is not None,
            "installs what the host lacks",
            "" if apt else "install mmdebstrap and bubblewrap by hand",
        )
    )
    if "debian-archive-keyring" in missing_packages():
        name, why = "debian-archive-keyring", "verifies the root's packages"
        rows.append(Row(name, "missing", "present", False, why, packages=(name,)))
    return rows


def _sandbox_rows(kind: str, cache: Cache, arches: Sequence[str]) -> list[Row]:
    """The sandbox's promises, tested by the same probe as in each run, in a sandbox of the host's own tools."""
    why = "what builds and guests run in"
    if shutil.which("bwrap") is None:
        return []  # it has a row of its own, with its package
    try:
        tools = HostToolchain(cache, arches[0])
        binaries = [binary for binary in (load(arch).qemu.binary for arch in arches) if shutil.which(binary)]
        found = probe(tools, [(tools, binary) for binary in binaries] if kind == "host" else ())
    except HarnessError as error:
        return [Row("sandbox", error.what, "possible", False, why, error.step)]
    rows = [Row("sandbox", found.how, "possible", True, why)]
    rows += [Row("sandbox", held, "held", True, why) for held in found.held]
    step = "for the sandbox: a kernel with all namespaces and seccomp filters, bubblewrap 0.8 or newer, libseccomp2"
    return rows + [Row("sandbox", f"not: {lacking}", "held", False, why, step) for lacking in found.lacking]


def _kvm() -> Row:
    why = "guests run some 10 times faster; only a probe guest proves it, else TCG is used"
    path = Path("/dev/kvm")
    if not path.exists():
        return Row("/dev/kvm", "missing", "optional", True, why)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return Row("/dev/kvm", f"cannot be opened: {error.strerror}", "optional", True, why)
    try:
        version = fcntl.ioctl(descriptor, KVM_API_VERSION)
    except OSError as error:
        return Row("/dev/kvm", f"opens, then: {error.strerror}", "optional", True, why)
    finally:
        os.close(descriptor)
    state = path.stat()
    if os.geteuid() == 0 and device_group(path) is None and state.st_mode & 0o006 != 0o006:
        found = f"only root may open it, and guests do not run as root: chmod 660 {path}; chgrp kvm {path}"
        return Row("/dev/kvm", found, "optional", True, why)
    return Row("/dev/kvm", f"opens, API {version}", "optional", True, why)


def gib(count: int) -> str:
    """Bytes as GiB."""
    return f"{count / GIB:.1f} GiB"


def _size_rows(cache: Cache) -> list[Row]:
    space = os.statvfs(cache.root)
    free = space.f_bavail * space.f_frsize
    cached = sum(entry.size for entry in cache.entries())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    return [
        Row(
            "disk space",
            f"{gib(free)} free, {gib(cached)} cached",
            gib(DISK_BYTES),
            free + cached >= DISK_BYTES,
            f"the cache in {cache.root}",
            "" if free + cached >= DISK_BYTES else "free space or run 'kharness cache prune'",
        ),
        Row(
            "memory",
            gib(memory),
            gib(MEMORY_BYTES),
            memory >= MEMORY_BYTES,
            "the link, and guests",
            "" if memory >= MEMORY_BYTES else "use a larger machine",
        ),
        Row("cores", str(cores), "1", True, "2 build the kernel in about 7 minutes"),
    ]
