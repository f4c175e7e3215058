# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the build of a tree's selftests: how make is called, whose fault a failure is, and which tests there are."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from selftests import build as selftests
from selftests.build import FOLDER, arguments, build, differ, offset, placed, registered, step

from harness.core.definition import load
from harness.core.errors import HarnessError, KernelFailure
from harness.core.plan import Selftest
from harness.core.records import Kernel, Role
from harness.host.cache import Cache
from harness.host.process import Done
from harness.host.progress import Progress
from harness.host.sandbox import Bind
from harness.host.toolchain import Toolchain
from harness.kbuild.buildlog import BUILD, SRC
from harness.kbuild.image import GUEST, GuestBuild
from harness.source.tree import Tree
from harness.suite.interface import BuiltSelftests, NoSelftests, SelftestsRequest

# In the words of llvm-dwarfdump 19: two tests, what only looks like one, and the runner's own array of them.
DWARF = """
0x0000043b:   DW_TAG_structure_type
                DW_AT_name	("scx_test")

0x00000500:   DW_TAG_variable
                DW_AT_name	("exit_test")
                DW_AT_type	(0x0000043b "scx_test")
                DW_AT_external	(true)
                DW_AT_location	(DW_OP_addr 0x402000)

0x00000520:   DW_TAG_variable
                DW_AT_name	("elsewhere")
                DW_AT_type	(0x0000043b "scx_test")
                DW_AT_declaration	(true)

0x00000546:   DW_TAG_variable
                DW_AT_type	(0x00000550 "scx_test[2048]")
                DW_AT_location	(DW_OP_addr 0x402028)

0x00000560:   DW_TAG_formal_parameter
                DW_AT_type	(0x0000043b "scx_test")
                DW_AT_location	(DW_OP_addr 0x402028)

0x00000580:   DW_TAG_variable
                DW_AT_type	(0x00000489 "const scx_test")
                DW_AT_location	(DW_OP_addr 0x402010)
"""


def elf(data: bytes, address: int = 0x402000) -> bytes:
    """A 64-bit little-endian file of which `data` is loaded at an address, behind a segment that is not loaded."""
    table = struct.pack("<IIQQQQQQ", 4, 4, 0, address, address, 0x1000, 0x1000, 8)
    table += struct.pack("<IIQQQQQQ", 1, 6, 0x200, address, address, len(data), len(data) + 64, 4096)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    return (head + table).ljust(0x200, b"\0") + data


DATA = struct.pack("<QQQQ", 0x402020, 0, 0x402025, 0) + b"exit\0example\0"
ELF = elf(DATA)


class FakeToolchain:
    """A toolchain in which the first make, the link and llvm-dwarfdump answer as they are given; it makes the runner."""

    id = "toolchain1"

    def __init__(self, make: str = "", link: str = "") -> None:
        self.said = {"make": make, "link": link}
        self.calls: list[tuple[list[str], tuple[Bind, ...]]] = []

    def run(self, argv: Sequence[str], *, what: str, binds: Sequence[Bind] = (), **more: Any) -> Done:
        self.calls.append((list(argv), tuple(binds)))
        if argv[0] == "llvm-dwarfdump-19":
            return Done(tuple(argv), 0, DWARF, "", 0.0)
        said = self.said["link" if what.startswith("linking") else "make"]
        folder = next(bind.host for bind in binds if bind.writable)
        for name in ("runner", "runner.stripped") if not said else ():
            (folder / name).write_bytes(ELF)
        if more.get("on_line"):
            more["on_line"](f"gcc -c exit.c -o {BUILD}/build/obj/sched_ext/exit.o")
        return Done(tuple(argv), 2 if said else 0, said, "", 0.0)


@pytest.fixture
def request_(tmp_path: Path) -> SelftestsRequest:
    (tmp_path / "src" / FOLDER).mkdir(parents=True)
    for name in ("Makefile", "exit.bpf.c", "exit.c"):
        (tmp_path / "src" / FOLDER / name).write_text("")
    (tmp_path / "guest" / "root").mkdir(parents=True)
    (tmp_path / "guest" / "packages").write_text("libelf 1\n")
    tree = Tree(tmp_path / "src", "tree1", "", False, "linux-source-7.3 7.3.4-1", "7.3.4")
    kernel = Kernel(
        "k1",
        "arm64",
        Role.TREE,
        "7.3.4",
        "",
        "",
        "tree1",
        False,
        (),
        "config",
        "sha",
        "toolchain1",
        "image",
        str(tmp_path / "vmlinux"),
        "/cache/kernel/abc",
        0.0,
        True,
    )
    return SelftestsRequest(tree, kernel, GuestBuild(load("arm64"), tmp_path / "guest" / "root"), jobs=1)


def made(request: SelftestsRequest, toolchain: FakeToolchain, folder: Path) -> BuiltSelftests:
    return build(request, cast(Toolchain, toolchain), Cache(folder / "cache", 0), Progress(None, stream=io.StringIO()))


