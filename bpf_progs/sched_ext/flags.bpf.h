/* SPDX-License-Identifier: GPL-2.0-only */
/* Flags of schedulers and insertions, and re-enqueues; separate, as users may include kharness.bpf.h and declare them. */
#ifndef FLAGS_BPF_H
#define FLAGS_BPF_H

#include "scx.bpf.h"

/* include/linux/sched/ext.h, enum scx_ops_flags: SCHED_EXT tasks only, the rest of the system goes on. */
#define SCX_OPS_SWITCH_PARTIAL (1ULL << 3)

/* kernel/sched/ext/internal.h; the values differ between kernels. */
enum scx_enq_flags {
	SCX_ENQ_HEAD,
	SCX_ENQ_PREEMPT,
	SCX_ENQ_REENQ,
};

/* Its value in the running kernel; 0 where that does not have it. */
#define FLAG(name) \
	(bpf_core_enum_value_exists(enum scx_enq_flags, name) ? bpf_core_enum_value(enum scx_enq_flags, name) : 0)

extern void scx_bpf_dsq_reenq(u64 dsq_id, u64 reenq_flags) __ksym __weak;

#endif
