# SPDX-License-Identifier: GPL-2.0-only
"""The sandbox that every command of the toolchain runs in, for root as for any user: bubblewrap's.

A view is a list of mounts, outermost first; no mount is left behind. Inside, a command has an unprivileged user id, no
capability and no way to get one, no network but where it is asked for, namespaces of its own, a filter of system calls
and limits of what it may take, and it ends with the process that started it.

Real root needs no user namespace for that: bubblewrap mounts as root, and setpriv(1) then gives up everything. Others
(and a root who has no second user id to change to) enter a user namespace, in which their own id has the same number.
"""

from __future__ import annotations

import functools
import os
import resource
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.core.errors import HarnessError
from harness.host import seccomp
from harness.host.process import run

PROBE_SECONDS = 60.0
UID_MAP = Path("/proc/self/uid_map")

UID = 60600
"""User and group id inside. In no range that Debian, Ubuntu or systemd hand out (Debian policy 9.2.2 reserves 60000 to
64999 for ids that are created on demand, from 60000 on; systemd's docs/UIDS-GIDS.md has 60514 to 60577 for container
users and 61184 to 65519 for dynamic ones)."""

GIB = 1 << 30
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
TMPFS_BYTES = max(GIB // 2, min(4 * GIB, MEMORY // 4))
"""What /tmp and /run may each hold; it is memory. The largest use of ours, an initramfs, takes 30 MB."""
FILE_BYTES = 16 * GIB
"""The largest file that may be written. A vmlinux has 0.1 to 1 GB, a saved guest as much as its memory."""
PROCESSES = max(2048, min(16384, MEMORY >> 20))
"""Processes and threads, of all sandboxes of one user id together. QEMU has one a CPU of the guest."""
OPEN_FILES = 4096
OOM_SCORE = 500
"""oom_score_adj inside: when memory runs out, what is in a sandbox goes first (proc_pid_oom_score_adj(5))."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "network": ("--unshare-net",),
    "ipc": ("--unshare-ipc",),
    "uts": ("--unshare-uts", "--hostname", "kharness"),
    "cgroup": ("--unshare-cgroup",),
    "user namespaces": ("--disable-userns",),
    "seccomp": ("--seccomp", "9"),
}
"""Parts that a host may refuse while the others still work, with bubblewrap's options for each."""

_LAUNCH = f'{{ echo {OOM_SCORE} >/proc/self/oom_score_adj; }} 2>/dev/null; exec "$@"'
"""What starts bubblewrap, and opens the files that are read later (filter 9, more options 8, its own state 7); a higher
score stays."""

_OUTER = "7</proc/$$/stat"

_BEGIN = """\
seen() {
	while read -r key value _; do
		[ "$key$value" = "$1" ] && return
	done </proc/1/status
	return 1
}
until seen "$1"; do :; done
shift
read -r line <&7 || exit 143
case ${line##*) } in [ZX]*) exit 143;; esac
exec "$@" 7<&-
"""
"""The first command inside: it continues only if the outer bubblewrap is alive (proc_pid_stat(5)). If that one was
killed before the inner one, process 1, has set its death signal, the inner one would run for ever; so the command
first waits until the signal is set. bubblewrap sets it in do_init() of bubblewrap.c, after it has started the command;
right after that it takes the filter, which proc_pid_status(5) shows, and without a filter it waits for its children."""

_FILTERED, _WAITING = "Seccomp:2", "State:S"
"""How process 1 shows that: it has the filter, or without one it sleeps."""


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
    """One step of a view. `how` is bind, ro-bind, dev-bind, symlink, tmpfs (bounded), dev, proc or seal (read-only)."""

    how: str
    inside: str
    host: str = ""


@dataclass(frozen=True)
class Mode:
    """How the sandbox is entered on this host.

    With `switches` root changes to UID itself, else a user namespace gives the caller that number. `lacking` are the
    OPTIONS that this host refuses, each with what bubblewrap said.
    """

    switches: bool
    lacking: Mapping[str, str]

    @property
    def options(self) -> list[str]:
        """bubblewrap's options for namespaces, user and filter."""
        kept = {name: words for name, words in OPTIONS.items() if name not in self.lacking}
        if self.switches:
            kept.pop("user namespaces", None)  # left to the filter: there is no namespace whose count could be limited
        words = [word for option in kept.values() for word in option]
        caps = ["--cap-drop", "ALL"]
        if self.switches:
            caps += [word for cap in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{cap}")]
        else:
            words = ["--unshare-user", "--uid", str(UID), "--gid", str(UID), *words]
        return ["--die-with-parent", "--new-session", "--unshare-pid", *words, *caps]

    @property
    def name(self) -> str:
        """How, in words."""
        if self.switches:
            return "bubblewrap as root"
        return "bubblewrap in a user namespace" + (" of root's" if os.geteuid() == 0 else "")


@dataclass(frozen=True)
class Command:
    """What runs inside. `network` leaves it the host's; `device` is a character device to have, /dev/kvm.

    `free` are the names of host variables that it may see: they are passed in a file, not on a command line, which
    every user of the host could read.
    """

    argv: Sequence[str]
    cwd: str = "/"
    environment: Mapping[str, str] | None = None
    network: bool = False
    device: Path | None = None
    free: Sequence[str] = ()


def enter(mode: Mode, view: Sequence[Mount], command: Command) -> list[str]:
    """The host argv that runs `command` in the view.

    SIGKILL of bubblewrap, and the end of the thread that started it, end the whole process namespace. A command killed
    by a signal shows as status 128 + signal.
    """
    words = mode.options
    if command.network and "--unshare-net" in words:
        words.remove("--unshare-net")
    files = {} if "seccomp" in mode.lacking else {9: seccomp.program()}
    words += ["--clearenv", *_set(command.environment or {})]
    handed = {name: os.environ[name] for name in command.free if name in os.environ}
    if handed:
        files[8] = _file("\0".join(_set(handed)))
        words += ["--args", "8"]
    made: set[str] = set()
    device = str(command.device)
    for mount in [*view, *([] if command.device is None else [Mount("dev-bind", device, device)])]:
        words += [*_above(mount.inside, made), *_words(mount)]
    words += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", command.cwd, "--"]
    sign = _WAITING if "seccomp" in mode.lacking else _FILTERED
    inside = ["/bin/sh", "-c", _BEGIN, "sh", sign, *_unprivileged(mode, command), *_limits(command), *command.argv]
    opened = "".join(f" {number}</proc/{os.getpid()}/fd/{file}" for number, file in files.items()) + f" {_OUTER}"
    return ["/bin/sh", "-c", _LAUNCH + opened, "sh", "bwrap", *words, *inside]


def _above(inside: str, made: set[str]) -> list[str]:
    """The folders above a place, open to all: those that bubblewrap makes by itself are closed to the user id."""
    above = [str(folder) for folder in reversed(PurePosixPath(inside).parents) if str(folder) not in (*made, "/")]
    made.update(above)
    return [word for folder in above for word in ("--perms", "0755", "--dir", folder)]


def _words(mount: Mount) -> list[str]:
    if mount.how == "tmpfs":
        mode = "0755" if mount.inside == "/" else "1777"
        return ["--perms", mode, "--size", str(TMPFS_BYTES), "--tmpfs", mount.inside]
    if mount.how in ("dev", "proc"):
        return [f"--{mount.how}", mount.inside]
    return [f"--{mount.how}", mount.host, mount.inside]


def _set(environment: Mapping[str, str]) -> list[str]:
    return [word for item in environment.items() for word in ("--setenv", *item)]


@functools.cache
def _file(text: str) -> int:
    """An open file with this text, one for this process."""
    file = os.memfd_create("kharness-options")
    os.write(file, text.encode() + b"\0")
    return file


def _unprivileged(mode: Mode, command: Command) -> list[str]:
    """Give up root and the bounding set: nothing that is executed later can have a capability."""
    if not mode.switches:
        return []
    group = None if command.device is None else device_group(command.device)
    groups = "--clear-groups" if group is None else f"--groups={group}"
    return [
        "/usr/bin/setpriv",
        f"--reuid={UID}",
        f"--regid={UID}",
        groups,
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
        "--",
    ]


def device_group(device: Path) -> int | None:
    """The group that may open a device; None where only its owner may, or everybody."""
    try:
        state = device.stat()
    except OSError:
        return None
    return state.st_gid if state.st_gid and state.st_mode & 0o060 == 0o060 else None


def _limits(command: Command) -> list[str]:
    """The limits of setrlimit(2) inside. QEMU's memory has none: it is what we give the guest."""
    wanted = {
        "core": (resource.RLIMIT_CORE, 0),
        "fsize": (resource.RLIMIT_FSIZE, FILE_BYTES),
        "nofile": (resource.RLIMIT_NOFILE, OPEN_FILES),
        "nproc": (resource.RLIMIT_NPROC, PROCESSES),
    }
    if command.device is None:
        wanted["data"] = (resource.RLIMIT_DATA, MEMORY)
    options = []
    for name, (which, most) in wanted.items():
        own = resource.getrlimit(which)[1]
        options.append(f"--{name}={most if own == resource.RLIM_INFINITY else min(own, most)}")
    return ["/usr/bin/prlimit", *options, "--"]


# --- what this host supports --------------------------------------------------------------------


def pick_mode(view: Sequence[Mount], environment: Mapping[str, str]) -> Mode:
    """How the sandbox is entered on this host: with all OPTIONS, else with those that each work by themselves.

    Raises HarnessError with bubblewrap's message when the rest does not work either: user id, capabilities, and
    namespaces of mounts and processes are always required.
    """
    if shutil.which("bwrap") is None:
        raise HarnessError("bubblewrap is not installed", step="apt-get install -y bubblewrap")

    def refusal(mode: Mode) -> str:
        command = Command(["/bin/true"], environment=environment)
        done = run(enter(mode, view, command), what="trying bubblewrap", deadline=PROBE_SECONDS, check=False)
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return "" if done.status == 0 else (said[-1] if said else f"status {done.status}")

    complaints = []
    for switches in _ways():
        mode, why = _most(switches, refusal)
        if not why:
            return mode
        complaints.append(f"{mode.name}: {why}")
    raise HarnessError(
        f"no sandbox can be made here ({'; '.join(complaints)}), and without one nothing is built or booted",
        step="run as root, allow user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0), "
        "or give a container the SYS_ADMIN capability",
        detail="\n".join(complaints),
    )


def _ways() -> tuple[bool, ...]:
    """Whether to switch the user id, best first. In a user namespace the host's own root would still own sysctl files,
    which an owner needs no capability to write; a container's root, which is another user outside, would not."""
    if os.geteuid() != 0:
        return (False,)
    inside, outside, _ = UID_MAP.read_text().split(maxsplit=2)
    return (True,) if (inside, outside) == ("0", "0") else (True, False)


def _most(switches: bool, refusal: Callable[[Mode], str]) -> tuple[Mode, str]:
    """The mode with as many OPTIONS as work, or None and the reason."""
    filtered = _filter()
    mode = Mode(switches, filtered)
    if not refusal(mode):
        return mode, ""
    least = Mode(switches, dict.fromkeys(OPTIONS, "not tried") | filtered)
    why = refusal(least)
    if why:
        return least, why
    lacking = dict(filtered)
    for name in OPTIONS.keys() - lacking.keys():
        said = refusal(Mode(switches, {other: "not tried" for other in OPTIONS if other != name}))
        if said:
            lacking[name] = said
    mode = Mode(switches, lacking)
    return mode, refusal(mode)


@functools.cache
def _filter() -> dict[str, str]:
    """Why there is no filter of system calls; empty where there is one."""
    try:
        seccomp.program()
    except HarnessError as error:
        return {"seccomp": error.what}
    return {}
