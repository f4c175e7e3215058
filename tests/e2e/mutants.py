# SPDX-License-Identifier: GPL-2.0-only
"""The known-bad kernels: one defect each, as an edit of one function, with who is to be blamed for it.

Written for the DSQ code as Linux 7.2 and 7.3 have it. They stand for classes of defects: an unwinding that is left out,
too short or too long, an error that is lost or another one, memory used after it was freed, an order or count that is
wrong, a lock or a context that is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One defect: in `function`, the one `old` becomes `new`. `blamed` are functions of which a finding must name one.

    With `kconfig` it takes that kernel of ours to see it, which says it in a report of the kind `says`.
    """

    name: str
    function: str
    old: str
    new: str
    blamed: tuple[str, ...]
    kconfig: str = ""
    says: str = ""


UNDER_A_FAULT = ("null-check", "unwind-one-late", "unwind-one-early", "create-forgets-dsq", "pnode-forgets-percpu")
"""Defects of error paths: a finding must also tell at which site of which operation the fault was."""

INIT = ("init_dsq", "scx_init_dsq")
CREATE = (*INIT, "scx_bpf_create_dsq")
REENQ = ("scx_bpf_dsq_reenq", "schedule_dsq_reenq", "process_deferred_reenq_users", "reenq_user")
ENABLE = (*INIT, "scx_alloc_and_add_sched", "alloc_pnode")

