/* SPDX-License-Identifier: GPL-2.0-only */
/* A scheduler that the verifier must refuse: ops.enqueue may not sleep, and scx_bpf_create_dsq() does. */
#include "scx.bpf.h"

void STRUCT_OPS(refused_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_create_dsq(1, NUMA_NO_NODE);
	dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}

SEC(".struct_ops.link")
struct sched_ext_ops ops = {
	.enqueue = (void *)refused_enqueue,
	.name = "kh_refused",
};
