# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the course of a bisection, on a runner that builds nothing: ends, skips, kills, flaky failures."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from harness.bisect.drive import Answer, Asked, Bisection, Ending
from harness.bisect.search import Find
from harness.bisect.state import STATE, Finding, Outcome, State
from harness.core.errors import GuestError, HarnessError, UsageError
from tests.unit.bisect.worlds import OLD, SIGNATURE, TEST, Killed, Range, World, straight


def bisect(world: World, folder: Path, asked: Asked | None = None, subject: Range | None = None) -> Answer:
    """One go at a bisection whose state lies in `folder`."""
    state = State.open(folder, {"tree": "/linux"})
    try:
        wish = asked or Asked(find=world.find)
        return Bisection(subject or Range(world.history), wish, state, world, lambda line: None).run()
    finally:
        state.close()


def test_the_issues_history(tmp_path: Path) -> None:
    """64 commits: one breaks destroy, two do not build, one panics at boot."""
    rng = random.Random(2)
    for number in range(20):
        culprit, *rest = rng.sample(range(63), 4)
        world = World(straight(64), f"c{culprit}", broken=[f"c{rest[0]}", f"c{rest[1]}"], panic=[f"c{rest[2]}"])
        answer = bisect(world, tmp_path / str(number))
        names = [id for id, _ in answer.candidates]
        assert f"c{culprit}" in names
        if not {culprit - 1} & set(rest):
            assert answer.ending is Ending.FOUND and names == [f"c{culprit}"]
        assert answer.interior <= 6 + 3
        assert answer.interior == len(world.built - {OLD, "c63"})


@pytest.mark.parametrize("find", list(Find))
def test_what_is_looked_for_is_told(tmp_path: Path, find: Find) -> None:
    world = World(straight(30), "c11", find=find)
    answer = bisect(world, tmp_path)
    assert (answer.ending, answer.candidates[0][0]) == (Ending.FOUND, "c11")
    assert answer.wanted.signature == SIGNATURE
    assert answer.candidates[0][1] >= 0.99
    assert answer.rate > 0.9


def test_nineteen_of_twenty_at_one_run_in_three(tmp_path: Path) -> None:
    rng, right = random.Random(4), 0
    for number in range(40):
        world = World(straight(64), f"c{rng.randrange(64)}", rate=1 / 3, seed=number)
        answer = bisect(world, tmp_path / str(number), Asked(tries=50))
        right += answer.candidates[0][0] == world.culprit
    assert right >= 38


@pytest.mark.parametrize("rate", [1.0, 1 / 3])
def test_killed_at_any_point_it_gives_the_same_answer(tmp_path: Path, rate: float) -> None:
    """A kill after each run, and one run after the other: the answer and the runs are those of one that went through."""

    def world(dies: int) -> World:
        return World(straight(64), "c37", rate=rate, broken=["c31"], panic=["c47"], odd=["c36"], seed=3, dies=dies)

    asked = Asked(tries=30)
    whole = world(-1)
    wanted = bisect(whole, tmp_path / "whole", asked)
    for after in range(0, len(whole.asked), 1 if rate == 1.0 else 30):
        folder = tmp_path / str(after)
        first = world(after)
        with pytest.raises(Killed):
            bisect(first, folder, asked)
        second = world(-1)
        second.runs, second.built = first.runs, first.built
        assert bisect(second, folder, asked) == wanted
        assert first.asked + second.asked == whole.asked, "no run is made twice, none is left out"


def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    world = World(straight(16), "c9")
    wanted = bisect(world, tmp_path)
    lines = (tmp_path / STATE).read_bytes().splitlines(keepends=True)
    (tmp_path / STATE).write_bytes(b"".join(lines[:-2]) + lines[-2][:40])
    again = World(straight(16), "c9")
    assert bisect(again, tmp_path) == wanted
    assert 1 <= len(again.asked) <= 2


def test_a_finished_bisection_runs_nothing(tmp_path: Path) -> None:
    wanted = bisect(World(straight(16), "c9"), tmp_path)
    again = World(straight(16), "c9")
    assert bisect(again, tmp_path) == wanted
    assert not again.asked


