# SPDX-License-Identifier: GPL-2.0-only
"""The tests of a patch's lines: what ran, what did not and why, what is not built, and which objects are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.coverage import lines
from harness.coverage.branches import Counts, summed
from harness.coverage.coverage import Coverage
from harness.coverage.lines import PatchLine, Ran, State
from harness.kbuild import kconfig
from harness.kbuild.unbuilt import Built

FILE = "kernel/part.c"
TEXT = """\
static int make(int id)
{
	char *p;

	/* none is left */
	p = kmalloc(id, GFP_KERNEL);
	if (!p)
		return -ENOMEM;
	if (id == 7) {
		drop(p);
		return 0;
	}
#ifdef CONFIG_MORE
	more(p);
#endif
	return keep(p);
}

static int asked(void)
{
	return make(3);
}
"""
EVERY = tuple(range(1, len(TEXT.splitlines()) + 1))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "kernel/sub").mkdir(parents=True)
    (tmp_path / FILE).write_text(TEXT)
    (tmp_path / "kernel/whole.c").write_text('#include "part.c"\n#include "sub/inner.c"\n')
    (tmp_path / "kernel/sub/inner.c").write_text("int inner;\n")
    (tmp_path / "kernel/sub/Makefile").write_text("GCOV_PROFILE_inner.o := n\n")
    return tmp_path


def built(tree: Path, config: str = "") -> Built:
    return Built(tree, "x86", kconfig.parse(config, "config"), frozenset({"kernel/whole.o"}))


def of(tree: Path, counts: dict[int, int], config: str = "", **tests: dict[int, int]) -> dict[int, PatchLine]:
    ran = Ran({FILE: EVERY})
    for test, mine in tests.items():
        ran.count(test, {FILE: Counts(mine)})
    found = lines.of_patch(built(tree, config), {FILE: EVERY}, {FILE: Counts(counts)}, ran)
    assert [line.line for line in found] == list(EVERY)
    return {line.line: line for line in found}


ONCE = {6: 4, 7: 4, 8: 0, 9: 4, 10: 0, 11: 0, 16: 4, 21: 4}


def test_a_line_that_ran_names_its_tests(tree: Path) -> None:
    found = of(tree, ONCE, one={6: 3, 7: 3}, other={6: 1, 7: 0})
    assert (found[6].state, found[6].times, found[6].tests, found[6].named) == (State.RAN, 4, 2, ("one", "other"))
    assert found[7].named == ("one",)
    assert found[6].text == "\tp = kmalloc(id, GFP_KERNEL);"


def test_what_executes_nothing_is_not_counted_against_the_patch(tree: Path) -> None:
    found = of(tree, ONCE)
    assert {number for number, line in found.items() if line.state is State.NO_CODE} == set(EVERY) - ONCE.keys() - {14}


def test_a_line_behind_a_failure_waits_for_that_failure(tree: Path) -> None:
    line = of(tree, ONCE)[8]
    assert line.state is State.NEVER
    assert line.why == (
        "'!p' in line 7, tested 4 times, never held; a fault in kmalloc() leads here (--faults, within: [make])"
    )


def test_a_line_behind_a_condition_waits_for_that_condition(tree: Path) -> None:
    found = of(tree, ONCE)
    assert found[10].why == found[11].why == "'id == 7' in line 9, tested 4 times, never held"


def test_a_jump_that_the_compiler_made_a_part_of_its_branch_counts_where_that_was_never_taken(tree: Path) -> None:
    without = {number: times for number, times in ONCE.items() if number != 8}
    assert of(tree, without)[8].state is State.NO_CODE, "whether it was taken cannot be told"
    ran = Ran({FILE: EVERY})
    counted = Counts(without, {7: [0, 4]})
    (line,) = lines.of_patch(built(tree), {FILE: (8,)}, {FILE: counted}, ran)
    assert line.state is State.NEVER and line.why.startswith("'!p' in line 7, tested 4 times, never held")


def test_a_function_that_no_test_calls(tree: Path) -> None:
    found = of(tree, dict.fromkeys(ONCE, 0))
    assert found[6].why == "no test calls make(); it is called by asked()"
    assert found[21].why == "no test calls asked()"


def test_what_runs_during_boot_is_not_counted_against_the_patch(tree: Path) -> None:
    (tree / FILE).write_text(TEXT.replace("static int asked(void)", "static int __init asked(void)"))
    line = of(tree, dict.fromkeys(ONCE, 0))[21]
    assert (line.state, line.why) == (State.NOT_COUNTED, "asked() runs during boot, before tests are counted")


def test_a_line_that_is_not_built_names_its_symbol(tree: Path) -> None:
    line = of(tree, ONCE)[14]
    assert (line.state, line.why) == (State.NOT_BUILT, "only with CONFIG_MORE")
    assert of(tree, ONCE, "CONFIG_MORE=y\n")[14].state is State.NO_CODE


def test_a_file_that_is_not_built_names_its_symbol(tree: Path) -> None:
    (tree / "kernel/lone.c").write_text("int f(void) { return 0; }\n")
    (tree / "kernel/Makefile").write_text("obj-$(CONFIG_LONE) += lone.o\n")
    (tree / "Makefile").write_text("obj-y += kernel/\n")
    (line,) = lines.of_patch(built(tree), {"kernel/lone.c": (1,)}, {}, Ran({}))
    assert (line.state, line.why) == (State.NOT_BUILT, "is built only with CONFIG_LONE")


def test_documents_have_no_code(tree: Path) -> None:
    (tree / "README").write_text("if (x)\n")
    (line,) = lines.of_patch(built(tree), {"README": (1,)}, {}, Ran({}))
    assert line.state is State.NO_CODE


def test_the_objects_of_a_source_are_its_own_and_those_that_include_it(tree: Path) -> None:
    assert lines.objects_of(tree, FILE) == ("kernel/part.o", "kernel/whole.o")
    assert lines.objects_of(tree, "kernel/sub/inner.c") == ("kernel/whole.o",), "its own Makefile forbids gcov"
    assert lines.objects_of(tree, "include/linux/part.h") == ()
    assert lines.objects_of(tree, "arch/x86/boot/main.c") == ()


def test_the_counters_of_two_objects_add_up() -> None:
    one = {"a.h": Counts({1: 2}, {1: [1, 1]}), "a.c": Counts({5: 1})}
    two = {"a.h": Counts({1: 3, 2: 1}, {1: [0, 3]})}
    both = summed([one, two])
    assert both["a.h"].lines == {1: 5, 2: 1} and both["a.h"].branches[1] == [1, 4]
    assert both["a.c"].lines == {5: 1}


def test_the_margin_shows_what_ran_with_what_is_around_it(tree: Path) -> None:
    found = of(tree, ONCE, one={6: 3})
    text = lines.margin([found[6], found[8], found[14], found[21]], tree)
    rows = text.splitlines()
    assert rows[0] == f"--- {FILE}"
    assert "    1 test      6 +\tp = kmalloc(id, GFP_KERNEL);" in rows
    assert "     never      8 +\t\treturn -ENOMEM;" in rows
    assert " not built     14 +\tmore(p);" in rows
    assert any(row.strip().startswith("^ '!p' in line 7") for row in rows)
    assert "                7  \tif (!p)" in rows


def test_only_what_could_run_counts(tree: Path) -> None:
    found = Coverage("k", "x86_64", patch=tuple(of(tree, ONCE).values()))
    assert len(found.executable) == len(ONCE)
    assert [line.line for line in found.never] == [8, 10, 11]
