# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what is probed of a kernel's DSQs: the kernels that are known, by what their BTF holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pytest
from sched_ext.features import probe
from sched_ext.model.state import Features

from harness.kbuild.btf import Btf
from harness.suite.needs import need


class Known:
    """BTF as far as the probe asks."""

    def __init__(self, members: Mapping[str, set[str]], names: set[str]) -> None:
        self._members = members
        self._names = names

    def members(self, name: str) -> frozenset[str]:
        return frozenset(self._members.get(name, ()))

    def has_function(self, name: str) -> bool:
        return name in self._names

    def has_enumerator(self, name: str) -> bool:
        return name in self._names


OLD = Known({"scx_dispatch_q": {"lock", "id"}}, {"init_dsq"})
NOW = Known(
    {"scx_dispatch_q": {"lock", "pcpu"}, "scx_sched": {"dsq_hash"}, "sched_ext_ops_cid": {"sub_attach"}},
    {"init_dsq", "SCX_DSQ_BYPASS", "scx_sub_enable_workfn", "SCX_TASK_IN_CUSTODY", "scx_bpf_dsq_reenq"},
)
NEXT = Known(
    {"scx_dispatch_q": {"pcpu"}, "scx_sched": {"dsq_hash", "dead"}},
    {"scx_init_dsq", "SCX_DSQ_BYPASS", "SCX_TASK_IN_CUSTODY", "scx_bpf_dsq_reenq"},
)
INLINED = Known({"scx_dispatch_q": {"pcpu"}, "scx_sched": {"dsq_hash"}}, {"SCX_TASK_IN_CUSTODY", "scx_bpf_dsq_reenq"})


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        (
            OLD,
            Features(
                percpu_data=False,
                bypass_dsqs=False,
                sub_scheds=False,
                cid_form=False,
                global_hash=True,
                custody=False,
                reenq=False,
            ),
        ),
        (NOW, Features()),
        (NEXT, Features(sub_scheds=False, cid_form=False, dead=True, init="scx_init_dsq")),
        (INLINED, Features(bypass_dsqs=False, sub_scheds=False, cid_form=False, init="")),
    ],
    ids=["6.12", "7.2", "7.3 without sub-schedulers", "inlined"],
)
def test_probe(known: Known, wanted: Features) -> None:
    assert probe(cast(Btf, known)) == wanted


def test_what_is_absent_is_skipped_with_the_reason() -> None:
    need(True, "anything")
    with pytest.raises(pytest.skip.Exception, match="this kernel has no percpu data"):
        need(False, "percpu data")