MUTANTS = (
    # --- unwinding ------------------------------------------------------------------------
    Mutant("null-check", "init_dsq", "\tif (!dsq->pcpu)\n\t\treturn -ENOMEM;\n", "", INIT),
    Mutant(
        "unwind-one-late",
        "scx_alloc_and_add_sched",
        "\t\tif (cpu == bypass_fail_cpu)\n\t\t\tbreak;\n\t\texit_dsq(bypass_dsq(sch, cpu));\n",
        "\t\texit_dsq(bypass_dsq(sch, cpu));\n\t\tif (cpu == bypass_fail_cpu)\n\t\t\tbreak;\n",
        ("exit_dsq", *ENABLE),
    ),
    Mutant(
        "unwind-one-early",
        "scx_alloc_and_add_sched",
        "\t\tif (cpu == bypass_fail_cpu)\n",
        "\t\tif (cpu + 1 >= bypass_fail_cpu)\n",
        ENABLE,
    ),
    Mutant(
        "create-forgets-dsq",
        "scx_bpf_create_dsq",
        "\tif (ret) {\n\t\tkfree(dsq);\n\t\treturn ret;\n",
        "\tif (ret) {\n\t\treturn ret;\n",
        CREATE,
    ),
    Mutant(
        "duplicate-forgets-percpu", "scx_bpf_create_dsq", "\tif (ret) {\n\t\texit_dsq(dsq);\n", "\tif (ret) {\n", CREATE
    ),
    Mutant(
        "duplicate-forgets-dsq",
        "scx_bpf_create_dsq",
        "\t\texit_dsq(dsq);\n\t\tkfree(dsq);\n",
        "\t\texit_dsq(dsq);\n",
        CREATE,
    ),
    Mutant("pnode-forgets-percpu", "free_pnode", "\texit_dsq(&pnode->global_dsq);\n", "", ENABLE),
    Mutant(
        "pnode-forgets-itself",
        "alloc_pnode",
        "SCX_DSQ_GLOBAL, sch)) {\n\t\tkfree(pnode);\n",
        "SCX_DSQ_GLOBAL, sch)) {\n",
        ENABLE,
    ),
    Mutant("bypass-forgets-percpu", "scx_sched_free_rcu_work", "\t\texit_dsq(bypass_dsq(sch, cpu));\n", "", ENABLE),
    Mutant(
        "last-bypass-forgets-percpu",
        "scx_sched_free_rcu_work",
        "\t\texit_dsq(bypass_dsq(sch, cpu));\n",
        "\t\tif (cpu + 1 < nr_cpu_ids)\n\t\t\texit_dsq(bypass_dsq(sch, cpu));\n",
        ENABLE,
    ),
    Mutant("sched-forgets-pcpu", "scx_sched_free_rcu_work", "\tfree_percpu(sch->pcpu);\n", "", ENABLE),
    Mutant(
        "sched-forgets-dsqs",
        "scx_sched_free_rcu_work",
        "\t\t\tdestroy_dsq(sch, dsq->id);\n",
        "\t\t\tcpu_relax();\n",
        CREATE,
    ),
    Mutant(
        "no-pcpu-forgets-pnodes",
        "scx_alloc_and_add_sched",
        "\tif (!sch->pcpu) {\n\t\tret = -ENOMEM;\n\t\tgoto err_free_pnode;\n",
        "\tif (!sch->pcpu) {\n\t\tret = -ENOMEM;\n\t\tgoto err_free_hash;\n",
        ENABLE,
    ),
    Mutant(
        "no-helper-forgets-pcpu",
        "scx_alloc_and_add_sched",
        "\t\tret = PTR_ERR(sch->helper);\n\t\tgoto err_free_pcpu;\n",
        "\t\tret = PTR_ERR(sch->helper);\n\t\tgoto err_free_pnode;\n",
        ENABLE,
    ),
    Mutant("dsq-forgets-percpu", "free_dsq_rcufn", "\texit_dsq(dsq);\n", "", CREATE),
    Mutant("dsq-forgets-itself", "free_dsq_rcufn", "\tkfree(dsq);\n", "", CREATE),
    # --- too much -------------------------------------------------------------------------
    Mutant(
        "percpu-freed-twice",
        "free_dsq_rcufn",
        "\texit_dsq(dsq);\n",
        "\texit_dsq(dsq);\n\texit_dsq(dsq);\n",
        ("exit_dsq", "free_dsq_rcufn", "free_percpu", *CREATE),
    ),
    Mutant(
        "freed-too-early",
        "destroy_dsq",
        "\tif (llist_add(&dsq->free_node, &dsqs_to_free))\n",
        "\traw_spin_unlock_irqrestore(&dsq->lock, flags);\n\texit_dsq(dsq);\n\tkfree(dsq);\n\tgoto out_unlock_rcu;\n"
        "\tif (llist_add(&dsq->free_node, &dsqs_to_free))\n",
        ("destroy_dsq", "scx_bpf_destroy_dsq", "exit_dsq", "free_percpu", *CREATE),
    ),
    # --- errors ---------------------------------------------------------------------------
    Mutant("wrong-errno", "init_dsq", "\t\treturn -ENOMEM;\n", "\t\treturn -EINVAL;\n", CREATE),
    Mutant(
        "error-is-lost",
        "scx_bpf_create_dsq",
        "\t\tkfree(dsq);\n\t\treturn ret;\n",
        "\t\tkfree(dsq);\n\t\treturn 0;\n",
        CREATE,
    ),
    Mutant(
        "duplicate-is-lost",
        "scx_bpf_create_dsq",
        "\t}\n\treturn ret;",
        "\t}\n\treturn ret == -EEXIST ? 0 : ret;",
        CREATE,
    ),
    Mutant(
        "builtin-id-accepted",
        "scx_bpf_create_dsq",
        "unlikely(dsq_id & SCX_DSQ_FLAG_BUILTIN)",
        "unlikely(dsq_id == SCX_DSQ_GLOBAL)",
        CREATE,
    ),
    Mutant("bad-node-accepted", "scx_bpf_create_dsq", "node >= (int)nr_node_ids", "node > (int)nr_node_ids", CREATE),
    # --- life -----------------------------------------------------------------------------
    Mutant(
        "id-stays-in-hash",
        "destroy_dsq",
        "\tif (rhashtable_remove_fast(&sch->dsq_hash, &dsq->hash_node,\n\t\t\t\t   dsq_hash_params))\n\t\tgoto out_unlock_dsq;\n",
        "",
        ("destroy_dsq", "scx_bpf_destroy_dsq", *CREATE),
    ),
    Mutant(
        "destroy-does-nothing",
        "destroy_dsq",
        "\tif (!dsq)\n",
        "\tif (dsq)\n",
        ("destroy_dsq", "scx_bpf_destroy_dsq", *CREATE),
    ),
    Mutant(
        "destroyed-in-use",
        "destroy_dsq",
        "\tif (dsq->nr) {\n",
        "\tif (dsq->nr > 1000000) {\n",
        ("destroy_dsq", "scx_bpf_destroy_dsq"),
    ),
    Mutant("back-pointer-unset", "init_dsq", "\t\tpcpu->dsq = dsq;\n", "", ("process_deferred_reenq_users", *INIT)),
    Mutant(
        "data-for-online-cpus-only",
        "init_dsq",
        "\tfor_each_possible_cpu(cpu) {\n",
        "\tfor_each_online_cpu(cpu) {\n",
        ("exit_dsq", "scx_bpf_dsq_reenq", *INIT),
    ),
    Mutant(
        "bypass-for-online-cpus-only",
        "scx_alloc_and_add_sched",
        "\tfor_each_possible_cpu(cpu) {\n\t\tret = init_dsq(bypass_dsq(sch, cpu)",
        "\tfor_each_online_cpu(cpu) {\n\t\tret = init_dsq(bypass_dsq(sch, cpu)",
        ("exit_dsq", *ENABLE),
    ),
    Mutant(
        "wake-up-lost",
        "scx_flush_disable_work",
        "\t} while (kind != SCX_EXIT_NONE && kind != SCX_EXIT_DONE);\n",
        "\t} while (kind != SCX_EXIT_NONE && kind != SCX_EXIT_DONE);\n"
        "\twait_event(scx_unlink_waitq, kind == SCX_EXIT_NONE);\n",
        ("scx_flush_disable_work", "bpf_scx_unreg"),
    ),
    # --- order and counts -----------------------------------------------------------------
    Mutant(
        "fifo-at-head",
        "dispatch_enqueue",
        "\t\t\tlist_add_tail(&p->scx.dsq_list.node, &dsq->list);\n",
        "\t\t\tlist_add(&p->scx.dsq_list.node, &dsq->list);\n",
        ("dispatch_enqueue", "scx_bpf_dsq_insert"),
    ),
    Mutant(
        "vtime-backwards",
        "scx_dsq_priq_less",
        "return time_before64(a->",
        "return time_after64(a->",
        ("scx_dsq_priq_less", "scx_bpf_dsq_insert_vtime"),
    ),
    Mutant(
        "count-not-decremented",
        "task_unlink_from_dsq",
        "\tdsq_dec_nr(dsq, p);\n",
        "",
        ("task_unlink_from_dsq", "destroy_dsq"),
    ),
    Mutant(
        "count-twice",
        "dispatch_enqueue",
        "\tdsq_inc_nr(dsq, p, enq_flags);\n",
        "\tdsq_inc_nr(dsq, p, enq_flags);\n\tdsq_inc_nr(dsq, p, enq_flags);\n",
        ("dispatch_enqueue", "destroy_dsq"),
    ),
    # --- reenqueues -----------------------------------------------------------------------
    Mutant(
        "back-pointer-of-first-cpu-only",
        "init_dsq",
        "\t\tpcpu->dsq = dsq;\n",
        "\t\tif (cpu == cpumask_first(cpu_possible_mask))\n\t\t\tpcpu->dsq = dsq;\n",
        ("process_deferred_reenq_users", *INIT),
    ),
    Mutant(
        "reenq-node-not-initialised",
        "init_dsq",
        "\t\tINIT_LIST_HEAD(&pcpu->deferred_reenq_user.node);\n",
        "",
        ("free_dsq_irq_workfn", "exit_dsq", *REENQ, *INIT),
    ),
    Mutant(
        "reenq-data-of-cpu-0",
        "schedule_dsq_reenq",
        "per_cpu_ptr(dsq->pcpu, cpu_of(rq))",
        "per_cpu_ptr(dsq->pcpu, 0)",
        REENQ,
    ),
    Mutant(
        "reenq-flags-lost",
        "process_deferred_reenq_users",
        "\t\t\treenq_flags = dru->flags;\n\t\t\tWRITE_ONCE(dru->flags, 0);\n",
        "\t\t\tWRITE_ONCE(dru->flags, 0);\n\t\t\treenq_flags = dru->flags;\n",
        REENQ,
    ),
    Mutant(
        "reenq-list-del",
        "process_deferred_reenq_users",
        "list_del_init(&dru->node)",
        "list_del(&dru->node)",
        ("free_dsq_irq_workfn", "exit_dsq", *REENQ),
    ),
    Mutant(
        "reenq-first-dsq-only",
        "process_deferred_reenq_users",
        "\t\treenq_user(rq, dsq, reenq_flags);\n",
        "\t\treenq_user(rq, dsq, reenq_flags);\n\t\tbreak;\n",
        REENQ,
    ),
    Mutant(
        "reenq-first-task-only",
        "reenq_user",
        "\t\traw_spin_lock(&dsq->lock);\n\t}\n",
        "\t\traw_spin_lock(&dsq->lock);\n\t\tbreak;\n\t}\n",
        REENQ,
    ),
    Mutant(
        "reenq-reason-kept",
        "reenq_user",
        "\t\tp->scx.flags &= ~SCX_TASK_REENQ_REASON_MASK;\n\n\t\tif (!(++",
        "\t\tif (!(++",
        REENQ,
    ),
    Mutant(
        "reenq-outlives-dsq",
        "free_dsq_irq_workfn",
        "\t\t\tlist_del_init(&pcpu->deferred_reenq_user.node);\n",
        "",
        ("exit_dsq", "free_dsq_irq_workfn"),
    ),
    Mutant(
        "seq-not-incremented",
        "dispatch_enqueue",
        "\tWRITE_ONCE(dsq->seq, dsq->seq + 1);\n",
        "",
        ("dispatch_enqueue", "nldsq_cursor_next_task", "nldsq_cursor_lost_task", *REENQ),
    ),
    Mutant(
        "second-task-taken",
        "consume_dispatch_q",
        "\t\tif (rq == task_rq) {\n",
        "\t\tif (rq == task_rq && nldsq_next_task(dsq, NULL, false) == p && nldsq_next_task(dsq, p, false))\n"
        "\t\t\tcontinue;\n\t\tif (rq == task_rq) {\n",
        ("consume_dispatch_q", "dispatch_enqueue", "scx_dsq_priq_less", "scx_bpf_dsq_move_to_local"),
    ),
    # --- context --------------------------------------------------------------------------
    Mutant(
        "sleeps-in-rcu",
        "scx_bpf_create_dsq",
        "\tret = init_dsq(dsq, dsq_id, NULL);\n",
        "\trcu_read_lock();\n\tret = init_dsq(dsq, dsq_id, NULL);\n\trcu_read_unlock();\n",
        CREATE,
    ),
    Mutant(
        "sleeps-under-lock",
        "scx_bpf_create_dsq",
        "\tret = init_dsq(dsq, dsq_id, NULL);\n",
        "\tpreempt_disable();\n\tret = init_dsq(dsq, dsq_id, NULL);\n\tpreempt_enable();\n",
        CREATE,
    ),
    Mutant(
        "lock-kept",
        "destroy_dsq",
        "out_unlock_dsq:\n\traw_spin_unlock_irqrestore(&dsq->lock, flags);\n",
        "out_unlock_dsq:\n\tlocal_irq_restore(flags);\n",
        ("destroy_dsq", "scx_bpf_destroy_dsq"),
    ),
)

