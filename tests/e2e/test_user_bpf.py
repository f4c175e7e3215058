# SPDX-License-Identifier: GPL-2.0-only
"""BPF schedulers of the user's: what is no scheduler is refused, what is ejected fails, and replay wants the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import CHECKOUT, Done, Kharness
from tests.e2e.conftest import place

GOOD = """#include <scx/common.bpf.h>
char _license[] SEC("license") = "GPL";
void BPF_STRUCT_OPS(mine_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}
"""
OPS = 'SCX_OPS_DEFINE({0}_ops, .enqueue = (void *)mine_enqueue, .name = "{0}");\n'


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user's programs."""
    folder = tmp_path_factory.mktemp("programs") / "mine"
    shutil.copytree(CHECKOUT / "tests/e2e/bpf", folder)
    return folder


@pytest.fixture(scope="module")
def tested(cache_home: Path, passed: Done, programs: Path) -> Iterator[Done]:
    """One run of two schedulers, named in a plan beside them; the suite is another."""
    plan = programs / "plan.yaml"
    plan.write_text("bpf: [fair.bpf.c, thrown.bpf.c]\nselect: nothing\n")
    for started in place(cache_home):
        yield started.run(
            str(plan), "--suite", "tests/kernel/sched_ext/test_guest.py", "-k", "schedules or clock", timeout=600
        )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "int broken = nothing;\n", "/mine.bpf.c:7:14: error: use of undeclared identifier 'nothing'"),
        ('#include "nothing.h"\n', "/mine.bpf.c:1:10: fatal error: 'nothing.h' file not found"),
        (GOOD, "/mine.bpf.c has no struct_ops map"),
        (GOOD + OPS.format("a") + OPS.format("b"), "/mine.bpf.c has 2 struct_ops maps: a_ops, b_ops"),
    ],
    ids=["syntax", "include", "none", "two"],
)
def test_what_is_no_scheduler_is_the_users_mistake(
    kharness: Kharness, passed: Done, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "mine.bpf.c").write_text(text)
    done = kharness.run("--bpf", str(tmp_path / "mine.bpf.c"), timeout=300).expect(2)
    assert done.error.startswith(f"kharness: {tmp_path}{says}")
    assert not (done.cwd / "out/latest").exists()


def test_a_scheduler_that_schedules_passes(tested: Done) -> None:
    tested.expect(1)
    assert tested.test("test_schedules[fair]")["outcome"] == "pass"
    assert tested.test("test_clock_is_right_after_a_restore")["outcome"] == "pass", "the suite that was asked for, too"


def test_a_scheduler_that_exits_with_an_error_fails_with_its_reason(tested: Done) -> None:
    row = tested.test("test_schedules[thrown]")
    assert row["outcome"] == "fail"
    assert row["why"].startswith('thrown was ejected: BPF scheduler "thrown" disabled (scx_bpf_error)')
    assert row["why"].endswith("thrown.bpf.c:13: had enough")
    assert {found["kind"] for found in row["findings"]} == {"assertion", "sched_ext"}


def test_a_replay_uses_the_same_program_and_refuses_another(kharness: Kharness, tested: Done, programs: Path) -> None:
    row = tested.test("test_schedules[thrown]")
    again = kharness("replay", row["replay"], timeout=300).expect(1)
    # Not all of them: where the scheduler was called from when it had enough differs from run to run.
    assert [found["signature"] for found in row["findings"] if found["signature"] in again.verdict]
    assert "had enough" in again.test("test_schedules[thrown]")["why"]
    header = programs / "limit.h"
    kept = header.read_text()
    try:
        header.write_text(kept.replace("300", "400"))
        refused = kharness("replay", row["replay"], timeout=120).expect(2)
    finally:
        header.write_text(kept)
    assert f"{programs}/thrown.bpf.c or what it includes has changed since" in refused.error
