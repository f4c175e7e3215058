# SPDX-License-Identifier: GPL-2.0-only
"""How the Debian toolchain root is made: its packages, the means, and the users that can make one."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.definition import Definition, architectures, load
from harness.core.errors import HarnessError
from harness.core.options import DEFAULT_ARCHES
from harness.host.cache import remove
from harness.host.process import run
from harness.host.scratch import private_folder

RECIPE = 2
"""To be increased when the way the root is made changes, so that old roots are not reused."""

SUITE = "trixie"

PACKAGES: tuple[str, ...] = (
    # kbuild
    "gcc",
    "libc6-dev",
    "binutils",
    "make",
    "flex",
    "bison",
    "bc",
    "perl-base",
    "perl",
    "python3-minimal",
    "rsync",
    "cpio",
    "kmod",
    "xz-utils",
    "zstd",
    "git",
    "ccache",
    "pahole",
    # BPF objects and symbols
    "clang-19",
    "llvm-19",
    "lld-19",
    "libbpf-dev",
    "libelf-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "bpftool",
)
"""And what vm/ARCH.yaml asks for: QEMU and a cross compiler."""

GUEST_PACKAGES: tuple[str, ...] = (
    # headers and static libraries for the agent and the BPF objects
    "libc6-dev",
    "libbpf-dev",
    "libelf-dev",
    "zlib1g-dev",
    "libzstd-dev",
    # programs
    "busybox-static",
    "dropbear-bin",
)

HALF_WAY = ("File has unexpected size", "Hash Sum mismatch")
"""apt's message on an index that is older or newer than the list of indices that names it."""

NEEDED: tuple[tuple[str, str], ...] = (("mmdebstrap", "mmdebstrap"), ("bwrap", "bubblewrap"))
"""Commands that the host must have to make and enter the root, each with its package."""


@dataclass(frozen=True)
class Recipe:
    """All inputs that decide the content of the root."""

    suite: str
    debian_arch: str
    packages: tuple[str, ...]
    variant: str = "apt"

    @property
    def key(self) -> str:
        """The cache key: suite and a hash of everything."""
        text = "\n".join([str(RECIPE), self.suite, self.debian_arch, self.variant, *sorted(self.packages)])
        return f"{self.suite}-{self.debian_arch}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def served_with(arch: str) -> tuple[Definition, ...]:
    """The architectures whose kernels are made by one toolchain: those of a run that names none, or `arch` alone.

    Kernels are cached under their toolchain's id, so a further vm/ARCH.yaml must not change that of the others.
    """
    return tuple(load(name) for name in (DEFAULT_ARCHES if arch in DEFAULT_ARCHES else (arch,)))


def recipe(arch: str, machine: str | None = None) -> Recipe:
    """The recipe of the root that makes kernels of `arch` on a host machine (default: this one).

    Raises HarnessError for a machine that is not known.
    """
    name = machine or platform.machine()
    native = next((known for known in map(load, architectures()) if known.host_arch == name), None)
    if native is None:
        raise HarnessError(f"no toolchain root for {name} hosts", step="use --toolchain host")
    served = served_with(arch)
    wanted = [package for one in served for package in one.packages.always]
    wanted += [package for one in served if one != native for package in one.packages.cross]
    return Recipe(SUITE, native.userspace.debian, (*PACKAGES, *dict.fromkeys(wanted)))


def guest_recipe(debian_arch: str) -> Recipe:
    """What guests of an architecture are made of: only unpacked, so that it needs no machine of that architecture."""
    return Recipe(SUITE, debian_arch, GUEST_PACKAGES, "extract")


def make(folder: Path, made: Recipe, on_line: Callable[[str], None], say: Callable[[str], None]) -> None:
    """Make the root in ``folder/root`` and its package list in ``folder/packages``.

    A mirror that is in the middle of an update is used without its suite of updates; that is reported, and noted in
    the list, which makes it another toolchain. The security updates are never left out: a mirror must not choose that.
    Raises HarnessError with apt's last error.
    """
    install_missing(say)
    what = f"making the {made.suite} root for {made.debian_arch}"
    left_out = ""
    try:
        _bootstrap(folder, made, [], what, on_line)
    except HarnessError as error:
        if not any(sign in error.detail for sign in HALF_WAY):
            raise
        left_out = f"{made.suite}-updates"
        say(f"{what}: the mirror's updates do not fit its own lists; trying without them ({left_out})")
        if (folder / "root").exists():
            remove(folder / "root")
        hook = f'find "$1"/etc/apt -name "*.list" -exec sed -i "/ {left_out} /d" {{}} +'
        try:
            _bootstrap(folder, made, [f"--setup-hook={hook}"], what, on_line)
        except HarnessError as again:
            raise HarnessError(
                f"{what}: the mirror does not fit its own lists", step="try again in some minutes", detail=again.detail
            ) from again
    root = folder / "root"
    root.chmod(0o755)
    listed = _packages(root) or _files(root)
    (folder / "packages").write_text(listed + (f"without {left_out}\n" if left_out else ""))


