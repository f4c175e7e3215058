# SPDX-License-Identifier: GPL-2.0-only
"""The sched_ext selftests of the tree under test: built by their own Makefile, linked to run in our guest, listed.

Nothing is written into the tree: it is read-only in the sandbox; the build folder lies in the cache's staging folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.errors import HarnessError
from harness.core.plan import Selftest
from harness.core.wire import ByteOrder
from harness.host import below
from harness.host.cache import Cache
from harness.host.progress import Phase, Progress
from harness.host.removal import remove
from harness.host.toolchain import Bind, Toolchain
from harness.kbuild import buildlog
from harness.kbuild.buildlog import BUILD, SRC
from harness.kbuild.image import GUEST, VM_FOLDER, GuestBuild
from harness.kbuild.products import built_by
from harness.suite.interface import BuiltSelftests, NoSelftests, SelftestsRequest

FOLDER = "tools/testing/selftests/sched_ext"
HEADERS = "tools/sched_ext/include"
FORMAT = 1
"""Version of how they are built and of what is kept of them."""

SECONDS = 3600.0
VMLINUX = "/tmp/vmlinux"
OURS = "/tmp/ours"
SHIMS = (Path(__file__).with_name("exact.c"), VM_FOLDER / "agent" / "libelf_shim.c")
"""Functions that are linked in: a whole-name comparison, and those that Debian's static libelf lacks."""

RUNNER_MOST = 512 << 20
"""Bytes of the runner, which is read into memory; that of Linux 7.2 has 10 MB."""

NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}", re.ASCII)

LIBRARIES = "-lelf -lz -lzstd -lpthread"


def what(request: SelftestsRequest) -> str:
    """The work, for progress and errors."""
    return f"sched_ext selftests of {request.how.arch} {request.tree.version}"


def key(request: SelftestsRequest, toolchain: Toolchain) -> str:
    """The tree's content, the kernel's own key (its BTF), how both are built, and what is linked in."""
    parts = [
        str(FORMAT),
        request.tree.tree,
        Path(request.kernel.path).name,
        toolchain.id,
        request.how.key,
        request.how.arch,
    ]
    digest = hashlib.sha256("\0".join(parts).encode())
    for shim in SHIMS:
        digest.update(b"\0" + shim.read_bytes())
    return digest.hexdigest()[:24]


def build(request: SelftestsRequest, toolchain: Toolchain, cache: Cache, progress: Progress) -> BuiltSelftests:
    """The runner and its tests, from the cache or built now (a minute).

    Raises NoSelftests for a tree without any, KernelFailure("build") with the first error's file and line when they do
    not compile (they are the tree's), HarnessError when the host failed or they cannot be linked for our guest.
    """
    if not below.is_file(request.tree.path, f"{FOLDER}/Makefile", links=True):
        raise NoSelftests(f"{request.tree.origin} ({request.tree.version}) has no {FOLDER}")

    def maker(staging: Path) -> None:
        folder = staging / ".build"
        folder.mkdir()
        try:
            with progress.phase(what(request), f"selftests-{request.how.arch}") as phase:
                _make(request, toolchain, folder, phase)
            whole = staging / "whole"
            with built_by(what(request)):
                below.take(folder, "runner", whole, most=RUNNER_MOST)
                below.take(folder, "runner.stripped", staging / "runner", most=RUNNER_MOST)
            names = registered(_dwarf(toolchain, whole), whole.read_bytes())
            whole.unlink()
            (staging / "tests.json").write_text(json.dumps(names))
        finally:
            remove(folder)

    entry, _ = cache.produce("selftests", key(request, toolchain), maker, what=what(request), say=progress.say)
    names = json.loads((entry / "tests.json").read_text())
    return BuiltSelftests(entry / "runner", tuple(Selftest(name) for name in names))


def differ(one: Path, other: Path) -> bool:
    """Whether two trees have other selftests, or other headers of sched_ext for them: a patch may be of these alone."""
    return any(_content(one, name) != _content(other, name) for name in (FOLDER, HEADERS))


