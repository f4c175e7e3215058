# SPDX-License-Identifier: GPL-2.0-only
"""Tests of tables of fault sites put together: nothing is lost, nothing is counted twice, the worst is what is shown."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.records import FaultSite, FaultSummary, Frame
from harness.faults.sites import WORST, Ended, RawSite, blame, key, merge, summarise, total, worst

NAMES = ("alloc_a", "alloc_b", "init_dsq")
ANSWERS = ("0", "-ENOMEM", "-EINVAL", "exit -ENOMEM")

ended = st.builds(Ended, st.sampled_from(WORST), st.sampled_from(ANSWERS), st.integers(1, 5))


@st.composite
def raws(draw: st.DrawFn) -> RawSite:
    """A site under init_dsq() with endings for some of its faults."""
    endings = tuple(draw(st.lists(ended, max_size=4)))
    injected = sum(one.times for one in endings) + draw(st.integers(0, 3))
    stack = (Frame(draw(st.sampled_from(NAMES[:2]))), Frame(NAMES[2]))
    size, gfp = draw(st.integers(0, 4)), draw(st.integers(0, 2))
    reached = injected + draw(st.integers(0, 3))
    return RawSite(draw(st.sampled_from(["failslab", "page"])), stack, size, gfp, reached, injected, endings)


def made(rows: list[RawSite], operation: str) -> FaultSummary:
    return summarise(operation, rows, NAMES[2:])


summaries = st.builds(made, st.lists(raws(), max_size=6), st.sampled_from(["create", "attach"]))
signatures = st.sampled_from(["dmesg:warn:init_dsq", "ledger:slab leak:alloc_a"])


def sound(site: FaultSite) -> None:
    """What holds of each site, whatever was done to it."""
    assert all(number > 0 for number in (*site.outcomes.values(), *site.answers.values()))
    assert set(site.outcomes) <= set(WORST)
    assert site.outcome == worst(site.outcomes)
    assert sum(site.outcomes.values()) == sum(site.answers.values()) <= site.injected <= site.reached


# --- worst ------------------------------------------------------------------------------------


def test_the_worst_of_none_is_none() -> None:
    assert worst([]) == "none"


@pytest.mark.parametrize("number", range(len(WORST)))
def test_the_order_of_outcomes(number: int) -> None:
    assert worst(reversed(WORST[number:])) == WORST[number]


def test_a_word_that_is_no_outcome_is_refused() -> None:
    with pytest.raises(ValueError):
        worst(["handled", "mixed"])


# --- summarise and merge ----------------------------------------------------------------------


@given(st.lists(raws(), max_size=6))
def test_a_summary_holds_each_of_its_rows_once(rows: list[RawSite]) -> None:
    summary = made(rows, "create")
    assert summary.reached == sum(row.reached for row in rows)
    assert summary.injected == sum(row.injected for row in rows)
    assert summary.handled == sum(o.times for row in rows for o in row.endings if o.outcome == "handled")
    assert len({key(site) for site in summary.sites}) == len(summary.sites)
    assert sum(sum(site.outcomes.values()) for site in summary.sites) == sum(
        o.times for row in rows for o in row.endings
    )
    for site in summary.sites:
        sound(site)


@given(st.lists(raws(), max_size=4), st.lists(raws(), max_size=4))
def test_rows_in_two_rounds_come_to_the_same_as_in_one(first: list[RawSite], second: list[RawSite]) -> None:
    apart, once = total([made(first, "create"), made(second, "create")]), made([*first, *second], "create")
    assert (apart.reached, apart.injected, apart.handled) == (once.reached, once.injected, once.handled)
    assert [counts(site) for site in apart.sites] == [counts(site) for site in once.sites]


def counts(site: FaultSite) -> tuple[object, ...]:
    return key(site), site.size, site.reached, site.injected, site.outcome, dict(site.outcomes), dict(site.answers)


def test_merged_sites_keep_what_only_one_of_them_knows() -> None:
    site = FaultSite("create", "failslab", ("alloc_a",), 8, 1, 3, 2, "handled", (), {"handled": 2}, {"-ENOMEM": 2})
    other = FaultSite(
        "create",
        "failslab",
        ("alloc_a",),
        64,
        2,
        1,
        1,
        "leaked",
        (Frame("alloc_a"),),
        {"leaked": 1},
        {"-ENOMEM": 1},
        "a cache",
        ("b", "a"),
        "GFP_KERNEL",
    )
    both = FaultSite(
        "create",
        "failslab",
        ("alloc_a",),
        64,
        2,
        4,
        3,
        "leaked",
        (Frame("alloc_a"),),
        {"handled": 2, "leaked": 1},
        {"-ENOMEM": 3},
        "a cache",
        ("b", "a"),
        "GFP_KERNEL",
    )
    assert merge(site, other) == both
    assert merge(other, site) == both
    assert merge(both, other).findings == ("b", "a"), "a finding is not shown twice"


# --- blame ------------------------------------------------------------------------------------


@given(summaries, st.data(), st.sampled_from(WORST[:4]), signatures)
def test_blame_moves_at_most_one_outcome_and_loses_none(
    summary: FaultSummary, data: st.DataObject, outcome: str, signature: str
) -> None:
    name = data.draw(st.sampled_from([key(site) for site in summary.sites] or [("create", "page", ("other",))]))
    after = blame(summary, name, outcome, signature)
    assert [key(site) for site in after.sites] == [key(site) for site in summary.sites]
    assert (after.reached, after.injected) == (summary.reached, summary.injected)
    for old, new in zip(summary.sites, after.sites, strict=True):
        sound(new)
        if key(old) != name:
            assert new == old
            continue
        assert signature in new.findings
        assert sum(new.outcomes.values()) == sum(old.outcomes.values()), "a fault ended once"
        assert (Counter(new.outcomes) - Counter(old.outcomes)).total() <= 1
        assert WORST.index(new.outcome) <= WORST.index(old.outcome) if old.outcomes else new.outcome == "none"
    assert blame(after, name, outcome, signature) == after, "a finding is booked once"


def site_of(**outcomes: int) -> FaultSummary:
    words = {word.replace("_", " "): number for word, number in outcomes.items()}
    injected = sum(words.values())
    site = FaultSite("create", "page", ("a",), 0, 0, injected, injected, worst(words), (), words)
    return FaultSummary(injected, injected, words.get("handled", 0), (site,))


@pytest.mark.parametrize(
    ("before", "outcome", "after", "shown"),
    [
        ({"handled": 3}, "leaked", {"handled": 2, "leaked": 1}, "leaked"),
        ({"handled": 1}, "splat", {"splat": 1}, "splat"),
        ({"hang": 1, "handled": 1}, "leaked", {"hang": 1, "leaked": 1}, "hang"),
        ({"crash": 2}, "splat", {"crash": 2}, "crash"),
        ({"absorbed": 1}, "splat", {"splat": 1}, "splat"),
        ({}, "splat", {}, "none"),
    ],
    ids=["one of several", "the only one", "beside a worse one", "nothing is better", "absorbed", "not shown apart"],
)
def test_blame(before: dict[str, int], outcome: str, after: dict[str, int], shown: str) -> None:
    (site,) = blame(site_of(**before), ("create", "page", ("a",)), outcome, "sig").sites
    assert (site.outcomes, site.outcome, site.findings) == (after, shown, ("sig",))


@pytest.mark.parametrize(
    "name", [("create", "page", ("b",)), ("attach", "page", ("a",)), ("create", "failslab", ("a",))]
)
def test_blame_of_another_site_changes_nothing(name: tuple[str, str, tuple[str, ...]]) -> None:
    summary = site_of(handled=2)
    assert blame(summary, name, "splat", "sig") == summary


def test_a_worse_finding_under_a_site_that_has_one_is_told_too() -> None:
    name = ("create", "page", ("a",))
    both = blame(blame(site_of(handled=3), name, "leaked", "one"), name, "splat", "two")
    (site,) = both.sites
    assert (site.outcome, site.outcomes["splat"], sum(site.outcomes.values())) == ("splat", 1, 3)
    assert site.findings == ("one", "two")


# --- total ------------------------------------------------------------------------------------


@given(st.lists(summaries, max_size=4))
def test_a_total_keeps_all_sums_and_has_each_site_once(parts: list[FaultSummary]) -> None:
    summary = total(parts)
    assert summary.reached == sum(part.reached for part in parts)
    assert summary.injected == sum(part.injected for part in parts)
    assert summary.handled == sum(part.handled for part in parts)
    assert summary.reached == sum(site.reached for site in summary.sites)
    assert summary.injected == sum(site.injected for site in summary.sites)
    names = [key(site) for site in summary.sites]
    assert names == sorted({key(site) for part in parts for site in part.sites})
    for name, field in ((name, field) for name in names for field in ("outcomes", "answers")):
        wanted: Counter[str] = Counter()
        for site in (site for part in parts for site in part.sites if key(site) == name):
            wanted.update(getattr(site, field))
        assert getattr(next(site for site in summary.sites if key(site) == name), field) == wanted
    for site in summary.sites:
        sound(site)


def test_a_total_of_operations_is_sorted_by_them() -> None:
    row = RawSite("failslab", (Frame("init_dsq"),), reached=3, injected=1, endings=(Ended("handled", "-ENOMEM"),))
    both = total([made([row], "destroy"), made([row], "create")])
    assert (both.reached, both.injected, both.handled) == (6, 2, 2)
    assert [site.operation for site in both.sites] == ["create", "destroy"]
    assert total([]) == FaultSummary()


def test_a_site_that_several_rounds_tell_of_is_one() -> None:
    row = RawSite("failslab", (Frame("init_dsq"),), reached=3, injected=1, endings=(Ended("handled", "-ENOMEM"),))
    (site,) = total([made([row], "create")] * 2).sites
    assert (site.reached, site.injected, site.outcomes) == (6, 2, {"handled": 2})
