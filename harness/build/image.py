# SPDX-License-Identifier: GPL-2.0-only
"""Owns the guest image: agent, kernel module, BPF objects and the initramfs that holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.definition import Definition
from harness.errors import HarnessError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.sandbox import Bind
from harness.host.toolchain import Toolchain
from harness.records import Kernel

ROOT = Path(__file__).resolve().parents[2]
BPF_FOLDER = ROOT / "bpf_progs"
VM_FOLDER = ROOT / "vm"
FORMAT = 2
GUEST = "/guest"
"""Where the guest's Debian files lie inside the toolchain."""


@dataclass(frozen=True)
class GuestBuild:
    """What programs for a guest are made with: its definition, and `root`, Debian's files for its architecture."""

    definition: Definition
    root: Path

    @property
    def arch(self) -> str:
        return self.definition.arch

    @property
    def cross_compile(self) -> str:
        return self.definition.cross_compile

    @property
    def key(self) -> str:
        """The guest root's content, by its list of packages."""
        return hashlib.sha256((self.root.parent / "packages").read_bytes()).hexdigest()


def _hash(parts: Iterable[str], folders: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    for folder in folders:
        for path in [folder] if folder.is_file() else sorted(folder.iterdir()):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def programs(how: GuestBuild, toolchain: Toolchain, cache: Cache, progress: Progress) -> Path:
    """The folder with ``agent`` and ``*.bpf.o``; the same for every kernel of an architecture."""
    key = _hash([toolchain.id, how.key, how.arch, str(FORMAT)], [VM_FOLDER / "agent", BPF_FOLDER])

    def maker(folder: Path) -> None:
        with progress.phase(f"agent and BPF programs {how.arch}", f"programs-{how.arch}"):
            _compile(how, toolchain, folder)

    return cache.produce("programs", key, maker, what="agent and BPF programs", say=progress.say)[0]


def _compile(how: GuestBuild, toolchain: Toolchain, folder: Path) -> None:
    binds = [
        Bind(VM_FOLDER / "agent", "/agent"),
        Bind(how.root, GUEST),
        Bind(folder, "/out", writable=True),
    ]
    agent = (
        f"{how.cross_compile}gcc --sysroot={GUEST} -O2 -g -Wall -Wextra -Werror -D_GNU_SOURCE -static "
        f"-o /out/agent /agent/*.c -lbpf -lelf -lz -lzstd && {how.cross_compile}strip /out/agent"
    )
    toolchain.run(["sh", "-c", agent], binds=binds, what="compiling the guest's agent")
    for source in sorted(BPF_FOLDER.glob("*.bpf.c")):
        compile_bpf(source, how, toolchain, folder)


def compile_bpf(source: Path, how: GuestBuild, toolchain: Toolchain, folder: Path) -> Path:
    """Compiles one BPF program to FOLDER/NAME.bpf.o. Raises HarnessError with clang's first error."""
    name = source.name.removesuffix(".c") + ".o"
    userspace = how.definition.userspace
    argv = [
        "clang-19", "-g", "-O2", "-target", "bpf", "-mcpu=v3", f"-D__TARGET_ARCH_{userspace.bpf}", "-Wall", "-Werror",
        "-nostdlibinc", "-isystem", f"{GUEST}/usr/include", "-isystem", f"{GUEST}/usr/include/{userspace.triplet}",
        "-I/bpf", "-c", f"/source/{source.name}", "-o", f"/out/{name}",
    ]  # fmt: skip
    binds = [
        Bind(BPF_FOLDER, "/bpf"), Bind(source.parent, "/source"), Bind(how.root, GUEST),
        Bind(folder, "/out", writable=True),
    ]  # fmt: skip
    done = toolchain.run(argv, binds=binds, what=f"compiling {source.name}", check=False)
    if done.status:
        errors = [line for line in done.stderr.splitlines() if " error: " in line]
        raise HarnessError(
            f"{source.name} does not compile: {errors[0] if errors else 'see below'}", detail=done.stderr
        )
    return folder / name


def module(
    how: GuestBuild, kernel: Kernel, toolchain: Toolchain, cache: Cache, progress: Progress
) -> Path:
    """kharness.ko, built against this kernel's ``extmod`` folder."""
    key = _hash([toolchain.id, kernel.id, str(FORMAT)], [VM_FOLDER / "module"])

    def maker(folder: Path) -> None:
        with progress.phase(f"guest module {how.arch}", f"module-{how.arch}"):
            script = (
                "cp /module/* /out && make -s -C /extmod M=/out modules && "
                f"{how.cross_compile}strip -g /out/kharness.ko"
            )
            env = {"ARCH": how.definition.kernel.srcarch, "CROSS_COMPILE": how.cross_compile}
            binds = [
                Bind(Path(kernel.path) / "extmod", "/extmod"),
                Bind(VM_FOLDER / "module", "/module"),
                Bind(folder, "/out", writable=True),
            ]
            toolchain.run(
                ["sh", "-c", script], binds=binds, env=env, what="building the guest's kernel module"
            )

    return cache.produce("module", key, maker, what="guest module", say=progress.say)[0] / "kharness.ko"


# Put together inside the toolchain, where cpio and readelf are. The guest's programs may be of another architecture,
# so that ldd cannot run them: what they need is read from their ELF headers.
_ASSEMBLE = r"""
set -e
t=/tmp/tree
mkdir -p $t/bin $t/sbin $t/lib $t/dev $t/proc $t/sys $t/tmp $t/etc $t/root $t/bpf $t/var/empty
cp $GUEST/usr/bin/busybox $t/bin/busybox
cp /programs/agent $t/bin/agent
cp /programs/*.bpf.o $t/bpf/
cp /module/kharness.ko $t/lib/kharness.ko
cp /init $t/init
chmod 755 $t/init $t/bin/*
cp $GUEST/usr/sbin/dropbear $t/sbin/dropbear
take() { # a library and what it needs, into the place $2
    [ -e "$t$2" ] && return
    from=$(find $GUEST/usr/lib $GUEST/usr/lib64 $GUEST/lib64 -name "$1" 2>/dev/null | head -n 1)
    [ -n "$from" ] || { echo "the guest root has no $1" >&2; exit 1; }
    mkdir -p "$t$(dirname "$2")"
    cp -L "$from" "$t$2"
    needs "$t$2"
}
needs() {
    for lib in $(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
        take "$lib" "/lib/$TRIPLET/$lib"
    done
}
loader=$(readelf -l $t/sbin/dropbear | sed -n 's/.*program interpreter: \(.*\)\]/\1/p')
take "$(basename "$loader")" "$loader"
needs $t/sbin/dropbear
echo 'root::0:0:root:/root:/bin/sh' > $t/etc/passwd
echo 'root:x:0:' > $t/etc/group
echo /bin/sh > $t/etc/shells
find $t -exec touch -h -d @0 {} +
cd $t
find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible --quiet | gzip -n -1 > /out/initramfs
"""


def initramfs(
    how: GuestBuild, kernel: Kernel, toolchain: Toolchain, cache: Cache, progress: Progress
) -> Path:
    """The initramfs for this kernel."""
    built = programs(how, toolchain, cache, progress)
    ko = module(how, kernel, toolchain, cache, progress)
    key = _hash([toolchain.id, how.key, str(FORMAT), _ASSEMBLE], [built / "agent", built, ko, VM_FOLDER / "init"])

    def maker(folder: Path) -> None:
        with progress.phase(f"initramfs {how.arch}", f"initramfs-{how.arch}"):
            env = {"GUEST": GUEST, "TRIPLET": how.definition.userspace.triplet}
            binds = [
                Bind(how.root, GUEST),
                Bind(built, "/programs"),
                Bind(ko.parent, "/module"),
                Bind(VM_FOLDER / "init", "/init"),
                Bind(folder, "/out", writable=True),
            ]
            toolchain.run(["sh", "-c", _ASSEMBLE], binds=binds, env=env, what="making the initramfs")

    return cache.produce("initramfs", key, maker, what="initramfs", say=progress.say)[0] / "initramfs"


# The kernel unpacks archives that follow each other one after the other (Documentation/driver-api/early-userspace).
_ADD = r"""
set -e
cp -r /tmp/files /tmp/tree
cd /tmp/tree
find . -exec touch -h -d @0 {} +
{ cat /tmp/base; find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible --quiet | gzip -n -1; } > /out/initramfs
"""
USER_FOLDER = "/user"
"""Where the user's BPF objects lie in the guest: not beside ours, which are all loaded before the snapshot."""


def with_objects(base: Path, folder: Path, toolchain: Toolchain, cache: Cache, progress: Progress) -> Path:
    """The initramfs `base` and the BPF objects of `folder`, by their content."""
    files = {f"{USER_FOLDER}/{path.name}": path for path in sorted(folder.glob("*.bpf.o"))}
    return with_files(base, files, toolchain, cache, progress)


SELFTESTS_RUNNER = "/selftests/runner"
"""Where the runner of the tree's selftests lies in the guest."""


def with_selftests(
    base: Path, runner: Path, kernel: Kernel, toolchain: Toolchain, cache: Cache, progress: Progress
) -> Path:
    """The initramfs `base` and the runner of the tree's selftests.

    And the kernel's configuration, where libbpf looks for what a BPF program asks of it (tools/lib/bpf/libbpf.c,
    bpf_object__read_kconfig_file()): our kernels have no /proc/config.gz.
    """
    files = {SELFTESTS_RUNNER: runner, f"/boot/config-{kernel.release}": Path(kernel.config)}
    return with_files(base, files, toolchain, cache, progress)


def with_files(
    base: Path, files: Mapping[str, Path], toolchain: Toolchain, cache: Cache, progress: Progress
) -> Path:
    """The initramfs `base` and these files, by their places in the guest, with their permissions."""
    key = _hash([toolchain.id, _ADD, *files], [base, *files.values()])

    def maker(out: Path) -> None:
        binds = [Bind(base, "/tmp/base"), Bind(out, "/out", writable=True)]
        binds += [Bind(file, f"/tmp/files{place}") for place, file in files.items()]
        toolchain.run(["sh", "-c", _ADD], binds=binds, what="adding to the initramfs")

    return cache.produce("initramfs", key, maker, what="initramfs", say=progress.say)[0] / "initramfs"
