# SPDX-License-Identifier: GPL-2.0-only
"""Owns the sched_ext selftests of the tree under test: built by their own Makefile, linked to run in our guest, listed.

Nothing is written into the tree: it is read-only in the sandbox; the build folder lies in the cache's staging folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.build import buildlog
from harness.build.buildlog import BUILD, SRC
from harness.build.image import GUEST, VM_FOLDER, GuestBuild
from harness.errors import HarnessError
from harness.host.cache import Cache, remove
from harness.host.progress import Phase, Progress
from harness.host.toolchain import Bind, Toolchain
from harness.plan import Selftest
from harness.records import Kernel
from harness.source.tree import Tree

FOLDER = "tools/testing/selftests/sched_ext"
HEADERS = "tools/sched_ext/include"
FORMAT = 1
"""Version of how they are built and of what is kept of them."""

SECONDS = 3600.0
VMLINUX = "/tmp/vmlinux"
OURS = "/tmp/ours"
SHIMS = (VM_FOLDER / "selftests" / "exact.c", VM_FOLDER / "agent" / "libelf_shim.c")
"""What is linked in: names are taken whole, and what Debian's static libelf lacks (see there)."""

LIBRARIES = "-lelf -lz -lzstd -lpthread"


class NoSelftests(HarnessError):
    """The tree has no sched_ext selftests: there is nothing to build, and nothing can be said of the kernel."""


@dataclass(frozen=True)
class Built:
    """The runner for the guest, static, and the tests that are registered in it, in the order they were linked."""

    runner: Path
    tests: tuple[Selftest, ...]


@dataclass(frozen=True)
class Request:
    """Whose selftests: `tree` is their source, `kernel` has the types that they are compiled against. `jobs` is at most
    how many compilers run at once."""

    tree: Tree
    kernel: Kernel
    how: GuestBuild
    jobs: int = 2

    @property
    def what(self) -> str:
        return f"sched_ext selftests of {self.how.arch} {self.tree.version}"

    def key(self, toolchain: Toolchain) -> str:
        """The tree's content, the kernel's own key (its BTF), how both are built, and what is linked in."""
        parts = [str(FORMAT), self.tree.tree, Path(self.kernel.path).name, toolchain.id, self.how.key, self.how.arch]
        digest = hashlib.sha256("\0".join(parts).encode())
        for shim in SHIMS:
            digest.update(b"\0" + shim.read_bytes())
        return digest.hexdigest()[:24]


def build(request: Request, toolchain: Toolchain, cache: Cache, progress: Progress) -> Built:
    """The runner and its tests, from the cache or built now (a minute).

    Raises NoSelftests for a tree without any, KernelFailure("build") with the first error's file and line when they do
    not compile (they are the tree's), HarnessError when the host failed or they cannot be linked for our guest.
    """
    if not (request.tree.path / FOLDER / "Makefile").is_file():
        raise NoSelftests(f"{request.tree.origin} ({request.tree.version}) has no {FOLDER}")

    def maker(staging: Path) -> None:
        folder = staging / ".build"
        folder.mkdir()
        try:
            with progress.phase(request.what, f"selftests-{request.how.arch}") as phase:
                _make(request, toolchain, folder, phase)
            names = registered(_dwarf(toolchain, folder), (folder / "runner").read_bytes())
            (folder / "runner.stripped").replace(staging / "runner")
            (staging / "tests.json").write_text(json.dumps(names))
        finally:
            remove(folder)

    entry, _ = cache.produce("selftests", request.key(toolchain), maker, what=request.what, say=progress.say)
    names = json.loads((entry / "tests.json").read_text())
    return Built(entry / "runner", tuple(Selftest(name) for name in names))


def differ(one: Path, other: Path) -> bool:
    """Whether two trees have other selftests, or other headers of sched_ext for them: a patch may be of these alone."""
    return any(_content(one / name) != _content(other / name) for name in (FOLDER, HEADERS))


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


def _make(request: Request, toolchain: Toolchain, folder: Path, phase: Phase) -> None:
    """Everything, by the tree's own Makefile; then the runner once more, static."""
    how, argv = request.how, arguments(request.how, request.jobs)
    run = _runner(request, toolchain, folder)
    lines, status = run(argv, request.what, lambda line: phase.step(note=step(line)))
    if status:
        raise buildlog.judge(placed(lines, request.tree.path / FOLDER), status, request.what)
    phase.step(note="linking for the guest")
    objects = [f"{BUILD}/{shim.stem}.o" for shim in SHIMS]
    flags = f"{' '.join(objects)} -Wl,--wrap=strstr -static {LIBRARIES}"
    compiler, strip = f"{how.cross_compile}gcc --sysroot={GUEST}", f"{how.cross_compile}strip"
    script = (
        f"set -e; cd {BUILD}; {compiler} -O2 -Wall -Werror -c {' '.join(f'{OURS}/{shim.name}' for shim in SHIMS)}; "
        f'rm runner; "$@"; {strip} -o runner.stripped runner'
    )
    lines, status = run(
        ["sh", "-c", script, "sh", *argv, f"LDFLAGS={flags}", f"{BUILD}/runner"], f"linking the {request.what}", None
    )
    if status:
        why = buildlog.judge(lines, status, f"linking the {request.what}")
        raise HarnessError(f"the {request.what} cannot be linked for the guest: {why.what}", detail=why.detail)


Run = Callable[[Sequence[str], str, Callable[[str], None] | None], tuple[list[str], int]]


def _runner(request: Request, toolchain: Toolchain, folder: Path) -> Run:
    """How a command is run beside tree, kernel and build folder: its lines, one stream, and its exit status."""
    binds = [
        Bind(request.tree.path, SRC), Bind(Path(request.kernel.vmlinux), VMLINUX), Bind(request.how.root, GUEST),
        Bind(folder, BUILD, writable=True), *(Bind(shim, f"{OURS}/{shim.name}") for shim in SHIMS),
    ]  # fmt: skip

    def run(argv: Sequence[str], what: str, on_line: Callable[[str], None] | None) -> tuple[list[str], int]:
        done = toolchain.run(
            ["sh", "-c", 'exec "$@" 2>&1', "sh", *argv], binds=binds, cwd=BUILD, what=what, deadline=SECONDS,
            on_line=on_line, check=False,
        )  # fmt: skip
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


def _dwarf(toolchain: Toolchain, folder: Path) -> str:
    """The runner's debug information as llvm-dwarfdump tells it (18 MB)."""
    return toolchain.run(
        ["llvm-dwarfdump-19", "--debug-info", "/tmp/runner"], what="reading the selftests' debug information",
        binds=[Bind(folder / "runner", "/tmp/runner")],
    ).stdout  # fmt: skip


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
            (pointer,) = struct.unpack_from("<Q", elf, offset(elf, int(address[1], 16)))
            start = offset(elf, pointer)
            names[elf[start : elf.index(b"\0", start)].decode()] = None
    if not names:
        raise HarnessError("the runner of the selftests holds no test", step="see whether scx_test.h has changed")
    return tuple(names)


def offset(elf: bytes, address: int) -> int:
    """Where in a 64-bit little-endian ELF file an address is loaded from (elf(5)). Raises HarnessError for no such."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise HarnessError("the runner of the selftests is no 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    for number in range(count):
        kind, _, start, virtual, _, length = struct.unpack_from("<IIQQQQ", elf, table + number * size)
        if kind == 1 and virtual <= address < virtual + length:  # PT_LOAD
            return int(start + address - virtual)
    raise HarnessError(f"the runner of the selftests holds nothing at {address:#x}")