def test_another_bisection_is_not_gone_on_with(tmp_path: Path) -> None:
    State.open(tmp_path, {"tree": "/linux", "bad": "v2"}).close()
    with pytest.raises(UsageError, match="holds another bisection .it differs in bad.*; choose another folder"):
        try:
            State.open(tmp_path, {"tree": "/linux", "bad": "v3"})
        except UsageError as error:
            raise UsageError(error.line()) from error


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    held = State.open(tmp_path, {})
    with pytest.raises(UsageError, match="another process is at this bisection"):
        State.open(tmp_path, {})
    held.close()
    State.open(tmp_path, {}).close()


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / STATE).write_text("my notes\n")
    with pytest.raises(UsageError, match="is no state of a bisection"):
        State.open(tmp_path, {})
    assert (tmp_path / STATE).read_text() == "my notes\n"


@pytest.mark.parametrize("torn", [b"", b'{"sch', b'{"schema": 1, "asked": {', b"\0" * 200])
def test_a_first_line_that_was_cut_short_is_written_again(tmp_path: Path, torn: bytes) -> None:
    """A power cut may leave the beginning of a line, or, where only its length was written, zeros."""
    (tmp_path / STATE).write_bytes(torn)
    State.open(tmp_path, {"tree": "/linux"}).close()
    assert json.loads((tmp_path / STATE).read_bytes()) == {"schema": 1, "asked": {"tree": "/linux"}}


def test_zeros_behind_the_last_line_are_dropped(tmp_path: Path) -> None:
    state = State.open(tmp_path, {})
    state.note("one", 1)
    state.close()
    whole = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(whole + b"\0" * 512)
    again = State.open(tmp_path, {})
    again.note("two", 2)
    again.close()
    assert (tmp_path / STATE).read_bytes().startswith(whole + b'{"')
    assert State.open(tmp_path, {}).notes == {"one": 1, "two": 2}


def test_notes_of_somebody_without_a_newline_stay(tmp_path: Path) -> None:
    (tmp_path / STATE).write_text("my notes")
    with pytest.raises(UsageError, match="is no state of a bisection"):
        State.open(tmp_path, {})
    assert (tmp_path / STATE).read_text() == "my notes"


def test_the_state_of_another_version_is_refused_as_such(tmp_path: Path) -> None:
    file = tmp_path / STATE
    file.write_text('{"schema": 2, "asked": {}}\n')
    with pytest.raises(UsageError) as raised:
        State.open(tmp_path, {})
    assert raised.value.line() == (
        f"{file} has schema 2, this kharness goes on with 1; use the version that wrote it, or choose another folder "
        "with --out"
    )
    for record in ('{"point": "a", "run": {"outcome": "dreams"}}', "[]", '{"point": 7}'):
        file.write_text(f'{{"schema": 1, "asked": {{}}}}\n{record}\n')
        with pytest.raises(UsageError, match=r"state.jsonl:2: not a valid Record: .*; use the version that wrote it"):
            try:
                State.open(tmp_path, {})
            except UsageError as error:
                raise UsageError(error.line()) from error


def test_what_only_the_other_bisection_asks_for_is_named(tmp_path: Path) -> None:
    State.open(tmp_path, {"tree": "/linux", "numa": True}).close()
    with pytest.raises(UsageError, match="it differs in numa"):
        State.open(tmp_path, {"tree": "/linux"})


def test_a_full_disk_ends_it_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    state = State.open(tmp_path, {})
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:10]))
    with pytest.raises(HarnessError, match=r"state\.jsonl: No space left on device"):
        state.note("dull", {})
    monkeypatch.undo()
    state.close()
    again = State.open(tmp_path, {})
    assert again.notes == {}
    again.close()


# --- ends -----------------------------------------------------------------------------------


class Ends(World):
    """The ends behave as they are given, a list of outcomes each; what lies between is never asked for."""

    def __init__(self, **outcomes: list[Outcome]) -> None:
        super().__init__(straight(4), "c2")
        self.outcomes = outcomes

    def __call__(self, id: str, number: int, wanted, select: str):  # type: ignore[no-untyped-def]
        run = super().__call__(id, number, wanted, select)
        end = {OLD: "old", "c3": "new"}[id]
        shown = self.outcomes[end]
        outcome = shown.pop(0) if len(shown) > 1 else shown[0]
        return replace(run, outcome=outcome, why=f"it {outcome}", out="steps/1")


