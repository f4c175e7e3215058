# SPDX-License-Identifier: GPL-2.0-only
"""The tests of junit.xml."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from harness.core.records import Outcome, Role, Verdict
from harness.report import junit
from harness.verdict import Results, judge
from tests.unit.report.eventlog import CREATE, DESTROY, LEAK, Log, kernel, result

TREE, ARM = kernel(), kernel(arch="arm64")
BASE, PATCHED = kernel(Role.BASE), kernel(Role.PATCHED)


def parsed(results: Results) -> ET.Element:
    return ET.fromstring(junit.render(results).encode())


def test_a_suite_for_the_run_and_one_a_kernel_and_architecture() -> None:
    root = parsed(judge(Log(TREE, ARM).events()))
    assert [suite.get("name") for suite in root] == ["kharness", "tree.x86_64 7.2.13", "tree.arm64 7.2.13"]
    assert root.attrib == {"name": "kharness", "tests": "9", "failures": "0", "errors": "0", "skipped": "0"}
    case = root[1].findall("testcase")[2]  # behind build and boot
    assert case.attrib == {
        "name": "test_enomem",
        "classname": "tree.x86_64.default.tests.kernel.dsq.test_create",
        "time": "1.500",
    }


def test_fail_is_a_failure_inconclusive_an_error_skip_is_skipped() -> None:
    log = Log(TREE, ARM)
    log.put(result(TREE, CREATE, findings=(LEAK,), replay="r.json"), result(TREE, DESTROY, Outcome.SKIP, why="no"))
    root = parsed(judge(log.put(result(ARM, CREATE, Outcome.INCONCLUSIVE, why="the agent died")).events()))
    assert (root.get("failures"), root.get("errors"), root.get("skipped")) == ("2", "1", "1")
    failure = root.find("testsuite/testcase[@name='test_enomem']/failure")
    assert failure is not None and failure.get("type") == "percpu leak"
    for words in ("init_dsq (kernel/sched/ext/ext.c:4711)", "[inlined]", "kharness replay r.json", LEAK.log[0]):
        assert words in (failure.text or "")
    error = root.find("testsuite/testcase/error")
    assert error is not None and error.get("message") == "the agent died"


@pytest.mark.parametrize("base", [Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE])
@pytest.mark.parametrize("patched", [Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE])
@pytest.mark.parametrize("canary", [True, False])
def test_red_exactly_when_the_verdict_is_not_pass(base: Outcome, patched: Outcome, canary: bool) -> None:
    log = Log(BASE, PATCHED).put(result(BASE, CREATE, base, why="x"), result(PATCHED, CREATE, patched, why="x"))
    log.canaries[0] = replace(log.canaries[0], caught=canary)
    results = judge(log.events())
    root = parsed(results)
    red = int(root.get("failures", "0")) + int(root.get("errors", "0")) > 0
    assert red == (results.verdict is not Verdict.PASS)


def test_what_base_has_too_is_skipped_and_says_so() -> None:
    log = Log(BASE, PATCHED).put(*(result(of, CREATE, findings=(LEAK,)) for of in (BASE, PATCHED)))
    messages = [skipped.get("message", "") for skipped in parsed(judge(log.events())).iter("skipped")]
    assert [message.split(":")[0] for message in messages] == ["base is not under test", "base fails too"]


def test_control_characters_do_not_break_the_document() -> None:
    nasty = replace(LEAK, title="a\x00b\x1b\ud800\ufffe<&\"'", log=("\x07]]>",))
    text = junit.render(judge(Log(TREE).put(result(TREE, "x\x01::y\x02", findings=(nasty,))).events()))
    failure = ET.fromstring(text.encode()).find(".//failure[@type='percpu leak']")
    assert failure is not None and failure.get("message") == "a\\x00b\\x1b\\xd800\\xfffe<&\"'"
    assert "\\x07]]>" in (failure.text or "")