def test_the_runner_and_its_tests_are_kept(request_: SelftestsRequest, tmp_path: Path) -> None:
    toolchain = FakeToolchain()
    built = made(request_, toolchain, tmp_path)
    assert built.tests == (Selftest("exit"), Selftest("example"))
    assert built.runner.read_bytes() == ELF
    assert {path.name for path in built.runner.parent.iterdir()} == {"runner", "tests.json"}
    calls = len(toolchain.calls)
    assert made(request_, toolchain, tmp_path) == built
    assert len(toolchain.calls) == calls, "the second comes from the cache"


def test_only_the_build_folder_can_be_written(request_: SelftestsRequest, tmp_path: Path) -> None:
    toolchain = FakeToolchain()
    made(request_, toolchain, tmp_path)
    writable = {bind.target for _, binds in toolchain.calls for bind in binds if bind.writable}
    assert writable == {BUILD}
    (bound,) = {bind.host for _, binds in toolchain.calls for bind in binds if bind.target == SRC}
    assert bound == request_.tree.path


@pytest.mark.parametrize(("arch", "cross"), [("arm64", "aarch64-linux-gnu-"), ("riscv64", "riscv64-linux-gnu-")])
def test_how_make_is_called(arch: str, cross: str, tmp_path: Path) -> None:
    argv = arguments(GuestBuild(load(arch), tmp_path), jobs=1)
    assert argv[:5] == ["make", "--no-print-directory", "-C", f"/src/{FOLDER}", "-j1"]
    settings = dict(word.split("=", 1) for word in argv[5:])
    assert settings["ARCH"] == load(arch).kernel.srcarch
    assert settings["CROSS_COMPILE"] == cross
    assert settings["CC"] == f"{cross}gcc --sysroot={GUEST}"
    assert settings["OUTPUT"] == BUILD
    assert settings["VMLINUX_BTF"] == selftests.VMLINUX


def test_the_link_is_static_and_takes_names_whole(request_: SelftestsRequest, tmp_path: Path) -> None:
    toolchain = FakeToolchain()
    made(request_, toolchain, tmp_path)
    link = next(argv for argv, _ in toolchain.calls if any(word.startswith("LDFLAGS=") for word in argv))
    flags = next(word for word in link if word.startswith("LDFLAGS=")).split()
    assert {"-static", "-Wl,--wrap=strstr", f"{BUILD}/libelf_shim.o"} <= set(flags)
    assert link[-1] == f"{BUILD}/runner"


def test_what_does_not_compile_is_the_trees_fault(request_: SelftestsRequest, tmp_path: Path) -> None:
    """Named from the top of the tree: the Makefile compiles in its own folder."""
    clang = (
        "exit.bpf.c:20:2: error: use of undeclared identifier 'nothing'\nmake: *** [Makefile:120: exit.bpf.o] Error 1"
    )
    with pytest.raises(KernelFailure) as raised:
        made(request_, FakeToolchain(make=clang), tmp_path)
    assert raised.value.kind == "build"
    assert raised.value.what == f"{FOLDER}/exit.bpf.c:20: use of undeclared identifier 'nothing'"


def test_what_the_host_does_is_not_the_trees_fault(request_: SelftestsRequest, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="the disk is full"):
        made(request_, FakeToolchain(make="ld: final link failed: No space left on device"), tmp_path)
    with pytest.raises(HarnessError, match="cannot be linked for the guest: .*undefined reference"):
        made(request_, FakeToolchain(link="ld: numa.c:3: undefined reference to `numa_init'"), tmp_path)
    assert not list((tmp_path / "cache").glob("selftests/*"))


def test_a_tree_without_any(request_: SelftestsRequest, tmp_path: Path) -> None:
    (request_.tree.path / FOLDER / "Makefile").unlink()
    toolchain = FakeToolchain()
    with pytest.raises(NoSelftests) as raised:
        made(request_, toolchain, tmp_path)
    assert raised.value.what == f"linux-source-7.3 7.3.4-1 (7.3.4) has no {FOLDER}"
    assert not toolchain.calls


def test_a_patch_may_be_of_the_selftests_alone(tmp_path: Path) -> None:
    for tree in ("base", "patched"):
        for name in (f"{FOLDER}/exit.c", "tools/sched_ext/include/scx/common.h", "kernel/fork.c"):
            (tmp_path / tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / tree / name).write_text("int x;\n")
    base, patched = tmp_path / "base", tmp_path / "patched"
    (patched / "kernel/fork.c").write_text("int y;\n")
    assert not differ(base, patched)
    (patched / FOLDER / "exit.c").write_text("int y;\n")
    assert differ(base, patched)
    (patched / FOLDER / "exit.c").write_text("int x;\n")
    (patched / "tools/sched_ext/include/scx/common.h").unlink()
    assert differ(base, patched)


