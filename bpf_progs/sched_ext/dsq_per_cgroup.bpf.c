/* SPDX-License-Identifier: GPL-2.0-only */
/* A scheduler with one DSQ for each cgroup: created in ops.cgroup_init, destroyed in ops.cgroup_exit. */
#include "scx.bpf.h"

#define ID_BASE 0x200000000ULL

u64 created;
u64 create_failed;
u64 destroyed;

struct kernfs_node {
	u64 id;
} KERNEL_TYPE;

struct cgroup {
	struct kernfs_node *kn;
} KERNEL_TYPE;

struct scx_cgroup_init_args;

/* The operations of kharness.bpf.h's sched_ext_ops and those of cgroups: CO-RE finds members by their names. */
struct sched_ext_ops___cgroup {
	s32 (*cgroup_init)(struct cgroup *cgrp, struct scx_cgroup_init_args *args);
	void (*cgroup_exit)(struct cgroup *cgrp);
	void (*exit)(struct scx_exit_info *info);
	char name[128];
};

s32 STRUCT_OPS_SLEEPABLE(per_cgroup_init, struct cgroup *cgrp, struct scx_cgroup_init_args *args)
{
	s32 ret = scx_bpf_create_dsq(ID_BASE + cgrp->kn->id, NUMA_NO_NODE);

	if (ret)
		__sync_fetch_and_add(&create_failed, 1);
	else
		__sync_fetch_and_add(&created, 1);
	return ret;
}

void STRUCT_OPS_SLEEPABLE(per_cgroup_exit, struct cgroup *cgrp)
{
	scx_bpf_destroy_dsq(ID_BASE + cgrp->kn->id);
	__sync_fetch_and_add(&destroyed, 1);
}

void STRUCT_OPS(per_cgroup_end, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops___cgroup ops = {
	.cgroup_init = (void *)per_cgroup_init,
	.cgroup_exit = (void *)per_cgroup_exit,
	.exit = (void *)per_cgroup_end,
	.name = "kh_dsq_per_cg",
};
