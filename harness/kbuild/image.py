# SPDX-License-Identifier: GPL-2.0-only
"""The guest image: agent, kernel module, BPF objects and the initramfs that holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.definition import Definition
from harness.core.errors import HarnessError, UsageError
from harness.core.records import Kernel
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.sandbox import Bind
from harness.host.toolchain import Toolchain
from harness.kbuild.products import built_by, out_folder, release_of

ROOT = Path(__file__).resolve().parents[2]
OBSERVERS = ROOT / "bpf_progs" / "observers"
"""The engine's own BPF programs."""

VM_FOLDER = ROOT / "vm"
FORMAT = 2
GUEST = "/guest"
"""The folder of the guest's Debian files inside the toolchain."""


@dataclass(frozen=True)
class GuestBuild:
    """The inputs of programs for a guest: its definition, and `root`, Debian's files for its architecture."""

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


def programs(how: GuestBuild, suite: Path | None, toolchain: Toolchain, cache: Cache, progress: Progress) -> Path:
    """The folder with ``agent`` and ``*.bpf.o``, ours and those of `suite`; the same for every kernel of an
    architecture.

    Raises UsageError for two programs of one name, and for one of the suite's that does not compile.
    """
    folders = [OBSERVERS, *([suite] if suite else [])]
    sources = [source for folder in folders for source in sorted(folder.glob("*.bpf.c"))]
    names = [source.name for source in sources]
    twice = next((source for source in sources if names.count(source.name) > 1 and source.parent == suite), None)
    if twice:
        raise UsageError(f"{twice}: the engine has a BPF program of this name", step="rename it")
    key = _hash([toolchain.id, how.key, how.arch, str(FORMAT)], [VM_FOLDER / "agent", *folders])

    def maker(folder: Path) -> None:
        with progress.phase(f"agent and BPF programs {how.arch}", f"programs-{how.arch}"):
            with out_folder(folder, "agent", *(_object(source) for source in sources)) as out:
                _compile(how, sources, toolchain, out)

    return cache.produce("programs", key, maker, what="agent and BPF programs", say=progress.say)[0]


def _compile(how: GuestBuild, sources: Sequence[Path], toolchain: Toolchain, folder: Path) -> None:
    binds = [Bind(VM_FOLDER / "agent", "/agent"), Bind(how.root, GUEST), Bind(folder, "/out", writable=True)]
    agent = (
        f"{how.cross_compile}gcc --sysroot={GUEST} -O2 -g -Wall -Wextra -Werror -D_GNU_SOURCE -static "
        f"-o /out/agent /agent/*.c -lbpf -lelf -lz -lzstd && {how.cross_compile}strip /out/agent"
    )
    toolchain.run(["sh", "-c", agent], binds=binds, what="compiling the guest's agent")
    for source in sources:
        compile_bpf(source, how, toolchain, folder)


def _object(source: Path) -> str:
    return source.name.removesuffix(".c") + ".o"


def compile_bpf(source: Path, how: GuestBuild, toolchain: Toolchain, folder: Path) -> Path:
    """Compiles one BPF program to FOLDER/NAME.bpf.o, with the observers' headers and those beside it.

    Raises HarnessError with clang's first error; UsageError where the program is not of this checkout.
    """
    name = _object(source)
    userspace = how.definition.userspace
    argv = [
        "clang-19",
        "-g",
        "-O2",
        "-target",
        "bpf",
        "-mcpu=v3",
        f"-D__TARGET_ARCH_{userspace.bpf}",
        "-Wall",
        "-Werror",
        "-nostdlibinc",
        "-isystem",
        f"{GUEST}/usr/include",
        "-isystem",
        f"{GUEST}/usr/include/{userspace.triplet}",
        "-I/bpf",
        "-c",
        f"/source/{source.name}",
        "-o",
        f"/out/{name}",
    ]
    binds = [
        Bind(OBSERVERS, "/bpf"),
        Bind(source.parent, "/source"),
        Bind(how.root, GUEST),
        Bind(folder, "/out", writable=True),
    ]
    done = toolchain.run(argv, binds=binds, what=f"compiling {source.name}", check=False)
    if done.status:
        errors = [line for line in done.stderr.splitlines() if " error: " in line]
        what = f"{source.name} does not compile: {errors[0] if errors else 'see below'}"
        if not source.is_relative_to(ROOT):
            raise UsageError(f"{source.parent}: {what}", step="correct the suite's BPF program", detail=done.stderr)
        raise HarnessError(what, detail=done.stderr)
    return folder / name


