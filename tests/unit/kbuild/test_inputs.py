# SPDX-License-Identifier: GPL-2.0-only
"""Tests of which files take part in a build: what is left out must be sure, whatever the #if lines say."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.kbuild.inputs import Inputs, of_build

FILES = {
    "Makefile": "VERSION = 7\n",
    "kernel/Makefile": "obj-y += fork.o build_policy.o\n",
    "kernel/fork.c": '#include <linux/fork.h>\n#include "internal.h"\n#ifdef CONFIG_OFF\n#include "off.h"\n#endif\n',
    "kernel/internal.h": "",
    "kernel/off.h": "",
    "kernel/other.h": "",
    "kernel/build_policy.c": '#include "ext/ext.c"\n',
    "kernel/ext/ext.c": "#define TRACE_FILE ext_trace.h\n#include TRACE_INCLUDE(TRACE_FILE)\n",
    "kernel/ext/ext_trace.h": "",
    "kernel/unbuilt.c": "",
    "drivers/inode.c": "",
    "drivers/fork.c": "",
    "include/linux/fork.h": "#include <asm/io.h>\n#include <linux/deep.h>\n",
    "include/linux/deep.h": "",
    "include/linux/late.h": "",
    "include/linux/unused.h": "",
    "include/linux/module_only.h": "",
    "include/asm-generic/io.h": "",
    "include/linux/kconfig.h": "",
    "arch/x86/include/asm/io.h": "",
    "arch/x86/kernel/vmlinux.lds.S": "#include <linux/script.h>\n",
    "include/linux/script.h": "",
    "arch/arm64/include/asm/io.h": "",
    "arch/arm64/kernel/setup.c": "",
    "arch/arm64/Kconfig": "",
    "scripts/mod/modpost.c": '#include "../../include/linux/shared.h"\n',
    "include/linux/shared.h": "",
    "tools/objtool/check.c": "",
    "tools/perf/perf.c": "",
    "tools/sched_ext/include/common.h": "",
    "tools/testing/selftests/x.c": "",
    "Documentation/Kconfig": "",
    "Documentation/x.rst": "",
    "MAINTAINERS": "",
    "net/Kconfig": "",
    "lib/table.tbl": "",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linux")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def part(tree: Path) -> Inputs:
    return of_build(
        tree,
        "x86",
        ["kernel/fork.o", "kernel/build_policy.o"],
        ["#include <linux/module_only.h>\n"],
        versions=lambda path: ["#include <linux/late.h>\n"] if path == "kernel/internal.h" else [],
    )


@pytest.mark.parametrize(
    "path",
    [
        "kernel/fork.c",
        "kernel/internal.h",
        "kernel/build_policy.c",
        "kernel/ext/ext.c",
        "kernel/off.h",  # within an #ifdef that is off: not looked at
        "kernel/ext/ext_trace.h",  # by a name that macros put together
        "drivers/fork.c",  # an object of that name is built, elsewhere
        "include/linux/fork.h",
        "include/linux/deep.h",
        "include/asm-generic/io.h",
        "arch/x86/include/asm/io.h",
        "include/linux/late.h",  # what another commit's version includes
        "include/linux/module_only.h",  # what our module includes
        "include/linux/kconfig.h",
        "include/linux/shared.h",
        "include/linux/script.h",
        "kernel/Makefile",
        "net/Kconfig",
        "Documentation/Kconfig",
        "Makefile",
        "scripts/mod/modpost.c",
        "lib/table.tbl",
        "tools/objtool/check.c",
        "arch/x86/Makefile.um",
        "rust/kernel/lib.rs",
        "some/new/thing.dts",
        "README.md",
    ],
)
def test_what_may_take_part(part: Inputs, path: str) -> None:
    assert part.unread(path) == ""


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("kernel/unbuilt.c", "not compiled"),
        ("drivers/inode.c", "not compiled"),
        ("kernel/other.h", "included by nothing that is compiled"),
        ("include/linux/unused.h", "included by nothing that is compiled"),
        ("arch/arm64/include/asm/io.h", "not of x86"),
        ("arch/arm64/kernel/setup.c", "not of x86"),
        ("arch/arm64/Kconfig", "not of x86"),
        ("Documentation/x.rst", "documentation"),
        ("MAINTAINERS", "documentation"),
        ("tools/perf/perf.c", "a tool"),
        ("tools/sched_ext/include/common.h", "a tool"),
        ("tools/testing/selftests/x.c", "a selftest"),
    ],
)
def test_what_takes_no_part(part: Inputs, path: str, why: str) -> None:
    assert part.unread(path) == why


def test_a_header_that_appears_may_be_found_instead_of_another(part: Inputs) -> None:
    assert part.unread("kernel/other.h", appears=True) == ""
    assert part.unread("kernel/unbuilt.c", appears=True) == "not compiled", "without a makefile's word"


def test_what_steers_a_build(part: Inputs) -> None:
    for path in ("kernel/Makefile", "net/Kconfig", "scripts/mod/modpost.c", "lib/table.tbl", "tools/objtool/check.c"):
        assert part.steers(path), path
    for path in ("kernel/fork.c", "Documentation/x.rst", "arch/arm64/Kconfig", "tools/perf/Makefile"):
        assert not part.steers(path), path


def test_runs_that_compile_more(tree: Path) -> None:
    bpf = of_build(tree, "x86", [], [], tools=frozenset({"sched_ext"}))
    assert bpf.unread("tools/sched_ext/include/common.h") == ""
    assert bpf.unread("tools/testing/selftests/x.c") == "a selftest"
    selftests = of_build(tree, "x86", [], [], tools=frozenset({"testing", "sched_ext"}))
    assert selftests.unread("tools/testing/selftests/x.c") == ""