def test_the_key_is_all_that_goes_in(request_: SelftestsRequest) -> None:
    toolchain = cast(Toolchain, FakeToolchain())
    key = selftests.key(request_, toolchain)
    assert selftests.key(request_, toolchain) == key
    other_tree = dataclasses.replace(request_, tree=dataclasses.replace(request_.tree, tree="tree2"))
    other_kernel = dataclasses.replace(request_, kernel=dataclasses.replace(request_.kernel, path="/cache/kernel/def"))
    assert len({key, selftests.key(other_tree, toolchain), selftests.key(other_kernel, toolchain)}) == 3
    assert selftests.key(dataclasses.replace(request_, jobs=7), toolchain) == key


def test_only_their_own_files_are_placed(request_: SelftestsRequest) -> None:
    folder = request_.tree.path / FOLDER
    lines = ["exit.c:3:1: error: x", "/src/kernel/fork.c:1: error: y", "other.c:1:1: error: z", "  exit.c: in function"]
    assert placed(lines, folder) == [f"{FOLDER}/exit.c:3:1: error: x", *lines[1:]]


def test_what_is_shown_while_it_is_made() -> None:
    assert step("gcc -O2 -c exit.c -o /build/build/obj/sched_ext/exit.o") == "exit.o"
    assert step("  GEN-SKEL exit.bpf.skel.h") == "exit.bpf.skel.h"
    assert step("something else") == "something else"


def test_tests_are_the_variables_of_their_type() -> None:
    assert registered(DWARF, ELF) == ("exit", "example")
    with pytest.raises(HarnessError, match="holds no test"):
        registered(DWARF.replace('"scx_test"', '"other"').replace('"const scx_test"', '"other"'), ELF)


def test_addresses_in_a_file() -> None:
    assert offset(ELF, 0x402000) == 0x200
    with pytest.raises(HarnessError, match="nothing at 0x10"):
        offset(ELF, 0x10)
    with pytest.raises(HarnessError, match="nothing at"):
        offset(ELF, 0x402000 + len(DATA))  # loaded as zeros, not from the file
    with pytest.raises(HarnessError, match="no 64-bit"):
        offset(b"\x7fELF\x01\x01" + bytes(100), 0x402000)


@pytest.mark.parametrize("name", ["runner", "runner.stripped"])
@pytest.mark.parametrize(
    ("spoil", "shown"),
    [
        (lambda file, home: file.symlink_to(home / "id"), "is a symbolic link"),
        (lambda file, home: os.mkfifo(file), "is a FIFO"),
        (lambda file, home: os.truncate(os.open(file, os.O_CREAT | os.O_WRONLY), 1 << 40), "has 1099511627776 bytes"),
    ],
)
def test_a_runner_that_is_no_file_is_neither_read_nor_bound(
    request_: SelftestsRequest, tmp_path: Path, name: str, spoil: Callable[[Path, Path], object], shown: str
) -> None:
    """bubblewrap binds what a link leads to, and the runner goes into the guest."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "id").write_bytes(ELF)

    class Hostile(FakeToolchain):
        def run(self, argv: Sequence[str], *, what: str, binds: Sequence[Bind] = (), **more: Any) -> Done:
            assert not any(bind.host.is_symlink() for bind in binds)
            done = super().run(argv, what=what, binds=binds, **more)
            if what.startswith("linking"):
                folder = next(bind.host for bind in binds if bind.writable)
                (folder / name).unlink()
                spoil(folder / name, home)
            return done

    with pytest.raises(KernelFailure, match=f"left {name}, which {shown}"):
        made(request_, Hostile(), tmp_path)
    assert not any((tmp_path / "cache/selftests").glob("*")) and not any((tmp_path / "cache/.staging").iterdir())


def test_the_runner_is_a_file_of_ours_when_it_is_bound(request_: SelftestsRequest, tmp_path: Path) -> None:
    toolchain = FakeToolchain()
    made(request_, toolchain, tmp_path)
    _, binds = next(call for call in toolchain.calls if call[0][0] == "llvm-dwarfdump-19")
    assert ".build" not in binds[0].host.parts


@pytest.mark.parametrize("name", [b"../../etc/x", b"\x1b]0;x\x07", b"", b"\xff", b"a\nb"])
def test_a_selftest_whose_name_is_none(name: bytes) -> None:
    data = struct.pack("<QQQQ", 0x402020, 0, 0x402020, 0) + name + b"\0"
    with pytest.raises(HarnessError, match="which is no name|is damaged"):
        registered(DWARF, elf(data))


@pytest.mark.parametrize("size", [0, 10, 57, 64, 100, 0x200, 0x208, 0x225])
def test_a_runner_that_is_cut_is_said(size: int) -> None:
    with pytest.raises(HarnessError):
        registered(DWARF, ELF[:size])


def test_selftests_behind_a_link_are_not_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "a").write_text("one")
    for name in ("one", "two"):
        (tmp_path / name / FOLDER).parent.mkdir(parents=True)
        (tmp_path / name / FOLDER).mkdir()
        (tmp_path / name / FOLDER / "out").symlink_to(home)
        (tmp_path / name / FOLDER / "zero").symlink_to("/dev/zero")
        os.mkfifo(tmp_path / name / FOLDER / "fifo")
    assert not differ(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / FOLDER / "zero").unlink()
    assert differ(tmp_path / "one", tmp_path / "two")
