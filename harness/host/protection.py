# SPDX-License-Identifier: GPL-2.0-only
"""Which of the sandbox's promises really hold on this host: found by trying to get out of it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.core.records import Protection
from harness.host import confine
from harness.host.sandbox import FILE_BYTES, OPEN_FILES, PROCESSES, TMPFS_BYTES, UID
from harness.host.toolchain import Toolchain

SECONDS = 60.0

# Python without ctypes, as in Debian's python3-minimal. It tries what must not work, and says whether it did.
_PROBE = r"""
import json, os, socket, subprocess, sys
def works(attempt):
    try:
        attempt()
        return True
    except (OSError, ValueError):
        return False
def unshare():
    if hasattr(os, "unshare"):
        os.unshare(0x10000000)
    else:
        subprocess.run(["unshare", "-U", "true"], check=False, stderr=-3).returncode and os.stat("/nowhere")
def write(folder):
    os.close(os.open(folder + "/kharness-probe", os.O_CREAT | os.O_WRONLY))
    os.unlink(folder + "/kharness-probe")
def reach(family, address):
    with socket.socket(family) as sock:
        sock.settimeout(5)
        sock.connect(address)
abstract, port = "\0" + sys.argv[1], int(sys.argv[2])
status = dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
limits = {line[:26].strip(): line[26:].split()[1] for line in open("/proc/self/limits")}
tmp = os.statvfs("/tmp")
print(json.dumps({
    "status": status, "limits": limits,
    "spaces": {name: os.readlink("/proc/self/ns/" + name) for name in sys.argv[3].split(",")},
    "written": [place for place in ("/", "/dev", "/usr", "/usr/bin", "/etc") if works(lambda: write(place))],
    "interfaces": [name for _, name in socket.if_nameindex()],
    "reached": [works(lambda: reach(*a)) for a in ((socket.AF_UNIX, abstract), (socket.AF_INET, ("127.0.0.1", port)))],
    "vsock": works(lambda: socket.socket(40, socket.SOCK_STREAM).close()),
    "tmp": tmp.f_blocks * tmp.f_frsize, "devices": os.listdir("/dev"), "unshared": works(unshare),
}))
"""

_PYTHON = "PATH=/usr/bin:/bin:$PATH exec python3"
"""The system's first: what a version manager puts before it may want its own folders."""

SPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")


def probe(toolchain: Toolchain, emulators: Sequence[tuple[Toolchain, str]] = ()) -> Protection:
    """Run a probe in the sandbox that tries what must not work; and each of `emulators`, for its own sandbox.

    A probe that does not end by itself shows nothing, which is reported. Raises HarnessError if none can be started.
    """
    name = f"kharness-{secrets.token_hex(8)}"
    with _listening(name) as port:
        done = toolchain.run(
            ["sh", "-c", f'{_PYTHON} -I -S -c "$@"', "sh", _PROBE, name, str(port), ",".join(SPACES)],
            what="probing the sandbox",
            deadline=SECONDS,
            check=False,
        )
    if done.status:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Protection(toolchain.sandbox, (), (f"nothing was seen (python3 in the sandbox: {said})",))
    seen = json.loads(done.stdout)
    found = dict(_found(seen, {space: os.readlink(f"/proc/self/ns/{space}") for space in SPACES}))
    if emulators:
        without = [binary for its, binary in emulators if not confine.knows(its, binary)]
        found["QEMU's own sandbox"] = f"{', '.join(without)}: built without seccomp" if without else ""
    return Protection(
        toolchain.sandbox,
        tuple(name for name, why in found.items() if not why),
        tuple(f"{name} ({why})" for name, why in found.items() if why),
    )


def _found(seen: Mapping[str, Any], ours: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each promise, and the evidence against it; empty where it holds."""
    status, limits = seen["status"], seen["limits"]
    ids = {*status["Uid"].split(), *status["Gid"].split()}
    yield f"user id {UID}", "" if ids == {str(UID)} else f"it is {', '.join(sorted(ids))}"
    caps = [name for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(status[name], 16)]
    if status.get("NoNewPrivs") != "1":
        caps.append("no_new_privs is not set")
    yield "no capabilities", ", ".join(caps)
    yield "read-only system", f"written: {', '.join(seen['written'])}" if seen["written"] else ""
    shared = [space for space in SPACES if seen["spaces"][space] == ours[space] and space != "net"]
    yield "own namespaces", f"the host's: {', '.join(shared)}" if shared else ""
    reached = [what for what, got in zip(("abstract sockets", "127.0.0.1"), seen["reached"], strict=True) if got]
    reached += [name for name in seen["interfaces"] if name != "lo"]
    yield "no network", f"reached: {', '.join(reached)}" if reached else ""
    filtered = status.get("Seccomp") == "2" and not seen["vsock"]
    yield "system calls filtered", "" if filtered else "the kernel or libseccomp offers no filter"
    yield "no user namespaces", "one was made" if seen["unshared"] else ""
    devices = sorted({"kvm", "mem", "kmsg", "vda", "sda", "fuse", "vhost-net"} & set(seen["devices"]))
    yield "no devices", ", ".join(devices)
    most = {"file size": FILE_BYTES, "processes": PROCESSES, "open files": OPEN_FILES, "core file size": 0}
    limits = {name: limits[f"Max {name}"] for name in most}
    loose = [name for name, limit in most.items() if not limits[name].isdigit() or int(limits[name]) > limit]
    if seen["tmp"] > TMPFS_BYTES:
        loose.append("/tmp")
    yield "limits", f"none on {', '.join(loose)}" if loose else ""


@contextlib.contextmanager
def _listening(name: str) -> Iterator[int]:
    """Sockets of the host for the probe to reach: an abstract one, and the port of a TCP one on the loopback."""
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket() as loopback:
        abstract.bind("\0" + name)
        abstract.listen()
        loopback.bind(("127.0.0.1", 0))
        loopback.listen()
        yield loopback.getsockname()[1]
