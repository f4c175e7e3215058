# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the sandbox by what somebody inside would try: each attempt is made, by root's builds and by a user's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from harness.core.errors import HarnessError
from harness.host import protection, sandbox, seccomp
from harness.host.cache import Cache
from harness.host.process import Done, run
from harness.host.sandbox import UID, Bind
from harness.host.toolchain import HostToolchain, Toolchain
from tests.unit.host.inside import Inside, inside

__all__ = ["inside"]

CALL = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    done = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    return errno.errorcode.get(ctypes.get_errno(), "0") if done == -1 else "0"
"""
"""Beginning of a program that makes system calls by their number, and prints the names of the errors."""

NUMBERS = {
    "x86_64": {
        "ptrace": 101,
        "mount": 165,
        "bpf": 321,
        "keyctl": 250,
        "process_vm_readv": 310,
        "chroot": 161,
        "unshare": 272,
        "setns": 308,
        "perf_event_open": 298,
        "open_by_handle_at": 304,
        "clone": 56,
    },
    "aarch64": {
        "ptrace": 117,
        "mount": 40,
        "bpf": 280,
        "keyctl": 219,
        "process_vm_readv": 270,
        "chroot": 51,
        "unshare": 97,
        "setns": 268,
        "perf_event_open": 241,
        "open_by_handle_at": 265,
        "clone": 220,
    },
}[os.uname().machine]
CLONE3, IO_URING_SETUP, PIDFD_GETFD, OPEN_TREE, MOVE_MOUNT, FSOPEN = 435, 425, 438, 428, 429, 430


def test_nothing_inside_has_a_privilege(inside: Inside) -> None:
    done = inside.python("print(open('/proc/self/status').read())")
    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    assert {*status["Uid"].split(), *status["Gid"].split()} == {str(UID)}
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    # Of the groups of a user there is no way to take one away without a second id; root's are all gone.
    assert not status["Groups"].split() or inside.user


def test_the_system_stays_read_only(inside: Inside) -> None:
    code = (
        CALL
        + f"""
for place in (b"/", b"/usr", b"/etc", b"/dev"):
    print(call({NUMBERS["mount"]}, b"none", place, b"none", 0x1020, b""))  # MS_REMOUNT | MS_BIND, writable
    try:
        os.close(os.open(place + b"/kharness-test", os.O_CREAT | os.O_WRONLY))
        print("written")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    )
    done = inside.python(code)
    assert set(done.stdout.split()) <= {"EPERM", "EROFS", "EACCES"}, done.stdout
    assert len(done.stdout.split()) == 8


def test_what_makes_namespaces_or_looks_into_processes_is_refused(inside: Inside) -> None:
    calls = [(name, NUMBERS[name]) for name in NUMBERS if name not in ("mount", "clone")]
    calls += [("pidfd_getfd", PIDFD_GETFD), ("open_tree", OPEN_TREE), ("move_mount", MOVE_MOUNT), ("fsopen", FSOPEN)]
    code = CALL + f"print(*[call(number, 0, 0, 0, 0, 0) for _, number in {calls}])"
    code += f"\nprint(*[call({NUMBERS['clone']}, flag | 17, 0, 0, 0, 0) for flag in {seccomp.NAMESPACES}])"
    code += f"\nprint(call({CLONE3}, 0, 0), call({IO_URING_SETUP}, 1, 0))"
    done = inside.python(code)
    asked, cloned, unknown = (line.split() for line in done.stdout.splitlines())
    assert dict(zip([name for name, _ in calls], asked, strict=True)) == {name: "EPERM" for name, _ in calls}
    assert set(cloned) == {"EPERM"} and len(cloned) == 7
    assert unknown == ["ENOSYS", "ENOSYS"]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="of x86_64 alone")
def test_the_kernels_other_tables_of_calls_are_refused(inside: Inside) -> None:
    """x32, and i386 through the old gate: their numbers are not those that the filter knows."""
    code = (
        CALL
        + """
import mmap
page = mmap.mmap(-1, 4096, prot=7)  # unshare(CLONE_NEWUSER) by int 0x80: mov eax,310; mov ebx,0x10000000; int 0x80; ret
page.write(b"\\x53\\xb8\\x36\\x01\\x00\\x00\\xbb\\x00\\x00\\x00\\x10\\xcd\\x80\\x5b\\xc3")
gate = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
print(call(0x40000000 + 39), errno.errorcode.get(-gate(), "0"))
"""
    )
    assert inside.python(code).stdout.split() == ["ENOSYS", "ENOSYS"]