def _content(tree: Path, folder: str) -> dict[str, bytes]:
    """The content of a folder of a tree, of a link its target; empty where there is no such folder."""
    found = {}
    for name, facts in below.walk(tree, folder, skip=True):
        if stat.S_ISREG(facts.st_mode):
            found[name] = below.read_bytes(tree, name)
        elif stat.S_ISLNK(facts.st_mode):
            found[name] = below.read_link(tree, name)
    return found


# --- building -------------------------------------------------------------------------------


def arguments(how: GuestBuild, jobs: int) -> list[str]:
    """make's argv, without a target. bpftool and clang are the toolchain's, headers and libraries the guest's."""
    variables = {
        "OUTPUT": BUILD,
        "ARCH": how.definition.kernel.srcarch,
        "CROSS_COMPILE": how.cross_compile,
        "CC": f"{how.cross_compile}gcc --sysroot={GUEST}",
        "CLANG": f"clang-19 --sysroot={GUEST}",
        "LLVM_STRIP": "llvm-strip-19",
        "BPFTOOL": "/usr/sbin/bpftool",
        "VMLINUX_BTF": VMLINUX,
    }
    count = max(1, min(jobs, len(os.sched_getaffinity(0))))
    settings = [f"{name}={value}" for name, value in variables.items()]
    return ["make", "--no-print-directory", "-C", f"{SRC}/{FOLDER}", f"-j{count}", *settings]


def _make(request: SelftestsRequest, toolchain: Toolchain, folder: Path, phase: Phase) -> None:
    """Everything, by the tree's own Makefile; then the runner once more, static."""
    how, argv = request.how, arguments(request.how, request.jobs)
    run = _runner(request, toolchain, folder)
    lines, status = run(argv, what(request), lambda line: phase.step(note=step(line)))
    if status:
        raise buildlog.judge(placed(lines, request.tree.path / FOLDER), status, what(request))
    phase.step(note="linking for the guest")
    objects = [f"{BUILD}/{shim.stem}.o" for shim in SHIMS]
    flags = f"{' '.join(objects)} -Wl,--wrap=strstr -static {LIBRARIES}"
    compiler, strip = f"{how.cross_compile}gcc --sysroot={GUEST}", f"{how.cross_compile}strip"
    script = (
        f"set -e; cd {BUILD}; {compiler} -O2 -Wall -Werror -c {' '.join(f'{OURS}/{shim.name}' for shim in SHIMS)}; "
        f'rm runner; "$@"; {strip} -o runner.stripped runner'
    )
    lines, status = run(
        ["sh", "-c", script, "sh", *argv, f"LDFLAGS={flags}", f"{BUILD}/runner"], f"linking the {what(request)}", None
    )
    if status:
        why = buildlog.judge(lines, status, f"linking the {what(request)}")
        raise HarnessError(f"the {what(request)} cannot be linked for the guest: {why.what}", detail=why.detail)


Run = Callable[[Sequence[str], str, Callable[[str], None] | None], tuple[list[str], int]]


def _runner(request: SelftestsRequest, toolchain: Toolchain, folder: Path) -> Run:
    """How a command is run beside tree, kernel and build folder: its lines, one stream, and its exit status."""
    binds = [
        Bind(request.tree.path, SRC),
        Bind(Path(request.kernel.vmlinux), VMLINUX),
        Bind(request.how.root, GUEST),
        Bind(folder, BUILD, writable=True),
        *(Bind(shim, f"{OURS}/{shim.name}") for shim in SHIMS),
    ]

    def run(argv: Sequence[str], what: str, on_line: Callable[[str], None] | None) -> tuple[list[str], int]:
        done = toolchain.run(
            ["sh", "-c", 'exec "$@" 2>&1', "sh", *argv],
            binds=binds,
            cwd=BUILD,
            what=what,
            deadline=SECONDS,
            on_line=on_line,
            check=False,
        )
        return done.stdout.splitlines(), done.status

    return run


def step(line: str) -> str:
    """What a line of make's says it makes: the last word that is a file, without its folder."""
    words = [word for word in line.split() if re.search(r"\.(o|h|a)$", word)]
    return words[-1].rpartition("/")[2] if words else line.strip()[:60]


_OWN = re.compile(r"(?P<file>[\w.-]+\.[ch]):(?P<rest>\d+:.*)")