SILENT = (
    Mutant(
        "read-after-free",
        "free_dsq_rcufn",
        "\tkfree(dsq);\n",
        '\tkfree(dsq);\n\tif (READ_ONCE(dsq->nr))\n\t\tpr_info_once("still queued\\n");\n',
        ("free_dsq_rcufn",),
        "kasan",
        "kasan",
    ),
    Mutant(
        "irqs-left-on",
        "destroy_dsq",
        "\traw_spin_lock_irqsave(&dsq->lock, flags);\n",
        "\tlocal_save_flags(flags);\n\traw_spin_lock(&dsq->lock);\n",
        ("destroy_dsq", "scx_bpf_destroy_dsq", "dispatch_enqueue"),
        "lockdep",
        "lockdep",
    ),
    Mutant(
        "scheduler-without-rcu",
        "scx_bpf_create_dsq",
        "\trcu_read_lock();\n\n\tsch = scx_prog_sched(aux);\n",
        "\tsch = scx_prog_sched(aux);\n\trcu_read_lock();\n",
        ("scx_prog_sched", "scx_bpf_create_dsq"),
        "lockdep",
        "suspicious rcu",
    ),
    # Not in what BPF programs call: these are held on their CPU (migrate_disable()).
    Mutant(
        "cpu-not-held",
        "scx_alloc_and_add_sched",
        "\t\tsch->pnode[node] = alloc_pnode(sch, node);\n",
        "\t\tsch->pnode[node] = alloc_pnode(sch, nr_node_ids > 1 ? node : cpu_to_node(smp_processor_id()));\n",
        ("scx_alloc_and_add_sched",),
        "preempt",
        "preemptible",
    ),
)
"""What the plain kernel does not show: each with the kernel of ours (--kconfig) on which it must be found."""
