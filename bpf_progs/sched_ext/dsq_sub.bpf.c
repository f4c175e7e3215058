/* SPDX-License-Identifier: GPL-2.0-only */
/* A scheduler that takes sub-schedulers, or refuses them with an errno. */
#include "sub.bpf.h"

#define __arena __attribute__((address_space(1)))
#define MAX_CIDS 512 /* CONFIG_NR_CPUS of kconfigs/base.config */
#define EVERY_CAP 0xf /* enum scx_cap, kernel/sched/ext/internal.h: enqueue at once, enqueue, preempt, set performance */

/* kernel/sched/ext/types.h: some CPUs, one bit each, by their cid; it must have space for one word more. */
struct scx_cmask {
	u32 base;
	u32 nr_cids;
	u32 alloc_words;
	u64 bits[MAX_CIDS / 64 + 1];
};

void __arena *bpf_arena_alloc_pages(void *map, void __arena *addr, u32 pages, int node_id, u64 flags) __ksym __weak;
extern s32 scx_bpf_sub_grant(u64 cgroup_id, u64 caps, const struct scx_cmask __arena *cmask__arena,
			     struct scx_cmask __arena *denied_out__arena__nullable) __ksym __weak;

extern u32 scx_bpf_nr_cpu_ids(void) __ksym __weak;

/* All possible CPUs: our guests have them without gaps. */
static struct scx_cmask __arena *every;

/* kernel/sched/ext/internal.h */
struct sched_ext_ops___sub {
	u64 sub_cgroup_id;
} __attribute__((preserve_access_index));

struct scx_sub_attach_args {
	struct sched_ext_ops___sub *ops;
} __attribute__((preserve_access_index));

/* The answer to a sub-scheduler that attaches: 0 or a negative errno. */
s32 refusal;
u64 attached;
u64 detached;

s32 STRUCT_OPS(sub_sub_attach, struct scx_sub_attach_args *args)
{
	if (refusal)
		return refusal;
	__sync_fetch_and_add(&attached, 1);
	USE_ARENA;
	/* Since 7.3 a sub-scheduler's tasks run only on the CPUs that its parent grants it. */
	if (bpf_ksym_exists(scx_bpf_sub_grant) && every)
		return scx_bpf_sub_grant(args->ops->sub_cgroup_id, EVERY_CAP, every, NULL);
	return 0;
}

s32 STRUCT_OPS_SLEEPABLE(sub_sub_init)
{
	u32 i, nr = scx_bpf_nr_cpu_ids();

	if (bpf_ksym_exists(scx_bpf_sub_grant) && !every) {
		every = bpf_arena_alloc_pages(&arena, NULL, 1, NUMA_NO_NODE, 0);
		if (!every)
			return -ENOMEM;
		every->nr_cids = nr;
		every->alloc_words = MAX_CIDS / 64 + 1;
		bpf_for(i, 0, nr)
			every->bits[i / 64 & (MAX_CIDS / 64 - 1)] |= 1ULL << (i % 64);
	}
	return make_dsqs();
}

void STRUCT_OPS(sub_sub_detach, struct scx_sub_detach_args *args)
{
	__sync_fetch_and_add(&detached, 1);
}

SEC(".struct_ops.link")
struct sched_ext_ops_cid ops = {
	SUB_OPS,
	.init = (void *)sub_sub_init,
	.sub_attach = (void *)sub_sub_attach,
	.sub_detach = (void *)sub_sub_detach,
	.name = "kh_dsq_sub",
};
