# SPDX-License-Identifier: GPL-2.0-only
"""Tests of why a patch changes nothing: which sections count, and the Kconfig symbols found in Makefiles and C."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.kbuild import kconfig
from harness.kbuild.sections import differing, loaded
from harness.kbuild.unbuilt import Built, conditions, explain, gates

TREE = {
    "Kbuild": "obj-y += kernel/\nobj-y += fs/ drivers/\nobj-$(CONFIG_NET) += net/\n",
    "kernel/Makefile": "obj-y = fork.o exit.o\nobj-y += sched/\nobj-$(CONFIG_KEXEC_CORE) += kexec_core.o\n",
    "kernel/sched/Makefile": "obj-y += core.o\nobj-y += build_policy.o\n",
    "kernel/sched/build_policy.c": (
        '#include "idle.c"\n#ifdef CONFIG_SCHED_CLASS_EXT\n# include "ext/ext.c"\n#endif\n'
        '#if defined(CONFIG_CPUACCT)\n# include "cpuacct.c"\n#endif\n'
    ),
    "kernel/sched/ext/ext.c": (
        "int a;\n#ifdef CONFIG_EXT_SUB_SCHED\nint sub;\n#else\nint none;\n#endif\nint b;\n"
        "#if defined(CONFIG_ONE) && defined(CONFIG_TWO_MODULE)\nint both;\n#endif\n#ifndef CONFIG_THREE\nint off;\n#endif\n"
    ),
    "kernel/sched/cpuacct.c": "int acct;\n",
    "fs/Makefile": "obj-$(CONFIG_EXT4_FS)\t\t+= ext4/\nobj-y += \\\n\tread_write.o \\\n\topen.o\n",
    "fs/ext4/Makefile": "obj-$(CONFIG_EXT4_FS) += ext4.o\next4-y := inode.o\next4-$(CONFIG_EXT4_FS_SECURITY) += xattr_security.o\n",
    "fs/ext4/inode.c": "",
    "fs/ext4/xattr_security.c": "",
    "net/Makefile": "ifneq ($(CONFIG_NET),)\nobj-y += core/\nendif\n",
    "net/core/Makefile": "ifdef CONFIG_BPF\nobj-y += filter.o\nelse\nobj-y += stub.o\nendif\nobj-y += dev.o # filter2.o\n",
    "drivers/Makefile": "obj-$(CONFIG_GPU) += gpu/drm/\n",
    "drivers/gpu/drm/Makefile": "drm-objs := main.o\nobj-m += drm.o\n",
    "drivers/gpu/drm/main.c": "",
    "include/linux/x.h": "#define A 1\n#ifdef CONFIG_X\n#define B 2\n#endif\n",
    "kernel/orphan.c": "",
}
ON = "CONFIG_SCHED_CLASS_EXT=y\nCONFIG_NET=y\nCONFIG_ONE=y\n"
OBJECTS = ("kernel/fork.o", "kernel/sched/core.o", "kernel/sched/build_policy.o", "net/core/dev.o")


@pytest.fixture
def built(tmp_path: Path) -> Built:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Built(tmp_path, "x86", kconfig.parse(ON, "config"), frozenset(OBJECTS))


@pytest.mark.parametrize(
    ("file", "symbols"),
    [
        ("kernel/fork.c", ()),
        ("kernel/kexec_core.c", ("KEXEC_CORE",)),
        ("fs/open.c", ()),
        ("fs/ext4/inode.c", ("EXT4_FS",)),
        ("fs/ext4/xattr_security.c", ("EXT4_FS_SECURITY", "EXT4_FS")),
        ("net/core/filter.c", ("BPF", "NET")),
        ("net/core/stub.c", ("NET",)),
        ("net/core/filter2.c", ("NET",)),
        ("drivers/gpu/drm/main.c", ("GPU",)),
    ],
)
def test_the_symbols_of_the_makefiles(built: Built, file: str, symbols: tuple[str, ...]) -> None:
    assert gates(built.tree, file) == symbols


@pytest.mark.parametrize(
    ("line", "symbols"), [(1, ()), (3, ("EXT_SUB_SCHED",)), (5, ()), (7, ()), (9, ("ONE", "TWO")), (12, ())]
)
def test_the_symbols_around_a_line(line: int, symbols: tuple[str, ...]) -> None:
    assert conditions(TREE["kernel/sched/ext/ext.c"], line) == symbols


@pytest.mark.parametrize(
    ("file", "line", "says", "symbols"),
    [
        ("Documentation/index.rst", 1, "is not part of a kernel image", ()),
        ("tools/bpf/x.c", 1, "is not part of a kernel image", ()),
        ("arch/arm64/kernel/setup.c", 1, "is not part of a x86 kernel", ()),
        ("kernel/Kconfig.preempt", 1, "does not change what is compiled", ()),
        ("kernel/fork.c", 1, "is compiled, and the code comes out the same", ()),
        ("fs/ext4/inode.c", 1, "is built only with CONFIG_EXT4_FS", ("EXT4_FS",)),
        ("kernel/sched/ext/ext.c", 1, "comes out the same", ()),
        ("kernel/sched/ext/ext.c", 3, "at these lines only with CONFIG_EXT_SUB_SCHED", ("EXT_SUB_SCHED",)),
        ("kernel/sched/ext/ext.c", 9, "only with CONFIG_TWO", ("TWO",)),
        ("kernel/sched/cpuacct.c", 1, "only with CONFIG_CPUACCT", ("CPUACCT",)),
        ("include/linux/x.h", 3, "only with CONFIG_X", ("X",)),
        ("kernel/orphan.c", 1, "no Makefile rule says why", ()),
    ],
)
def test_why_nothing_changed(built: Built, file: str, line: int, says: str, symbols: tuple[str, ...]) -> None:
    found = explain(built, file, (line,))
    assert says in found.line() and found.line().startswith(file)
    assert found.symbols == symbols


# --- sections -------------------------------------------------------------------------------


def elf(path: Path, **sections: tuple[int, bytes | int]) -> Path:
    """A 64-bit little-endian ELF file of sections: flags, and content (a number: that many bytes of .bss)."""
    names, blob, headers = b"\0", b"", [bytes(64)]
    for name, (flags, content) in {**sections, "shstrtab": (0, b"")}.items():
        at = len(names)
        names += f".{name}\0".encode()
        data = names if name == "shstrtab" else content
        kind = 8 if isinstance(data, int) else 3 if name == "shstrtab" else 1  # SHT_NOBITS, SHT_STRTAB, SHT_PROGBITS
        size = data if isinstance(data, int) else len(data)
        headers.append(struct.pack("<IIQQQQIIQQ", at, kind, flags, 0, 64 + len(blob), size, 0, 0, 1, 0))
        blob += b"" if isinstance(data, int) else data
    head = struct.pack(
        "<4sBBBB8xHHIQQQIHHHHHH",
        b"\x7fELF",
        2,
        1,
        1,
        0,
        2,
        62,
        1,
        0,
        0,
        64 + len(blob),
        0,
        64,
        0,
        0,
        64,
        len(headers),
        len(headers) - 1,
    )
    path.write_bytes(head + blob + b"".join(headers))
    return path


def test_what_is_loaded_counts(tmp_path: Path) -> None:
    """Debug information, BTF and the build id may differ: no CPU runs them."""
    alloc = 2
    same: dict[str, tuple[int, bytes | int]] = {"text": (6, b"code"), "bss": (3, 4096)}
    one = elf(tmp_path / "one", **same, BTF=(alloc, b"1"), notes=(alloc, b"id 1"), debug_info=(0, b"here"))
    two = elf(tmp_path / "two", **same, BTF=(alloc, b"2"), notes=(alloc, b"id 2"), debug_info=(0, b"there"))
    assert loaded(one).keys() == {".text", ".bss"}
    assert differing(one, two) == ()
    other = elf(tmp_path / "other", text=(6, b"kode"), bss=(3, 8192), rodata=(alloc, b"new"))
    assert differing(one, other) == (".bss", ".rodata", ".text")


def test_what_is_no_kernel(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not an ELF file, but long enough to look for a header in it " * 4)
    with pytest.raises(HarnessError, match="cannot read"):
        loaded(tmp_path / "text")
    with pytest.raises(HarnessError, match="cannot read"):
        loaded(tmp_path / "none")
