# SPDX-License-Identifier: GPL-2.0-only
"""Owns the guest image: agent, kernel module, BPF objects and the initramfs that holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.sandbox import Bind
from harness.host.toolchain import Toolchain
from harness.records import HarnessError, Kernel

ROOT = Path(__file__).resolve().parents[2]
BPF_FOLDER = ROOT / "bpf_progs"
VM_FOLDER = ROOT / "vm"
FORMAT = 1


@dataclass(frozen=True)
class UserspaceBuild:
    """How programs for the guest are compiled: compiler, multiarch triplet and BPF architecture."""

    arch: str
    cc: str
    triplet: str
    bpf: str
    cross_compile: str
    srcarch: str


def _hash(parts: Iterable[str], folders: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    for folder in folders:
        for path in [folder] if folder.is_file() else sorted(folder.iterdir()):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def programs(how: UserspaceBuild, toolchain: Toolchain, cache: Cache, progress: Progress) -> Path:
    """The folder with ``agent`` and ``*.bpf.o``; the same for every kernel of an architecture."""
    key = _hash([toolchain.id, how.arch, str(FORMAT)], [VM_FOLDER / "agent", BPF_FOLDER])

    def maker(folder: Path) -> None:
        with progress.phase(f"agent and BPF programs {how.arch}", f"programs-{how.arch}"):
            _compile(how, toolchain, folder)

    return cache.produce("programs", key, maker, what="agent and BPF programs", say=progress.say)[0]


def _compile(how: UserspaceBuild, toolchain: Toolchain, folder: Path) -> None:
    binds = [
        Bind(VM_FOLDER / "agent", "/agent"),
        Bind(BPF_FOLDER, "/bpf"),
        Bind(folder, "/out", writable=True),
    ]
    agent = (
        f"{how.cc} -O2 -g -Wall -Wextra -Werror -D_GNU_SOURCE -static -o /out/agent /agent/*.c "
        f"-lbpf -lelf -lz -lzstd && {how.cross_compile}strip /out/agent"
    )
    toolchain.run(["sh", "-c", agent], binds=binds, what="compiling the guest's agent")
    for source in sorted(BPF_FOLDER.glob("*.bpf.c")):
        compile_bpf(source, how, toolchain, folder)


def compile_bpf(source: Path, how: UserspaceBuild, toolchain: Toolchain, folder: Path) -> Path:
    """Compiles one BPF program to FOLDER/NAME.bpf.o. Raises HarnessError with clang's first error."""
    name = source.name.removesuffix(".c") + ".o"
    argv = [
        "clang-19", "-g", "-O2", "-target", "bpf", "-mcpu=v3", f"-D__TARGET_ARCH_{how.bpf}", "-Wall", "-Werror",
        "-I/bpf", f"-I/usr/include/{how.triplet}", "-c", f"/source/{source.name}", "-o", f"/out/{name}",
    ]  # fmt: skip
    binds = [Bind(BPF_FOLDER, "/bpf"), Bind(source.parent, "/source"), Bind(folder, "/out", writable=True)]
    done = toolchain.run(argv, binds=binds, what=f"compiling {source.name}", check=False)
    if done.status:
        errors = [line for line in done.stderr.splitlines() if " error: " in line]
        raise HarnessError(
            f"{source.name} does not compile: {errors[0] if errors else 'see below'}", detail=done.stderr
        )
    return folder / name


def module(
    how: UserspaceBuild, kernel: Kernel, toolchain: Toolchain, cache: Cache, progress: Progress
) -> Path:
    """kharness.ko, built against this kernel's ``extmod`` folder."""
    key = _hash([toolchain.id, kernel.id, str(FORMAT)], [VM_FOLDER / "module"])

    def maker(folder: Path) -> None:
        with progress.phase(f"guest module {how.arch}", f"module-{how.arch}"):
            script = (
                "cp /module/* /out && make -s -C /extmod M=/out modules && "
                f"{how.cross_compile}strip -g /out/kharness.ko"
            )
            env = {"ARCH": how.srcarch, "CROSS_COMPILE": how.cross_compile}
            binds = [
                Bind(Path(kernel.path) / "extmod", "/extmod"),
                Bind(VM_FOLDER / "module", "/module"),
                Bind(folder, "/out", writable=True),
            ]
            toolchain.run(
                ["sh", "-c", script], binds=binds, env=env, what="building the guest's kernel module"
            )

    return cache.produce("module", key, maker, what="guest module", say=progress.say)[0] / "kharness.ko"


# Put together inside the toolchain, where cpio, busybox and dropbear with their libraries are.
_ASSEMBLE = r"""
set -e
t=/tmp/tree
mkdir -p $t/bin $t/sbin $t/lib $t/lib64 $t/dev $t/proc $t/sys $t/tmp $t/etc $t/root $t/bpf $t/var/empty
cp /usr/bin/busybox $t/bin/busybox
cp /programs/agent $t/bin/agent
cp /programs/*.bpf.o $t/bpf/
cp /module/kharness.ko $t/lib/kharness.ko
cp /init $t/init
chmod 755 $t/init $t/bin/*
cp /usr/sbin/dropbear $t/sbin/dropbear
ldd /usr/sbin/dropbear | grep -o '/[^ ]*' | while read -r lib; do
    mkdir -p "$t$(dirname "$lib")"
    cp -L "$lib" "$t$lib"
done
echo 'root::0:0:root:/root:/bin/sh' > $t/etc/passwd
echo 'root:x:0:' > $t/etc/group
echo /bin/sh > $t/etc/shells
find $t -exec touch -h -d @0 {} +
cd $t
find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible --quiet | gzip -n -1 > /out/initramfs
"""


def initramfs(
    how: UserspaceBuild, kernel: Kernel, toolchain: Toolchain, cache: Cache, progress: Progress
) -> Path:
    """The initramfs for this kernel."""
    built = programs(how, toolchain, cache, progress)
    ko = module(how, kernel, toolchain, cache, progress)
    key = _hash([toolchain.id, str(FORMAT), _ASSEMBLE], [built / "agent", built, ko, VM_FOLDER / "init"])

    def maker(folder: Path) -> None:
        with progress.phase(f"initramfs {how.arch}", f"initramfs-{how.arch}"):
            binds = [
                Bind(built, "/programs"),
                Bind(ko.parent, "/module"),
                Bind(VM_FOLDER / "init", "/init"),
                Bind(folder, "/out", writable=True),
            ]
            toolchain.run(["sh", "-c", _ASSEMBLE], binds=binds, what="making the initramfs")

    return cache.produce("initramfs", key, maker, what="initramfs", say=progress.say)[0] / "initramfs"
