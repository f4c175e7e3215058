/* SPDX-License-Identifier: GPL-2.0-only */
/* A scheduler of the form of sub-schedulers, root or one itself, that takes none. */
#include "sub.bpf.h"

SEC(".struct_ops.link")
struct sched_ext_ops_cid ops = {
	SUB_OPS,
	.name = "kh_dsq_leaf",
};
