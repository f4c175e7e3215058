# SPDX-License-Identifier: GPL-2.0-only
"""Owns the toolchain: where compilers, QEMU and apt run, and under which hash they are known."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from harness.errors import HarnessError, UsageError
from harness.host import rootfs
from harness.host.cache import Cache
from harness.host.process import Done, run
from harness.host.progress import Progress
from harness.host.sandbox import Bind, Mount, enter, pick_engine
from harness.plan import DEFAULT_ARCHES

KINDS = ("root", "host")

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")

HOST_TOOLS = (
    "gcc", "ld", "make", "clang", "llvm-strip", "pahole", "bpftool", "flex", "bison", "bc", "perl", "python3",
)  # fmt: skip
"""The host's tools that decide what is built. With QEMU and cross compilers, their versions are the toolchain's id."""

# On a tmpfs of their own or made by the engine, in every view.
_PRIVATE = ("dev", "proc", "tmp", "run")


class Toolchain(Protocol):
    """Where tools run. `kind` is ``root`` or ``host``; `id` is a hash of the tools' versions."""

    kind: str
    id: str

    def argv(
        self,
        argv: Sequence[str],
        *,
        binds: Sequence[Bind] = (),
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        """The host argv that runs `argv` inside.

        Inside are only the toolchain, `binds`, and private /tmp, /run and /dev (with /dev/kvm where there
        is one); the network is the host's. `cwd` is a path inside (default /). The environment is clean
        but for PATH, HOME=/tmp, LC_ALL, proxies and `env`.
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
    ) -> Done:
        """Runs `argv` inside to its end; see :func:`harness.host.process.run` for what is raised."""


class _Entered:
    """What both toolchains share: a view of the file system and the engine that enters it."""

    kind = ""
    path = "/usr/sbin:/usr/bin:/sbin:/bin"

    def __init__(self, view: Sequence[Mount], place: Path) -> None:
        self._view = tuple(view)
        self._place = place
        self._as_root = os.geteuid() == 0
        self._engine = pick_engine(self._closed(()), self._as_root, place, self._environment(None))
        self.id = ""

    def argv(
        self,
        argv: Sequence[str],
        *,
        binds: Sequence[Bind] = (),
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        mounts = []
        for bind in binds:
            if not bind.host.exists():
                raise HarnessError(f"{bind.host} does not exist", step="it may have been pruned: run again")
            mounts.append(
                Mount("bind" if bind.writable else "ro-bind", bind.target, str(bind.host.absolute()))
            )
        settings = [f"{name}={value}" for name, value in self._environment(env).items()]
        command = ["/usr/bin/env", "-i", *settings, *argv]
        return enter(self._engine, self._closed(mounts), str(cwd or "/"), command, self._as_root, self._place)

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
    ) -> Done:
        return run(
            self.argv(argv, binds=binds, cwd=cwd, env=env),
            what=what, deadline=deadline, on_line=on_line, check=check, input=input,
        )  # fmt: skip

    def _closed(self, extra: Sequence[Mount]) -> list[Mount]:
        """The whole view: the base, its private folders, `extra`, and then nothing more may change /."""
        private = [
            Mount("dev", "/dev"),
            Mount("proc", "/proc"),
            Mount("tmpfs", "/tmp"),
            Mount("tmpfs", "/run"),
        ]
        if Path("/dev/kvm").exists():
            private.append(Mount("dev-bind", "/dev/kvm", "/dev/kvm"))
        return [*self._view, *private, *extra, Mount("seal", "/")]

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        proxies = {
            name: os.environ[name]
            for lower in PROXIES
            for name in (lower, lower.upper())
            if name in os.environ
        }
        return {"PATH": self.path, "HOME": "/tmp", "LC_ALL": "C.UTF-8", **proxies, **(env or {})}


class RootToolchain(_Entered):
    """A Debian root made by mmdebstrap: `folder` holds ``root/`` and ``packages``."""

    kind = "root"

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        names = Path("/etc/resolv.conf")
        view = [Mount("bind", "/", str(self.root))]
        if names.exists():  # apt runs inside; it may be a link into /run, which is private inside
            view.append(Mount("ro-bind", "/etc/resolv.conf", str(names.resolve())))
        super().__init__(view, self.root)
        self.id = hashlib.sha256((folder / "packages").read_bytes()).hexdigest()[:16]


class HostToolchain(_Entered):
    """The developer's own tools. Nothing of the host can be written inside but what is bound writable.

    `place` is an empty folder, for chroot to build the view on; `arch` is what kernels are made for.
    """

    kind = "host"

    def __init__(self, place: Path, arch: str = DEFAULT_ARCHES[0]) -> None:
        self.path = os.environ.get("PATH", self.path)
        view = [Mount("tmpfs", "/")]
        for entry in sorted(Path("/").iterdir()):
            if entry.is_symlink():
                view.append(Mount("symlink", str(entry), os.readlink(entry)))
            elif entry.is_dir() and entry.name not in _PRIVATE:
                view.append(Mount("ro-bind", str(entry), str(entry)))
        super().__init__(view, place)
        self.id = hashlib.sha256("\n".join(self._versions(arch)).encode()).hexdigest()[:16]

    def _versions(self, arch: str) -> list[str]:
        """One line per tool; those that are not there are left out (doctor speaks of them)."""
        served = rootfs.served_with(arch)
        cross = [f"{one.cross_compile}gcc" for one in served if one.cross_compile]
        tools = [*HOST_TOOLS, *(one.qemu.binary for one in served), "ccache", *cross, "busybox"]
        version = '$("$t" --version 2>&1 | head -n1)'
        probe = f'for t in "$@"; do command -v "$t" >/dev/null && echo "$t: {version}"; done; :'
        return self.run(
            ["sh", "-c", probe, "sh", *tools], what="asking tools their versions"
        ).stdout.splitlines()


def open_toolchain(kind: str, arch: str, cache: Cache, progress: Progress) -> Toolchain:
    """The toolchain for kernels of `arch`, made first if need be (about a minute and 1.3 GB for ``root``).

    The architectures of a run that names none share one; any other has one of its own.

    Raises UsageError for another kind, HarnessError (whose step is the command to type) when the host
    lacks something that we may not install.
    """
    if kind == "host":
        return HostToolchain(cache.folder("place"), arch)
    if kind != "root":
        raise UsageError(f"no toolchain {kind!r}", step=f"use one of {', '.join(KINDS)}")
    made = rootfs.recipe(arch)

    def maker(folder: Path) -> None:
        with progress.phase(f"toolchain root (Debian {made.suite})", "toolchain") as phase:
            rootfs.make(folder, made, lambda line: phase.step(note=line[:60]), progress.say)

    if rootfs.missing_packages():
        rootfs.install_missing(progress.say)
    folder, _ = cache.produce("toolchain", made.key, maker, what="toolchain root", say=progress.say)
    return RootToolchain(folder)


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
