# SPDX-License-Identifier: GPL-2.0-only
"""The tests of fault-site tables: what counts, under which key, and how it ended."""

from __future__ import annotations

import pytest

from harness.core.errors import HarnessError
from harness.core.records import FaultSite, FaultSummary, Frame
from harness.faults.sites import Ended, RawSite, base_name, blame, is_under, key, normalise, summarise, total

HASH = "0123456789abcdef"
X86 = (
    f"bpf_prog_{HASH}_slab_site",
    "bpf_trampoline_6442508",
    "should_failslab",
    "__kmalloc_noprof",
    "pcpu_create_chunk",
    "pcpu_alloc_noprof",
    "init_dsq.isra.0",
    "scx_bpf_create_dsq",
    f"bpf_prog_{HASH}_create",
    "bpf_prog_test_run_syscall",
    "__sys_bpf",
    "__x64_sys_bpf",
    "do_syscall_64",
    "entry_SYSCALL_64_after_hwframe",
)
CHAIN = (
    "__kmalloc_noprof",
    "pcpu_create_chunk",
    "pcpu_alloc_noprof",
    "init_dsq",
    "scx_bpf_create_dsq",
    "bpf",
    "bpf_prog_test_run_syscall",
    "__sys_bpf",
)
DSQ = ("init_dsq", "scx_bpf_create_dsq")


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("init_dsq", "init_dsq"),
        ("init_dsq.isra.0", "init_dsq"),
        ("init_dsq.constprop.0.isra.0", "init_dsq"),
        ("init_dsq.part.12", "init_dsq"),
        ("init_dsq.cold", "init_dsq"),
        ("init_dsq.part.0.cold", "init_dsq"),
        ("particular", "particular"),
        ("__se_sys_cold", "__se_sys_cold"),
    ],
)
def test_base_name(name: str, base: str) -> None:
    assert base_name(name) == base


def test_normalise_x86_64() -> None:
    assert normalise(X86) == CHAIN


def test_normalise_arm64_gives_the_same_chain() -> None:
    arm = (*X86[:-3], "__arm64_sys_bpf", "invoke_syscall", "el0_svc_common.constprop.0", "do_el0_svc", "el0_svc")
    assert normalise(arm) == CHAIN


def test_normalise_is_the_same_between_loads_and_builds() -> None:
    other = [n.replace(HASH, "f" * 16).replace("6442508", "77").replace(".isra.0", ".constprop.3") for n in X86]
    assert normalise(other) == CHAIN


def test_normalise_a_kthread_and_struct_ops() -> None:
    stack = (
        "should_fail_ex",
        "should_fail_alloc_page",
        "__alloc_pages_noprof",
        "init_dsq",
        f"bpf_prog_{HASH}_many_init",
        "bpf__sched_ext_ops_init",
        "scx_root_enable_workfn",
        "kthread_worker_fn",
        "kthread",
        "ret_from_fork",
        "ret_from_fork_asm",
    )
    assert normalise(stack) == (
        "__alloc_pages_noprof",
        "init_dsq",
        "bpf",
        "scx_root_enable_workfn",
        "kthread_worker_fn",
    )


def test_normalise_keeps_hooks_that_are_not_innermost() -> None:
    assert normalise(("kmalloc", "should_failslab", "init_dsq")) == ("kmalloc", "should_failslab", "init_dsq")


def test_normalise_hides_addresses() -> None:
    # What no symbol covers is JITed code.
    assert normalise(("kmalloc", "0xffffffffc0001234", "init_dsq")) == ("kmalloc", "bpf", "init_dsq")
    assert normalise(()) == ()


def test_is_under() -> None:
    assert is_under(X86, ["init_dsq"])
    assert is_under(("foo.isra.0",), ["foo.isra.0"])
    assert not is_under(X86, ["exit_dsq", "dsq", "init"])
    assert not is_under(X86, [])


def frames(*stack: str) -> tuple[Frame, ...]:
    return tuple(Frame(function) for function in stack)


