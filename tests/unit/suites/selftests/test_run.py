# SPDX-License-Identifier: GPL-2.0-only
"""Tests of running a tree's selftests: what is asked of the agent, how each ends, and what they may provoke."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from selftests.expected import ExpectedFailure, of, read
from selftests.run import PATIENCE_SECONDS, SECONDS, call, carry_out, listed

from harness.core.errors import Inconclusive, UsageError
from harness.core.plan import BpfRequest, Selftest, Session, Survey
from harness.core.records import LogRecord
from harness.guest.agent import AgentError
from harness.guest.guest import Guest
from harness.session.context import TestContext
from harness.session.session import Target
from harness.session.supplied import has_selftest, supplied
from tests.unit.fakes.context import SCALE, FakeAgent

DECLARED = Path(__file__).resolve().parents[4] / "tests/kernel/selftests/expected.yaml"


def shown(line: str, output: str = "", passed: int = 0, skipped: int = 0, failed: int = 0) -> str:
    return (
        f"===== START =====\nTEST: exit\nDESCRIPTION: x\nOUTPUT:\n{output}{line}\n=====  END  =====\n"
        f"\nRESULTS:\n\nPASSED:  {passed}\nSKIPPED: {skipped}\nFAILED:  {failed}\n"
    )


class FakeContext:
    """A context whose guest's runner prints `output` and ends with `status`, or answers `ended` to reap."""

    def __init__(self, output: str, status: int = 0, **ended: Any) -> None:
        self.agent = FakeAgent(reap=ended or {"status": status})
        self.guest = SimpleNamespace(agent=self.agent, pristine=SimpleNamespace(scale=SCALE), read=lambda path: output)
        self.target = SimpleNamespace(name="tree-x86_64-default")
        self.gathered = 0
        self.expected: list[str] = []
        self.records: list[LogRecord] = []

    def expect(self, *patterns: str) -> None:
        self.expected += patterns

    def log(self) -> tuple[list[LogRecord], int]:
        return self.records, 0

    def gather(self) -> None:
        self.gathered += 1


def run(context: FakeContext, folder: Path) -> None:
    carry_out(cast(TestContext, context), "exit", folder / "selftests")


def test_an_ok_passes_and_its_output_is_kept(tmp_path: Path) -> None:
    text = shown("ok 1 exit # ", "caf\u00e9\n".encode().decode("latin-1"), passed=1)
    context = FakeContext(text)
    run(context, tmp_path)
    (spawned,) = context.agent.asked("spawn")
    assert [spawned[key] for key in ("a0", "a1", "a2")] == ["/selftests/runner", "-t", "exit"]
    (reaped,) = context.agent.asked("reap")
    assert reaped["timeout_ms"] == SECONDS * SCALE * 1000
    kept = tmp_path / "selftests" / "exit-tree-x86_64-default.txt"
    assert "caf\u00e9\n" in kept.read_text()
    assert context.agent.patience == PATIENCE_SECONDS  # type: ignore[attr-defined]


def test_a_skip_is_told_with_its_reason_and_judged_all_the_same(tmp_path: Path) -> None:
    context = FakeContext(shown("ok 1 exit # SKIP ", "Skipping: requires 2 CPUs\n", skipped=1))
    with pytest.raises(pytest.skip.Exception, match="^Skipping: requires 2 CPUs$"):
        run(context, tmp_path)
    assert context.gathered == 1
    with pytest.raises(pytest.skip.Exception, match="gives no reason"):
        run(FakeContext(shown("ok 1 exit # SKIP ", skipped=1)), tmp_path)


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        (
            shown("not ok 1 exit # ", "ERR: exit.c:30\nExpected 1 == 2\n", failed=1),
            1,
            "exit not ok: exit.c:30: Expected 1 == 2",
        ),
        (shown("not ok 1 exit # ", failed=1), 1, "exit not ok: its runner gives no reason"),
        (
            "===== START =====\nTEST: exit\nDESCRIPTION: x\nOUTPUT:\n[SCX_BUG] /a/b.h:1 (No such)\nno attach\n",
            1,
            "exit gave up: [SCX_BUG] b.h:1 (No such): no attach",
        ),
    ],
)
def test_a_not_ok_is_the_kernels_failure(tmp_path: Path, text: str, status: int, says: str) -> None:
    with pytest.raises(AssertionError) as raised:
        run(FakeContext(text, status), tmp_path)
    assert str(raised.value).splitlines()[0] == says


def test_a_runner_that_contradicts_itself_is_inconclusive(tmp_path: Path) -> None:
    with pytest.raises(Inconclusive, match="says ok of exit, and ends with status 1"):
        run(FakeContext(shown("ok 1 exit # ", passed=1), 1), tmp_path)
    assert (tmp_path / "selftests/exit-tree-x86_64-default.txt").exists(), "all the more worth a look"


