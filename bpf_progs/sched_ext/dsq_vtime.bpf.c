/* SPDX-License-Identifier: GPL-2.0-only */
/* A scheduler with one user DSQ ordered by virtual time, weighted fairly. */
#include "scx.bpf.h"

#define SHARED_DSQ 7

u64 enqueued;
u64 dispatched;
u64 vtime_now;

s32 STRUCT_OPS_SLEEPABLE(vtime_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, NUMA_NO_NODE);
}

void STRUCT_OPS(vtime_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 vtime = p->scx.dsq_vtime;

	/* An idler may not save up more than one slice. */
	if ((s64)(vtime - (vtime_now - SCX_SLICE_DFL)) < 0)
		vtime = vtime_now - SCX_SLICE_DFL;
	__sync_fetch_and_add(&enqueued, 1);
	dsq_insert_vtime(p, SHARED_DSQ, SCX_SLICE_DFL, vtime, enq_flags);
}

void STRUCT_OPS(vtime_dispatch, s32 cpu, struct task_struct *prev)
{
	if (dsq_move_to_local(SHARED_DSQ))
		__sync_fetch_and_add(&dispatched, 1);
}

void STRUCT_OPS(vtime_running, struct task_struct *p)
{
	if ((s64)(p->scx.dsq_vtime - vtime_now) > 0)
		vtime_now = p->scx.dsq_vtime;
}

void STRUCT_OPS(vtime_stopping, struct task_struct *p, bool runnable)
{
	set_dsq_vtime(p, p->scx.dsq_vtime + (SCX_SLICE_DFL - p->scx.slice) * 100 / p->scx.weight);
}

void STRUCT_OPS(vtime_enable, struct task_struct *p)
{
	set_dsq_vtime(p, vtime_now);
}

void STRUCT_OPS(vtime_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops ops = {
	.enqueue = (void *)vtime_enqueue,
	.dispatch = (void *)vtime_dispatch,
	.running = (void *)vtime_running,
	.stopping = (void *)vtime_stopping,
	.enable = (void *)vtime_enable,
	.init = (void *)vtime_init,
	.exit = (void *)vtime_exit,
	.name = "kh_dsq_vtime",
};
