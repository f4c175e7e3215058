/* SPDX-License-Identifier: GPL-2.0-only */
/* A scheduler that schedules well for a while and then exits with an error. */
#include <scx/common.bpf.h>
#include "limit.h"

char _license[] SEC("license") = "GPL";

u64 enqueued;

void BPF_STRUCT_OPS(thrown_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (__sync_fetch_and_add(&enqueued, 1) == LIMIT)
		scx_bpf_error("had enough");
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}

SCX_OPS_DEFINE(thrown_ops,
	       .enqueue = (void *)thrown_enqueue,
	       .name = "thrown");
