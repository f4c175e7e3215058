/* SPDX-License-Identifier: GPL-2.0-only */
/* A scheduler that takes sub-schedulers, or refuses them with an errno. */
#include "sub.bpf.h"

/* What a sub-scheduler is told that would attach: 0 or a negative errno. */
s32 refusal;
u64 attached;
u64 detached;

s32 STRUCT_OPS(sub_sub_attach, struct scx_sub_attach_args *args)
{
	if (refusal)
		return refusal;
	__sync_fetch_and_add(&attached, 1);
	return 0;
}

void STRUCT_OPS(sub_sub_detach, struct scx_sub_detach_args *args)
{
	__sync_fetch_and_add(&detached, 1);
}

SEC(".struct_ops.link")
struct sched_ext_ops_cid ops = {
	SUB_OPS,
	.sub_attach = (void *)sub_sub_attach,
	.sub_detach = (void *)sub_sub_detach,
	.name = "kh_dsq_sub",
};
