# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what our module tells of freed memory: counts of the quarantine, and what became of what is held."""

from __future__ import annotations

from typing import cast

import pytest

from harness.core.errors import GuestError
from harness.guest import freed
from harness.guest.agent import Agent
from harness.guest.freed import FLUSH, POISON, WATCHED, Counts, Freed, Quarantine, Watched, parse_counts, parse_watched
from tests.unit.fakes.context import FakeAgent

COUNTS = "tracked 14\npoisoned 10\nchecked 9\nbad 2\ntwice 1\nlost 3\nmissed 5\nlive 4\nkept 1\n"
WATCHED_TEXT = "grace 0\nffff8880041d6c00 live\n6080c0de freed ffffffffa0000100 ffffffff81440d30\n"


def fake(data: str = COUNTS) -> tuple[Agent, FakeAgent]:
    agent = FakeAgent(read={"data": data})
    return cast(Agent, agent), agent


def test_counts() -> None:
    assert parse_counts(COUNTS) == Counts(14, 10, 9, 2, 1, 3, 5, 4, 1)


@pytest.mark.parametrize("name", COUNTS.split()[::2])
def test_each_count_must_be_there(name: str) -> None:
    with pytest.raises(GuestError, match=name):
        parse_counts("\n".join(line for line in COUNTS.splitlines() if not line.startswith(f"{name} ")))


def test_a_count_is_a_number() -> None:
    with pytest.raises(GuestError, match="many"):
        parse_counts(COUNTS.replace("bad 2", "bad many"))


def test_the_quarantine_is_armed_drained_and_disarmed() -> None:
    agent, shown = fake()
    quarantine = Quarantine(agent)
    quarantine.arm([(0x1000, 0x1001), (0xFFFFFFFF81440D30, 0xFFFFFFFF81440D31)])
    assert quarantine.drain() == quarantine.disarm() == parse_counts(COUNTS)
    assert shown.asked("write") == [
        {"path": POISON, "data": "arm 1000-1001 ffffffff81440d30-ffffffff81440d31"},
        {"path": POISON, "data": "drain"},
        {"path": POISON, "data": "disarm"},
    ]


def test_held() -> None:
    found = parse_watched(WATCHED_TEXT)
    assert found == Watched(
        False, (Freed(0xFFFF8880041D6C00, False), Freed(0x6080C0DE, True, (0xFFFFFFFFA0000100, 0xFFFFFFFF81440D30)))
    )
    assert parse_watched(WATCHED_TEXT.replace("grace 0", "grace 1")).grace
    assert parse_watched("grace 0\n").objects == ()


@pytest.mark.parametrize(
    "text", ["", "grace\n", "ffff live\n", "grace 0\nffff\n", "grace 0\nxyz live\n", "grace 0\n1 freed q\n"]
)
def test_held_that_cannot_be_read(text: str) -> None:
    with pytest.raises(GuestError, match="cannot be read"):
        parse_watched(text)


def test_what_is_held_is_named_and_let_go() -> None:
    agent, shown = fake(WATCHED_TEXT)
    freed.watch(agent, [0xFFFF8880041D6C00, 0x6080C0DE])
    assert freed.watched(agent).objects[1].freed
    freed.flush(agent, 0)
    freed.watch(agent, [])
    assert shown.asked("write") == [
        {"path": WATCHED, "data": "ffff8880041d6c00 6080c0de\n"},
        {"path": FLUSH, "data": "0"},
        {"path": WATCHED, "data": "\n"},
    ]