def placed(lines: Sequence[str], folder: Path) -> list[str]:
    """The lines with the selftests' own files, which are compiled in their folder, named from the top of the tree."""
    found = []
    for line in lines:
        own = _OWN.match(line)
        found.append(f"{FOLDER}/{line}" if own and (folder / own["file"]).is_file() else line)
    return found


# --- listing --------------------------------------------------------------------------------


def _dwarf(toolchain: Toolchain, runner: Path) -> str:
    """The runner's debug information from llvm-dwarfdump (18 MB)."""
    return toolchain.run(
        ["llvm-dwarfdump-19", "--debug-info", "/tmp/runner"],
        what="reading the selftests' debug information",
        binds=[Bind(runner, "/tmp/runner")],
    ).stdout


_DIE = re.compile(r"^0x[0-9a-f]+: +(?P<tag>\w+)", re.MULTILINE)
_TYPE = re.compile(r'DW_AT_type\s+\(0x[0-9a-f]+ "(?:const )?scx_test"\)')
_ADDRESS = re.compile(r"DW_AT_location\s+\(DW_OP_addr (0x[0-9a-f]+)\)")


def registered(dwarf: str, elf: bytes) -> tuple[str, ...]:
    """The names of the tests in a runner, from its debug information and its data.

    A test is a variable of type struct scx_test (scx_test.h of the selftests), whose first member points to its name:
    no program of another architecture has to be run. What the runner itself lists is compared in the guest. Raises
    HarnessError where there is none.
    """
    names: dict[str, None] = {}
    entries = list(_DIE.finditer(dwarf))
    for entry, following in zip(entries, [*entries, None][1:], strict=True):
        if entry["tag"] != "DW_TAG_variable":
            continue
        said = dwarf[entry.start() : following.start() if following else len(dwarf)]
        address = _ADDRESS.search(said)
        if address and _TYPE.search(said):
            names[_name(elf, int(address[1], 16))] = None
    if not names:
        raise HarnessError("the runner of the selftests holds no test", step="see whether scx_test.h has changed")
    return tuple(names)


def _name(elf: bytes, address: int) -> str:
    """The name that the variable at this address points to. Raises HarnessError where it leads to none."""
    try:
        (pointer,) = order_of(elf).unpack("Q", elf, offset(elf, address))
        start = offset(elf, pointer)
        name = elf[start : elf.index(b"\0", start)].decode()
    except (struct.error, ValueError) as error:
        step = "see what their Makefile does"
        raise HarnessError(f"the runner of the selftests is damaged: {error}", step=step) from error
    if not NAME.fullmatch(name):
        raise HarnessError(f"a selftest is called {name[:80]!a}, which is no name", step="see what registers it")
    return name


def order_of(elf: bytes) -> ByteOrder:
    """The byte order of a 64-bit ELF file (elf(5), EI_DATA). Raises HarnessError for what is none."""
    if elf[:5] != b"\x7fELF\x02" or elf[5:6] not in (b"\x01", b"\x02"):
        raise HarnessError("the runner of the selftests is no 64-bit ELF file")
    return ByteOrder.LITTLE if elf[5] == 1 else ByteOrder.BIG


def offset(elf: bytes, address: int) -> int:
    """Where in a 64-bit ELF file an address is loaded from (elf(5)). Raises HarnessError for no such."""
    order = order_of(elf)
    (table,) = order.unpack("Q", elf, 32)
    size, count = order.unpack("HH", elf, 54)
    for number in range(count):
        kind, _, start, virtual, _, length = order.unpack("IIQQQQ", elf, table + number * size)
        if kind == 1 and virtual <= address < virtual + length:  # PT_LOAD
            return int(start + address - virtual)
    raise HarnessError(f"the runner of the selftests holds nothing at {address:#x}")


@dataclass(frozen=True)
class SchedExtSelftests:
    """The selftests as the engine sees them (harness.suite.interface.Selftests)."""

    tools: frozenset[str] = field(default=frozenset({"testing", "sched_ext"}))

    def build(
        self, request: SelftestsRequest, toolchain: Toolchain, cache: Cache, progress: Progress
    ) -> BuiltSelftests:
        return build(request, toolchain, cache, progress)

    def differ(self, one: Path, other: Path) -> bool:
        return differ(one, other)


SELFTESTS = SchedExtSelftests()
