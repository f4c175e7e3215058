/* SPDX-License-Identifier: GPL-2.0-only */
/* A scheduler that spreads tasks over nr_dsqs user DSQs, each a FIFO, and serves them round robin. */
#include "scx.bpf.h"

u32 nr_dsqs = 8;

u64 enqueued;
u64 dispatched;
u32 next_dsq;

s32 STRUCT_OPS_SLEEPABLE(fifo_init)
{
	u32 i;

	bpf_for(i, 0, nr_dsqs) {
		s32 ret = scx_bpf_create_dsq(i, NUMA_NO_NODE);

		if (ret)
			return ret;
	}
	return 0;
}

void STRUCT_OPS(fifo_enqueue, struct task_struct *p, u64 enq_flags)
{
	__sync_fetch_and_add(&enqueued, 1);
	dsq_insert(p, (u32)p->pid % nr_dsqs, SCX_SLICE_DFL, enq_flags);
}

void STRUCT_OPS(fifo_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 start = __sync_fetch_and_add(&next_dsq, 1);
	u32 i;

	bpf_for(i, 0, nr_dsqs) {
		if (dsq_move_to_local((start + i) % nr_dsqs)) {
			__sync_fetch_and_add(&dispatched, 1);
			return;
		}
	}
}

void STRUCT_OPS(fifo_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops ops = {
	.enqueue = (void *)fifo_enqueue,
	.dispatch = (void *)fifo_dispatch,
	.init = (void *)fifo_init,
	.exit = (void *)fifo_exit,
	.name = "kh_dsq_fifo",
};