def _bootstrap(folder: Path, made: Recipe, more: Sequence[str], what: str, on_line: Callable[[str], None]) -> None:
    """Runs mmdebstrap, as root into ``folder/root``, else by a tar file that is unpacked there."""
    root = folder / "root"
    argv = [
        "mmdebstrap",
        f"--variant={made.variant}",
        f"--architectures={made.debian_arch}",
        '--aptopt=Acquire::Retries "3"',
        f"--include={','.join(made.packages)}",
        *more,
    ]
    if os.geteuid() == 0:
        root.mkdir(mode=0o755)
        # In a mount namespace of its own: its mounts vanish with it, also when it is killed.
        private = ["unshare", "--mount", "--propagation", "private", "--"]
        # And with a TMPDIR of its own, which we remove: its files stay there when it is killed.
        with private_folder(0o755) as scratch:  # apt reads there as another user
            env = {**os.environ, "TMPDIR": str(scratch)}
            # The sandbox's user id must read its files, whatever the caller's umask.
            open_up = ["/bin/sh", "-c", 'umask 022; exec "$@"', "sh"]
            run([*private, *open_up, *argv, made.suite, str(root)], what=what, env=env, on_line=on_line)
    else:
        # As a tar file unpacked by us, so that every file is the user's own and can be removed again.
        tar = folder / "root.tar"
        run([*_unprivileged(), *argv, "--format=tar", made.suite, str(tar)], what=what, on_line=on_line)
        root.mkdir(mode=0o755)
        unpack = ["tar", "-xf", str(tar), "-C", str(root), "--exclude=./dev/*", "--no-same-owner"]
        run(unpack, what="unpacking the root")
        tar.unlink()


def _packages(root: Path) -> str:
    """What dpkg has installed, with versions; nothing where packages were only unpacked."""
    asked = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package}:${Architecture} ${Version}\\n"]
    return run(asked, what="listing the root's packages").stdout


def _files(root: Path) -> str:
    """Each file with size and modification time, which are the package's: they change with its version."""
    found = []
    for place, _, names in os.walk(root):
        for path in (Path(place) / name for name in names):
            state = path.lstat()
            if stat.S_ISREG(state.st_mode):
                found.append(f"{path.relative_to(root)} {state.st_size} {int(state.st_mtime)}\n")
    return "".join(sorted(line for line in found if not line.startswith(("var/", "etc/"))))


def _unprivileged() -> list[str]:
    """The command prefix for mmdebstrap as a user: empty where user namespaces work, else sudo."""
    user = Path("/etc/subuid")
    name = os.environ.get("USER", "")
    mapped = user.exists() and any(
        line.split(":")[0] in (name, str(os.getuid())) for line in user.read_text().splitlines()
    )
    if shutil.which("newuidmap") and mapped:
        probe = run(["unshare", "--user", "--map-root-user", "true"], what="trying user namespaces", check=False)
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
    return bool(shutil.which("sudo")) and run(["sudo", "-n", "true"], what="trying sudo", check=False).status == 0


def missing_packages() -> list[str]:
    """The Debian packages that this host lacks for making and entering the root."""
    lacking = [package for command, package in NEEDED if shutil.which(command) is None]
    # Ubuntu's mmdebstrap only recommends the keys that Debian's archive is verified with.
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        lacking.append("debian-archive-keyring")
    return lacking


def install_command(packages: Sequence[str]) -> str:
    """The one command that installs packages on this host; duplicates are removed."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get update && {sudo}apt-get install -y {' '.join(dict.fromkeys(packages))}"


def install_missing(say: Callable[[str], None]) -> None:
    """Install what :func:`missing_packages` names, and say so.

    Raises HarnessError whose step is the one command to type, where we may not install.
    """
    lacking = missing_packages()
    if not lacking:
        return
    what = f"not installed: {', '.join(lacking)}"
    if shutil.which("apt-get") is None:
        raise HarnessError(f"{what}, and this host has no apt-get", step=f"install {' '.join(lacking)} by hand")
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