MODULE = "kharness.ko"


def module(how: GuestBuild, kernel: Kernel, toolchain: Toolchain, cache: Cache, progress: Progress) -> Path:
    """kharness.ko, built against this kernel's ``extmod`` folder."""
    key = _hash([toolchain.id, kernel.id, str(FORMAT)], [VM_FOLDER / "module"])

    def maker(folder: Path) -> None:
        what = f"building the guest's kernel module {how.arch}"
        phase = progress.phase(f"guest module {how.arch}", f"module-{how.arch}")
        with phase, built_by(what), out_folder(folder, MODULE) as out:
            script = (
                f"cp /module/* /out && make -s -C /extmod M=/out modules && {how.cross_compile}strip -g /out/{MODULE}"
            )
            env = {"ARCH": how.definition.kernel.srcarch, "CROSS_COMPILE": how.cross_compile}
            binds = [
                Bind(Path(kernel.path) / "extmod", "/extmod"),
                Bind(VM_FOLDER / "module", "/module"),
                Bind(out, "/out", writable=True),
            ]
            toolchain.run(["sh", "-c", script], binds=binds, env=env, what=what)

    return cache.produce("module", key, maker, what="guest module", say=progress.say)[0] / MODULE


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
    how: GuestBuild, kernel: Kernel, suite: Path | None, toolchain: Toolchain, cache: Cache, progress: Progress
) -> Path:
    """The initramfs for this kernel, with the BPF programs of `suite`, a folder."""
    built = programs(how, suite, toolchain, cache, progress)
    ko = module(how, kernel, toolchain, cache, progress)
    key = _hash([toolchain.id, how.key, str(FORMAT), _ASSEMBLE], [built / "agent", built, ko, VM_FOLDER / "init"])

    def maker(folder: Path) -> None:
        phase = progress.phase(f"initramfs {how.arch}", f"initramfs-{how.arch}")
        with phase, out_folder(folder, "initramfs") as out:
            env = {"GUEST": GUEST, "TRIPLET": how.definition.userspace.triplet}
            binds = [
                Bind(how.root, GUEST),
                Bind(built, "/programs"),
                Bind(ko.parent, "/module"),
                Bind(VM_FOLDER / "init", "/init"),
                Bind(out, "/out", writable=True),
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
"""The guest's folder of the user's BPF objects: not that of ours, which are all loaded before the snapshot."""


def with_objects(base: Path, folder: Path, toolchain: Toolchain, cache: Cache, progress: Progress) -> Path:
    """The initramfs `base` and the BPF objects of `folder`, by their content."""
    files = {f"{USER_FOLDER}/{path.name}": path for path in sorted(folder.glob("*.bpf.o"))}
    return with_files(base, files, toolchain, cache, progress)


SELFTESTS_RUNNER = "/selftests/runner"
"""The guest's folder of the runner of the tree's selftests."""


def with_selftests(
    base: Path, runner: Path, kernel: Kernel, toolchain: Toolchain, cache: Cache, progress: Progress
) -> Path:
    """The initramfs `base` and the runner of the tree's selftests.

    It also gets the kernel's configuration, where libbpf looks up a BPF program's externs (tools/lib/bpf/libbpf.c,
    bpf_object__read_kconfig_file()): our kernels have no /proc/config.gz. Raises KernelFailure for a kernel whose
    release is no file name.
    """
    release = release_of(kernel.release, kernel.id)
    files = {SELFTESTS_RUNNER: runner, f"/boot/config-{release}": Path(kernel.config)}
    return with_files(base, files, toolchain, cache, progress)


def with_files(base: Path, files: Mapping[str, Path], toolchain: Toolchain, cache: Cache, progress: Progress) -> Path:
    """The initramfs `base` and these files, by their paths in the guest, with their permissions."""
    key = _hash([toolchain.id, _ADD, *files], [base, *files.values()])

    def maker(folder: Path) -> None:
        with out_folder(folder, "initramfs") as out:
            binds = [Bind(base, "/tmp/base"), Bind(out, "/out", writable=True)]
            binds += [Bind(file, f"/tmp/files{place}") for place, file in files.items()]
            toolchain.run(["sh", "-c", _ADD], binds=binds, what="adding to the initramfs")

    return cache.produce("initramfs", key, maker, what="initramfs", say=progress.say)[0] / "initramfs"
