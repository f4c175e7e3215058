# SPDX-License-Identifier: GPL-2.0-only
"""Defects that are written by hand: what becomes of them, and what is wrong with a file of them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.core.errors import UsageError
from harness.mutants import edits
from harness.mutants.command import _lines
from harness.mutants.operators import Mutant

FILE = "kernel/part.c"
TEXT = """\
static int make(int id)
{
	/* none is left */
	if (!id)
		return -EINVAL;
	return keep(id);
}

static int other(int id)
{
	return keep(id);
}
"""
GOOD = {"name": "forgets-zero", "file": FILE, "function": "make", "old": "\tif (!id)\n\t\treturn -EINVAL;\n", "new": ""}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "linux/kernel").mkdir(parents=True)
    (tmp_path / "linux" / FILE).write_text(TEXT)
    return tmp_path / "linux"


def read(tree: Path, *entries: Any) -> list[Mutant]:
    path = tree.parent / "defects.yaml"
    path.write_text(yaml.safe_dump(list(entries)))
    return edits.read(str(path), tree)


def test_an_edit_is_a_mutant_of_its_function(tree: Path) -> None:
    (found,) = read(tree, {**GOOD, "blamed": ["keep", "make"]})
    assert (found.operator, found.words, found.file, found.function) == ("by-hand", "forgets-zero", FILE, "make")
    assert (found.line, found.blamed) == (4, ("keep",))
    subprocess.run(["git", "apply"], cwd=tree, input=found.diff, text=True, check=True)
    assert (tree / FILE).read_text() == TEXT.replace(GOOD["old"], "")


def test_equal_text_of_another_function_is_left_alone(tree: Path) -> None:
    one, other = (
        read(tree, {**GOOD, "function": name, "old": "keep(id)", "new": "0"})[0] for name in ("make", "other")
    )
    assert (one.line, other.line) == (6, 11)
    assert one.id != other.id


def test_the_lines_that_are_counted_are_its_own_and_those_above(tree: Path) -> None:
    assert _lines(read(tree, GOOD)) == {FILE: (1, 2, 3, 4)}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({**GOOD, "function": "gone"}, "forgets-zero: kernel/part.c defines no gone()"),
        ({**GOOD, "file": "kernel/none.c"}, "kernel/none.c defines no make()"),
        ({**GOOD, "file": "../../etc/passwd"}, "defines no make()"),
        ({**GOOD, "old": "not there"}, "make() holds its 'old' 0 times"),
        ({**GOOD, "old": "id"}, "make() holds its 'old' 2 times"),
        ({**GOOD, "old": ""}, "defects.yaml:1: an entry without old"),
        ({**GOOD, "blamed": "keep"}, "defects.yaml:1: blamed: "),
        ({**GOOD, "name": ["x"]}, "defects.yaml:3: name: Expected str"),
        ({**GOOD, "more": "x"}, "defects.yaml:3: unknown key 'more'"),
        ({"name": "x"}, "defects.yaml:1: an entry without file"),
        ({key: GOOD[key] for key in ("name", "file", "function", "old")}, "defects.yaml:1: an entry without new"),
        ("text", "defects.yaml:1: no entry"),
    ],
)
def test_what_is_wrong_is_one_clear_line(tree: Path, entry: Any, says: str) -> None:
    with pytest.raises(UsageError) as error:
        read(tree, entry)
    assert says in error.value.line() and "\n" not in error.value.line()


@pytest.mark.parametrize("text", ["", "a: b: c", "just words", "[]", "5", "[" * 5000, "\xff"])
def test_a_file_of_another_form(tree: Path, text: str) -> None:
    path = tree.parent / "defects.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError):
        edits.read(str(path), tree)


def test_a_file_that_is_not_there(tree: Path) -> None:
    with pytest.raises(UsageError) as error:
        edits.read(str(tree / "none.yaml"), tree)
    assert "none.yaml: No such file or directory" in error.value.line()