F, P, B, X, U = Outcome.FAILS, Outcome.PASSES, Outcome.BUILD, Outcome.OTHER, Outcome.UNCLEAR


@pytest.mark.parametrize(
    ("old", "new", "error", "says"),
    [
        ([P], [P], UsageError, r"--bad v2 \(c3\) does not fail: it passed in 10 runs"),
        ([F], [F], UsageError, r"--good v1 \(before\) fails as --bad v2 \(c3\) does: WARN; name one that passes"),
        ([X], [F], UsageError, r"--good v1 \(before\) does not pass, it fails in another way: it other"),
        ([B], [F], UsageError, r"--good v1 \(before\) does not pass, it fails in another way: it build"),
        ([U], [F], GuestError, r"--good v1 \(before\) cannot be judged: it unclear; see /.*/steps/1, or select"),
        ([P], [U], GuestError, r"--bad v2 \(c3\) cannot be judged: it unclear; see /.*/steps/1, or select"),
        ([P, P, F], [F], UsageError, r"--good v1 \(before\) fails as"),
    ],
)
def test_ends_that_are_not_what_they_were_said_to_be(
    tmp_path: Path, old: list[Outcome], new: list[Outcome], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as raised:
        bisect(Ends(old=list(old), new=list(new)), tmp_path)
    import re

    assert re.match(says, raised.value.line()), raised.value.line()  # type: ignore[attr-defined]


def test_an_end_that_once_could_not_be_judged_is_asked_again(tmp_path: Path) -> None:
    class Between(Ends):
        def __call__(self, id: str, number: int, wanted, select: str):  # type: ignore[no-untyped-def]
            ended = id in (OLD, "c3")
            return (
                super().__call__(id, number, wanted, select)
                if ended
                else World.__call__(self, id, number, wanted, select)
            )

    answer = bisect(Between(old=[U, P], new=[U, F]), tmp_path)
    assert answer.candidates[0][0] == "c2"


def test_an_end_that_cannot_be_judged_now_and_then_is_no_reason_to_give_up(tmp_path: Path) -> None:
    """Two inconclusive runs of ten, not in a row, say nothing against the end that fails."""

    class Between(Ends):
        def __call__(self, id: str, number: int, wanted, select: str):  # type: ignore[no-untyped-def]
            if id in (OLD, "c3"):
                return super().__call__(id, number, wanted, select)
            return World.__call__(self, id, number, wanted, select)

    answer = bisect(Between(old=[P], new=[P, U, P, U, F, U, F, U, F, U, F]), tmp_path)
    assert answer.candidates[0][0] == "c2"


def test_a_finding_that_is_another_each_time(tmp_path: Path) -> None:
    """The failing end fails in another way at each run after the first: shown where, and how to name them all."""
    with pytest.raises(GuestError) as raised:
        bisect(Ends(old=[P], new=[F, X]), tmp_path / "one")
    assert raised.value.line() == (
        f"--bad v2 (c3) cannot be judged: it other; see {tmp_path}/one/steps/1, and name all that it may be with "
        "--signature and *, or give --follow other"
    )

    class Between(Ends):
        def __call__(self, id: str, number: int, wanted, select: str):  # type: ignore[no-untyped-def]
            if id in (OLD, "c3"):
                return super().__call__(id, number, wanted, select)
            return World.__call__(self, id, number, wanted, select)

    answer = bisect(Between(old=[P], new=[F, X]), tmp_path / "two", Asked(follow=("other",)))
    assert (answer.ending, answer.candidates[0][0]) == (Ending.FOUND, "c2")


def test_the_failure_that_is_asked_for_may_be_the_rarer_one(tmp_path: Path) -> None:
    """The failing end fails in two ways, now and then in the one that is asked for."""

    class Two(World):
        def __call__(self, id: str, number: int, wanted, select: str):  # type: ignore[no-untyped-def]
            run = super().__call__(id, number, wanted, select)
            if run.outcome is Outcome.FAILS and self.runs[id] % 3:
                found = (Finding("kmemleak:leak:g", "a leak", TEST),)
                return replace(run, findings=found, outcome=Outcome.OTHER if wanted else Outcome.FAILS)
            return run

    answer = bisect(Two(straight(4), "c2"), tmp_path / "one", Asked(signature="dmesg:*", follow=("other",)))
    assert (answer.wanted.signature, answer.candidates[0][0]) == (SIGNATURE, "c2")
    with pytest.raises(UsageError) as raised:
        bisect(Two(straight(4), "c2"), tmp_path / "two", Asked(signature="percpu:*"))
    assert raised.value.line() == (
        "the failing end has no finding of signature 'percpu:*'; it has: kmemleak:leak:g; dmesg:warn:destroy_dsq"
    )


# --- the tests that had the failure -------------------------------------------------------------


def test_only_the_test_that_failed_is_run_at_the_steps(tmp_path: Path) -> None:
    world = World(straight(16), "c9")
    answer = bisect(world, tmp_path, Asked(select="dsq"))
    assert answer.select == "(dsq) and (test_destroy)"
    assert {select for id, select in world.asked if id not in (OLD, "c15")} == {"(dsq) and (test_destroy)"}
    assert world.asked[0] == ("c15", "dsq") and world.asked[1] == (OLD, "dsq")


def test_a_failure_that_needs_its_company_keeps_it(tmp_path: Path) -> None:
    class Company(World):
        def __call__(self, id: str, number: int, wanted, select: str):  # type: ignore[no-untyped-def]
            run = super().__call__(id, number, wanted, select)
            return run if select == "dsq" else replace(run, outcome=Outcome.PASSES, findings=())

    answer = bisect(Company(straight(16), "c9"), tmp_path, Asked(select="dsq"))
    assert (answer.select, answer.candidates[0][0]) == ("dsq", "c9")


def test_a_rare_failure_is_given_the_runs_that_it_takes_to_show_alone(tmp_path: Path) -> None:
    """It showed in the fourth run first, and alone shows in the fourth again."""

    class Rare(World):
        def __call__(self, id: str, number: int, wanted, select: str):  # type: ignore[no-untyped-def]
            run = super().__call__(id, number, wanted, select)
            turn = sum(asked == (id, select) for asked in self.asked)
            fails = run.outcome is Outcome.FAILS
            return replace(run, outcome=Outcome.PASSES, findings=()) if fails and turn % 4 else run

    answer = bisect(Rare(straight(4), "c2"), tmp_path, Asked(select="dsq"))
    assert answer.select == "(dsq) and (test_destroy)"
    assert answer.candidates[0][0] == "c2"


# --- what cannot be judged ------------------------------------------------------------------------


def test_another_failure_is_never_mistaken_for_the_one_looked_for(tmp_path: Path) -> None:
    odd = [f"c{place}" for place in range(10, 20)]
    answer = bisect(World(straight(40), "c30", odd=odd), tmp_path)
    assert answer.candidates[0][0] == "c30"


def test_followed_it_counts(tmp_path: Path) -> None:
    odd = [f"c{place}" for place in range(10, 39)]
    followed = bisect(World(straight(40), "c39", odd=odd), tmp_path / "f", Asked(follow=("other",)))
    assert followed.candidates[0][0] == "c10"


def test_candidates_that_no_run_tells_apart_are_all_named(tmp_path: Path) -> None:
    answer = bisect(World(straight(32), "c20", broken=["c18", "c19"]), tmp_path)
    assert answer.ending is Ending.SEVERAL
    assert sorted(id for id, _ in answer.candidates) == ["c18", "c19", "c20"]
    assert all(chance == pytest.approx(1 / 3, abs=0.01) for _, chance in answer.candidates)
    assert set(answer.unfit) <= {"c18", "c19"}


def test_dull_commits_are_not_run(tmp_path: Path) -> None:
    history = straight(64)
    why = {f"c{place}": "Documentation only" for place in range(64) if place % 4}
    world = World(history, "c24")
    answer = bisect(world, tmp_path, subject=Range(history, why))
    assert answer.candidates[0][0] == "c24"
    assert not set(why) & (world.built - {"c63"})
    assert answer.interior <= math.ceil(math.log2(16)) + 1


def test_every_line_of_the_state_is_json(tmp_path: Path) -> None:
    bisect(World(straight(8), "c3"), tmp_path)
    head, *records = [json.loads(line) for line in (tmp_path / STATE).read_text().splitlines()]
    assert head["schema"] == 1 and len(records) >= 8