def test_a_test_that_does_not_end_fails_with_its_last_words(tmp_path: Path) -> None:
    late: dict[str, Any] = {"ok": False, "errno": errno.ETIMEDOUT, "error": "pid 71 still runs"}
    with pytest.raises(AssertionError, match="exit did not end within 600 s; it last said: OUTPUT:"):
        run(FakeContext("===== START =====\nTEST: exit\nOUTPUT:\n\n", **late), tmp_path)
    with pytest.raises(AssertionError, match="did not end within 600 s$"):
        run(FakeContext("", **late), tmp_path)


def test_an_agent_that_lost_the_runner_is_not_the_kernels_failure() -> None:
    context = FakeContext("", ok=False, errno=errno.ENOENT, error="no such group")
    with pytest.raises(AgentError, match="no such group"):
        call(cast(Guest, context.guest), ["-l"])


def test_the_runners_own_list() -> None:
    assert listed(cast(Guest, FakeContext("exit\nnuma\n").guest)) == ["exit", "numa"]
    with pytest.raises(Inconclusive, match="ended with status 139"):
        listed(cast(Guest, FakeContext("exit\n", 139).guest))


# --- what there is to run ---------------------------------------------------------------------


def target(*names: str) -> Any:
    return SimpleNamespace(selftests=tuple(Selftest(name) for name in names))


def test_each_is_a_test_and_those_of_all_targets_count() -> None:
    session = cast(
        Session, SimpleNamespace(targets=(target("exit", "numa"), target("exit", "new")), bpf=(BpfRequest("x"),))
    )
    assert [test.name for test in supplied(session, "selftest")] == ["exit", "numa", "new"]
    assert len(supplied(Survey("answer", ()), "selftest")) == 1
    assert supplied(None, "selftest") == ()
    assert supplied(session, "user_scheduler") == (BpfRequest("x"),)


@pytest.mark.parametrize(("name", "wanted"), [("exit", True), ("numa", False), (None, True)])
def test_a_target_runs_those_of_its_own_tree(name: str | None, wanted: bool) -> None:
    ready = cast(Target, SimpleNamespace(saved=target("exit")))
    calls = SimpleNamespace(params={"selftest": name} if name else {})
    assert has_selftest(ready, calls) is wanted
    assert has_selftest(None, calls) and has_selftest(ready, None)


# --- what they provoke ------------------------------------------------------------------------


def test_what_is_declared_is_by_test() -> None:
    one, other, any_of = (
        ExpectedFailure("a", "x", "r"),
        ExpectedFailure("b", "y", "r"),
        ExpectedFailure("*", "z", "r", "tcg"),
    )
    assert of("a", [one, other, any_of], "kvm") == (one,)
    assert of("a", [one, other, any_of], "tcg") == (one, any_of)
    declared = read(DECLARED)
    assert of("minimal", declared, "kvm") == ()
    for entry in declared:
        assert entry.accelerator or entry.test in entry.log, "an entry speaks of its own scheduler only"


def test_a_failure_beside_what_slowness_brings_about_is_inconclusive(tmp_path: Path) -> None:
    """And only beside it; a watchdog that waited longer than the test's own second is no such thing."""
    slow = [entry for entry in read(DECLARED) if entry.accelerator]
    failed = shown("not ok 1 exit # ", "ERR: exit.c:30\nno\n", failed=1)
    head = 'sched_ext: BPF scheduler "select_cpu_dispatch" disabled (runnable task stall)'
    for seconds, error in (("1.008", Inconclusive), ("31.008", AssertionError), ("", AssertionError)):
        context = FakeContext(failed, 1)
        detail = f"sched_ext: select_cpu_dispatch: watchdog failed to check in for {seconds}s"
        context.records = [LogRecord(text, seq) for seq, text in enumerate((head, detail))] if seconds else []
        with pytest.raises(error):
            carry_out(cast(TestContext, context), "exit", tmp_path, slow)
        assert context.expected == [entry.log for entry in slow]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a list of entries"),
        ("test: a", "a list of entries"),
        ("- a", ":1: no entry"),
        ("- test: a\n  log: b", ":1: an entry without reason"),
        ("- test: a\n  log: b\n  reason: c\n- test: ''\n  log: b\n  reason: c", ":4: an entry without test"),
        ("- test: a\n  logs: b\n  reason: c", ":2: unknown key 'logs'; near it: log"),
        ("- test: a\n  log: '('\n  reason: c", ":1: log: no regular expression"),
        ("- test: [a]\n  log: b\n  reason: c", ":1: test: Expected str"),
    ],
)
def test_a_mistake_in_it_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "expected.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        read(file)
    assert says in raised.value.what and raised.value.step