def test_nothing_of_the_hosts_network_is_reached_but_where_it_is_asked_for(inside: Inside) -> None:
    code = """
import socket, sys
for family, address in ((socket.AF_UNIX, "\\0" + sys.argv[1]), (socket.AF_INET, ("127.0.0.1", int(sys.argv[2])))):
    with socket.socket(family) as sock:
        try:
            sock.connect(address)
            print("reached")
        except OSError as error:
            print("not")
print(*(name for _, name in socket.if_nameindex()))
"""
    name = f"kharness-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket() as loopback:
        abstract.bind("\0" + name)
        abstract.listen()
        loopback.bind(("127.0.0.1", 0))
        loopback.listen()
        port = str(loopback.getsockname()[1])
        assert inside.python(code, name, port).stdout.split() == ["not", "not", "lo"]
        assert inside.python(code, name, port, network=True).stdout.split()[:2] == ["reached", "reached"]


def test_sockets_are_of_the_known_families(inside: Inside) -> None:
    code = """
import errno, socket
for family in (40, 38, 17, 29, 16, 1, 2, 10):  # vsock, alg, packet, can; netlink, unix, inet, inet6
    try:
        kind = {16: socket.SOCK_RAW, 38: socket.SOCK_SEQPACKET}.get(family, socket.SOCK_STREAM)
        socket.socket(family, kind).close()
        print("0")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    for network in (False, True):
        assert inside.python(code, network=network).stdout.split() == ["EAFNOSUPPORT"] * 4 + ["0"] * 4


def test_devices_are_the_harmless_ones(inside: Inside) -> None:
    code = """
import errno, os, stat
print(*sorted(os.listdir("/dev")))
for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO):
    try:
        os.mknod(f"/tmp/{kind}", kind | 0o600, os.makedev(1, 1))
        print("0")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    seen, *made = inside.python(code).stdout.splitlines()
    harmless = {"core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty"}
    assert set(seen.split()) <= harmless | {"urandom", "zero", "console"}
    assert made == ["EPERM", "EPERM", "0"]
    with_kvm = inside.python("import os; print(os.path.exists('/dev/kvm'))", kvm=True)
    assert with_kvm.stdout.split() == [str(Path("/dev/kvm").exists())]


def test_nothing_is_typed_for_the_user(inside: Inside) -> None:
    code = """
import errno, fcntl, os, pty
master, slave = pty.openpty()
for request in (0x5412, 0x541C):
    try:
        fcntl.ioctl(slave, request, b"x")
        print("0")
    except OSError as error:
        print(errno.errorcode[error.errno])
print(os.getsid(0) == os.getpgrp(), os.getpid() < 10)
"""
    assert inside.python(code).stdout.split() == ["EPERM", "EPERM", "True", "True"]


def test_a_program_that_belongs_to_root_gives_nothing(inside: Inside) -> None:
    program = inside.folder / "id"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o6755)
    code = "import subprocess; print(subprocess.run(['/p/id', '-u'], stdout=-1, text=True).stdout)"
    done = inside.python(code, binds=[Bind(inside.folder, "/p")])
    assert stat.S_IMODE(program.stat().st_mode) == 0o6755 and done.stdout.strip() == str(UID)


def test_a_mount_below_a_folder_is_read_only_as_well(inside: Inside) -> None:
    if os.geteuid():
        pytest.skip("only root can mount here")
    folder = inside.folder / "tree"
    (folder / "below").mkdir(parents=True)
    code = """
import errno, os
for place in ("/src", "/src/below"):
    try:
        os.close(os.open(place + "/file", os.O_CREAT | os.O_WRONLY))
        print("written")
    except OSError as error:
        print(errno.errorcode[error.errno])
print(*os.listdir("/src/below"))
"""
    mounted = f'mount -t tmpfs -o mode=0777 tmpfs {folder}/below && touch {folder}/below/seen && exec "$@"'
    before = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounted, "sh"]
    done = inside.python(code, binds=[Bind(folder, "/src")], before=before)
    assert done.stdout.split() == ["EROFS", "EROFS", "seen"], done.stderr


# --- limits ---------------------------------------------------------------------------------------


def test_tmp_and_run_are_full_before_memory_is(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "TMPFS_BYTES", 4 << 20)
    code = """
import errno
for place in ("/tmp/x", "/run/x"):
    try:
        with open(place, "wb") as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
        print("written")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    assert inside.python(code).stdout.split() == ["ENOSPC", "ENOSPC"]


def test_a_file_has_a_largest_size_and_a_crash_leaves_no_core(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "FILE_BYTES", 1 << 20)
    out = inside.folder / "out"
    out.mkdir()
    if os.geteuid() == 0:
        os.chown(out, inside.user, inside.user)
    code = """
