# SPDX-License-Identifier: GPL-2.0-only
"""Features of this kernel's DSQs, probed from its BTF and symbols, never from its version."""

from __future__ import annotations

from harness.kbuild.btf import Btf
from sched_ext.model.state import Features

INIT_NAMES = ("scx_init_dsq", "init_dsq")
"""Names of the function that initialises a DSQ, newest first (7.3 renamed it)."""


NO_PRIVATE_STACK = "Private stack not supported by jit"
"""What the verifier says of a scheduler with an ops.dispatch where there is none (check_struct_ops_btf_id() in
kernel/bpf/verifier.c; riscv64 of 7.2)."""


def probe(btf: Btf) -> Features:
    """The features that the model and the tests ask for."""
    return Features(
        percpu_data="pcpu" in btf.members("scx_dispatch_q"),
        bypass_dsqs=btf.has_enumerator("SCX_DSQ_BYPASS"),
        sub_scheds=btf.has_function("scx_sub_enable_workfn"),
        cid_form=bool(btf.members("sched_ext_ops_cid")),
        global_hash="dsq_hash" not in btf.members("scx_sched"),
        custody=btf.has_enumerator("SCX_TASK_IN_CUSTODY"),
        dead="dead" in btf.members("scx_sched"),
        reenq=btf.has_function("scx_bpf_dsq_reenq"),
        init=next((name for name in INIT_NAMES if btf.has_function(name)), ""),
    )
