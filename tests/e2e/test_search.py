# SPDX-License-Identifier: GPL-2.0-only
"""The search from outside: a wrong model is caught by the clean kernel, a known-bad kernel by the model, both in few moves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import CHECKOUT, Done, Kharness
from tests.e2e.conftest import place
from tests.e2e.mutants import MUTANTS
from tests.e2e.test_mutants import ARCH, named
from tests.e2e.trees import UserTree

MOST = 6
"""Operations that a finding may take."""

PARTS = ("harness", "tests", "bpf_progs", "vm", "kconfigs", "pyproject.toml", "requirements.txt")
"""Of a checkout, what a run needs."""

CAUGHT = (
    "duplicate-is-lost",
    "id-stays-in-hash",
    "fifo-at-head",
    "vtime-backwards",
    "count-not-decremented",
    "back-pointer-unset",
)


@dataclass(frozen=True)
class Wrong:
    """One rule of the model changed: in `file` of tests/kernel/sched_ext/model, the one `old` becomes `new`.

    `field` is the only one that may be out of the way in the scheduler that shows it, if it takes one.
    """

    name: str
    file: str
    old: str
    new: str
    field: str = ""


MODELS = (
    Wrong(
        "duplicate-allowed", "rules.py", 'frozenset({EEXIST}), "the id is live"', 'frozenset({OK}), "the id is live"'
    ),
    Wrong(
        "destroy-keeps-the-id",
        "dsq.py",
        "answer.aborts is None:\n                table.remove(answer.op.dsq_id)",
        "answer.aborts is None:\n                table.find(answer.op.dsq_id)",
    ),
    Wrong(
        "fifo-at-head",
        "queue.py",
        "self.tasks.insert(0 if head else len(self.tasks), (task, None))",
        "self.tasks.insert(0, (task, None))",
    ),
    Wrong("vtime-without-wrap", "queue.py", "return (a - b) & U64 >= 1 << 63", "return a < b"),
    Wrong("counts-one-more", "dsq.py", "gone | {len(queue)}", "gone | {len(queue) + 1}"),
    Wrong("one-node-more", "rules.py", "if node > highest or", "if node > highest + 1 or"),
    Wrong(
        "sub-above-another",
        "sub.py",
        "if other.running and other.parent is parent and within(other.cgroup, op.cgroup):",
        "if False:",
    ),
    Wrong(
        "sub-has-the-roots-table",
        "dsq.py",
        "            owner = self.links.get(self.associated)\n",
        "            owner = self.root\n",
    ),
    Wrong(
        "sub-stays-without-its-cgroup",
        "schedulers.py",
        "if scheduler.cgroup == cgroup and scheduler.parent:",
        "if not cgroup:",
    ),
    Wrong(
        "one-cpu-more", "dsq.py", "if 0 <= cpu < self.rules.possible_cpus:", "if 0 <= cpu <= self.rules.possible_cpus:"
    ),
    Wrong(
        "any-timeout", "ops.py", "if case.timeout_ms > MAX_TIMEOUT_MS:", "if case.timeout_ms > ids.U32:", "timeout_ms"
    ),
)


def sequence(done: Done) -> list[dict[str, Any]]:
    """The moves in the replay file of the search's finding."""
    path = done.test("test_search")["replay"]
    found: list[dict[str, Any]] = json.loads(Path(path).read_text())["scenario"]["sequence"]
    return found


def counting(done: Done) -> list[dict[str, Any]]:
    return [one for one in done.test("test_search")["findings"] if not one["expected"]]


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A copy of what a run needs of the checkout."""
    for part in PARTS:
        source = CHECKOUT / part
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, tmp_path / part)
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("wrong", MODELS, ids=lambda wrong: wrong.name)
def test_a_wrong_model_is_caught_by_the_clean_kernel(
    cache_home: Path, passed: Done, checkout: Path, wrong: Wrong
) -> None:
    file = checkout / "tests/kernel/sched_ext/model" / wrong.file
    text = file.read_text()
    assert text.count(wrong.old) == 1, f"{wrong.file} holds {wrong.old!r} {text.count(wrong.old)} times"
    file.write_text(text.replace(wrong.old, wrong.new))
    own = {"PYTHONPATH": str(checkout)}
    for kharness in place(cache_home):
        done = kharness.start_run(
            "-k", "test_search", "--machine", "default", "--search", "120s", "--seed", "1", env=own
        ).finish(600)
        done.expect(1)
        (finding,) = counting(done)
        assert finding["oracle"] == "model"
        moves = sequence(done)
        assert 1 <= len(moves) <= MOST, finding["log"]
        if wrong.field:
            assert [list(one["args"]) for one in moves] == [[wrong.field]], finding["log"]


@pytest.mark.full
@pytest.mark.parametrize("name", CAUGHT)
def test_a_known_bad_kernel_is_caught_in_few_moves(kharness: Kharness, user_tree: UserTree, name: str) -> None:
    mutant = next(one for one in MUTANTS if one.name == name)
    with user_tree.edited(user_tree.scheduler, mutant.function, mutant.old, mutant.new):
        done = kharness(
            "run",
            "--arch",
            ARCH,
            "--tree",
            str(user_tree.folder),
            "-k",
            "test_search",
            "--machine",
            "default",
            "--search",
            "120s",
            "--seed",
            "1",
            timeout=1500,
        )
    done.expect(1)
    found = counting(done)
    assert any(named(finding, mutant.blamed) for finding in found), [one["title"] for one in found]
    assert 1 <= len(sequence(done)) <= MOST, found[0]["log"]


@pytest.mark.full
def test_a_replay_does_the_sequence_alone(cache_home: Path, passed: Done, checkout: Path) -> None:
    """With the model as it was it comes back; with the model mended it does not."""
    wrong = MODELS[0]
    file = checkout / "tests/kernel/sched_ext/model" / wrong.file
    text = file.read_text()
    file.write_text(text.replace(wrong.old, wrong.new))
    own = {"PYTHONPATH": str(checkout)}
    for kharness in place(cache_home):
        done = kharness.start_run("-k", "test_search", "--machine", "default", "--seed", "1", env=own).finish(600)
        path = done.expect(1).test("test_search")["replay"]
        again = kharness("replay", path, env=own).expect(1)
        assert "attach" in again.stderr and "create" in again.stderr
        file.write_text(text)
        kharness("replay", path, env=own).expect(0)