HANDLED, ABSORBED = Ended("handled", "-ENOMEM"), Ended("absorbed", "0")


def raw(*endings: Ended, stack: tuple[str, ...] = X86, kind: str = "failslab", reached: int = 9) -> RawSite:
    injected = sum(ended.times for ended in endings)
    return RawSite(kind, frames(*stack), reached=reached, injected=injected, endings=endings)


@pytest.mark.parametrize(
    ("endings", "how", "outcomes", "answers"),
    [
        ([], "none", {}, {}),
        ([("handled", "-ENOMEM", 3)], "handled", {"handled": 3}, {"-ENOMEM": 3}),
        ([("absorbed", "0", 3)], "absorbed", {"absorbed": 3}, {"0": 3}),
        (
            [("handled", "-ENOMEM", 1), ("absorbed", "0", 2), ("handled", "exit -ENOMEM", 1)],
            "absorbed",
            {"handled": 2, "absorbed": 2},
            {"-ENOMEM": 1, "0": 2, "exit -ENOMEM": 1},
        ),
        ([("handled", "-ENOMEM", 9), ("leaked", "-ENOMEM", 1)], "leaked", {"handled": 9, "leaked": 1}, {"-ENOMEM": 10}),
        (
            [("wrong errno", "-EINVAL", 1), ("hang", "no end", 1)],
            "hang",
            {"wrong errno": 1, "hang": 1},
            {"-EINVAL": 1, "no end": 1},
        ),
    ],
)
def test_endings_are_counted_by_outcome_and_by_answer_and_the_worst_is_told(
    endings: list[tuple[str, str, int]], how: str, outcomes: dict[str, int], answers: dict[str, int]
) -> None:
    row = raw(*(Ended(*ended) for ended in endings))
    (site,) = summarise("create", [row], DSQ).sites
    assert (site.outcome, site.outcomes, site.answers) == (how, outcomes, answers)


def test_what_was_made_to_fail_and_is_not_booked_has_no_outcome() -> None:
    """Several faults in one operation: only the last of them ended it."""
    rows = [RawSite("failslab", frames(*X86), reached=3, injected=3, endings=(HANDLED,))]
    (site,) = summarise("create", rows, DSQ).sites
    assert (site.injected, site.outcomes) == (3, {"handled": 1})


def test_summarise_counts_only_what_is_under_the_functions() -> None:
    rows = [
        RawSite(
            "failslab",
            frames(*X86),
            size=512,
            gfp=0xCC0,
            reached=10,
            injected=2,
            endings=(Ended("handled", "-ENOMEM", 2),),
            flags="GFP_KERNEL",
        ),
        raw(Ended("handled", "-ENOMEM", 9), stack=("should_failslab", "memdup_user", "__sys_bpf"), reached=99),
    ]
    site = FaultSite(
        "create",
        "failslab",
        CHAIN,
        512,
        0xCC0,
        10,
        2,
        "handled",
        frames(*X86),
        {"handled": 2},
        {"-ENOMEM": 2},
        flags="GFP_KERNEL",
    )
    assert summarise("create", rows, DSQ) == FaultSummary(reached=10, injected=2, handled=2, sites=(site,))


def test_summarise_adds_up_what_has_one_key_and_parts_what_has_not() -> None:
    reloaded = tuple(n.replace(HASH, "a" * 16) for n in X86)
    small = RawSite("failslab", frames(*X86), 64, 1, 1, 1, (HANDLED,), "small")
    large = RawSite("failslab", frames(*reloaded), 128, 2, 5, 1, (ABSORBED,), "large")
    page = RawSite("page", frames(*X86), reached=7)
    summary = summarise("create", [small, large, page], DSQ)
    first, second = summary.sites
    assert (first.type, first.stack, first.reached, first.injected) == ("failslab", CHAIN, 6, 2)
    assert (first.size, first.gfp, first.flags, first.frames) == (128, 2, "large", frames(*reloaded)), "the largest"
    assert (first.outcome, first.outcomes, first.answers) == (
        "absorbed",
        {"handled": 1, "absorbed": 1},
        {"-ENOMEM": 1, "0": 1},
    )
    assert second == FaultSite("create", "page", CHAIN, 0, 0, 7, 0, "none", frames(*X86))
    assert (summary.reached, summary.injected, summary.handled) == (13, 2, 1)
    assert summarise("create", [page, large, small], DSQ) == summary