import errno, os, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open("/out/x", "wb") as file:
    for size in (1 << 20, 1 << 40):
        try:
            file.truncate(size)
            print("0")
        except OSError as error:
            print(errno.errorcode[error.errno])
print(*resource.getrlimit(resource.RLIMIT_CORE))
"""
    done = inside.python(code, binds=[Bind(out, "/out", writable=True)])
    assert done.stdout.split() == ["0", "EFBIG", "0", "0"]


def test_a_fork_bomb_ends(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PROCESSES", 60)
    code = """
import errno, os, time
made = 0
try:
    while made < 200:
        if not os.fork():
            time.sleep(60)
        made += 1
except OSError as error:
    print(errno.errorcode[error.errno], made < 60)
"""
    assert inside.python(code).stdout.split() == ["EAGAIN", "True"]


def test_what_is_inside_goes_first_when_memory_runs_out(inside: Inside) -> None:
    done = inside.python("print(open('/proc/self/oom_score_adj').read())")
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(done.stdout) == max(own, sandbox.OOM_SCORE)


# --- the environment ------------------------------------------------------------------------------


def test_proxies_are_seen_with_the_network_alone_and_by_nobody_else(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy")
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@proxy")
    monkeypatch.setenv("TOKEN", "secret")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    alone = json.loads(inside.python(code).stdout)
    connected = json.loads(inside.python(code, network=True).stdout)
    assert "secret" not in str(alone)
    assert {name for name, value in connected.items() if "secret" in value} == {"https_proxy", "HTTP_PROXY"}
    assert alone.keys() == connected.keys() - {"https_proxy", "HTTP_PROXY"}
    assert not [word for word in inside.tools.argv(["true"], network=True) if "secret" in word]


def test_of_the_hosts_folders_only_tools_are_seen(inside: Inside) -> None:
    code = "import os; print(*os.listdir('/')); print(*os.listdir('/proc'))"
    top, processes = (line.split() for line in inside.python(code).stdout.splitlines())
    assert not {"root", "home", "srv", "mnt", "media", "boot", "sys"} & set(top)
    assert str(os.getpid()) not in processes or os.getpid() < 10


# --- hosts that refuse some of it -----------------------------------------------------------------


def refusing(folder: Path, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bubblewrap on a host that refuses what has one of these words among its options (a pattern of case)."""
    real = shutil.which("bwrap")
    folder.mkdir()
    script = f'#!/bin/sh\nfor w do case $w in {words}) echo "bwrap: $w: refused" >&2; exit 1;; esac; done\nexec {real} "$@"\n'
    (folder / "bwrap").write_text(script)
    (folder / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_what_a_host_refuses_is_left_out_alone_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HostToolchain(Cache(tmp_path / "one", 0))
    refusing(tmp_path / "bin", "--unshare-net|--seccomp", monkeypatch)
    tools = HostToolchain(Cache(tmp_path / "two", 0))
    assert dict(tools.mode.lacking) == {
        **whole.mode.lacking,
        "network": "bwrap: --unshare-net: refused",
        "seccomp": "bwrap: --seccomp: refused",
    }
    found = protection.probe(tools)
    assert {"no capabilities", f"user id {UID}", "read-only system", "own namespaces", "limits"} <= set(found.held)
    lacking = {shown.partition(" (")[0] for shown in found.lacking}
    assert lacking >= {"no network", "system calls filtered"}
    assert "reached: abstract sockets, 127.0.0.1" in found.describe()


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
@pytest.mark.parametrize("words", ["--unshare-pid", "--die-with-parent", "--cap-drop", "--remount-ro"])
def test_what_nobody_is_to_do_without_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    refusing(tmp_path / "bin", words, monkeypatch)
    with pytest.raises(HarnessError, match=f"no sandbox can be made here .*{words}: refused") as caught:
        HostToolchain(Cache(tmp_path / "cache", 0))
    assert "\n" not in caught.value.line() and caught.value.step


def test_the_hosts_own_root_is_never_root_of_a_user_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it could still write the sysctl files that are root's; a container's root may enter one."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sandbox, "UID_MAP", tmp_path / "map")
    ways = []
    for text in ("         0          0 4294967295\n", "         0       1000          1\n"):
        (tmp_path / "map").write_text(text)
        ways.append(sandbox._ways())
    assert ways == [(True,), (True, False)]


class Bare:
    """Tools without a sandbox."""

    kind, id, sandbox = "host", "bare", "nothing"

    def run(self, argv: Sequence[str], *, what: str, deadline: float, check: bool) -> Done:
        return run(argv, what=what, deadline=deadline, check=check)


def test_without_a_sandbox_nothing_is_said_to_hold() -> None:
    found = protection.probe(cast(Toolchain, Bare()))
    shown = {line.partition(" (")[0] for line in found.lacking}
    assert shown >= {f"user id {UID}", "own namespaces", "no network", "limits"}
    assert not {"own namespaces", "no network", "limits"} & set(found.held)
    if os.geteuid() == 0:
        assert shown >= {"no capabilities", "read-only system"}
        assert not Path("/usr/kharness-probe").exists()


def test_a_probe_that_fails_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protection, "_PROBE", "raise SystemExit('broken')")
    found = protection.probe(cast(Toolchain, Bare()))
    assert found.held == () and "broken" in found.describe()


