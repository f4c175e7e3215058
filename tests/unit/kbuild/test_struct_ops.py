# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the user's BPF schedulers: what clang says, what an object holds, and which content counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.definition import load
from harness.core.errors import Exit, HarnessError, UsageError
from harness.core.plan import BpfRequest, StructOps
from harness.host.toolchain import Bind, Toolchain
from harness.kbuild.btf import Btf
from harness.kbuild.image import GuestBuild
from harness.kbuild.struct_ops import Compiler, Object, content, dependencies, parse, refused, the_ops
from harness.suite import loader

KIND = cast(StructOps, loader.of("tests/kernel/sched_ext").struct_ops)
BPF_FOLDER = cast(Path, loader.of("tests/kernel/sched_ext").programs)
SOURCE = Path("/home/me/mine.bpf.c")

# In the words of `bpftool btf dump file FILE`.
SIMPLE = """[1] PTR '(anon)' type_id=3
[3] STRUCT 'sched_ext_ops' size=472 vlen=2
\t'select_cpu' type_id=1 bits_offset=0
[4] VAR 'mine_ops' type_id=3, linkage=global
[5] INT 'unsigned long long' size=8 bits_offset=0 nr_bits=64 encoding=(none)
[6] TYPEDEF 'u64' type_id=5
[7] VOLATILE '(anon)' type_id=6
[8] CONST '(anon)' type_id=7
[9] VAR '__SCX_DSQ_LOCAL' type_id=8, linkage=global
[10] VAR '__SCX_NOT_HERE' type_id=8, linkage=global
[11] VAR 'SCX_DSQ_LOCAL' type_id=6, linkage=global
[12] DATASEC '.rodata' size=0 vlen=2
\ttype_id=9 offset=0 size=8 (VAR '__SCX_DSQ_LOCAL')
\ttype_id=10 offset=8 size=8 (VAR '__SCX_NOT_HERE')
[13] DATASEC '.bss' size=0 vlen=1
\ttype_id=11 offset=0 size=8 (VAR 'SCX_DSQ_LOCAL')
[14] DATASEC '.struct_ops.link' size=0 vlen=1
\ttype_id=4 offset=0 size=472 (VAR 'mine_ops')
[15] DATASEC 'license' size=0 vlen=1
\ttype_id=4 offset=0 size=4 (VAR '_license')
"""
TWO = SIMPLE.replace("DATASEC 'license'", "DATASEC '.struct_ops'")
KERNEL = {"SCX_DSQ_LOCAL": 1 << 63 | 2, "u64": 7}


def test_an_objects_maps_and_variables() -> None:
    assert parse(SIMPLE) == Object(
        {"mine_ops": "sched_ext_ops"}, frozenset({"__SCX_DSQ_LOCAL", "__SCX_NOT_HERE", "SCX_DSQ_LOCAL"})
    )
    assert parse("") == Object({}, frozenset())


def test_a_type_behind_qualifiers_and_none_at_all() -> None:
    assert parse(
        SIMPLE.replace("VAR 'mine_ops' type_id=3", "VAR 'mine_ops' type_id=20") + "[20] CONST '(anon)' type_id=3\n"
    ).ops == {"mine_ops": "sched_ext_ops"}
    assert parse(SIMPLE.replace("VAR 'mine_ops' type_id=3", "VAR 'mine_ops' type_id=99")).ops == {"mine_ops": ""}
    loop = SIMPLE.replace("VAR 'mine_ops' type_id=3", "VAR 'mine_ops' type_id=20") + "[20] CONST '(anon)' type_id=20\n"
    assert parse(loop).ops == {"mine_ops": ""}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "/home/me/mine.bpf.c has no struct_ops map"),
        (TWO, "/home/me/mine.bpf.c has 2 struct_ops maps: _license, mine_ops"),
        (
            SIMPLE.replace("'sched_ext_ops'", "'tcp_congestion_ops'"),
            "mine_ops is a tcp_congestion_ops, no sched_ext_ops",
        ),
    ],
)
def test_what_is_no_scheduler_is_named(text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        the_ops(SOURCE, parse(text), KIND)
    assert says in raised.value.what
    assert "struct sched_ext_ops a file" in raised.value.step


@pytest.mark.parametrize("kind", ["sched_ext_ops", "sched_ext_ops_cid", "sched_ext_ops___old"])
def test_what_is_one(kind: str) -> None:
    assert the_ops(SOURCE, Object({"a": kind}, frozenset()), KIND) == "a"


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        (
            "/tmp/user/mine.bpf.c:1:2: warning: x\n/tmp/user/mine.bpf.c:12:3: error: unknown type name 'foo'\n2 errors generated.\n",
            "/home/me/mine.bpf.c:12:3: error: unknown type name 'foo'",
        ),
        (
            "/tmp/user/mine.bpf.c:1:10: fatal error: 'scx/uncommon.bpf.h' file not found\n",
            "/home/me/mine.bpf.c:1:10: fatal error: 'scx/uncommon.bpf.h' file not found",
        ),
        (
            "In file included from /tmp/user/mine.bpf.c:1:\n/tmp/kernel/tools/sched_ext/include/scx/common.bpf.h:9:1: error: x\n",
            "tools/sched_ext/include/scx/common.bpf.h:9:1: error: x",
        ),
    ],
)
def test_the_compilers_first_error_is_the_users_mistake(stderr: str, line: str) -> None:
    error = refused(SOURCE, stderr)
    assert (error.exit, error.what) == (Exit.USAGE, line)
    assert "mine.bpf.c does not compile" in error.step and "/tmp/user" not in error.detail


