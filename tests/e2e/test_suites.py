# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the kernel that go wrong: whose fault it is, what is said, and that it can be replayed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.command import Done, Kharness
from tests.e2e.conftest import place


@pytest.fixture(scope="module")
def odd(cache_home: Path, passed: Done, suite: Callable[[str], str]) -> Iterator[Done]:
    """One run of three tests that cannot be judged."""
    for started in place(cache_home):
        yield started.run("--suite", suite("odd"), timeout=300)


@pytest.fixture(scope="module")
def wrong(cache_home: Path, passed: Done, suite: Callable[[str], str]) -> Iterator[Done]:
    """One run of tests that fail in the same way each time."""
    for started in place(cache_home):
        yield started.run("--suite", suite("wrong"), "--seed", "7", timeout=300).expect(1)


def test_nothing_odd_is_the_kernels_fault(odd: Done) -> None:
    odd.expect(3)
    assert odd.verdict.startswith("verdict: INCONCLUSIVE")
    assert not [found for test in odd.results["tests"] for found in test["findings"]]
    assert odd.results["next"].startswith("kharness ")


def test_refused_by_the_verifier(odd: Done) -> None:
    """One line names the program and the verifier's reason."""
    row = odd.test("test_refused_by_the_verifier")
    assert row["outcome"] == "inconclusive"
    assert "\n" not in row["why"]
    assert "refused" in row["why"]
    assert "scx_bpf_create_dsq" in row["why"] or "not allowed" in row["why"]


def test_qemu_is_killed(odd: Done) -> None:
    row = odd.test("test_qemu_is_killed")
    assert row["outcome"] == "inconclusive"
    assert "QEMU was killed by SIGKILL" in row["why"]


def test_a_mistake_in_a_test(odd: Done) -> None:
    row = odd.test("test_with_a_mistake_of_its_own")
    assert row["outcome"] == "inconclusive"
    assert "TypeError" in row["why"]
    assert "test_odd.py" in row["why"]


def test_no_test_at_all(kharness: Kharness, passed: Done, suite: Callable[[str], str]) -> None:
    done = kharness.run("--suite", suite("empty"), timeout=120).expect(3)
    assert "no test was collected" in done.stdout
    assert done.results["next"].startswith("kharness run")


def test_a_warning_is_found_though_the_test_read_the_log(wrong: Done) -> None:
    """Its records are gone from the guest when the test ends; the WARN counts all the same."""
    row = wrong.test("test_reads_a_warning_itself")
    assert [(found["kind"], found["function"]) for found in row["findings"]] == [("warn", "kharness_warn")]
    assert row["outcome"] == "fail"
    (seen,) = [evidence for evidence in row["evidence"] if evidence["oracle"] == "dmesg"]
    assert seen["watched"] and not seen["lost"]


def test_memory_that_runs_out_is_expected_while_a_fault_is_armed_and_only_then(wrong: Done) -> None:
    row = wrong.test("test_percpu_memory_is_out_when_no_fault_is_armed")
    said = [found for found in row["findings"] if found["kind"] == "allocation failure"]
    assert sorted(found["expected"] for found in said) == [False, True]
    assert all(found["title"].startswith("percpu: allocation failed") for found in said)
    assert row["outcome"] == "fail"


def test_a_leak_of_the_batch_names_test_and_operation(
    kharness: Kharness, passed: Done, suite: Callable[[str], str]
) -> None:
    """The tests pass, for what they leak nobody counts; kmemleak sees it after all of them, and it is hunted down."""
    done = kharness.run("--suite", suite("leaks"), timeout=600).expect(1)
    assert all(done.test(name)["outcome"] == "pass" for name in ("test_first", "test_that_leaks", "test_last"))
    (row,) = [row for row in done.results["tests"] if row["outcome"] == "fail"]
    assert row["id"].startswith("batch::")
    leaks = [leak for leak in row["findings"] if leak["allowed_by"] is None]  # those that the batch planted are
    assert leaks
    for leak in leaks:
        assert leak["function"] == "kharness_lose_slab"
        assert leak["operation"] == "write /sys/kernel/debug/kharness/canary"
        assert leak["fault"] is None
        assert "; test_that_leaks: with operation " in leak["title"]
        assert [line for line in leak["log"] if line.startswith("test: ")] == [
            line for line in leak["log"] if line.endswith("::test_that_leaks")
        ]
    assert "step 1, " in done.stderr


def test_kmemleak_that_stopped_watching_is_no_pass(
    kharness: Kharness, passed: Done, suite: Callable[[str], str]
) -> None:
    """Its pool ran out, or somebody turned it off: in a test, or only when the leak batch did again what passed."""
    done = kharness.run("--suite", suite("blind"), timeout=600).expect(3)
    off = "Kernel memory leak detector disabled"
    (batch,) = [
        row["id"] for row in done.results["tests"] if row["id"].startswith("batch::") and row["outcome"] != "skip"
    ]
    for name, said in (("test_pool_runs_out", "Memory pool empty"), ("test_turned_off", off), (batch, off)):
        row = done.test(name)
        assert row["outcome"] == "inconclusive"
        assert row["why"].startswith(f"kmemleak did not watch: kmemleak stopped watching: kmemleak: {said}")
        assert not row["findings"]
        assert row["why"] in " ".join(done.results["why"])
    assert done.test("test_turned_off_when_done_again")["outcome"] == "pass"


def test_what_lives_is_counted_and_named(kharness: Kharness, passed: Done, suite: Callable[[str], str]) -> None:
    """At a test's end by the ledger, within it against the model; each leak is reported once."""
    done = kharness.run("--suite", suite("alive"), timeout=600).expect(1)
    found = {f["function"]: f for f in done.test("test_that_leaks_both")["findings"]}
    assert {name: (f["oracle"], f["kind"], f["count"]) for name, f in found.items()} == {
        "kharness_leak_percpu": ("ledger", "percpu leak", 3),
        "kharness_leak_slab": ("ledger", "slab leak", 2),
    }
    assert len(done.test("test_that_leaks_both")["findings"]) == 2
    for behind, objects, wanted in (("create", 5, 4), ("destroy", 3, 4)):
        row = done.test(f"test_behind_the_model_s_back[{behind}]")
        assert row["why"].endswith(f"_dsq() are alive, the model wants {wanted}")
        assert row["why"].startswith(f"{objects} percpu objects allocated in ")
        assert [f["oracle"] for f in row["findings"]] == ["model"], "its scheduler took all of it along"


def test_replay(kharness: Kharness, wrong: Done) -> None:
    """The line that a failed run prints does the test again, and fails on the same signature."""
    assert "creating DSQ 7 twice answered -17" in wrong.stdout
    row = wrong.test("test_wants_a_duplicate")
    (wanted,) = row["findings"]
    commands = [shlex.split(text) for text in wrong.stdout.splitlines() if "kharness replay" in text]
    (command,) = [words for words in commands if words[-1].endswith(Path(row["replay"]).name)]
    assert command[0] == "kharness"
    again = kharness(*command[1:], timeout=300).expect(1)
    (found,) = again.test("test_wants_a_duplicate")["findings"]
    assert found["signature"] == wanted["signature"]
    assert again.results["run"]["seed"] == 7
    assert wanted["signature"] in again.verdict
