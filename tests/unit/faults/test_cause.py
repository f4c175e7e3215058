# SPDX-License-Identifier: GPL-2.0-only
"""Tests of which fault a finding came under: what the module tells of a dying kernel, and which records a run covers."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.records import FaultSummary, Finding, LogRecord
from harness.core.wire import ByteOrder
from harness.faults.cause import (
    LAST_WORDS,
    LAST_WORDS_BYTES,
    Cause,
    Window,
    last_words,
    plan_of,
    read_last_words,
    swept_cause,
)
from harness.oracles.splat.log import parse_console

MODULE = Path(__file__).resolve().parents[3] / "vm" / "module" / "last_words.c"
HASH = "0123456789abcdef"
AT = (
    f"bpf_prog_{HASH}_slab_site+0x61/0x7c",
    "bpf_trampoline_6442508+0x4b/0xaf",
    "should_failslab+0x9/0x20",
    "__kmalloc_noprof+0x9a/0x4c0",
    "pcpu_create_chunk+0x31/0x240",
    "init_dsq.isra.0+0x9a/0xc0",
    "scx_bpf_create_dsq+0xd6/0x530",
    f"bpf_prog_{HASH}_create+0x3a/0x60",
    "0xffffffffc0201234",
    "bpf_prog_test_run_syscall+0x142/0x2a0",
    "__sys_bpf+0x4b5/0x2c00",
    "__x64_sys_bpf+0x18/0x30",
    "do_syscall_64+0x8c/0x3a0",
    "entry_SYSCALL_64_after_hwframe+0x77/0x7f",
)
CHAIN = (
    "__kmalloc_noprof",
    "pcpu_create_chunk",
    "init_dsq",
    "scx_bpf_create_dsq",
    "bpf",
    "bpf_prog_test_run_syscall",
    "__sys_bpf",
)
CAUSE = Cause("create", "failslab", CHAIN)
FINDING = Finding("dmesg", "warn", "WARNING in init_dsq", "dmesg:warn:init_dsq")


def telling(what: str = "create", nth: int = 7, kind: int = 1, at: tuple[str, ...] = AT) -> list[str]:
    """As print_last_words() of vm/module/last_words.c prints it."""
    said = [f"kharness: died during: {what}, allocation {nth}", f"kharness: fault type {kind}"]
    return [*said, *(f"kharness: fault at {place}" for place in at)]


def console(lines: list[str], caller: str = "T123", start: float = 12.345678) -> list[str]:
    """As printk prints them on a serial console, with time and caller."""
    return [f"[{start + number / 1e6:12.6f}][{caller:>6}] {line}" for number, line in enumerate(lines)]


def test_the_words_are_those_of_the_module() -> None:
    """A word changed on one side only would make a dying kernel mute."""
    prints = re.findall(r'pr_emerg\("([^"]*)\\n"', MODULE.read_text())
    filled = [line.replace("%.64s", "create").replace("%llu", "7").replace("%u", "1") for line in prints]
    assert len(filled) == 3
    assert last_words([line.replace("%pB", AT[5]) for line in filled]) == (
        Cause("create", "failslab", ("init_dsq",)),
        7,
    )


@pytest.mark.parametrize("carriage", ["", "\r"])
def test_a_telling(carriage: str) -> None:
    assert last_words([line + carriage for line in console(telling())]) == (CAUSE, 7)
    assert last_words([line + carriage for line in telling()]) == (CAUSE, 7), "without time and caller too"


def test_pages_and_a_type_of_another_version() -> None:
    assert last_words(telling(kind=2)) == (Cause("create", "page", CHAIN), 7)
    assert last_words(telling(kind=9)) == (Cause("create", "", CHAIN), 7)


@pytest.mark.parametrize(
    "what", ["attach [scx_enable_helper]", "create, no helper", "x" * 64, "died during: x, allocation 3"]
)
def test_whatever_the_operation_is_called(what: str) -> None:
    assert last_words(console(telling(what))) == (Cause(what, "failslab", CHAIN), 7)


def test_nothing_was_told() -> None:
    assert last_words([]) is None
    assert last_words(console(["Kernel panic - not syncing: Fatal exception", "kharness: deliberate panic"])) is None
    assert last_words(console(telling()[1:])) is None, "the end of a telling says nothing without its beginning"


def test_an_oops_is_followed_by_a_panic_that_tells_it_again() -> None:
    oops = ["BUG: kernel NULL pointer dereference, address: 0000000000000008", "Oops: 0000 [#1] SMP"]
    lines = [
        *oops,
        *telling(),
        "RIP: 0010:init_dsq+0x3c/0xc0",
        "Kernel panic - not syncing: Fatal exception",
        *telling(),
    ]
    assert last_words(console(lines)) == (CAUSE, 7)


def test_the_first_telling_counts_though_the_panic_tells_another() -> None:
    lines = [*telling(), "Kernel panic - not syncing: Fatal exception", *telling("attach", 9, 2, AT[:4])]
    assert last_words(console(lines)) == (CAUSE, 7)


def test_before_a_fault_was_injected_only_the_operation_is_known() -> None:
    assert last_words(console(telling()[:1])) == (Cause("create"), 7)


@given(st.integers(0, len(AT)))
def test_a_telling_that_breaks_off_is_told_as_far_as_it_goes(count: int) -> None:
    cause, nth = last_words(console(telling(at=AT[:count]))) or (Cause(""), 0)
    assert (cause.operation, cause.type, nth) == ("create", "failslab", 7)
    assert cause.stack == CHAIN[: len(cause.stack)]


def test_a_line_that_breaks_off_is_none() -> None:
    lines = console(telling())
    assert last_words([lines[0][:-1].rstrip("7")]) is None
    cause = last_words([*lines[:7], lines[7][:-12], "[   12.4"])
    assert cause == (Cause("create", "failslab", CHAIN[:3]), 7)


def test_other_lines_come_between() -> None:
    lines = console(telling())
    noise = [
        "[   12.345679][    C1] ------------[ cut here ]------------",
        "init: starting",
        "[   12.345679][  T1] kharness: deliberate WARN",
        "[   12.345680][   T77] systemd: kharness: fault at nothing in particular",
        "",
    ]
    mixed = [line for pair in zip(lines, noise * len(lines), strict=False) for line in pair]
    assert last_words(mixed) == (CAUSE, 7)


def test_a_module_and_an_address_without_a_symbol() -> None:
    at = ("kmalloc_trace+0x1/0x2", "work+0x10/0x20 [kharness]", "0xffffffffc0001234", "init_dsq+0x1/0x2 [a_b 0123abcd]")
    assert last_words(telling(at=at)) == (Cause("create", "failslab", ("kmalloc_trace", "work", "bpf", "init_dsq")), 7)


@given(st.lists(st.one_of(st.text(max_size=80), st.sampled_from(console(telling()))), max_size=40))
def test_no_console_makes_it_raise(lines: list[str]) -> None:
    assert (last_words(lines) is None) is not any("died during: create, allocation 7" in line for line in lines)


# --- a guest that hangs -----------------------------------------------------------------------

ADDRESSES = {0x1000 + number: place.partition("+")[0] for number, place in enumerate(AT)}


def memory(
    what: bytes = b"attach [scx_enable_helper]", nth: int = 7, site: int = 5, kind: int = 1, depth: int = len(AT)
) -> bytes:
    stack = [*ADDRESSES, *[0] * (16 - len(ADDRESSES))]
    return struct.pack("<" + LAST_WORDS, what, nth, site, kind, depth, *stack)


def test_what_a_guest_was_at_stands_in_its_memory() -> None:
    assert read_last_words(memory(), ByteOrder.LITTLE, ADDRESSES.__getitem__) == (
        Cause("attach [scx_enable_helper]", "failslab", CHAIN),
        7,
    )
    assert read_last_words(memory() + b"more", ByteOrder.LITTLE, ADDRESSES.__getitem__) == read_last_words(
        memory(), ByteOrder.LITTLE, ADDRESSES.__getitem__
    )
    assert read_last_words(memory(kind=2, depth=6), ByteOrder.LITTLE, ADDRESSES.__getitem__) == (
        Cause("attach [scx_enable_helper]", "page", CHAIN[:3]),
        7,
    )


def test_without_a_fault_so_far_only_the_operation_is_known() -> None:
    assert read_last_words(memory(site=0), ByteOrder.LITTLE, ADDRESSES.__getitem__) == (
        Cause("attach [scx_enable_helper]"),
        7,
    )


def test_memory_in_which_no_sweep_was_at_anything() -> None:
    assert read_last_words(bytes(LAST_WORDS_BYTES), ByteOrder.LITTLE, ADDRESSES.__getitem__) is None


def test_a_depth_that_is_no_depth_reads_no_further_than_the_memory() -> None:
    cause, _ = read_last_words(
        memory(depth=1 << 31), ByteOrder.LITTLE, lambda address: ADDRESSES.get(address, "0x0")
    ) or (Cause(""), 0)
    assert cause.stack[: len(CHAIN)] == CHAIN


@given(st.binary(min_size=LAST_WORDS_BYTES, max_size=LAST_WORDS_BYTES))
def test_no_memory_makes_it_raise(what: bytes) -> None:
    found = read_last_words(what, ByteOrder.LITTLE, lambda address: f"{address:#x}")
    assert (found is None) is (what[0] == 0)


@pytest.mark.parametrize(
    ("said", "operation", "plan"),
    [
        ("attach [scx_enable_helper]", "attach", "{operation: attach, task: scx_enable_helper, nth: 7}"),
        ("attach", "attach", "{operation: attach, nth: 7}"),
        ("create", "create", "{operation: create, nth: 7}"),
    ],
)
def test_what_is_told_names_operation_and_thread_of_the_sweep(said: str, operation: str, plan: str) -> None:
    found = swept_cause(Cause(said, "failslab", CHAIN), 7)
    assert found == Cause(operation, "failslab", CHAIN, plan)


@given(
    st.sampled_from(["attach", "create-duplicate"]),
    st.sampled_from(["", "kthreadd", "scx_enable_helper"]),
    st.integers(1, 999),
)
def test_a_sweep_s_own_words_come_back_whole(operation: str, thread: str, nth: int) -> None:
    tell = f"{operation} [{thread}]" if thread else operation
    assert swept_cause(Cause(tell), nth) == Cause(operation, fault=plan_of(operation, thread, nth))


# --- Cause ------------------------------------------------------------------------------------


def test_a_finding_is_told_what_it_came_under() -> None:
    found = Cause("create", "page", ("alloc", "init_dsq"), "{operation: create, nth: 3}").of(FINDING)
    assert (found.operation, found.site, found.fault) == ("create", "alloc < init_dsq", "{operation: create, nth: 3}")
    assert (found.title, found.signature) == (FINDING.title, FINDING.signature)


def test_a_finding_that_knows_keeps_what_it_knows() -> None:
    known = CAUSE.of(FINDING)
    assert Cause("attach", "page", ("other",), "{nth: 1}").of(known) == Cause("", fault="{nth: 1}").of(known)
    assert Cause("attach", "page", ("other",)).of(known) == known


def test_what_is_not_known_is_not_told() -> None:
    found = Cause("create").of(FINDING)
    assert (found.operation, found.site, found.fault) == ("create", None, None)


def test_the_fault_of_a_guest_that_died_is_a_site_of_its_own() -> None:
    summary = CAUSE.summary("crash", [FINDING, FINDING])
    (site,) = summary.sites
    assert (summary.reached, summary.injected, summary.handled) == (1, 1, 0)
    assert (site.operation, site.type, site.stack) == ("create", "failslab", CHAIN)
    assert (site.outcome, site.outcomes, site.findings) == ("crash", {"crash": 1}, (FINDING.signature,))


def test_without_a_site_there_is_no_account() -> None:
    assert Cause("create").summary("crash", [FINDING]) == FaultSummary()


# --- Window -----------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.none(), st.integers(0, 20)), max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_a_window_holds_its_records_in_order(numbers: list[int | None], first: int, last: int) -> None:
    records = [LogRecord(f"line {place}", seq) for place, seq in enumerate(numbers)]
    within = Window(first, last, CAUSE).within(records)
    assert within == [record for record in records if record.seq in range(first, last + 1)]


def test_lines_of_the_console_have_no_number_and_lie_in_no_window() -> None:
    assert Window(0, 1 << 62, CAUSE).within(parse_console(console(telling()))) == []


def test_every_line_of_a_record_lies_in_its_window() -> None:
    records = [LogRecord("before", 4), LogRecord("one", 5), LogRecord("two", 5), LogRecord("after", 6)]
    assert [record.text for record in Window(5, 5, CAUSE).within(records)] == ["one", "two"]


def test_a_big_endian_guest_has_its_numbers_the_other_way_round() -> None:
    stack = [*ADDRESSES, *[0] * (16 - len(ADDRESSES))]
    big = struct.pack(">" + LAST_WORDS, b"attach", 7, 5, 1, len(AT), *stack)
    assert read_last_words(big, ByteOrder.BIG, ADDRESSES.__getitem__) == (Cause("attach", "failslab", CHAIN), 7)
