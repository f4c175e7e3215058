# SPDX-License-Identifier: GPL-2.0-only
"""The tests of reading kbuild's output, on lines recorded from gcc 14, ld 2.44, conf and make.

Lines of modpost, objtool and resolve_btfids are written after the kernel's own formats
(scripts/mod/modpost.c, tools/objtool/include/objtool/warn.h, tools/bpf/resolve_btfids/main.c).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import HarnessError, KernelFailure, UsageError
from harness.kbuild import buildlog
from harness.kbuild.buildlog import BuildError

COMPILE = """\
  CC      kernel/sched/a.o
In file included from /src/kernel/sched/a.c:1:
/src/include/dsq.h: In function 'dsq_bad':
/src/include/dsq.h:2:52: error: 'struct dsq' has no member named 'missing'
    2 | static inline int dsq_bad(struct dsq *d) { return d->missing; }
      |                                                    ^~
/src/kernel/sched/a.c: In function 'helper':
/src/kernel/sched/a.c:2:34: error: 'undeclared_thing' undeclared (first use in this function)
    2 | static int helper(void) { return undeclared_thing; }
      |                                  ^~~~~~~~~~~~~~~~
/src/kernel/sched/a.c:2:34: note: each undeclared identifier is reported only once for each function
/src/kernel/sched/a.c:7:27: error: expected ';' before '}' token
    7 |         return free_dsq(d)
      |                           ^
      |                           ;
    8 | }
/src/kernel/sched/a.c:5:13: error: unused variable 'unused' [-Werror=unused-variable]
    5 |         int unused;
      |             ^~~~~~
cc1: all warnings being treated as errors
make[4]: *** [/src/scripts/Makefile.build:289: kernel/sched/a.o] Error 1
  CC      kernel/sched/inc.o
/src/kernel/sched/inc.c:1:10: fatal error: linux/nosuch.h: No such file or directory
    1 | #include <linux/nosuch.h>
      |          ^~~~~~~~~~~~~~~~
compilation terminated.
make[4]: *** [/src/scripts/Makefile.build:289: kernel/sched/inc.o] Error 1
  AS      kernel/sched/s.o
