# SPDX-License-Identifier: GPL-2.0-only
"""When two findings of a search are the same: shrinking changes ids, nodes and numbers, not the defect."""

from __future__ import annotations

import re

from harness.core.records import Finding
from sched_ext.search.subs import CGROUPS, NOWHERE

_NUMBER = re.compile(r"SCX_DSQ_\w+(?:\|-?\d+)?|-?\b(?:0x[0-9a-f]+|\d+)\b")
_LIST = re.compile(r"#(?:, #)+(?: and # more)?")
_NAME = re.compile(r"\b(dsq_(?:listed|many|held))#?\d*\b")
_SUB = re.compile(r"\bdsq_(?:sub|leaf)\d*\b")
_CGROUP = re.compile(rf"(?<!\S)(?:{'|'.join(sorted(CGROUPS, reverse=True))}|{NOWHERE})(?![\w/])")

_END = r"(?:(?:load|attach|fork) answer|the scheduler (?:stay|exit))"
_CASE = re.compile(rf"^.*?: (?P<seen>{_END}.*?); the model allows only that (?P<wanted>{_END}.*)$", re.DOTALL)
"""A case that ended otherwise (tests/kernel/sched_ext/fields.py)."""

_WAITED = re.compile(r"^.*: (every task to do|the scheduler to exit).*$", re.DOTALL)
"""A case that came to no end."""

_STAGES = ("load answer", "attach answer", "the scheduler exit", "fork answer", "the scheduler stay")
"""The ends of a case, in the order in which the kernel comes to them."""

_EXITS = _STAGES.index("the scheduler exit")


def kin(finding: Finding) -> tuple[str, ...]:
    """The identity of a finding while its sequence shrinks: a disagreement's text without numbers, or the signature."""
    if finding.oracle != "model":
        return finding.oracle, finding.kind, finding.signature
    text = _CGROUP.sub("/cgroup", _SUB.sub("dsq_sub", _NAME.sub(r"\1", _deviation(finding.title))))
    text = _LIST.sub("#", _NUMBER.sub("#", text))
    text = re.sub(r"\[#?\]", "#", re.sub(r",? ?# DSQs? in ops\.init", "", text))
    return finding.oracle, finding.kind, " ".join(text.split())


def _deviation(title: str) -> str:
    """The part of a case's title that its other fields cannot change; any other title as it is.

    That is the earlier of the end that was seen and the one that the model wanted: later ends depend on the other
    fields, and so do the further ends that the model allows. Of two refusals of an attach it is the one that was seen.
    """
    waited = _WAITED.match(title)
    if waited:
        return waited[1]
    case = _CASE.match(title)
    if not case:
        return title
    seen, wanted = case["seen"], case["wanted"].split(" or ")[0]
    came, should = _stage(seen), _stage(wanted)
    if came == should and came >= _EXITS:
        return f"{seen}, not {wanted}"
    return f"it came to {seen}" if came <= should else f"it should have come to {wanted}"


def _stage(end: str) -> int:
    return next(number for number, start in enumerate(_STAGES) if end.startswith(start))
