# SPDX-License-Identifier: GPL-2.0-only
"""What the engine must know of sched_ext (kernel/sched/ext): see harness/suite/interface.py."""

from __future__ import annotations

import re

from harness.suite.interface import CodeUnderTest, StructOps, Suite, rule
from sched_ext import local_dsqs
from sched_ext.features import probe
from sched_ext.operations import ACTIONS
from sched_ext.search.words import words

CODE = CodeUnderTest(
    # Includes kernel/sched/ext.c, or since 7.2 kernel/sched/ext/ext.c.
    object="kernel/sched/build_policy.o",
    functions=(
        "init_dsq",
        "scx_init_dsq",
        "exit_dsq",
        "scx_exit_dsq",
        "create_dsq",
        "destroy_dsq",
        "find_user_dsq",
        "find_global_dsq",
        "free_dsq_rcufn",
        "free_dsq_irq_workfn",
        "scx_bpf_create_dsq",
        "scx_bpf_destroy_dsq",
        "scx_bpf_dsq_nr_queued",
        "alloc_pnode",
        "free_pnode",
        "alloc_exit_info",
        "free_exit_info",
        "scx_alloc_and_add_sched",
        "scx_sched_free_rcu_work",
        "scx_enable",
        "scx_ops_enable",
        "scx_root_enable_workfn",
        "scx_root_disable",
        "scx_disable_workfn",
        "scx_ops_disable_workfn",
        "bpf_scx_reg",
        "bpf_scx_unreg",
        "alloc_kick_syncs",
        "scx_link_sched",
        "scx_set_cmask_scratch_alloc",
        "scx_cgroup_init",
        "scx_tg_online",
        "__scx_init_task",
        "scx_init_task",
        "scx_pre_fork",
        "scx_fork",
        "scx_arena_pool_init",
        "scx_cid_init",
        "scx_cid_arrays_alloc",
    ),
    fallible=("init_dsq", "scx_init_dsq"),
)

EXIT_KINDS = {
    "runtime error": "SCX_EXIT_ERROR",
    "scx_bpf_error": "SCX_EXIT_ERROR_BPF",
    "runnable task stall": "SCX_EXIT_ERROR_STALL",
}
"""The kind of a scheduler's exit by the reason that is printed for it (scx_exit_reason)."""


def _group(match: re.Match[str] | None, name: str) -> str:
    return (match[name] or "") if match is not None and name in match.re.groupindex else ""


def exit_title(header: re.Match[str], detail: re.Match[str] | None) -> str:
    """A scheduler's exit: its line, the message of the line that follows, and the kind of exit."""
    kind = EXIT_KINDS.get(_group(header, "reason"))
    said = _group(detail, "detail") if _group(detail, "ops") == _group(header, "ops") else ""
    return header.string.strip() + (f": {said}" if said else "") + (f" [{kind}]" if kind else "")


def exit_words(header: re.Match[str], detail: re.Match[str] | None) -> str:
    """The part of an exit's text that its signature needs."""
    return f"{header[0]} {_group(detail, 'detail')}"


RULES = (
    rule(
        "sched_ext",
        r'^sched_ext: BPF (?P<what>\S{1,20}) "(?P<ops>.{0,128})" disabled '
        r"\((?!unregistered from|disabled by sysrq|parent exiting)(?P<reason>.+)\)$",
        detail=r"^sched_ext: (?P<ops>[\w.-]{1,128}): (?P<detail>.+)$",
        brief=True,
        title=exit_title,
        said=exit_words,
    ),
    rule("", r"^sched_ext: BPF \S+ .* disabled \("),
    *(
        rule("sched_ext", begin, brief=True, title=exit_title, said=exit_words)
        for begin in (
            r"^sched_ext: (?:Soft|Hard) lockup - CPU",
            r"^sched_ext: ops error detected without ops",
            r"^sched_ext: [Ff]ailed to \w+",
        )
    ),
)
"""Read from kernel/sched/ext/ext.c (7.2.13) and kernel/sched/ext.c (6.12)."""

SUITE = Suite(
    name="sched_ext",
    code=CODE,
    kconfig=("../../../kconfigs/suites/sched_ext.config",),
    bpf="../../../bpf_progs/sched_ext",
    features=probe,
    operations=ACTIONS,
    plan_tests="test_plan.py",
    struct_ops=StructOps(
        type="sched_ext_ops",
        # How tools/sched_ext/include/scx/enums.autogen.bpf.h names the variables that hold the kernel's enumerators.
        constants="__SCX_",
        includes=("tools/sched_ext/include", "tools/sched_ext/include/bpf-compat"),
        tools=frozenset({"sched_ext"}),
        step='one SCX_OPS_DEFINE() or SEC(".struct_ops.link") struct sched_ext_ops a file',
    ),
    user_tests="test_user.py",
    rules=RULES,
    never_blamed=(r"_*scx_v?exit\w*", r"_*scx_error\w*", r"scx_bpf_error\w*", r"scx_bpf_exit\w*"),
    oracles=(local_dsqs.LOCAL_DSQS,),
    readers=(local_dsqs.reader,),
    allocates_once={
        "scx_cid_arrays_alloc": "the first scheduler's tables of CPU ids are kept for all (kernel/sched/ext/cid.c, 7.2)"
    },
    fixtures=("sched_ext.fixtures",),
    describe=words,
)