/src/kernel/sched/s.S: Assembler messages:
/src/kernel/sched/s.S:2: Error: no such instruction: `bogusinsn %eax'
make[3]: *** [/src/scripts/Makefile.build:548: kernel/sched] Error 2
make[1]: *** [/src/Makefile:2010: .] Error 2
make: *** [Makefile:248: __sub-make] Error 2
"""

LINK = """\
  LD      vmlinux
ld: kernel/sched/m.o: in function `start_kernel':
/src/kernel/sched/m.c:1: multiple definition of `start_kernel'; kernel/sched/l.o: first defined here
ld: warning: cannot find entry symbol _start; defaulting to 0000000000401000
ld: kernel/sched/l.o: in function `start_kernel':
/src/kernel/sched/l.c:2:(.text+0xa): undefined reference to `percpu_thing'
ld: vmlinux.o:(.data+0x10): undefined reference to `no_debug_info'
make: *** [/src/scripts/Makefile.vmlinux:72: vmlinux] Error 1
"""

SAME_ERROR = BuildError("compile", "'x' undeclared", "kernel/fork.c", 3)


def test_compile_errors_name_file_and_line_of_the_tree() -> None:
    found = buildlog.errors(COMPILE.splitlines())
    assert [(e.kind, e.file, e.line) for e in found] == [
        ("compile", "include/dsq.h", 2),
        ("compile", "kernel/sched/a.c", 2),
        ("compile", "kernel/sched/a.c", 7),
        ("compile", "kernel/sched/a.c", 5),
        ("compile", "kernel/sched/inc.c", 1),
        ("compile", "kernel/sched/s.S", 2),
    ]
    assert found[0].describe() == "include/dsq.h:2: 'struct dsq' has no member named 'missing'"


def test_link_errors_name_the_place_where_there_is_one() -> None:
    found = buildlog.errors(LINK.splitlines())
    assert [(e.kind, e.file, e.line) for e in found] == [
        ("link", "kernel/sched/m.c", 1),
        ("link", "kernel/sched/l.c", 2),
        ("link", "vmlinux.o", 0),
    ]
    assert found[1].text == "undefined reference to `percpu_thing'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # conf says "syntax error" first; the second line of the same place is the one that helps.
        (
            'sub/Kconfig:3: syntax error\nsub/Kconfig:3: unknown statement "depend"\nmake: *** [x] Error 1\n',
            [BuildError("kconfig", 'unknown statement "depend"', "sub/Kconfig", 3)],
        ),
        (
            "Kconfig:5: syntax error\nsub/Kconfig:1: missing end statement for this entry\n",
            [
                BuildError("kconfig", "syntax error", "Kconfig", 5),
                BuildError("kconfig", "missing end statement for this entry", "sub/Kconfig", 1),
            ],
        ),
        (
            "error: recursive dependency detected!\n\tsymbol B depends on C\n",
            [BuildError("kconfig", "recursive dependency detected!")],
        ),
        (
            'init/Kconfig:1: can\'t open file "nosuch/Kconfig"\n',
            [BuildError("kconfig", 'can\'t open file "nosuch/Kconfig"', "init/Kconfig", 1)],
        ),
        (
            'ERROR: modpost: "init_dsq" [kernel/x.ko] undefined!\n',
            [BuildError("modpost", '"init_dsq" [kernel/x.ko] undefined!')],
        ),
        (
            "vmlinux.o: error: objtool: init_dsq+0x12: unreachable instruction\n",
            [BuildError("objtool", "objtool: init_dsq+0x12: unreachable instruction", "vmlinux.o")],
        ),
        (
            "FAILED: load BTF from vmlinux: Invalid argument\nmake[2]: *** [vmlinux] Error 255\n",
            [BuildError("btf", "FAILED: load BTF from vmlinux: Invalid argument")],
        ),
        (
            "WARN: resolve_btfids: unresolved symbol scx_gone\nmake[2]: *** [vmlinux] Error 255\n",
            [
                BuildError("btf", "WARN: resolve_btfids: unresolved symbol scx_gone"),
                BuildError("make", "vmlinux: its command ended with 255"),
            ],
        ),
        (
            "ld.lld: error: undefined symbol: percpu_thing\n>>> referenced by l.c:2 (/src/kernel/l.c:2)\n",
            [BuildError("link", "undefined symbol: percpu_thing", "l.c", 2)],
        ),
        (
            "/src/kernel/Makefile:12: *** missing separator.  Stop.\n",
            [BuildError("make", "missing separator", "kernel/Makefile", 12)],
        ),
        (
            "make[3]: *** No rule to make target 'kernel/none.o', needed by 'kernel/built-in.a'.  Stop.\n",
            [BuildError("make", "No rule to make target 'kernel/none.o', needed by 'kernel/built-in.a'")],
        ),
        (
            "make[2]: *** [/src/scripts/Makefile.build:12: kernel/config_data] Error 3\n",
            [BuildError("make", "kernel/config_data: its command ended with 3")],
        ),
        # A macro's error in gcc's own temporary file has no place in the tree.
        ("/tmp/cc87jbDL.s:14: Error: invalid operands\n", [BuildError("compile", "invalid operands")]),
    ],
)
def test_other_errors(text: str, expected: list[BuildError]) -> None:
    assert buildlog.errors(text.splitlines()) == expected


def test_objtool_warnings_do_not_hide_what_failed() -> None:
    text = "vmlinux.o: warning: objtool: f+0x1: odd\n/src/kernel/fork.c:3:1: error: 'x' undeclared\n"
    assert buildlog.errors(text.splitlines()) == [SAME_ERROR]


def test_quoted_source_and_warnings_are_not_errors() -> None:
    text = (
        "/src/kernel/fork.c:9:2: warning: unused 'error: not one'\n"
        '    9 | pr_err("kernel/x.c:1: error: No space left on device");\n'
        "      | ^~~~~~\n"
        "sub/Kconfig:2:warning: multi-line strings not supported\n"
        "  CC      kernel/error.o\n"
    )
    assert buildlog.errors(text.splitlines()) == []
    assert buildlog.host_trouble(text.splitlines()) is None
    assert buildlog.warnings(text.splitlines()) == ["kernel/fork.c:9: unused 'error: not one'"]


def test_steps() -> None:
    object_ = buildlog.step("  CC      kernel/fork.o\n")
    assert object_ is not None and object_.is_object and object_.target == "kernel/fork.o"
    module = buildlog.step("  CC [M]  kernel/x.o")
    assert module is not None and module.is_object
    host = buildlog.step("  HOSTCC  scripts/basic/fixdep")
    assert host is not None and not host.is_object
    last = buildlog.step("  BTF     .tmp_vmlinux1")
    assert last is not None and (last.verb, last.is_object) == ("BTF", False)
    assert buildlog.step("make: Entering directory '/src'") is None


def test_judge_blames_the_tree_for_its_errors() -> None:
    error = buildlog.judge(COMPILE.splitlines(), 2, "build of x86_64 7.2")
    assert isinstance(error, KernelFailure)
    assert error.kind == "build"
    assert error.what == "include/dsq.h:2: 'struct dsq' has no member named 'missing' (first of 6 errors)"
    assert "kernel/sched/inc.c:1: linux/nosuch.h: No such file or directory" in error.detail.splitlines()
    assert "      |                           ;" in error.detail.splitlines()
    assert "  CC      kernel/sched/inc.o" not in error.detail.splitlines()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "/tmp/cc.s: Fatal error: can't write 11 bytes to section .text: 'No space left on device'\n",
            "the disk is full",
        ),
        (
            "/src/kernel/m.c:1:1: fatal error: error closing /tmp/ccOuU0Av.s: No space left on device\n",
            "the disk is full",
        ),
        ("gcc: fatal error: Killed signal terminated program cc1\n", "out of memory"),
        ("collect2: fatal error: ld terminated with signal 9 [Killed]\n", "out of memory"),
        ("cc1: out of memory allocating 65536 bytes after a total of 135168 bytes\n", "out of memory"),
        ("make[2]: *** [/src/scripts/Makefile.vmlinux:72: vmlinux] Killed\n", "out of memory"),
        (
            "gcc: internal compiler error: File size limit exceeded signal terminated program cc1\n",
            "a limit of this shell",
        ),
        (
            "make[2]: *** [/src/scripts/Makefile.vmlinux:72: vmlinux] File size limit exceeded\n",
            "a limit of this shell",
        ),
        ("gcc: internal compiler error: Segmentation fault\n", "compiler crashed"),
        ("sh: 1: echo: echo: I/O error\n", "failed to read or write"),
        ("/bin/sh: 1: flex: not found\n", "a tool or header"),
        ("/src/tools/objtool/elf.c:9:10: fatal error: gelf.h: No such file\n", "a tool or header"),
        ("BTF: .tmp_vmlinux1: pahole version 1.15 is too old, need at least v1.16\n", "missing or too old"),
        ("make[1]: *** [/src/Makefile:2010: .] Interrupt\n", "interrupted"),
    ],
)
def test_judge_never_blames_the_tree_for_the_hosts_trouble(text: str, cause: str) -> None:
    lines = ["/src/kernel/a.c:3:1: error: half a file", *text.splitlines(), "make: *** [x] Error 1"]
    error = buildlog.judge(lines, 2, "build of x86_64 7.2")
    assert type(error) is HarnessError
    assert cause in error.what
    assert error.step


@pytest.mark.parametrize("status", [-9, 137, 143])
def test_a_killed_make_is_not_the_trees_fault(status: int) -> None:
    error = buildlog.judge(["/src/kernel/a.c:3:1: error: half a file"], status, "build")
    assert type(error) is HarnessError
    assert "signal" in error.what


@pytest.mark.parametrize(
    ("shown", "status", "so"),
    [
        ("make[1]: *** [/src/Makefile:9: kernel/fork.o] Error 1", 2, True),
        ("/src/kernel/fork.c:3:1: error: no\nmake[1]: *** [/src/Makefile:9: kernel/fork.o] Error 1", 2, False),
        ("warning: objtool: no frame pointer\nmake[1]: *** [/src/Makefile:9: kernel/fork.o] Error 1", 2, False),
        ("Killed\nmake[1]: *** [/src/Makefile:9: kernel/fork.o] Error 137", 2, False),
        ("make[1]: *** [/src/Makefile:9: kernel/fork.o] Error 1", -9, False),
        ("make[1]: *** [/src/Makefile:9: kernel/fork.o] Error 1", 0, False),
        ("hello", 2, False),
    ],
)
def test_a_failure_of_which_only_make_speaks(shown: str, status: int, so: bool) -> None:
    assert buildlog.wordless(shown.splitlines(), status) is so


def test_an_in_tree_build_is_the_callers_to_clean() -> None:
    text = "***\n*** The source tree is not clean, please run 'make ARCH=x86 mrproper'\n*** in /src\n***\n"
    assert isinstance(buildlog.judge(text.splitlines(), 2, "build"), UsageError)


def test_a_failure_that_says_nothing_is_inconclusive() -> None:
    assert type(buildlog.judge(["hello"], 2, "build")) is HarnessError


@given(st.lists(st.text(), max_size=30))
def test_garbage_never_raises(lines: list[str]) -> None:
    buildlog.judge(lines, 2, "build")
    buildlog.warnings(lines)


@given(st.lists(st.from_regex(r"[ -~]{0,40}", fullmatch=True), max_size=8))
def test_an_error_is_found_in_noise(noise: list[str]) -> None:
    line = "/src/kernel/fork.c:3:14: error: 'x' undeclared"
    assert SAME_ERROR in buildlog.errors([*noise, line, *noise])
