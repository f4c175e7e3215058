# SPDX-License-Identifier: GPL-2.0-only
"""The toolchain: where compilers, QEMU and apt run, and under which hash they are known."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from harness.core.errors import HarnessError, UsageError
from harness.core.options import DEFAULT_ARCHES
from harness.host import access, rootfs
from harness.host.cache import Cache
from harness.host.process import DiskFull, Done, run
from harness.host.progress import Progress
from harness.host.sandbox import GIB, TMPFS_BYTES, Bind, Command, Mode, Mount, enter, pick_mode

KINDS = ("root", "host")

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")
"""And in capitals: seen inside only with the network, as they may contain a password."""

HOST_TOOLS = ("gcc", "ld", "make", "clang", "llvm-strip", "pahole", "bpftool", "flex", "bison", "bc", "perl", "python3")
"""The host's tools that affect what is built. With QEMU and cross compilers, their versions are the toolchain's id."""

SYSTEM = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
"""Folders of a root that tools need; homes, mail and logs are not shown."""
ELSEWHERE = ("opt", "nix", "gnu")
"""Further such folders of a host."""
DPKG = ("var/lib/dpkg", "var/lib/apt")
"""What apt reads of a root."""

KVM = Path("/dev/kvm")
RESOLVER = Path("/etc/resolv.conf")


class Toolchain(Protocol):
    """Where tools run. `kind` is ``root`` or ``host``; `id` is a hash of the tools' versions."""

    kind: str
    id: str

    @property
    def sandbox(self) -> str:
        """How its sandbox is entered on this host, in words."""

    def argv(
        self,
        argv: Sequence[str],
        *,
        binds: Sequence[Bind] = (),
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        network: bool = False,
        kvm: bool = False,
    ) -> list[str]:
        """The host argv that runs `argv` in the sandbox (:mod:`harness.host.sandbox`); for our own children only.

        Inside are only the toolchain, `binds`, and private /tmp, /run and /dev; with `kvm` /dev/kvm, where there is
        one, with `network` the host's network and proxies. `cwd` is a path inside (default /). The environment is clean
        but for PATH, HOME=/tmp, LC_ALL and `env`. As root, folders that are bound writable are given to the sandbox's
        user id, and what it makes there is that one's. Raises HarnessError for a bind that is not there.
        """

    def run(
        self,
        argv: Sequence[str],
        *,
        what: str,
        binds: Sequence[Bind] = (),
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        deadline: float | None = None,
        on_line: Callable[[str], None] | None = None,
        check: bool = True,
        input: str | None = None,
        network: bool = False,
    ) -> Done:
        """Runs `argv` inside to its end; see :func:`harness.host.process.run` for what is raised."""


class _Entered:
    """What both toolchains share: a view of the file system, and how it is entered."""

    kind = ""
    path = "/usr/sbin:/usr/bin:/sbin:/bin"

    def __init__(self, view: Sequence[Mount], cache: Cache) -> None:
        self._view = (Mount("tmpfs", "/"), *view, *(Mount(how, f"/{how}") for how in ("dev", "proc")))
        self._view += (Mount("tmpfs", "/tmp"), Mount("tmpfs", "/run"))
        self._readable = access.Readable(cache)
        self.mode: Mode = pick_mode(self._view, self._environment(None))
        self.id = ""

    @property
    def sandbox(self) -> str:
        return self.mode.name

    def argv(
        self,
        argv: Sequence[str],
        *,
        binds: Sequence[Bind] = (),
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        network: bool = False,
        kvm: bool = False,
    ) -> list[str]:
        mounts = [mount for bind in binds for mount in self._bound(bind)]
        if network and RESOLVER.exists():  # it may be a link into /run, which is private inside
            mounts.append(Mount("ro-bind", str(RESOLVER), str(RESOLVER.resolve())))
        command = Command(
            argv,
            str(cwd or "/"),
            self._environment(env),
            network,
            device=KVM if kvm and KVM.exists() else None,
            free=[name for lower in PROXIES for name in (lower, lower.upper())] if network else (),
        )
        return enter(self.mode, [*self._view, *mounts], command)

    def _bound(self, bind: Bind) -> list[Mount]:
        host = bind.host.absolute()
        if not host.exists():
            raise HarnessError(f"{bind.host} does not exist", step="it may have been pruned: run again")
        if bind.writable:
            if self.mode.switches:
                access.give(host)
            return [Mount("bind", bind.target, str(host))]
        if not self.mode.switches:
            return [Mount("ro-bind", bind.target, str(host))]
        return [Mount("ro-bind", inside, str(path)) for path, inside in self._readable.shown(host, bind.target)]

    def run(
        self,
        argv: Sequence[str],
        *,
        what: str,
        binds: Sequence[Bind] = (),
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        deadline: float | None = None,
        on_line: Callable[[str], None] | None = None,
        check: bool = True,
        input: str | None = None,
        network: bool = False,
    ) -> Done:
        try:
            return run(
                self.argv(argv, binds=binds, cwd=cwd, env=env, network=network),
                what=what,
                deadline=deadline,
                on_line=on_line,
                check=check,
                input=input,
            )
        except DiskFull as error:
            places = [bind.host for bind in binds if bind.writable]
            if all(_free(place) > TMPFS_BYTES for place in places):
                full = f"no space left on device in the sandbox's own /tmp, which holds {TMPFS_BYTES / GIB:.1f} GiB"
                step = "the disk is not full: see what was written there"
                raise HarnessError(f"{what}: {full}", step=step, detail=error.detail) from error
            raise

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return {"PATH": self.path, "HOME": "/tmp", "LC_ALL": "C.UTF-8", **(env or {})}


