# SPDX-License-Identifier: GPL-2.0-only
"""Owns how the Debian toolchain root is made: which packages, by which means, for whom."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.host.process import run
from harness.records import HarnessError

RECIPE = 1
"""Raise it when the way the root is made changes, so that old ones are not taken for new."""

SUITE = "trixie"

PACKAGES: tuple[str, ...] = (
    # kbuild
    "gcc", "libc6-dev", "binutils", "make", "flex", "bison", "bc", "perl-base", "perl", "python3-minimal",
    "rsync", "cpio", "kmod", "xz-utils", "zstd", "git", "ccache", "pahole",
    # BPF objects and symbols
    "clang-19", "llvm-19", "lld-19", "libbpf-dev", "bpftool", "libcap-dev",
    # machines
    "qemu-system-x86", "qemu-system-arm", "qemu-utils", "seabios",
    # the guest image
    "busybox-static", "dropbear-bin",
)  # fmt: skip
BOTH_ARCHES: tuple[str, ...] = ("libelf-dev", "zlib1g-dev", "libzstd-dev")
"""Static libraries that the agent links, for the host's architecture and the other one."""

ARCHES = {
    "x86_64": ("amd64", "arm64", ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross")),
    "aarch64": ("arm64", "amd64", ("gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross")),
}
"""By the host's machine: Debian's native and foreign architecture, and the cross compiler's packages."""

NEEDED: tuple[tuple[str, str], ...] = (("mmdebstrap", "mmdebstrap"), ("bwrap", "bubblewrap"))
"""Commands that the host must have to make and enter the root, each with its package."""


@dataclass(frozen=True)
class Recipe:
    """All that decides what is in the root."""

    suite: str
    arches: tuple[str, ...]
    packages: tuple[str, ...]

    @property
    def key(self) -> str:
        """The cache key: suite and a hash of everything."""
        text = "\n".join([str(RECIPE), self.suite, *self.arches, *sorted(self.packages)])
        return f"{self.suite}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def recipe(machine: str | None = None) -> Recipe:
    """The recipe for a host machine (default: this one). Raises HarnessError for one that is not known."""
    name = machine or platform.machine()
    if name not in ARCHES:
        raise HarnessError(f"no toolchain root for {name} hosts", step="use --toolchain host")
    native, foreign, cross = ARCHES[name]
    both = tuple(p for package in BOTH_ARCHES for p in (package, f"{package}:{foreign}"))
    return Recipe(SUITE, (native, foreign), PACKAGES + both + cross)


def make(folder: Path, made: Recipe, on_line: Callable[[str], None], say: Callable[[str], None]) -> None:
    """Makes the root in ``folder/root`` and its package list in ``folder/packages``.

    Raises HarnessError with mmdebstrap's last lines.
    """
    install_missing(say)
    root = folder / "root"
    argv = [
        "mmdebstrap", "--variant=apt", f"--architectures={','.join(made.arches)}",
        '--aptopt=Acquire::Retries "3"', f"--include={','.join(made.packages)}",
    ]  # fmt: skip
    what = f"making the {made.suite} toolchain root"
    if os.geteuid() == 0:
        root.mkdir(mode=0o755)
        # In a mount namespace of its own: what it mounts goes with it, also when it is killed in the middle.
        private = ["unshare", "--mount", "--propagation", "private", "--"]
        # And with a TMPDIR of its own: what it keeps there stays when it is killed.
        with tempfile.TemporaryDirectory(prefix="kharness-") as scratch:
            os.chmod(scratch, 0o755)  # apt reads there as another user
            env = {**os.environ, "TMPDIR": scratch}
            run([*private, *argv, made.suite, str(root)], what=what, env=env, on_line=on_line)
    else:
        # As a tar file unpacked by us, so that every file is the user's own and can be removed again.
        tar = folder / "root.tar"
        run([*_unprivileged(), *argv, "--format=tar", made.suite, str(tar)], what=what, on_line=on_line)
        root.mkdir(mode=0o755)
        unpack = ["tar", "-xf", str(tar), "-C", str(root), "--exclude=./dev/*", "--no-same-owner"]
        run(unpack, what="unpacking the toolchain root")
        tar.unlink()
    root.chmod(0o755)
    listing = [
        "dpkg-query",
        f"--admindir={root}/var/lib/dpkg",
        "-W",
        "-f",
        "${Package}:${Architecture} ${Version}\\n",
    ]
    (folder / "packages").write_text(run(listing, what="listing the root's packages").stdout)


def _unprivileged() -> list[str]:
    """What goes before mmdebstrap for a user: nothing where user namespaces work, else sudo."""
    user = Path("/etc/subuid")
    name = os.environ.get("USER", "")
    mapped = user.exists() and any(
        line.split(":")[0] in (name, str(os.getuid())) for line in user.read_text().splitlines()
    )
    if shutil.which("newuidmap") and mapped:
        probe = run(
            ["unshare", "--user", "--map-root-user", "true"], what="trying user namespaces", check=False
        )
        if probe.status == 0:
            return []
    if can_sudo():
        return ["sudo", "-n"]
    raise HarnessError(
        "making the toolchain root needs root, sudo, or user namespaces with newuidmap",
        step=f"sudo apt-get install -y uidmap && sudo usermod --add-subuids 100000-165535 "
        f"--add-subgids 100000-165535 {name or '$USER'}, or use --toolchain host",
    )


def can_sudo() -> bool:
    """Whether sudo works without a question."""
    return (
        bool(shutil.which("sudo"))
        and run(["sudo", "-n", "true"], what="trying sudo", check=False).status == 0
    )


def missing_packages() -> list[str]:
    """The Debian packages that this host lacks for making and entering the root."""
    lacking = [package for command, package in NEEDED if shutil.which(command) is None]
    # Ubuntu's mmdebstrap only recommends the keys that Debian's archive is verified with.
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        lacking.append("debian-archive-keyring")
    return lacking


def install_command(packages: Sequence[str]) -> str:
    """The one command that installs packages on this host."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get update && {sudo}apt-get install -y {' '.join(packages)}"


def install_missing(say: Callable[[str], None]) -> None:
    """Installs what :func:`missing_packages` names, saying so.

    Raises HarnessError whose step is the one command to type, where we may not install.
    """
    lacking = missing_packages()
    if not lacking:
        return
    what = f"not installed: {', '.join(lacking)}"
    if shutil.which("apt-get") is None:
        raise HarnessError(
            f"{what}, and this host has no apt-get", step=f"install {' '.join(lacking)} by hand"
        )
    root = os.geteuid() == 0
    if not root and not can_sudo():
        raise HarnessError(what, step=install_command(lacking))
    say(f"installing on this host: {' '.join(lacking)} (apt-get{'' if root else ' with sudo'})")
    prefix = [] if root else ["sudo", "-n"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = [*prefix, "apt-get", "-o", "DPkg::Lock::Timeout=120"]
    refreshed = run([*apt, "update"], what="apt-get update", env=env, check=False)
    if refreshed.status != 0:
        last = refreshed.stderr.strip().rpartition("\n")[2]
        say(f"apt-get update failed ({last}); trying with the lists there are")
    argv = [*apt, "install", "-y", "--no-install-recommends", *lacking]
    try:
        run(argv, what=f"installing {' '.join(lacking)}", env=env)
    except HarnessError as error:
        raise HarnessError(error.what, step=f"try: {shlex.join(argv)}", detail=error.detail) from error