def test_a_compiler_that_names_no_error_is_not() -> None:
    assert isinstance(refused(SOURCE, "PLEASE submit a bug report\n"), HarnessError)


def test_what_is_included_from_the_users_folder() -> None:
    text = (
        "/tmp/out/mine.bpf.o: /tmp/user/mine.bpf.c \\\n  /tmp/user/./a\\ b.h /tmp/kernel/tools/x.h \\\n"
        "  /tmp/user/sub/c.h /bpf/kharness.bpf.h /tmp/user/sub/c.h\n"
    )
    assert dependencies(text) == ["a b.h", "mine.bpf.c", "sub/c.h"]


def test_names_and_content_count(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    first = content(tmp_path, ["a", "b"])
    assert first == content(tmp_path, ["a", "b"]) != content(tmp_path, ["a"])
    (tmp_path / "b").write_text("c")
    assert content(tmp_path, ["a", "b"]) != first


class Tools:
    """A toolchain whose clang and bpftool answer what is set, and which remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], list[Bind]]] = []
        self.stderr = ""

    def run(self, argv: Sequence[str], *, binds: Sequence[Bind] = (), **_: Any) -> SimpleNamespace:
        self.asked.append((list(argv), list(binds)))
        out = next((bind.host for bind in binds if bind.writable), Path())
        if argv[0] == "clang-19" and not self.stderr:
            (out / "mine.bpf.o").write_bytes(b"object")
            (out / "mine.d").write_text("/tmp/out/mine.bpf.o: /tmp/user/mine.bpf.c /tmp/user/mine.h\n")
        return SimpleNamespace(status=int(bool(self.stderr)), stdout=SIMPLE, stderr=self.stderr)


@pytest.fixture
def tools() -> Tools:
    return Tools()


@pytest.fixture
def compiler(tmp_path: Path, tools: Tools) -> Compiler:
    for name in ("user", "scratch"):
        (tmp_path / name).mkdir()
    (tmp_path / "user/mine.bpf.c").write_text("int x;\n")
    (tmp_path / "user/mine.h").write_text("\n")
    btf = SimpleNamespace(enumerator=KERNEL.get)
    how = GuestBuild(load("x86_64"), tmp_path)
    return Compiler(
        tmp_path, tmp_path / "vmlinux", cast(Btf, btf), how, cast(Toolchain, tools), tmp_path / "scratch", KIND
    )


def test_enumerators_are_set_as_the_kernel_has_them(compiler: Compiler, tmp_path: Path) -> None:
    (made,) = compiler.schedulers([BpfRequest(str(tmp_path / "user/mine.bpf.c"))])
    assert (made.name, made.ops, made.path) == ("mine", "mine_ops", str(tmp_path / "user/mine.bpf.c"))
    assert made.constants == {"__SCX_DSQ_LOCAL": KERNEL["SCX_DSQ_LOCAL"]}, (
        "nothing of the user's is set, nothing unknown"
    )


def test_nothing_is_left_in_the_shared_root(compiler: Compiler, tools: Tools, tmp_path: Path) -> None:
    """bubblewrap makes missing mount points, and they stay: but not below the private /tmp."""
    compiler.schedulers([BpfRequest(str(tmp_path / "user/mine.bpf.c"))])
    targets = {bind.target for _, binds in tools.asked for bind in binds}
    assert {target for target in targets if not target.startswith("/tmp/")} == {"/bpf", "/guest"}


def test_a_replay_wants_the_content_that_was_tested(compiler: Compiler, tmp_path: Path) -> None:
    file = str(tmp_path / "user/mine.bpf.c")
    (made,) = compiler.schedulers([BpfRequest(file)])
    (tmp_path / "scratch/types").rmdir()
    compiler.schedulers([BpfRequest(file, made.sha256)])
    (tmp_path / "scratch/types").rmdir()
    (tmp_path / "user/mine.h").write_text("#define X\n")
    with pytest.raises(UsageError, match=r"mine.bpf.c or what it includes has changed since"):
        compiler.schedulers([BpfRequest(file, made.sha256)])


def test_what_does_not_compile_ends_the_run(compiler: Compiler, tools: Tools, tmp_path: Path) -> None:
    tools.stderr = "/tmp/user/mine.bpf.c:1:1: error: no\n"
    with pytest.raises(UsageError, match=r"user/mine.bpf.c:1:1: error: no"):
        compiler.schedulers([BpfRequest(str(tmp_path / "user/mine.bpf.c"))])


def test_the_header_for_users_leaves_to_them_what_they_may_declare() -> None:
    """An enum that is declared twice does not compile: ours have these from another header."""
    header = (BPF_FOLDER / "scx.bpf.h").read_text()
    ours = (BPF_FOLDER / "flags.bpf.h").read_text()
    for name in ("SCX_OPS_SWITCH_PARTIAL", "enum scx_enq_flags", "scx_bpf_dsq_reenq"):
        assert name in ours and name not in header
    assert re.findall(r'#include "(.*)"', header) == ["kharness.bpf.h"]
