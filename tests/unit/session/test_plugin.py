# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what the plugin records: each error of a session, what a test that skips late had shown, lost guests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.core.event_log import read
from harness.core.plan import Survey
from harness.core.records import Event, EventKind
from harness.run.survey import ROOT
from harness.session import plugin
from harness.session.session import Target

SESSION = """
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.core.errors import Ended, How, MachineEnded, MachineLost
from harness.core.event_log import EventLog
from harness.machine.examine import Examination, Hung
from harness.core.options import Options
from harness.core.records import EventKind, Role
from harness.session import plugin
from tests.unit.fakes.suite import PLAIN
from harness.session.session import Target, TestSession
from tests.unit.session.test_context import FakeGuest, made

PANIC = ("[    3.100000] Kernel panic - not syncing: Fatal exception",)
ENDS = {
    "panic": lambda: MachineEnded("QEMU ended during: settime", Ended(How.EXITED, 0), PANIC, False),
    "hang": lambda: Hung(MachineEnded("no answer", Ended(How.RUNNING), (), True, "an answer"), Examination()),
    "reset": lambda: MachineEnded("QEMU ended", Ended(How.EXITED, 0), (), False),
    "killed": lambda: MachineEnded("QEMU ended", Ended(How.KILLED, signal=9), PANIC, False),
    "lost": lambda: MachineLost("QEMU did not start"),
}
ends = sys.argv[2].split()  # how each of the first restores ends

class Restored(FakeGuest):
    def __enter__(self):
        how = ends.pop(0) if ends else "lives"
        if how != "lives":
            raise ENDS[how]()
        return self

class FakeTarget(Target):
    def __init__(self):
        context, _ = made()
        self.__dict__.update(vars(context.target), restore=lambda sequential: Restored())
        self.machine = SimpleNamespace(spec=SimpleNamespace(name="default"), accelerator="tcg")
        self.kernel.role, self.first = Role.TREE, True

class Session(TestSession):
    def __init__(self, session, shard, shards):
        self.session, self.shard, self.shards, self.arch, self.out = session, shard, shards, "x86_64", Path(sys.argv[1])
        self.event_log = EventLog(self.out / "events.jsonl", "r1", "x86_64/0")
        self.targets, self._done = (FakeTarget(),), {}
        self.counters = self.keeper = self.dumper = None
        self.suite = PLAIN

plugin.TestSession, plugin.canaries = Session, lambda *args: []
plugin.read_session = lambda path: SimpleNamespace(test_id="", machines=(), bpf=(), faults=(), targets=(), seed=7, allow=(),
    options=Options(fail_fast="--fail-fast" in sys.argv))
plugin._record_result = lambda test_session, context, result: (
    test_session.event_log.emit(EventKind.TEST_END, result, kernel=result.kernel, test=result.id), result)[1]
suite = str(Path(sys.argv[1]) / "test_it.py")
sys.exit(pytest.main(["-p", "harness.session.plugin", "-p", "no:cacheprovider", "--kharness-plan", "x", "-q", suite]))
"""

HEAD = """
import pytest
pytestmark = pytest.mark.solo
"""


class Run:
    """What a session of the plugin over tests on fake guests wrote down."""

    def __init__(self, folder: Path, tests: str, ends: str = "", *more: str) -> None:
        (folder / "test_it.py").write_text(HEAD + tests)
        argv = [sys.executable, "-c", SESSION, str(folder), ends, *more]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        self.status, self.said = done.returncode, done.stdout + done.stderr
        self.events = list(read(folder / "events.jsonl"))

    def of(self, kind: EventKind) -> list[Event]:
        return [event for event in self.events if event.kind is kind]

    @property
    def errors(self) -> list[tuple[str, str]]:
        """Where in which test, without its file."""
        return [(event.data["test"].rpartition("::")[2], event.data["when"]) for event in self.of(EventKind.ERROR)]

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """By the tests' names."""
        tests = [event for event in self.of(EventKind.TEST_END) if "batch::" not in event.test]
        return {event.test.rpartition("::")[2]: dict(event.data) for event in tests}

    @property
    def end(self) -> dict[str, Any]:
        (end,) = self.of(EventKind.SESSION_END)
        return dict(end.data)


def test_a_session_says_what_is_due_and_pairs_with_its_end(tmp_path: Path) -> None:
    run = Run(tmp_path, "def test_a(context): ...\ndef test_b(context): ...")
    (start,) = run.of(EventKind.SESSION_START)
    assert [item["id"].rpartition("::")[2] for item in start.data["due"]] == ["test_a", "test_b"], run.said
    assert {item["id"] for item in start.data["collected"]} > {item["id"] for item in start.data["due"]}
    assert (start.data["arch"], start.data["shard"], start.data["shards"]) == ("x86_64", 0, 1)
    assert run.end == {"exitstatus": 0, "arch": "x86_64", "shard": 0, "failed": 0}
    assert run.errors == []


def test_errors_that_no_result_shows_are_journalled(tmp_path: Path) -> None:
    """Of a teardown after a pass, of a fixture, of a test without a guest; not once more what a result has."""
    run = Run(
        tmp_path,
        """
@pytest.fixture
def falls(context):
    yield
    raise OSError("no counters")

@pytest.fixture
def unready():
    raise ValueError("no such thing")

@pytest.fixture
def broken(context):
    raise ValueError("after the guest was there")

def test_teardown(falls): ...
def test_fixture(unready, context): ...
def test_guestless(): assert False
def test_fails(context): assert False, "it answered 0"
def test_setup(broken): ...
""",
    )
    assert run.errors == [("test_teardown", "teardown"), ("test_fixture", "setup"), ("test_guestless", "call")]
    assert run.of(EventKind.ERROR)[0].data["why"] == "OSError: no counters"
    assert run.results["test_teardown"]["outcome"] == "pass"
    assert (run.results["test_fails"]["outcome"], run.results["test_setup"]["outcome"]) == ("fail", "inconclusive")
    assert (run.end["exitstatus"], run.end["failed"]) == (1, 5)