ORPHAN = """
import json, sys
from harness.host import process, sandbox
from harness.host.sandbox import Command, Mode, Mount
view = [Mount("ro-bind", "/", "/"), Mount("dev", "/dev"), Mount("proc", "/proc")]
argv = sandbox.enter(Mode(**json.loads(sys.argv[2])), view, Command(["sleep", sys.argv[1]]))
print("begins", flush=True)
process.spawn(argv, stdout=process.subprocess.DEVNULL, stderr=process.subprocess.DEVNULL).wait()
"""
"""Has somebody sleep in a sandbox."""

VIEW = [sandbox.Mount("ro-bind", "/", "/"), sandbox.Mount("dev", "/dev"), sandbox.Mount("proc", "/proc")]


def test_nothing_stays_of_a_sandbox_whose_owner_is_killed_while_it_is_made(tmp_path: Path) -> None:
    """At any moment: between two of bubblewrap's own processes there is one in which neither knows of the other's end."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    seconds = str(10**6 + os.getpid())
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    mode = sandbox.pick_mode(VIEW, {})
    words = [
        sys.executable,
        "-c",
        ORPHAN,
        seconds,
        json.dumps({"switches": mode.switches, "lacking": dict(mode.lacking)}),
    ]
    for number in range(60):
        owner = subprocess.Popen(words, env=env, stdout=subprocess.PIPE)
        assert owner.stdout and owner.stdout.readline() == b"begins\n"
        time.sleep(number / 1000)
        owner.kill()
        owner.communicate()

    def sleeping() -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended while we looked
            found += [int(folder.name)] if seconds.encode() in words else []  # bubblewrap, too
        return found

    end = time.monotonic() + 60
    while sleeping() and time.monotonic() < end:
        time.sleep(0.05)
    left = sleeping()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"{len(left)} of 60 run on"


LATE = """
#include <dlfcn.h>
#include <linux/prctl.h>
#include <unistd.h>

int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	int (*real)(int, ...) = dlsym(RTLD_NEXT, "prctl");

	if (option == PR_SET_PDEATHSIG && getpid() == 1)
		sleep(2);
	return real(option, a, b, c, d);
}
"""
"""Makes process 1 of a sandbox late in asking for its death signal, as a busy host does."""


@pytest.mark.parametrize("filtered", [True, False])
def test_nothing_begins_before_the_sandbox_ends_with_its_owner(tmp_path: Path, filtered: bool) -> None:
    """bubblewrap starts the command before its process 1 has asked for a death signal."""
    if shutil.which("bwrap") is None or shutil.which("cc") is None:
        pytest.skip("bubblewrap and a compiler are needed")
    late = tmp_path / "late.so"
    build = ["cc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", str(late), "-xc", "-"]
    subprocess.run(build, input=LATE, text=True, check=True)
    mode = sandbox.pick_mode(VIEW, {})
    if not filtered:
        mode = sandbox.Mode(mode.switches, {**mode.lacking, "seccomp": "left out"})
    argv = sandbox.enter(mode, VIEW, sandbox.Command(["sh", "-c", "echo ran; sleep 20; echo outlived"]))
    if filtered:
        argv[argv.index("bwrap") : argv.index("bwrap")] = ["env", f"LD_PRELOAD={late}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as outer:
        assert outer.stdout and outer.stdout.readline() == b"ran\n"
        outer.kill()
        assert outer.stdout.read() == b""


def test_nothing_begins_below_an_outer_bubblewrap_that_is_dead(inside: Inside) -> None:
    """As one is that was killed, and for which nobody has waited yet."""
    argv = sandbox.enter(sandbox.pick_mode(VIEW, {}), VIEW, sandbox.Command(["echo", "ran"]))
    dead = subprocess.Popen(["true"])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    assert any("7</proc/$$/stat" in word for word in argv)
    argv = [word.replace("/proc/$$/", f"/proc/{dead.pid}/") for word in argv]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (143, "")
    dead.wait()
