# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what the user gives: the folder of mutants, and those that break nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.mutants import command

WHAT: dict[str, object] = {"tree": "a" * 40, "suite": "", "arch": "x86_64", "select": "", "lines": {"a.c": (1, 2)}}


def test_a_folder_is_of_one_patch_and_goes_on(tmp_path: Path) -> None:
    with_note = command._state(tmp_path, WHAT)
    with_note.note("baseline", True)
    with pytest.raises(UsageError, match="another process is at this run of mutants"):
        command._state(tmp_path, WHAT)
    with_note.close()
    again = command._state(tmp_path, WHAT)
    assert again.notes == {"baseline": True}
    again.close()
    for other in ({"tree": "b" * 40}, {"lines": {"a.c": (1,)}}, {"select": "faults"}):
        with pytest.raises(UsageError, match=f"holds another run of mutants .it differs in {next(iter(other))}"):
            command._state(tmp_path, {**WHAT, **other})


def test_a_folder_of_the_user_s_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="is not empty and holds no mutants"):
        command._state(tmp_path, WHAT)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_what_the_user_says_breaks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "equivalent.yaml"
    path.write_text("- {mutant: 0123456789, why: both orders are the same}\n- mutant: abcdefabcd\n  why: '5'\n")
    assert command.marked(str(path)) == {"0123456789": "both orders are the same", "abcdefabcd": "5"}
    assert command.marked("") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5", "a list of entries"),
        ("- 5", "equivalent.yaml:1: no entry"),
        ("- {mutant: 0123456789}", "equivalent.yaml:1: an entry without why"),
        ("- {mutant: 0123456789, why: ''}", "equivalent.yaml:1: an entry without why"),
        ("- {mutant: '7', why: x}", "equivalent.yaml:1: '7' is no mutant"),
        ("- {mutant: 0123456789, why: [x]}", "equivalent.yaml:1: why: Expected str"),
        ("\xff", "not YAML"),
        ("[" * 5000, "nested too deep"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "equivalent.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError) as error:
        command.marked(str(path))
    assert says in error.value.line() and "\n" not in error.value.line()
