# SPDX-License-Identifier: GPL-2.0-only
"""The terms of the model: operations, the answers it allows, and disagreements."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.core.words import plural
from sched_ext.model.ids import errno_name, id_name

_SHOWN = 8  # ids shown of a differing set; the rest is counted


class FaultAt(enum.StrEnum):
    """Where a fault fired during an operation. A fault that did not fire is None.

    ``ANY``: somewhere in the operation; it may have hit an optional allocation and been absorbed.
    ``DSQ``: the kmalloc of struct scx_dispatch_q itself returned NULL.
    ``PERCPU``: an alloc_percpu made by init_dsq() returned NULL.
    """

    ANY = "any"
    DSQ = "dsq"
    PERCPU = "percpu"


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on the model. Fields that the verb does not use keep their defaults.

    `creates` is, for attach, what ops.init creates: pairs of DSQ id and node, in order; `sub_attach` tells
    that the scheduler takes sub-schedulers, `cgroup` the one to which it attaches as a sub-scheduler, `cid_form` that
    it is a struct sched_ext_ops_cid.
    """

    verb: str
    dsq_id: int = 0
    node: int = 0
    scheduler: str = ""
    creates: tuple[tuple[int, int], ...] = ()
    sub_attach: bool = False
    cgroup: str = ""
    cid_form: bool = False

    def __str__(self) -> str:
        if self.verb == "create":
            return f"create({id_name(self.dsq_id)}, node {self.node})"
        if self.verb in ("attach", "detach"):
            extra = f", {plural(len(self.creates), 'DSQ')} in ops.init" if self.creates else ""
            where = f" at {self.cgroup}" if self.cgroup else ""
            return f"{self.verb}({self.scheduler}{where}{extra})"
        return f"{self.verb}({id_name(self.dsq_id)})"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answers that the kernel may give.

    `values` are the legal return values; with `at_least` every value from there on is legal too (counts
    that the model does not own). `exits` are, for an attach that answers 0, the legal ends of
    scx_root_enable(): None is a scheduler that stays, a number the errno in its exit info, 0 an exit info without
    one. `aborts` tells
    that the kernel raises scx_error() on the scheduler. `made` are the DSQs that ops.init has created when
    it returns, `unsure` that this holds only if the scheduler stays. `step` is the model's clock when asked.
    """

    op: Op
    values: frozenset[int]
    why: str
    rule: str
    at_least: int | None = None
    exits: frozenset[int | None] = frozenset({None})
    aborts: str | None = None
    made: tuple[int, ...] = ()
    unsure: bool = False
    step: int = 0

    def allows(self, got: int, exit_error: int | None = None) -> bool:
        """Whether a return value, and for attach the error in the exit info, is legal."""
        if self.op.verb == "attach" and got == 0 and exit_error not in self.exits:
            return False
        return got in self.values or (self.at_least is not None and got >= self.at_least)

    def legal(self) -> str:
        """The legal answers in words: ``-EEXIST``, ``0 or -ENOMEM``, ``0 or more``."""
        words = [errno_name(value) for value in sorted(self.values, key=lambda v: (v < 0, -v))]
        if self.op.verb == "attach" and 0 in self.values and self.exits != {None}:
            ends = sorted("stays" if e is None else _exits(e) for e in self.exits)
            words[0] = f"0 (then the scheduler {' or '.join(ends)})"
        if self.at_least is not None:
            words.insert(0, f"{self.at_least} or more")
        return " or ".join(words)


def _exits(error: int) -> str:
    return f"exits with {errno_name(error)}" if error else "exits without an errno"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """The kernel answered what the model does not allow. ``str()`` is the one line for the report."""

    text: str
    rule: str
    why: str
    op: Op | None = field(default=None)

    def __str__(self) -> str:
        return self.text


def disagree(answer: Answer, got: int, exit_error: int | None = None) -> Disagreement:
    """Describe an answer that is not legal."""
    then = "" if exit_error is None else f" and then exited with {errno_name(exit_error)}"
    text = (
        f"{answer.op} answered {errno_name(got)}{then}, the model allows only {answer.legal()}: "
        f"{answer.why} ({answer.rule})"
    )
    return Disagreement(text, answer.rule, answer.why, answer.op)


def disagree_set(what: str, got: Iterable[int], wanted: Iterable[int], rule: str) -> Disagreement:
    """Describe two differing sets of DSQ ids: what is missing and what should not be there."""
    got_ids, wanted_ids = frozenset(got), frozenset(wanted)
    parts = []
    for label, ids in (("lacks", wanted_ids - got_ids), ("has unexpected", got_ids - wanted_ids)):
        if ids:
            shown = ", ".join(id_name(i) for i in sorted(ids)[:_SHOWN])
            more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
            parts.append(f"{label} {shown}{more}")
    why = f"{what} {' and '.join(parts)}"
    text = f"{why}; the kernel has {len(got_ids)} live DSQs, the model {len(wanted_ids)} ({rule})"
    return Disagreement(text, rule, why)
