/* SPDX-License-Identifier: GPL-2.0-only */
/* A scheduler that creates nr_dsqs user DSQs in ops.init and otherwise leaves everything to the defaults. */
#include "scx.bpf.h"

u64 nr_dsqs = 1;
u64 first_id = 0;
s32 node = NUMA_NO_NODE;

u64 created;
s32 first_error;

s32 STRUCT_OPS_SLEEPABLE(many_init)
{
	int i;

	bpf_for(i, 0, nr_dsqs) {
		s32 ret = scx_bpf_create_dsq(first_id + i, node);

		if (ret) {
			first_error = ret;
			return ret;
		}
		created++;
	}
	return 0;
}

void STRUCT_OPS(many_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops ops = {
	.init = (void *)many_init,
	.exit = (void *)many_exit,
	.name = "kh_dsq_many",
};