def test_summarise_asks_of_each_site_whether_it_is_optional() -> None:
    def optional(site: FaultSite) -> str:
        return "pages are a cache" if (site.operation, site.type, site.stack) == ("create", "page", CHAIN) else ""

    sites = summarise("create", [raw(HANDLED), raw(ABSORBED, kind="page")], DSQ, optional).sites
    assert [(site.type, site.optional) for site in sites] == [("failslab", ""), ("page", "pages are a cache")]
    assert summarise("destroy", [raw(ABSORBED, kind="page")], DSQ, optional).sites[0].optional == ""


def test_summarise_nothing() -> None:
    assert summarise("create", [], DSQ) == FaultSummary()


def test_summarise_refuses_more_results_than_injections() -> None:
    row = RawSite("failslab", frames(*X86), reached=3, injected=1, endings=(HANDLED, ABSORBED))
    with pytest.raises(HarnessError, match="made to fail 1 time but has 2 results booked"):
        summarise("create", [row], DSQ)


LEAKED = Ended("leaked", "-ENOMEM")


@pytest.mark.parametrize(
    ("endings", "how", "outcomes"),
    [
        ([LEAKED, ABSORBED, HANDLED], "splat", {"leaked": 1, "absorbed": 1, "splat": 1}),
        ([HANDLED, ABSORBED, LEAKED], "splat", {"leaked": 1, "absorbed": 1, "splat": 1}),
        ([ABSORBED, LEAKED], "splat", {"leaked": 1, "splat": 1}),
        ([LEAKED], "splat", {"splat": 1}),
        ([LEAKED], "wrong errno", {"leaked": 1}),
        ([Ended("handled", "-ENOMEM", 3)], "leaked", {"handled": 2, "leaked": 1}),
        ([], "leaked", {}),
    ],
)
def test_a_finding_turns_the_best_outcome_that_is_better_than_it(
    endings: list[Ended], how: str, outcomes: dict[str, int]
) -> None:
    summary = summarise("create", [raw(*endings), raw(HANDLED, kind="page")], DSQ)
    first, second = blame(summary, key(summary.sites[0]), how, "the finding").sites
    assert (first.outcomes, first.findings) == (outcomes, ("the finding",))
    assert second == summary.sites[1], "another type at the same place is another site"


def test_what_was_found_out_is_handled_no_more() -> None:
    summary = summarise("create", [raw(Ended("handled", "-ENOMEM", 3)), raw(HANDLED, kind="page")], DSQ)
    assert summary.handled == 4
    site = key(summary.sites[0])
    first = blame(summary, site, "leaked", "a leak")
    assert (first.handled, first.injected) == (3, 4)
    assert blame(first, site, "leaked", "a leak") == first, "shown again it is the same run"
    second = blame(first, site, "splat", "a warning")
    assert (second.handled, second.sites[0].outcome) == (2, "splat")
    assert second.sites[0].outcomes == {"handled": 1, "leaked": 1, "splat": 1}


def test_rounds_in_total_tell_of_each_site_once() -> None:
    rounds = [summarise("create", [raw(HANDLED)], DSQ), summarise("create", [raw(ABSORBED), raw(kind="page")], DSQ)]
    whole = total(rounds)
    assert [(site.type, site.reached, site.outcomes) for site in whole.sites] == [
        ("failslab", 18, {"handled": 1, "absorbed": 1}),
        ("page", 9, {}),
    ]
    assert (whole.reached, whole.injected, whole.handled) == (27, 2, 1)
    assert blame(whole, key(whole.sites[0]), "leaked", "a leak").sites[0].outcomes == {"absorbed": 1, "leaked": 1}
