# SPDX-License-Identifier: GPL-2.0-only
"""Tests of a sweep's account: what the agent counted becomes sites, findings and windows of the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import GuestError
from harness.core.records import Fault, FaultSite, FaultSummary, Frame
from harness.faults import plans
from harness.faults.account import MAX_LOUD, Account, Swept, disputed
from harness.faults.cause import Cause, Window
from harness.faults.endings import ENOMEM, HANG, LEFT_SLAB, NOT_DONE, Allowed, Ending, ended_with
from harness.faults.sites import Ended
from tests.unit.fakes.context import FakeContext, observer, site

KMALLOC, CHUNK = 0xAAA, 0xBBB
SLAB_STACK = (0x10, 0x20, 0x30, 0x40, 0x50, 0x60)
PAGE_STACK = (0x10, 0x30, 0x40, 0x50, 0x60)
CHAIN = (
    "kmalloc_noprof",
    "__kmalloc_noprof",
    "pcpu_create_chunk",
    "pcpu_alloc_noprof",
    "init_dsq",
    "create_dsq",
    "scx_bpf_create_dsq",
)
CREATE = Swept("create", "", Allowed(), ("scx_bpf_create_dsq",))
ATTACH = Swept("attach", "scx_enable_helper", Allowed(0, frozenset({ENOMEM, ended_with(ENOMEM)})), ("init_dsq",))
NOTHING: dict[str, Any] = {"left": [], "count": 0}


def answer(*outcomes: list[int], **more: Any) -> dict[str, Any]:
    """As nth_reply() of vm/agent/nth.c answers: [site, answer, flags, n, times]."""
    runs = sum(outcome[4] for outcome in outcomes)
    return {"disputed": 0, "lost": 0, "runs": runs + 1, "outcomes": list(outcomes), "loud": [], **more}


def opened(*entries: tuple[bytes, bytes], swept: Swept = CREATE, optional: Any = None) -> tuple[Account, FakeContext]:
    context = FakeContext()
    seen = observer(
        *(entries or (site(KMALLOC, *SLAB_STACK, injected=4, reached=9), site(CHUNK, *PAGE_STACK, kind=2, size=0)))
    )
    more = (optional,) if optional else ()
    return Account(context.as_context, seen, swept, *more), context


def test_what_was_handled_is_booked_by_site() -> None:
    account, context = opened()
    summary = account.close(answer([KMALLOC, ENOMEM, 0, 1, 4], [CHUNK, ENOMEM, 0, 2, 1]), NOTHING)
    slab, page = summary.sites
    assert (slab.operation, slab.type, slab.stack, slab.size, slab.flags) == (
        "create",
        "failslab",
        CHAIN,
        64,
        "GFP_KERNEL",
    )
    assert (slab.reached, slab.injected, slab.outcomes, slab.answers) == (9, 4, {"handled": 4}, {"-ENOMEM": 4})
    assert (page.type, page.size, page.stack, page.outcome) == ("page", 0, CHAIN[2:], "handled")
    assert (summary.reached, summary.injected, summary.handled) == (10, 5, 5)
    assert (context.summaries, context.findings, context.windows) == ([summary], [], [])
    assert context.model == [(6, 6)], "each run's answer was judged"


def test_inlined_functions_are_part_of_the_chain_and_frames_say_their_lines() -> None:
    account, _ = opened()
    (site_seen, _) = account.close(answer([KMALLOC, ENOMEM, 0, 1, 4]), NOTHING).sites
    assert Frame("init_dsq", file="kernel/sched/ext/ext.c", line=40, inlined=True) in site_seen.frames


def test_sites_elsewhere_are_made_to_fail_and_not_counted() -> None:
    account, context = opened(site(KMALLOC, *SLAB_STACK), site(0xCCC, 0x10, 0x20, 0x70, 0x60))
    summary = account.close(answer([KMALLOC, ENOMEM, 0, 1, 1], [0xCCC, ENOMEM, 0, 2, 1]), NOTHING)
    assert [one.stack for one in summary.sites] == [CHAIN]
    assert (summary.injected, context.findings) == (1, [])


def test_an_answer_that_is_not_allowed_is_a_finding_with_its_fault_wherever_the_site_lies() -> None:
    account, context = opened(site(KMALLOC, *SLAB_STACK, injected=3), site(0xCCC, 0x10, 0x20, 0x70, 0x60))
    summary = account.close(answer([KMALLOC, -22, 0, 5, 3], [0xCCC, -14, 0, 2, 1]), NOTHING)
    first, second = context.findings
    assert (first.oracle, first.kind, first.count) == ("faults", "wrong errno", 3)
    assert first.title == "create answered -EINVAL under a fault, allowed is 0 or -ENOMEM"
    assert (first.operation, first.site, first.fault) == ("create", " < ".join(CHAIN), "{operation: create, nth: 5}")
    assert (first.function, first.file, first.line) == ("init_dsq", "kernel/sched/ext/ext.c", 40)
    assert "-EFAULT" in second.title and second.function == "bpf_prog_load"
    assert summary.sites[0].outcomes == {"wrong errno": 3}
    assert summary.sites[0].findings == (first.signature,), "or nobody could allow it"


def test_an_error_without_a_fault_is_a_finding_and_no_site_s() -> None:
    account, context = opened()
    summary = account.close(answer([0, ENOMEM, 0, 9, 2], [KMALLOC, ENOMEM, 0, 1, 1]), NOTHING)
    (found,) = context.findings
    assert found.title == "create answered -ENOMEM although no fault was injected, allowed is 0"
    assert (found.site, found.fault, found.operation, found.function) == (None, None, "create", None)
    assert [one.outcomes for one in summary.sites] == [{"handled": 1}, {}]


def test_a_hang_is_a_hang() -> None:
    account, context = opened()
    (slab, _) = account.close(answer([KMALLOC, HANG, 0, 2, 1]), NOTHING).sites
    assert [found.kind for found in context.findings] == ["hang"]
    assert (slab.outcome, slab.answers) == ("hang", {"no end": 1})


def test_a_success_that_did_nothing_is_a_finding() -> None:
    account, context = opened()
    (slab, _) = account.close(answer([KMALLOC, 0, NOT_DONE, 2, 1]), NOTHING).sites
    assert [found.kind for found in context.findings] == ["wrong errno"]
    assert (slab.outcomes, slab.answers) == ({"wrong errno": 1}, {"0": 1})


@pytest.mark.parametrize("shown", [ENOMEM, ended_with(ENOMEM)])
def test_either_error_of_an_attach_will_do(shown: int) -> None:
    account, context = opened(swept=ATTACH)
    assert account.close(answer([KMALLOC, shown, 0, 1, 1]), NOTHING).handled == 1
    assert not context.findings


def test_what_is_absorbed_asks_whether_that_is_declared() -> None:
    def optional(one: FaultSite) -> str:
        return "it tries once more" if one.type == "page" and one.operation == "create" else ""

    account, context = opened(optional=optional)
    slab, page = account.close(answer([KMALLOC, 0, 0, 1, 1], [CHUNK, 0, 0, 2, 1]), NOTHING).sites
    assert [(one.outcome, one.optional) for one in (slab, page)] == [
        ("absorbed", ""),
        ("absorbed", "it tries once more"),
    ]
    assert not context.findings, "whether that is enough is judged later"


# --- what is left -----------------------------------------------------------------------------


def test_the_agent_has_room_for_as_many_loud_runs() -> None:
    source = Path(__file__).parents[3] / "vm/agent/nth.c"
    assert f"#define MAX_LOUD {MAX_LOUD}\n" in source.read_text()


LEFT_STACK = [0x80, 0x20, 0x40, 0x50, 0x60]


def test_what_is_left_is_a_leak_with_its_fault_and_spoils_the_site() -> None:
    account, context = opened()
    left = {"left": [[KMALLOC, 3, ENOMEM, 2, 384, LEFT_STACK]], "count": 1}
    slab, page = account.close(answer([KMALLOC, ENOMEM, 0, 3, 4], [CHUNK, ENOMEM, 0, 2, 1]), left).sites
    (found,) = context.findings
    assert (found.oracle, found.kind, found.function) == ("ledger", "slab leak", "init_dsq")
    assert (found.operation, found.site, found.fault) == ("create", " < ".join(CHAIN), "{operation: create, nth: 3}")
    assert found.frames[0].function == "kmalloc_noprof", "the tracing is no part of it"
    assert (slab.outcome, page.outcome) == ("leaked", "handled")
    assert (slab.findings, page.findings) == ((found.signature,), ())


def test_what_was_absorbed_and_left_something_is_a_leak() -> None:
    account, context = opened()
    left = {"left": [[KMALLOC, 3, 0, 2, 384, LEFT_STACK]], "count": 1}
    summary = account.close(answer([KMALLOC, 0, 0, 3, 4], [CHUNK, 0, 0, 2, 1]), left)
    assert [one.outcomes for one in summary.sites] == [{"leaked": 4}, {"absorbed": 1}]
    assert [(found.kind, found.fault) for found in context.findings] == [("slab leak", "{operation: create, nth: 3}")]


def test_a_worse_ending_than_a_leak_stays_what_it_is() -> None:
    account, _ = opened()
    left = {"left": [[KMALLOC, 3, HANG, 2, 384, LEFT_STACK]], "count": 1}
    summary = account.close(answer([KMALLOC, HANG, 0, 3, 1], [KMALLOC, ENOMEM, 0, 1, 3]), left)
    assert summary.sites[0].outcomes == {"hang": 1, "leaked": 3}


def test_every_entry_of_a_stack_that_is_left_is_a_return_address() -> None:
    account, context = opened()
    account.close(answer(), {"left": [[KMALLOC, 3, ENOMEM, 1, 8, LEFT_STACK]], "count": 1})
    assert (0, *LEFT_STACK) in context.symbols.asked
    assert "0x0" not in {frame.function for frame in context.findings[0].frames}


def test_flags_of_the_agent_say_leaked_too() -> None:
    account, _ = opened()
    assert account.close(answer([KMALLOC, ENOMEM, LEFT_SLAB, 3, 4]), NOTHING).sites[0].outcomes == {"leaked": 4}


def test_what_a_run_without_a_fault_leaves_is_no_site_s() -> None:
    account, context = opened()
    left = {"left": [[0, 9, 0, 2, 64, LEFT_STACK]], "count": 1}
    summary = account.close(answer([KMALLOC, ENOMEM, 0, 1, 1]), left)
    assert [(found.operation, found.site, found.fault) for found in context.findings] == [("create", None, None)]
    assert summary.sites[0].outcomes == {"handled": 1}


# --- what the log says ------------------------------------------------------------------------


def test_loud_runs_are_windows_of_the_log_with_their_fault() -> None:
    account, context = opened(swept=ATTACH)
    account.close(answer([KMALLOC, ENOMEM, 0, 1, 1], loud=[[KMALLOC, 4, 100, 120], [0, 9, 130, 131]]), NOTHING)
    plan = "{operation: attach, task: scx_enable_helper, nth: 4}"
    assert context.windows == [
        Window(100, 120, Cause("attach", "failslab", CHAIN, plan)),
        Window(130, 131, Cause("attach")),
    ]
    assert context.armed == [(100, 120)], "where nothing failed nothing was provoked"


def test_when_runs_were_loud_is_known_also_of_books_that_do_not_agree() -> None:
    account, context = opened()
    with pytest.raises(GuestError):
        account.close(answer(loud=[[KMALLOC, 4, 100, 120]], disputed=1), NOTHING)
    assert context.armed == [(100, 120)]


def test_of_loud_runs_that_the_agent_had_no_room_for_any_may_be_the_provoked_one() -> None:
    runs = [[KMALLOC, number, 2 * number, 2 * number + 1] for number in range(MAX_LOUD)]
    account, context = opened()
    account.close(answer(loud=runs[:-1]), NOTHING)
    assert len(context.armed) == MAX_LOUD - 1
    account, context = opened()
    account.close(answer(loud=runs), NOTHING)
    assert len(context.windows) == MAX_LOUD
    assert context.armed[MAX_LOUD:] == [(runs[-1][2], context.next_seq - 1)]


# --- what proves nothing ----------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "says"), [({"disputed": 2}, "disagree on 2 faults"), ({"lost": 3}, r"\(3 lost\)")])
def test_books_that_do_not_agree_are_the_harness_s_failure_and_book_nothing(wrong: dict[str, int], says: str) -> None:
    account, context = opened()
    with pytest.raises(GuestError, match=says):
        account.close(answer([KMALLOC, -22, 0, 1, 1], **wrong), NOTHING)
    assert not context.findings and not context.summaries


def test_without_a_sweep_only_what_was_seen_is_told() -> None:
    account, context = opened()
    summary = account.observed({KMALLOC: [Ended("handled", "-ENOMEM")]})
    assert [one.outcome for one in summary.sites] == ["handled", "none"]
    assert not context.summaries
    assert opened(site(1, 0x70))[0].observed({}) == FaultSummary()


def test_all_addresses_are_looked_up_at_once_as_return_addresses() -> None:
    _, context = opened()
    at_once, *each = context.symbols.asked
    assert at_once == (0, *SLAB_STACK, *PAGE_STACK)
    assert each == [SLAB_STACK, PAGE_STACK], "then they are known"


def test_addresses_of_the_stacks_with_the_functions_of_the_source() -> None:
    account, _ = opened()
    found = account.addresses()
    assert set(found) == set(SLAB_STACK) | set(PAGE_STACK)
    assert found[0x40] == {"init_dsq", "create_dsq"}


@pytest.mark.parametrize(
    ("thread", "plan"), [("", "{operation: a, nth: 3}"), ("kthreadd", "{operation: a, task: kthreadd, nth: 3}")]
)
def test_the_plan_of_one_line(thread: str, plan: str) -> None:
    assert Swept("a", thread, Allowed(), ()).plan(3) == plan


@pytest.mark.parametrize(
    ("thread", "entry"),
    [
        ("", "{operation: create, what: page, probability: 100}"),
        ("kthreadd", "{operation: create, what: page, task: kthreadd, probability: 100}"),
    ],
)
def test_where_each_page_failed_the_plan_fails_each_page(tmp_path: Path, thread: str, entry: str) -> None:
    swept = Swept("create", thread, Allowed(), (), every=True)
    assert swept.plan(1) == swept.plan(3) == entry
    (tmp_path / "plan.yaml").write_text(entry)
    (plan,) = plans.read(tmp_path / "plan.yaml", ["create"])
    assert plan.fault == Fault(what="page", task=thread or "self", probability=100)
    assert all(plans.chosen(plan.fault, number) for number in range(1, 100))


def test_what_is_disputed_is_told_alike_on_every_build() -> None:
    ending, cause = Ending(KMALLOC, -22, 0, 3, 2), Cause("attach", "failslab", ("x",), "{nth: 3}")
    frames = (Frame("kmalloc_noprof"), Frame("init_dsq"), Frame("create_dsq.constprop.0"))
    (found,) = disputed(ending, Allowed(), cause, frames)
    assert found.signature.startswith("faults:wrong errno:init_dsq<create_dsq:attach answered -EINVAL")
    assert disputed(Ending(KMALLOC, ENOMEM, 0, 3, 2), Allowed(), cause, frames) == []
