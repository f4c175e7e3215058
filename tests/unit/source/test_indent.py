# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the indentation of C that lost it: each line of a text in the kernel's style, from those before it."""

from __future__ import annotations

import pytest

from harness.source.indent import indented

TEXT = """\
static int first(struct thing *thing,
		 int number)
{
	int cpu;

	/*
	 * Why it is
	 * so.
	 */
	for_each_possible_cpu(cpu) {
		if (part(cpu, number) != number)
			continue;
		else
			drop(cpu,
			     number);
		count--;
	}
	for (cpu = 0; cpu < 3; cpu++)
		if (part(cpu))
			drop(cpu, 1);
	switch (number) {
	case 1:
		return 1;
	default:
		break;
	}
#ifdef CONFIG_X
	do {
		more("a (b");
	} while (number);
#endif
	return 0;

err:
	return -EINVAL;
}

struct thing {
	int number;
};

static int second(void);
"""


@pytest.mark.parametrize("number", [number for number, line in enumerate(TEXT.split("\n")) if line])
def test_each_line_finds_its_place(number: int) -> None:
    lines = TEXT.split("\n")
    assert indented(lines[number].strip(), lines[:number]) == lines[number]
