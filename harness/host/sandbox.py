# SPDX-License-Identifier: GPL-2.0-only
"""Owns entering another view of the file system: bubblewrap, or chroot in a private mount namespace.

A view is a list of mounts, outermost first; both engines make it without leaving a mount behind, and
both put the command into a process namespace that ends with it. The network stays the host's.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError
from harness.host.process import run

PROBE_SECONDS = 30.0


@dataclass(frozen=True)
class Bind:
    """A host path made visible inside, at `inside` (empty: at the same path)."""

    host: Path
    inside: str = ""
    writable: bool = False

    @property
    def target(self) -> str:
        return self.inside or str(self.host)


@dataclass(frozen=True)
class Mount:
    """One step of a view. `how` is bind, ro-bind, dev-bind, symlink, tmpfs, dev, proc or seal (read-only)."""

    how: str
    inside: str
    host: str = ""


def bwrap_argv(view: Sequence[Mount], cwd: str, argv: Sequence[str], as_root: bool) -> list[str]:
    """The host argv that runs `argv` in the view with bubblewrap.

    SIGKILL of bubblewrap ends the whole process namespace; other signals sent to the process group reach
    the command, for it stays in the group. A command killed by a signal shows as status 128 + signal.
    """
    options: list[str] = []
    for mount in view:
        if mount.how == "seal":
            options += ["--remount-ro", mount.inside]
        elif mount.how in ("tmpfs", "dev", "proc"):
            options += [f"--{mount.how}", mount.inside]
        else:
            options += [f"--{mount.how}", mount.host, mount.inside]
    # Without real root the command sees itself as root of what it makes, as it does with real root:
    # file owners in archives must not depend on who built them.
    user = [] if as_root else ["--unshare-user", "--uid", "0", "--gid", "0"]
    return ["bwrap", *user, "--die-with-parent", "--unshare-pid", *options, "--chdir", cwd, "--", *argv]


def chroot_argv(view: Sequence[Mount], cwd: str, argv: Sequence[str], place: Path) -> list[str]:
    """The host argv that runs `argv` in the view by chroot(8) on the empty folder `place`; needs root."""
    lines = ["set -e"]
    for mount in view:
        lines += _script(mount, f"{place}/{mount.inside.lstrip('/')}".rstrip("/"))
    # Not exec: as process 1 of its namespace a command would not feel the signals it sends itself.
    inner = 'cd "$0"; "$@"; exit $?'
    command = shlex.join(["chroot", str(place), "/bin/sh", "-c", inner, cwd])
    lines.append(f'exec {command} "$@"')
    script = "\n".join(lines)
    space = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--propagation", "private"]
    return [*space, "/bin/sh", "-c", script, "kharness-chroot", *argv]


def _script(mount: Mount, inside: str) -> list[str]:
    """The shell lines for one mount."""
    host, target, folder = (shlex.quote(text) for text in (mount.host, inside, str(Path(inside).parent)))
    if mount.how == "symlink":
        return [f"ln -sfn {host} {target}"]
    if mount.how == "seal":
        return [f"mount -o remount,bind,ro {target}"]
    make_folder = f"mkdir -p {target}"
    if mount.how == "tmpfs":
        return [make_folder, f"mount -t tmpfs -o mode=1777 tmpfs {target}"]
    if mount.how == "proc":
        return [make_folder, f"mount -t proc proc {target}"]
    if mount.how == "dev":
        return [make_folder, f"mount --rbind /dev {target}"]
    make_point = (
        f"if [ -d {host} ]; then {make_folder}; else mkdir -p {folder}; [ -e {target} ] || : > {target}; fi"
    )
    lines = [make_point, f"mount --rbind {host} {target}"]
    return [*lines, f"mount -o remount,bind,ro {target}"] if mount.how == "ro-bind" else lines


def pick_engine(view: Sequence[Mount], as_root: bool, place: Path, env: Mapping[str, str]) -> str:
    """``bwrap`` or ``chroot``: the first that really runs /bin/true in the view.

    Raises HarnessError with what both said when neither can.
    """
    said = []
    for engine in ("bwrap", "chroot"):
        if engine == "chroot" and not as_root:
            said.append("chroot: needs root")
            continue
        if engine == "bwrap" and shutil.which("bwrap") is None:
            said.append("bubblewrap: not installed")
            continue
        argv = enter(engine, view, "/", ["/bin/true"], as_root, place)
        done = run(argv, what=f"trying {engine}", env=env, deadline=PROBE_SECONDS, check=False)
        if done.status == 0:
            return engine
        said.append(f"{engine}: {(done.stderr.strip() or f'status {done.status}').splitlines()[-1]}")
    raise HarnessError(
        f"no way to enter the toolchain root ({'; '.join(said)})",
        step="run as root, allow user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0), "
        "give a container the SYS_ADMIN capability, or use --toolchain host",
        detail="\n".join(said),
    )


def enter(
    engine: str, view: Sequence[Mount], cwd: str, argv: Sequence[str], as_root: bool, place: Path
) -> list[str]:
    """The host argv for one of the two engines."""
    if engine == "bwrap":
        return bwrap_argv(view, cwd, argv, as_root)
    return chroot_argv(view, cwd, argv, place)
