# SPDX-License-Identifier: GPL-2.0-only
"""The tests of how a line is broken: each operator on C as the kernel writes it, and diffs that git takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.coverage.csource import Source
from harness.mutants.grammar import Tree, readable
from harness.mutants.operators import OPERATORS, Mutant, mutants

FILE = "kernel/part.c"
TEXT = """\
/* A part. */
static s32 __init make_part(struct part __rcu *part, int nr) __must_hold(&lock)
{
	s32 ret, cpu;

	part->id = nr;
	part->data = alloc_percpu(struct part_data); /* "x" */
	if (!part->data)
		return -ENOMEM;
	if (unlikely(nr >= MOST)) {
		pr_warn("too many: %d\\n", nr);
		ret = -EINVAL;
		goto err_free;
	}
	raw_spin_lock(&part->lock);
	for_each_possible_cpu(cpu) {
		struct part_data *data = container_of(per_cpu_ptr(part->data, cpu), struct part_data, head);

		data->owner = part;
	}
	raw_spin_unlock(&part->lock);
	smp_wmb();
	add_part(part);
	note(part);
	return 0;

err_free:
	free_percpu(part->data);
err_out:
	kfree(part);
	return ret;
}

int outside = 3;
"""


def made(operator: str = "", lines: range | tuple[int, ...] = range(1, 100)) -> list[Mutant]:
    return [one for one in mutants(FILE, TEXT, set(lines)) if operator in ("", one.operator)]


def broken(mutant: Mutant) -> list[str]:
    """The lines that a diff brings."""
    return [line[1:].strip() for line in mutant.diff.splitlines()[3:] if line.startswith("+")]


@pytest.mark.parametrize(
    ("operator", "lines"),
    [
        ("drop-call", [[";"], [";"]]),
        ("drop-free", [[";"], [";"]]),
        ("double-free", [["{ free_percpu(part->data); free_percpu(part->data); }"], ["{ kfree(part); kfree(part); }"]]),
        ("drop-lock", [[";"], [";"]]),
        ("drop-barrier", [[";"]]),
        ("negate-check", [["if (!(!part->data))"], ["if (!(unlikely(nr >= MOST))) {"]]),
        ("drop-check", [["if ((!part->data) && 0)"], ["if ((unlikely(nr >= MOST)) && 0) {"]]),
        ("lose-error", [["return 0;"], ["ret = 0;"], ["return 0;"]]),
        ("other-error", [["return -EINVAL;"], ["ret = -ENOMEM;"]]),
        ("unwind-short", [["goto err_out;"]]),
        ("off-by-one", [["if (unlikely(nr > MOST)) {"]]),
        ("unset-field", [[";"], ['; /* "x" */'], [";"]]),
    ],
)
def test_an_operator_breaks_what_it_is_for(operator: str, lines: list[list[str]]) -> None:
    assert [broken(one) for one in sorted(made(operator), key=lambda one: one.line)] == lines


def test_two_statements_change_places_where_one_of_them_calls() -> None:
    pairs = [broken(one) for one in made("swap")]
    assert ["note(part);", "add_part(part);"] in pairs
    assert ["smp_wmb();", "raw_spin_unlock(&part->lock);"] in pairs
    assert not any("pr_warn" in line for pair in pairs for line in pair)


def test_two_stores_without_a_call_stay() -> None:
    text = "void f(struct x *x)\n{\n\tx->a = 1;\n\tx->b = 2;\n}\n"
    assert [one.operator for one in mutants(FILE, text, {3, 4})] == ["unset-field", "unset-field"]


def test_only_the_lines_of_the_patch_are_broken() -> None:
    assert {one.line for one in made(lines=(8, 9))} == {8, 9}
    assert made(lines=(33,)) == [], "it is in no function"
    assert made(lines=()) == []


def test_an_id_is_that_of_the_break_and_not_of_its_place() -> None:
    moved = [one.id for one in mutants(FILE, "int above;\n\n" + TEXT, set(range(1, 100)))]
    ids = [one.id for one in made()]
    assert moved == ids
    assert len(set(ids)) == len(ids)


def test_git_takes_each_diff(tmp_path: Path) -> None:
    place = tmp_path / FILE
    place.parent.mkdir()
    for one in made():
        place.write_text(TEXT)
        subprocess.run(["git", "apply", "-"], input=one.diff, text=True, cwd=tmp_path, check=True)
        assert place.read_text() != TEXT, one


def test_every_operator_is_met() -> None:
    assert {one.operator for one in made()} == set(OPERATORS)


def test_macros_that_are_no_c_are_understood() -> None:
    source = Source(TEXT)
    tree = Tree(source, source.functions["make_part"])
    assert not tree.root.has_error
    assert len(readable(TEXT)) == len(TEXT)


OWNED = """\
static int init_part(struct part *part)
{
	part->data = alloc_percpu(struct part_data);
	return part->data ? 0 : -ENOMEM;
}

static void exit_part(struct part *part)
{
	free_percpu(part->data);
}

static struct part *make_part(int nr)
{
	struct part *part = kzalloc(sizeof(*part), GFP_KERNEL);

	if (init_part(part))
		goto err_part;
	if (other(nr))
		goto err_exit;
	return part;

err_exit:
	exit_part(first(part, nr));
err_part:
	kfree(part);
	return NULL;
}

static void drop_part(struct part *part)
{
	exit_part(part);
	kfree(part);
}

static void later(struct part *part)
{
	call_rcu(&part->rcu, drop_part);
}
"""


def test_a_leak_may_be_blamed_on_who_allocates_what_the_function_frees() -> None:
    """Itself, or by a function of the file that frees; not on who allocates what others free."""
    found = {one.function: one.owners for one in mutants(FILE, OWNED, set(range(1, 100)))}
    assert found == {
        "init_part": (),
        "exit_part": ("init_part",),
        "make_part": ("init_part",),
        "drop_part": ("init_part", "make_part"),
        "later": ("init_part", "make_part"),
    }
