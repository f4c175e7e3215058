# SPDX-License-Identifier: GPL-2.0-only
"""Owns when two findings of a search are the same: shrinking changes ids, nodes and numbers, not the defect."""

from __future__ import annotations

import re

from harness.records import Finding
from harness.suite.search.subs import CGROUPS, NOWHERE

_NUMBER = re.compile(r"SCX_DSQ_\w+(?:\|-?\d+)?|-?\b(?:0x[0-9a-f]+|\d+)\b")
_LIST = re.compile(r"#(?:, #)+(?: and # more)?")
_NAME = re.compile(r"\b(dsq_(?:listed|many|held))#?\d*\b")
_SUB = re.compile(r"\bdsq_(?:sub|leaf)\d*\b")
_CGROUP = re.compile(rf"(?<!\S)(?:{'|'.join(sorted(CGROUPS, reverse=True))}|{NOWHERE})(?![\w/])")


def kin(finding: Finding) -> tuple[str, ...]:
    """What stays of a finding when its sequence becomes smaller: of a disagreement its words, else the signature."""
    if finding.oracle != "model":
        return finding.oracle, finding.kind, finding.signature
    text = _CGROUP.sub("/cgroup", _SUB.sub("dsq_sub", _NAME.sub(r"\1", finding.title)))
    text = _LIST.sub("#", _NUMBER.sub("#", text))
    text = re.sub(r"\[#?\]", "#", re.sub(r",? ?# DSQs? in ops\.init", "", text))
    return finding.oracle, finding.kind, " ".join(text.split())
