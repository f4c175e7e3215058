# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the report for KCIDB: its own library takes it, whatever the results hold."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kcidb_io.schema import LATEST, V5_3

from harness.core.errors import HarnessError
from harness.core.records import Outcome, Role, decode, encode
from harness.report import kcidb
from harness.verdict import BUILD, Results, judge
from tests.unit.report.eventlog import CREATE, DESTROY, LEAK, Log, kernel, result
from tests.unit.report.test_columns import HOSTILE
from tests.unit.report.test_mail import TREE, compared, failing, filled

PATH = re.compile(r"([a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*)?")


def test_the_newest_schema_takes_it_too() -> None:
    for judged in (failing(), compared(), judge(Log(TREE).events())):
        data = json.loads(kcidb.kcidb(judged))
        assert V5_3.is_valid_exactly(data) and LATEST.is_valid(data)


def test_a_finding_is_an_issue_and_each_test_that_showed_it_an_incident() -> None:
    log = Log(TREE).put(*(result(TREE, test, Outcome.FAIL, findings=(LEAK,)) for test in (CREATE, DESTROY)))
    data = kcidb.report(judge(log.events()))
    (issue,) = data["issues"]
    assert issue["misc"] == {"signature": LEAK.signature, "place": "init_dsq (kernel/sched/ext/ext.c:4711)"}
    failed = {test["id"] for test in data["tests"] if test["status"] == "FAIL"}
    assert len(failed) == 2 and {one["test_id"] for one in data["incidents"]} == failed
    assert {one["issue_id"] for one in data["incidents"]} == {issue["id"]}


def test_base_and_patched_are_two_checkouts() -> None:
    data = kcidb.report(compared())
    base, patched = data["checkouts"]
    assert base["patchset_hash"] == "" and "patchset_hash" not in patched
    assert patched["misc"]["patches"] and patched["misc"]["verdict"] == "regressed"
    assert [build["checkout_id"] for build in data["builds"]] == [base["id"], patched["id"]]


def test_a_commit_is_named_in_full_or_not_at_all() -> None:
    for commit, told in (("c" * 40, True), ("v7.2", False)):
        (checkout,) = kcidb.report(judge(Log(kernel(commit=commit)).events()))["checkouts"]
        assert ("git_commit_hash" in checkout) is told


def test_a_kernel_that_does_not_build_is_a_build_that_failed() -> None:
    data = kcidb.report(judge(Log(TREE).fall(TREE, BUILD).events()))
    assert [build["status"] for build in data["builds"]] == ["FAIL"]
    assert not data["tests"]


def test_outcomes_are_the_schemas() -> None:
    log = Log(TREE).put(result(TREE, CREATE, Outcome.INCONCLUSIVE), result(TREE, DESTROY, Outcome.SKIP, why="no"))
    told = {test["misc"]["id"]: test["status"] for test in kcidb.report(judge(log.events()))["tests"]}
    assert (told[CREATE], told[DESTROY], told["boot"]) == ("ERROR", "SKIP", "PASS")


def test_ids_stay_when_a_run_is_reported_again_and_differ_between_runs() -> None:
    first, again = kcidb.report(failing()), kcidb.report(failing())
    assert first == again
    log = Log(TREE)
    log.argv = [*log.argv, "-k", "x"]
    other = kcidb.report(judge(log.events()))
    assert not {one["id"] for one in first["tests"]} & {one["id"] for one in other["tests"]}


@pytest.mark.parametrize(
    ("test", "path"),
    [
        ("boot", "boot"),
        ("tests/kernel/sched_ext/test_a.py::test_b", "kharness.sched_ext.test_a.test_b"),
        ("tests/kernel/percpu/test_a.py::test_b[mount v1, x]", "kharness.percpu.test_a.test_b.mount_v1_x"),
        ("batch::kmemleak-0", "kharness.batch.kmemleak-0"),
        ("", "kharness"),
    ],
)
def test_a_tests_id_becomes_a_path(test: str, path: str) -> None:
    assert kcidb.path(test) == path


@given(HOSTILE)
def test_each_id_makes_a_path(text: str) -> None:
    assert PATH.fullmatch(kcidb.path(text))


@given(HOSTILE, st.sampled_from([failing, compared]))
def test_no_text_makes_what_the_schema_refuses(text: str, made: Any) -> None:
    kcidb.kcidb(decode(filled(encode(made()), text), Results))


def test_what_the_schema_refuses_is_one_line_with_the_place() -> None:
    data = kcidb.report(judge(Log(kernel(Role.TREE)).events()))
    data["builds"][0]["architecture"] = "x86-64"
    with pytest.raises(HarnessError, match="does not take the report at builds/0/architecture"):
        kcidb.check(data)
