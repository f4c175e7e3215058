# SPDX-License-Identifier: GPL-2.0-only
"""Tests of programs that stand alone: what they do, that they compile, and when it is said that there is none."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.printable import clean
from harness.core.records import Operation, Scenario
from harness.faults import types
from harness.guest.agent import encode_steps
from harness.report import reproducer
from harness.report.reproducer import Program
from tests.unit.report.eventlog import LEAK

NTH = "{operation: fork, what: failslab, nth: 3}"
FAULTED = replace(LEAK, operation="fork", fault=NTH)
PLAIN = replace(LEAK, operation=None)


def do(verb: str, **args: Any) -> Operation:
    return Operation(verb, args)


WATCHED = (do("load", name="ledger1", path="/bpf/ledger.bpf.o"), do("attach", name="ledger1", what="slab_freed"))
ARMED = (do("write", path="/sys/kernel/debug/failslab/probability", data="0"),)
EVERY = (
    do("mount", type="cgroup", path="/run", data="none,name=kharness"),
    do("mkdir", path="/run/kharness"),
    do("write", path="/sys/kernel/tracing/kprobe_events", data="p:kharness f", append=1),
    do("unshare", kind="net"),
    do("fork"),
    do("bpf-map", type=1, entries=4, fill=4),
    do("bpf-prog", type=1),
    do("settle", barrier="/sys/kernel/debug/kharness/barrier", watch="/x", key="y"),
    do("rmdir", path="/run/kharness"),
    do("umount", path="/run"),
)


def sweep(during: tuple[Operation, ...], tell: str = "fork", **more: Any) -> Operation:
    live = do("set", name="fault_policy1", var="live", value=1)
    policy = {"before": "", "after": encode_steps([do("rmdir", path="/x")]), "thread": "", "tell": tell}
    return do("sweep-ops", **{**policy, "during": encode_steps([live, *during]), **more})


def made(finding: Any, *operations: Operation) -> Program:
    loads = (do("load", name="fault_policy1", path="/bpf/fault_policy.bpf.o"), *WATCHED, *ARMED)
    return reproducer.program(finding, Scenario("default", (*loads, *operations), 1))


def test_the_operation_is_done_with_each_allocation_failing_in_turn() -> None:
    text = made(FAULTED, sweep((do("mkdir", path="/other"),), tell="mkdir"), sweep((do("fork"),))).text
    assert "static void during(void)\n{\n\tchild();\n}" in text
    assert 'static void after(void)\n{\n\ttell("rmdir", rmdir("/x"));\n}' in text
    assert "/proc/thread-self/fail-nth" in text and "/other" not in text


def test_without_a_fault_the_operations_are_done_once() -> None:
    text = made(PLAIN, *EVERY).text
    assert "fail-nth" not in text
    assert text.index(' mount("none"') < text.index("\tnamespace(") < text.index(" umount2(")


@pytest.mark.parametrize("finding", [PLAIN, FAULTED], ids=["once", "each"])
def test_it_compiles_without_a_warning(tmp_path: Path, finding: Any) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here")
    operations = EVERY if finding is PLAIN else (sweep(EVERY),)
    (tmp_path / "x.c").write_text(made(finding, *operations).text)
    argv = ["gcc", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "x"), str(tmp_path / "x.c")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("finding", "operations", "why"),
    [
        (replace(FAULTED, fault="{operation: fork, what: function, nth: 1}"), (sweep((do("fork"),)),), "alloc_percpu"),
        (replace(FAULTED, fault="{operation: fork, task: kthreadd, nth: 1}"), (sweep((do("fork"),)),), "kthreadd"),
        (replace(FAULTED, fault="- nonsense: ["), (sweep((do("fork"),)),), "not one that a program can inject"),
        (FAULTED, (sweep((do("fork"),), thread="kthreadd"),), "another thread, kthreadd"),
        (FAULTED, (do("fork"),), "injected by a BPF program"),
        (PLAIN, (do("load", name="a", path="/bpf/a.bpf.o"),), "needs load /bpf/a.bpf.o of kharness's agent"),
        (PLAIN, (do("work", kind="spin"),), "needs work spin of kharness's agent"),
        (PLAIN, (do("write", path=f"{reproducer.MODULE}workqueue", data="1"),), "kharness's kernel module"),
        (PLAIN, (do("write", path="/tmp/*", data="1", each=1),), "files of kharness's own"),
        (PLAIN, (do("bpf-prog", type="1); evil("),), "is no number"),
        (PLAIN, (do("unshare", kind="user"),), "no namespace user"),
        (PLAIN, (do("fork"),) * 41, "more than 40 operations"),
        (PLAIN, (), "no operation that a program could do"),
    ],
)
def test_where_none_stands_alone_it_is_said_why(finding: Any, operations: tuple[Operation, ...], why: str) -> None:
    program = made(finding, *operations)
    assert why in program.why and not program.text


def test_every_type_of_fault_is_known() -> None:
    """A new one is either reached by fail-nth or refused here."""
    assert {one.name for one in types.TYPES if not one.nth} == {types.FUNCTION.name}


@given(st.text(st.one_of(st.characters(), st.sampled_from('"\\\n?%0:#\ud800'))))
def test_no_path_ends_its_string(text: str) -> None:
    literal = reproducer.c_string(text)
    assert literal.isascii() and literal.isprintable()
    inner = literal[1:-1]
    assert '"' not in inner and "?" not in inner and clean(inner) == inner
    data = inner.encode("ascii").decode("unicode_escape").encode("latin-1")
    assert data == text.encode("utf-8", "surrogatepass")
