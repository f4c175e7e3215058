/* SPDX-License-Identifier: GPL-2.0-only */
/* A scheduler that creates the user DSQs of a list in ops.init, in order, and otherwise leaves everything to the defaults. */
#include "scx.bpf.h"

#define MAX_LISTED_IDS 16

u64 listed_ids[MAX_LISTED_IDS];
s32 listed_nodes[MAX_LISTED_IDS];
u32 nr_listed;

u64 created;
s32 first_error;

s32 STRUCT_OPS_SLEEPABLE(listed_init)
{
	u32 i;

	bpf_for(i, 0, nr_listed) {
		u32 slot = i & (MAX_LISTED_IDS - 1); /* for the verifier */
		s32 ret = scx_bpf_create_dsq(listed_ids[slot], listed_nodes[slot]);

		if (ret) {
			first_error = ret;
			return ret;
		}
		created++;
	}
	return 0;
}

void STRUCT_OPS(listed_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops ops = {
	.init = (void *)listed_init,
	.exit = (void *)listed_exit,
	.name = "kh_dsq_listed",
};
