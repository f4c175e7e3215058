/* SPDX-License-Identifier: GPL-2.0-only */
/* A scheduler of the form of sub-schedulers, root or one itself, that takes none. */
#include "sub.bpf.h"

s32 STRUCT_OPS_SLEEPABLE(sub_init)
{
	return make_dsqs();
}

SEC(".struct_ops.link")
struct sched_ext_ops_cid ops = {
	SUB_OPS,
	.init = (void *)sub_init,
	.name = "kh_dsq_leaf",
};
