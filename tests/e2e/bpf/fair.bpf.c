/* SPDX-License-Identifier: GPL-2.0-only */
/* A scheduler as a user writes it, on the headers of tools/sched_ext: one DSQ, first in, first out. */
#include <scx/common.bpf.h>

#define SHARED_DSQ 1

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

s32 BPF_STRUCT_OPS_SLEEPABLE(fair_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(fair_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_DFL, enq_flags);
}

void BPF_STRUCT_OPS(fair_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

void BPF_STRUCT_OPS(fair_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(fair_ops,
	       .init = (void *)fair_init,
	       .enqueue = (void *)fair_enqueue,
	       .dispatch = (void *)fair_dispatch,
	       .exit = (void *)fair_exit,
	       .name = "fair");