def _free(place: Path) -> int:
    space = os.statvfs(place)
    return space.f_bavail * space.f_frsize


def _shown(root: Path, names: Sequence[str]) -> list[Mount]:
    """Folders of a root, read-only; links as they are."""
    found = []
    for name in names:
        path, inside = root / name, f"/{name}"
        if path.is_symlink():
            found.append(Mount("symlink", inside, os.readlink(path)))
        elif path.is_dir():
            found.append(Mount("ro-bind", inside, str(path)))
    return found


class RootToolchain(_Entered):
    """A Debian root made by mmdebstrap: `folder` holds ``root/`` and ``packages``. Nothing in it is ever written."""

    kind = "root"

    def __init__(self, folder: Path, cache: Cache) -> None:
        self.root = folder / "root"
        super().__init__(_shown(self.root, [*SYSTEM, *DPKG]), cache)
        self.id = hashlib.sha256((folder / "packages").read_bytes()).hexdigest()[:16]


class HostToolchain(_Entered):
    """The developer's own tools, read-only, for kernels of `arch`; the host's other folders are not visible."""

    kind = "host"

    def __init__(self, cache: Cache, arch: str = DEFAULT_ARCHES[0]) -> None:
        self.path = os.environ.get("PATH", self.path)
        super().__init__([*_shown(Path("/"), [*SYSTEM, *ELSEWHERE, *DPKG]), *_elsewhere(self.path)], cache)
        self.id = hashlib.sha256("\n".join(self._versions(arch)).encode()).hexdigest()[:16]

    def _versions(self, arch: str) -> list[str]:
        """One line per tool; missing ones are left out (doctor reports them)."""
        served = rootfs.served_with(arch)
        cross = [f"{one.cross_compile}gcc" for one in served if one.cross_compile]
        tools = [*HOST_TOOLS, *(one.qemu.binary for one in served), "ccache", *cross, "busybox"]
        version = '$("$t" --version 2>&1 | head -n1)'
        probe = f'for t in "$@"; do command -v "$t" >/dev/null && echo "$t: {version}"; done; :'
        return self.run(["sh", "-c", probe, "sh", *tools], what="asking tools their versions").stdout.splitlines()


def _elsewhere(path: str) -> list[Mount]:
    """The folders of a PATH outside the system's, as under /home; for PREFIX/bin the prefix, with its libraries, unless
    that is a home or contains a user's configuration."""
    found: dict[str, None] = {}
    home = Path.home()
    for name in path.split(":"):
        folder = Path(name)
        if not folder.is_absolute() or not folder.is_dir() or folder.parts[1:2] == ():
            continue
        if {folder.parts[1], folder.resolve().parts[1]} <= {*SYSTEM, *ELSEWHERE}:
            continue
        prefix = folder.parent
        whole = prefix.parent not in (home.parent, Path("/")) and prefix.name != ".local"
        found[str(prefix if whole else folder)] = None
    return [Mount("ro-bind", place, place) for place in found]


def open_toolchain(kind: str, arch: str, cache: Cache, progress: Progress) -> Toolchain:
    """The toolchain for kernels of `arch`, made first if need be (about a minute and 1.3 GB for ``root``).

    The architectures of a run that names none share one; any other has one of its own.

    Raises UsageError for another kind, HarnessError (whose step is the command to type) when the host
    lacks something that we may not install.
    """
    if kind == "host":
        return HostToolchain(cache, arch)
    if kind != "root":
        raise UsageError(f"no toolchain {kind!r}", step=f"use one of {', '.join(KINDS)}")
    made = rootfs.recipe(arch)

    def maker(folder: Path) -> None:
        with progress.phase(f"toolchain root (Debian {made.suite})", "toolchain") as phase:
            rootfs.make(folder, made, lambda line: phase.step(note=line[:60]), progress.say)

    if rootfs.missing_packages():
        rootfs.install_missing(progress.say)
    folder, _ = cache.produce("toolchain", made.key, maker, what="toolchain root", say=progress.say)
    return RootToolchain(folder, cache)


def guest_root(debian_arch: str, cache: Cache, progress: Progress) -> Path:
    """Debian's headers, static libraries and programs for guests of an architecture, only unpacked (150 MB).

    Raises HarnessError when the host lacks something that we may not install, or the archive does not answer.
    """
    made = rootfs.guest_recipe(debian_arch)

    def maker(folder: Path) -> None:
        with progress.phase(f"guest root (Debian {made.suite} {debian_arch})", f"guest-root-{debian_arch}") as phase:
            rootfs.make(folder, made, lambda line: phase.step(note=line[:60]), progress.say)

    folder, _ = cache.produce("guest", made.key, maker, what=f"guest root {debian_arch}", say=progress.say)
    return folder / "root"


__all__ = ["KINDS", "Bind", "HostToolchain", "RootToolchain", "Toolchain", "guest_root", "open_toolchain"]