FAILS_FIRST = "def test_a(context): assert False, 'it answered 0'\ndef test_b(context): ..."


def test_with_fail_fast_the_first_failure_is_the_last_test(tmp_path: Path) -> None:
    run = Run(tmp_path, FAILS_FIRST, "", "--fail-fast")
    assert list(run.results) == ["test_a"], run.said
    assert (tmp_path / plugin.STOPPED).exists()
    (tmp_path / "events.jsonl").unlink()
    other = Run(tmp_path, "def test_b(context): ...", "", "--fail-fast")
    assert other.results == {}, "another process begins no test"


def test_without_it_all_tests_are_run(tmp_path: Path) -> None:
    assert list(Run(tmp_path, FAILS_FIRST).results) == ["test_a", "test_b"]


def test_the_cpus_take_turns_where_a_test_allows_it(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        """
@pytest.mark.sequential
def test_in_turn(context):
    assert context.sequential

def test_at_once(context):
    assert not context.sequential
""",
    )
    (batch,) = [event for event in run.of(EventKind.TEST_END) if "batch::" in event.test]
    assert not batch.data["turns"], "it repeats both"
    assert {name: found["turns"] for name, found in run.results.items()} == {
        "test_in_turn": True,
        "test_at_once": False,
    }


@pytest.mark.parametrize(
    ("accelerator", "asked", "turns"), [("tcg", True, True), ("tcg", False, False), ("kvm", True, False)]
)
def test_only_tcg_can_have_the_cpus_take_turns(accelerator: str, asked: bool, turns: bool) -> None:
    target: Any = SimpleNamespace(machine=SimpleNamespace(accelerator=accelerator))
    assert Target.takes_turns(target, asked) is turns


def test_what_a_test_did_before_it_skips_is_looked_at(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        """
from tests.unit.session.test_context import WARN

def test_late(context):
    context.guest.write("/x", "y")
    context.guest.kmsg = WARN
    pytest.skip("no NUMA")

def test_blind(context):
    context.guest.write("/x", "y")
    context.guest.overruns = 2
    pytest.skip("no NUMA")

def test_clean(context):
    context.guest.write("/x", "y")
    pytest.skip("no NUMA")

def test_idle(context):
    context.guest.kmsg = WARN
    pytest.skip("no NUMA")
""",
    )
    got = {name: (found["outcome"], found["why"]) for name, found in run.results.items()}
    assert got["test_late"][0] == "fail" and "init_dsq" in got["test_late"][1]
    assert got["test_blind"][0] == "inconclusive" and "dmesg" in got["test_blind"][1]
    assert got["test_clean"] == got["test_idle"] == ("skip", "no NUMA")
    assert run.results["test_clean"]["evidence"] and not run.results["test_idle"]["evidence"]
    assert (run.end["exitstatus"], run.end["failed"], run.errors) == (1, 2, [])


RESTORES = {
    "panics": "panic",
    "hangs": "hang",
    "resets": "reset",
    "killed": "killed lives",
    "lost": "lost lives",
    "killed_twice": "killed killed",
    "panics_then": "killed panic",
}
"""Tests, and how each restore for them ends."""


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A session of RESTORES."""
    tests = "".join(f"def test_{name}(context): ...\n" for name in RESTORES)
    return Run(tmp_path_factory.mktemp("restored"), tests, " ".join(RESTORES.values()))


@pytest.mark.parametrize(("test", "kind"), [("panics", "panic"), ("hangs", "hang"), ("resets", "reset")])
def test_a_kernel_that_dies_at_its_first_restore_fails_at_once(test: str, kind: str, restored: Run) -> None:
    found = restored.results[f"test_{test}"]
    assert (found["outcome"], found["attempts"]) == ("fail", 1), restored.said
    assert [finding["kind"] for finding in found["findings"]] == [kind]


@pytest.mark.parametrize(
    ("test", "outcome"),
    [("killed", "pass"), ("lost", "pass"), ("killed_twice", "inconclusive"), ("panics_then", "fail")],
)
def test_a_guest_that_the_host_lost_is_restored_once_more_and_a_pass_is_none(
    test: str, outcome: str, restored: Run
) -> None:
    """The verdict takes no pass at a second attempt for one."""
    found = restored.results[f"test_{test}"]
    assert (found["outcome"], found["attempts"]) == (outcome, 2), restored.said
    (retry,) = (event for event in restored.of(EventKind.RETRY) if event.test.endswith(f"::test_{test}"))
    assert retry.data["machine"] == "default" and "QEMU" in retry.data["why"]


def test_nothing_else_is_tried_again(restored: Run) -> None:
    assert len(restored.of(EventKind.RETRY)) == 4


def test_an_answer_that_is_cut_off_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collecting pass may be killed, or find no space, in the middle of it."""
    write = Path.write_text

    def cut(path: Path, text: str) -> None:
        write(path, text[:5])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(KeyboardInterrupt):
        plugin._answer(Survey(str(tmp_path / "wanted.json"), (), ()), [], [])
    assert not list(tmp_path.iterdir())
