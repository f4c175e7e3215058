# SPDX-License-Identifier: GPL-2.0-only
"""The tests of the kernel-log oracle that are more than one recorded log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.records import Evidence, Frame, LogRecord
from harness.oracles import dmesg
from harness.oracles.splat.frames import Raw, culprit, decode
from harness.oracles.splat.log import parse_console, parse_kmsg

GOLDEN = Path(__file__).parent / "golden"
WARN = parse_kmsg((GOLDEN / "warn_7x_x86" / "kmsg.txt").read_text())


def console(*texts: str) -> list[LogRecord]:
    return [LogRecord(t, time=1.0 + i / 1e6, caller="T1") for i, t in enumerate(texts)]


class Inliner:
    """Knows that init_dsq was inlined into scx_bpf_create_dsq, and nothing else."""

    def __init__(self) -> None:
        self.asked: list[Frame] = []
        self.prefetched: list[Frame] = []

    def prefetch(self, frames: Iterable[Frame]) -> None:
        self.prefetched += frames

    def __call__(self, frame: Frame) -> Sequence[Frame]:
        self.asked.append(frame)
        if frame.function != "scx_bpf_create_dsq":
            return (frame,)
        inner = Frame("init_dsq", file="/src/kernel/sched/ext/ext.c", line=4890, inlined=True)
        helper = Frame("rhashtable_insert", file="/src/include/linux/rhashtable.h", line=7, inlined=True)
        return (helper, inner, replace(frame, file="./kernel/sched/ext/ext.c", line=9551))


WARN_INLINED = (
    "WARNING: kernel/sched/ext/ext.c:4890 at scx_bpf_create_dsq+0xd6/0x530, CPU#1: a/1",
    "RIP: 0010:scx_bpf_create_dsq+0xd6/0x530",
    "Call Trace:",
    " caller+0x10/0x20",
)


def test_an_inlined_warn_blames_the_function_that_holds_the_line() -> None:
    symbols = Inliner()
    (found,) = dmesg.findings(console(*WARN_INLINED), symbols)
    assert (found.function, found.file, found.line) == ("init_dsq", "kernel/sched/ext/ext.c", 4890)
    assert [f.function for f in found.frames] == ["rhashtable_insert", "init_dsq", "scx_bpf_create_dsq", "caller"]
    assert found.frames[2].offset == 0xD6 and found.frames[2].file == "kernel/sched/ext/ext.c"
    (bare,) = dmesg.findings(console(*WARN_INLINED))
    assert bare.function == "scx_bpf_create_dsq"


def test_return_addresses_are_looked_up_one_byte_earlier() -> None:
    symbols = Inliner()
    dmesg.findings(console(*WARN_INLINED), symbols)
    asked = {(f.function, f.offset) for f in symbols.asked}
    assert ("caller", 0xF) in asked and ("caller", 0x10) not in asked
    assert ("scx_bpf_create_dsq", 0xD6) in asked
    assert {(f.function, f.offset) for f in symbols.prefetched} >= asked


def test_signature_knows_no_addresses_or_clones() -> None:
    one = console(
        "WARNING: a.c:1 at f.isra.0+0x10/0x20, CPU#1: a/1",
        "RIP: 0010:f.isra.0+0x10/0x20",
        "Call Trace:",
        " g.constprop.0+0x1/0x2",
    )
    two = console("WARNING: a.c:9 at f+0x18/0x28, CPU#0: b/7", "RIP: 0010:f+0x18/0x28", "Call Trace:", " g+0x3/0x4")
    assert dmesg.findings(one)[0].signature == dmesg.findings(two)[0].signature == "dmesg:warn:f<g"


def test_the_same_report_twice_is_one_finding_with_a_count() -> None:
    (found,) = dmesg.findings([*WARN, *WARN])
    assert found.count == 2


def test_two_lines_of_one_function_are_two_findings() -> None:
    two = console("WARNING: a.c:1 at f+0x10/0x20, CPU#1: a/1", "WARNING: a.c:9 at f+0x18/0x20, CPU#1: a/1")
    assert [f.line for f in dmesg.findings(two)] == [1, 9]


def test_expected_marks_by_title_and_hides_no_other() -> None:
    log = parse_kmsg((GOLDEN / "sched_ext_error" / "kmsg.txt").read_text())
    other = [replace(r, text=r.text.replace("(-12)", "(-22)")) for r in log]
    found = dmesg.findings([*log, *other], expect=[r"ops.init\(\) failed \(-12\)"])
    assert [f.expected for f in found] == [True, False]
    assert found[0].signature != found[1].signature


def test_an_expected_finding_does_not_swallow_an_unexpected_one_of_the_same_signature() -> None:
    log = console("a: page allocation failure: order:0, mode:0xcc0", "b: page allocation failure: order:3, mode:0xcc0")
    assert len(dmesg.findings(log)) == 1
    assert [f.expected for f in dmesg.findings(log, expect=["order:0"])] == [True, False]


def test_fault_injection_dump_hides_nothing() -> None:
    dump = console(
        "FAULT_INJECTION: forcing a failure.",
        "name failslab, interval 1",
        "CPU: 0 UID: 0",
        "Call Trace:",
        " should_failslab+0x1/0x2",
    )
    assert dmesg.findings(dump) == []
    (found,) = dmesg.findings([*dump, *WARN])
    assert found.function == "init_dsq" and "should_failslab" not in {f.function for f in found.frames}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("BUG: scheduling while atomic: a/1/0x00000002", "atomic sleep"),
        ("BUG: using smp_processor_id() in preemptible [00000000] code: agent/57", "preemptible"),
        ("BUG: using __this_cpu_add() in preemptible [00000000] code: agent/57", "preemptible"),
        ("watchdog: CPU0: Watchdog detected hard LOCKUP on cpu 1", "hard lockup"),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "rcu stall"),
        ("rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-...D } 21 jiffies s: 5", "rcu stall"),
        ("BUG: Bad page state in process a  pfn:01234", "bad page"),
        ("BUG: unable to handle page fault for address: ffffc90000000000", "page fault"),
        ("Unable to handle kernel paging request at virtual address dead000000000122", "page fault"),
        ("Internal error: synchronous external abort: 0000000096000010 [#1]  SMP", "oops"),
        ("kernel BUG at kernel/sched/ext/ext.c:99!", "bug"),
        ("WARNING: bad unlock balance detected!", "lockdep"),
        ("WARNING: inconsistent lock state", "lockdep"),
        ("WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected", "lockdep"),
        ("WARNING: possible recursive locking detected", "lockdep"),
        ("WARNING: a/1 still has locks held!", "lockdep"),
        ("[ BUG: Invalid wait context ]", "lockdep"),
        ("INFO: trying to register non-static key.", "lockdep"),
        (
            "SLUB: Unable to allocate memory on CPU 0 (of node 0) on node -1, gfp=0xcc0(GFP_KERNEL)",
            "allocation failure",
        ),
        ("BUG kmalloc-64 (Not tainted): Right Redzone overwritten", "slab"),
        ("BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 30s!", "workqueue lockup"),
        ("BUG: KFENCE: use-after-free read in f+0x1/0x2", "kfence"),
        ("BUG: KCSAN: data-race in f / g", "kcsan"),
        ('sched_ext: BPF scheduler "x" disabled (scx_bpf_error)', "sched_ext"),
        ('sched_ext: BPF sub-scheduler "x" disabled (runnable task stall)', "sched_ext"),
        ("sched_ext: Soft lockup - CPU 1 stuck for 22s, disabling BPF scheduler", "sched_ext"),
        ("Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", "panic"),
        ("BUG: something that nobody has thought of", "bug"),
    ],
)
def test_every_kind_is_known_by_its_first_line(line: str, kind: str) -> None:
    (found,) = dmesg.findings(console("something before", line, "something after"))
    assert found.kind == kind
    assert line.strip("[ ]").split(":")[0] in found.title or found.function


@pytest.mark.parametrize(
    "line",
    [
        "sched: RT throttling activated",
        'sched_ext: BPF scheduler "x" disabled (unregistered from user space)',
        'sched_ext: BPF scheduler "x" disabled (disabled by sysrq-S)',
        "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        "x86/bugs: BUG_ON is not a bug here",
        "percpu: limit reached, disable warning",
        "debug: WARNINGS are on",
    ],
)
def test_what_is_no_finding(line: str) -> None:
    assert dmesg.findings(console(line)) == []


def test_consequent_panic_is_part_of_its_cause_and_another_panic_is_not() -> None:
    oops = ["BUG: kernel NULL pointer dereference, address: 0", "Oops: Oops: 0000 [#1] SMP", "RIP: 0010:f+0x1/0x2"]
    found = dmesg.findings(console(*oops, "---[ end trace 0 ]---", "Kernel panic - not syncing: Fatal exception"))
    assert [f.kind for f in found] == ["null deref"]
    found = dmesg.findings(console(*oops, "Kernel panic - not syncing: Attempted to kill init! exitcode=0x9"))
    assert [f.kind for f in found] == ["null deref", "panic"]


def test_what_our_module_tells_of_a_dying_kernel_does_not_end_the_report() -> None:
    lines = (GOLDEN / "oops_arm64" / "kmsg.txt").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if "Internal error" in line) + 1
    sequence, caller = lines[at - 1].split(",")[1], "caller=T77"
    said = [
        "died during: create, allocation 5",
        "fault type 1",
        *[f"fault at function_{n}+0x10/0x20" for n in range(16)],
    ]
    shown = [f"0,{sequence},1200109,-,{caller};kharness: {text}" for text in said]
    [plain] = dmesg.findings(parse_kmsg("\n".join(lines)))
    [dying] = dmesg.findings(parse_kmsg("\n".join([*lines[:at], *shown, *lines[at:]])))
    assert (dying.function, dying.signature, dying.frames) == (plain.function, plain.signature, plain.frames)
    assert dying.function is not None and all(line in "\n".join(dying.log) for line in said)


def test_own_trace_of_a_stall_is_blamed_before_another_cpu() -> None:
    log = console(
        "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [a:1]",
        "RIP: 0010:mine+0x1/0x2",
        "Call Trace:",
        " mine_too+0x1/0x2",
        "NMI backtrace for cpu 1",
        "RIP: 0010:other+0x1/0x2",
    )
    (found,) = dmesg.findings(log)
    assert found.function == "mine"


def test_watched_counts_gaps_and_lockdep() -> None:
    log = parse_kmsg("4,10,1,-,caller=T1;a\n4,13,2,-,caller=T1;b\n")
    assert dmesg.watched(log, first_seq=10).lost == 2
    assert dmesg.watched(log, first_seq=8).lost == 4
    assert dmesg.watched(parse_console("[    1.000000] ** 7 printk messages dropped **")).lost == 7
    off = dmesg.watched(console("BUG: MAX_LOCKDEP_ENTRIES too low!"))
    assert not off.watched and "MAX_LOCKDEP_ENTRIES" in off.why
    assert dmesg.watched(WARN, first_seq=812) == Evidence("dmesg")


OOPS = [r.text for r in parse_console((GOLDEN / "oops_x86" / "console.txt").read_text()) if r.caller == "T102"][:22]
STALL = ["watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [stress:105]", "Call Trace:", " spinner+0x12/0x40"]


@pytest.mark.parametrize(
    ("before", "said", "kinds"),
    [
        (OOPS, "", ["null deref"]),
        (OOPS, "Fatal exc", ["null deref"]),
        (OOPS, "Oops", ["null deref"]),
        (OOPS, "Oo", ["null deref"]),
        (OOPS, "Oops -", ["null deref"]),
        (OOPS, "Oops - BU", ["null deref"]),
        (OOPS, "Oops - BUG: Fa", ["null deref"]),
        (OOPS, "Oops: Fatal exception", ["null deref"]),
        (STALL, "softlockup: hu", ["soft lockup"]),
        (OOPS, "Out of memory", ["null deref", "panic"]),
        (OOPS, "Attempted to kill init!", ["null deref", "panic"]),
        (OOPS, "Oops - BUG: other", ["null deref", "panic"]),
        (OOPS, "Fatal end", ["null deref", "panic"]),
        ([r.text for r in WARN], "Fatal exc", ["warn", "panic"]),
        ([r.text for r in WARN], "", ["warn", "panic"]),
        ([], "Fatal exc", ["panic"]),
    ],
)
def test_what_is_left_of_a_panic_s_line_is_no_report_beside_the_oops_that_it_follows(
    before: list[str], said: str, kinds: list[str]
) -> None:
    assert [one.kind for one in dmesg.findings(console(*before, f"Kernel panic - not syncing: {said}"))] == kinds


def test_what_is_left_of_a_warning_belongs_to_the_corruption_that_it_follows() -> None:
    corrupt = "list_del corruption. prev->next should be ffff888004a3c000, but was dead000000000122."
    assert [one.kind for one in dmesg.findings(console(corrupt, "WARNING: lib/list_d"))] == ["list corruption"]
    assert [one.kind for one in dmesg.findings(console(*OOPS, "WARNING: lib/list_d"))] == ["null deref", "warning"]


SHORT = "dsq_many: page allocation failure: order:0, mode:0xcc0(GFP_KERNEL), nodemask=(null)"


@pytest.mark.parametrize(
    ("seq", "spans", "expected"),
    [
        (7, ((7, 7),), True),
        (7, ((8, 9), (1, 7)), True),
        (7, ((7, 6), (8, 9), (1, 6)), False),
        (7, (), False),
        (None, ((0, 1 << 62),), False),
    ],
)
def test_what_is_provoked_is_expected_in_its_part_of_the_log_only(
    seq: int | None, spans: tuple[tuple[int, int], ...], expected: bool
) -> None:
    records = [LogRecord(SHORT, seq=seq, time=1.0, caller="T1"), LogRecord("CPU: 1", seq=10, time=1.0, caller="T1")]
    during = dmesg.ExpectedReports(("nothing like it", "page allocation failure"), spans)
    assert [one.expected for one in dmesg.findings(records, during=during)] == [expected]
    assert not dmesg.findings(records, during=dmesg.ExpectedReports(("nothing like it",), ((0, 99),)))[0].expected


def test_records_that_come_one_by_one_are_judged_as_well() -> None:
    during = dmesg.ExpectedReports(("init_dsq",), ((812, 900),))
    assert [one.expected for one in dmesg.findings(iter(WARN), during=during)] == [True]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000))
def test_garbage_never_raises(data: bytes) -> None:
    text = data.decode("latin-1")
    for log in (parse_kmsg(text), parse_console(text)):
        dmesg.findings(log)
        dmesg.watched(log, 0)


FRAGMENTS = st.lists(
    st.sampled_from(
        [r.text for n in ("kasan", "oops_x86") for r in parse_console((GOLDEN / n / "console.txt").read_text())]
        + [r.text for r in WARN]
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(FRAGMENTS, st.booleans())
def test_shuffled_reports_never_raise(texts: list[str], timed: bool) -> None:
    dmesg.findings([LogRecord(t, time=1.0 if timed else None) for t in texts])


NOISE = st.lists(st.text(st.characters(blacklist_characters="\n\r\x1b\x00"), max_size=60), max_size=20)


@settings(max_examples=150, deadline=None)
@given(NOISE, NOISE, NOISE, st.integers(1, len(WARN) - 2))
def test_a_report_in_noise_is_found(before: list[str], within: list[str], after: list[str], at: int) -> None:
    """Noise of other callers anywhere, of the same caller before and after."""

    def noise(texts: list[str], caller: str) -> list[LogRecord]:
        return [LogRecord(f"noise {t}", seq=None, time=2.0, caller=caller) for t in texts]

    log = [*noise(before, "T91"), *WARN[:at], *noise(within, "C0"), *WARN[at:], *noise(after, "T91")]
    (found,) = dmesg.findings(log)
    assert (found.function, found.file, found.line) == ("init_dsq", "kernel/sched/ext/ext.c", 4890)
    assert [f.function for f in found.frames][:2] == ["init_dsq", "scx_bpf_create_dsq"]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, len(WARN)))
def test_a_log_cut_off_anywhere_after_the_header_still_blames_right(keep: int) -> None:
    found = dmesg.findings(WARN[:keep])
    header = next(i for i, r in enumerate(WARN) if r.text.startswith("WARNING"))
    assert len(found) == (1 if keep > header else 0)
    assert all((f.function, f.line) == ("init_dsq", 4890) for f in found)


def test_a_name_that_lost_letters_is_not_blamed() -> None:
    """A console that dropped some made __le of __schedule; no function is called that."""
    known = {"schedule": "kernel/sched/core.c", "scx_flush_disable_work": "kernel/sched/ext/ext.c"}

    def symbols(frame: Frame) -> Sequence[Frame]:
        return (replace(frame, file=known.get(frame.function)),)

    names = ("__le", "schedule", "scx_flush_disable_work", "bpf_prog_6deef7357e7b4530_run")
    raws = [Raw(Frame(name, 1, 2)) for name in names]
    frames = decode(raws, symbols)
    assert [frame.reliable for frame in frames] == [False, True, True, True]
    found = culprit(frames)
    assert found and found.function == "scx_flush_disable_work"
    assert all(frame.reliable for frame in decode(raws, None)), "nothing is known of any without symbols"


LOCK_LEFT = (
    "====================================",
    "WARNING: lock held when returning to user space!",
    "7.2.13 #1 Tainted: G           O",
    "------------------------------------------------",
    "agent/59 is leaving the kernel with locks still held!",
    "1 lock held by agent/59:",
    " #0: ff110000008aa858 (&dsq->lock){+.+.}-{2:2}, at: destroy_dsq+0x73/0x750",
)

STATE = (
    "WARNING: inconsistent lock state",
    "7.2.13 #1 Tainted: G           O",
    "--------------------------------",
    "inconsistent {IN-HARDIRQ-W} -> {HARDIRQ-ON-W} usage.",
    "kworker/u9:0/25 [HC0[0]:SC0[0]:HE0:SE1] takes:",
    "ff110000060d4618 (&dsq->lock){?.-.}-{2:2}, at: destroy_dsq+0x73/0x750",
    "{IN-HARDIRQ-W} state was registered at:",
    "  lock_acquire+0xc6/0x2c0",
    "  dispatch_enqueue+0x251/0x510",
    "irq event stamp: 5074",
    "stack backtrace:",
    "CPU: 1 UID: 0 PID: 25 Comm: kworker/u9:0",
    "Call Trace:",
    " <TASK>",
    " dump_stack_lvl+0x6b/0xa0",
    " print_usage_bug.part.0+0x25a/0x340",
    " valid_state+0x6b/0x80",
    " mark_lock_irq+0xa/0x20",
    " mark_held_locks+0x4e/0x70",
    " __trace_hardirqs_on_caller+0x8c/0x190",
    " trace_hardirqs_on+0x1e/0x50",
)


@pytest.mark.parametrize(
    "log",
    [
        LOCK_LEFT,
        (*STATE, " destroy_dsq+0x2ad/0x750", " scx_sched_free_rcu_work+0x1e6/0x400", " </TASK>"),
        (*STATE, " scx_sched_free_rcu_work+0x1e6/0x400", " process_one_work+0x1fd/0x630", " </TASK>"),
    ],
    ids=["returned to user space", "on the stack", "returned already"],
)
def test_lockdep_blames_who_took_the_lock(log: tuple[str, ...]) -> None:
    """Nothing of lockdep's own; and where that function has returned with the lock, nobody whom it returned to."""
    (found,) = dmesg.findings(console(*log))
    assert (found.kind, found.function) == ("lockdep", "destroy_dsq")
    assert "(&dsq->lock)" in found.title
