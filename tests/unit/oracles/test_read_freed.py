# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the oracle of what is read: who is blamed for freeing it too early."""

from __future__ import annotations

from harness.core.records import Frame
from harness.oracles import read_freed

WATCHING = (Frame("0xffffffffa0000100", reliable=False), Frame("__traceiter_kfree"))
DESTROY = Frame("destroy_dsq", file="kernel/sched/ext/ext.c", line=4997)
API = Frame("scx_bpf_destroy_dsq")


def test_who_frees_is_blamed() -> None:
    found = read_freed.finding("the DSQ itself", (*WATCHING, Frame("kfree"), DESTROY, API))
    assert found.oracle == read_freed.ORACLE and found.kind == read_freed.KIND and found.counts
    assert found.function == "destroy_dsq" and (found.file, found.line) == ("kernel/sched/ext/ext.c", 4997)
    assert "the DSQ itself was freed by destroy_dsq (kernel/sched/ext/ext.c:4997)" in found.title
    assert found.signature == "held reader:freed too early:destroy_dsq<scx_bpf_destroy_dsq:the DSQ itself"
    assert [frame.function for frame in found.frames] == ["kfree", "destroy_dsq", "scx_bpf_destroy_dsq"]


def test_parts_are_told_apart() -> None:
    stack = (*WATCHING, Frame("free_percpu"), Frame("exit_dsq"), DESTROY)
    found = read_freed.finding("the percpu data of a DSQ", stack)
    assert found.function == "exit_dsq"
    assert found.signature.endswith("exit_dsq<destroy_dsq:the percpu data of a DSQ")


def test_what_was_inlined_is_blamed() -> None:
    inlined = Frame("exit_dsq.isra.0", file="kernel/sched/ext/ext.c", line=4921, inlined=True)
    assert read_freed.finding("it", (Frame("free_percpu"), inlined, DESTROY)).function == "exit_dsq"


def test_a_stack_that_tells_nobody() -> None:
    found = read_freed.finding("it", ())
    assert found.function is None and "an unknown function" in found.title and found.counts
