/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * DSQ operations as SYSCALL programs, so that user space drives them one at a time and sees each answer;
 * and a walk over the live scheduler's DSQ hash, so that the set of live DSQs can be compared.
 */
#include "calls.bpf.h"

/* include/linux/rhashtable-types.h, kernel/sched/ext/internal.h */
struct rhash_head {
	struct rhash_head *next;
} KERNEL_TYPE;

struct bucket_table {
	unsigned int size;
	unsigned int nest;
	struct bucket_table *future_tbl;
	void *buckets[];
} KERNEL_TYPE;

typedef struct {
	int counter;
} atomic_t;

struct rhashtable {
	struct bucket_table *tbl;
	atomic_t nelems;
} KERNEL_TYPE;

struct sched_ext_ops___sub {
	u64 sub_cgroup_id;
} KERNEL_TYPE;

struct list_head {
	struct list_head *next;
} KERNEL_TYPE;

struct scx_sched {
	struct rhashtable dsq_hash;
	struct sched_ext_ops___sub ops;
	struct list_head all;
} KERNEL_TYPE;

struct scx_dispatch_q {
	u64 id;
	struct rhash_head hash_node;
	void *pcpu; /* percpu, since 7.1 */
} KERNEL_TYPE;

/* Each scheduler's own table, or, before 6.16, one for the whole kernel. */
extern const void scx_root __ksym __weak;
extern const void dsq_hash __ksym __weak;
/* All schedulers, linked by `all`: the root and, since 7.1, those below it. */
extern const void scx_sched_all __ksym __weak;

#define MAX_LISTED 4096
#define MAX_CHAIN 256

/* The last walk: the number of DSQs, the sums of their ids and of their scrambled ids, the first ids. */
u64 live_count;
u64 live_sum;
u64 live_mix;
u64 live_nelems;
u64 live_ids[MAX_LISTED];

/* The addresses of the DSQ that is looked for and of its percpu data; 0: there is none. */
u64 sought;
u64 sought_at;
u64 sought_pcpu;

/* splitmix64's finaliser: makes equal sums of different sets improbable. */
static __always_inline u64 mix(u64 x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ULL;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static __always_inline void note_dsq(struct rhash_head *node)
{
	u64 offset = bpf_core_field_offset(struct scx_dispatch_q, hash_node);
	struct scx_dispatch_q *dsq = (void *)node - offset;
	u64 id = BPF_CORE_READ(dsq, id);
	u64 slot = live_count;

	if (slot < MAX_LISTED)
		live_ids[slot] = id;
	if (id == sought) {
		sought_at = (u64)dsq;
		if (bpf_core_field_exists(struct scx_dispatch_q, pcpu))
			sought_pcpu = (u64)BPF_CORE_READ(dsq, pcpu);
	}
	live_count++;
	live_sum += id;
	live_mix += mix(id);
}

/* Bit 0 of a bucket is its lock, bit 0 of a next pointer marks the chain's end (rht_ptr, rht_is_a_nulls). */
static long walk_bucket(u32 i, void *ctx)
{
	struct bucket_table **table = ctx;
	u64 at = (u64)*table + bpf_core_field_offset(struct bucket_table, buckets) + i * sizeof(void *);
	u64 head = 0;
	int n;

	bpf_probe_read_kernel(&head, sizeof(head), (void *)at);
	head &= ~1ULL;
	bpf_for(n, 0, MAX_CHAIN) {
		struct rhash_head *node = (void *)head;

		if (!head || (head & 1))
			break;
		note_dsq(node);
		head = (u64)BPF_CORE_READ(node, next);
	}
	return 0;
}

#define MAX_SCHEDS 64

/* The scheduler that is attached to a cgroup as a sub-scheduler. */
static __always_inline void *find_sub(u64 cgroup_id)
{
	struct list_head *at = (void *)&scx_sched_all, *next;
	int i;

	if (!bpf_ksym_exists(&scx_sched_all) || !bpf_core_field_exists(struct scx_sched, all))
		return NULL;
	bpf_for(i, 0, MAX_SCHEDS) {
		struct scx_sched *sch;

		next = BPF_CORE_READ(at, next);
		if (!next || next == (void *)&scx_sched_all)
			return NULL;
		sch = (void *)next - bpf_core_field_offset(struct scx_sched, all);
		if (BPF_CORE_READ(sch, ops.sub_cgroup_id) == cgroup_id)
			return sch;
		at = next;
	}
	return NULL;
}

static __always_inline int find_hash(u64 cgroup_id, struct rhashtable **hash)
{
	void *sch = NULL;

	if (cgroup_id) {
		sch = find_sub(cgroup_id);
		if (!sch)
			return -ENODEV;
		*hash = sch + bpf_core_field_offset(struct scx_sched, dsq_hash);
		return 0;
	}
	if (bpf_core_field_exists(struct scx_sched, dsq_hash)) {
		if (!bpf_ksym_exists(&scx_root))
			return -EOPNOTSUPP;
		bpf_probe_read_kernel(&sch, sizeof(sch), &scx_root);
		if (!sch)
			return -ENODEV;
		*hash = sch + bpf_core_field_offset(struct scx_sched, dsq_hash);
		return 0;
	}
	if (!bpf_ksym_exists(&dsq_hash))
		return -EOPNOTSUPP;
	*hash = (void *)&dsq_hash;
	return 0;
}

/* With an id that of a cgroup, the table of its scheduler; else that of the root. */
SEC("syscall")
int live(struct api_args *args)
{
	struct bucket_table *table;
	struct rhashtable *hash;
	int generation, err;

	live_count = live_sum = live_mix = live_nelems = sought_at = sought_pcpu = 0;
	err = find_hash(args->dsq_id, &hash);
	if (err)
		return err;
	live_nelems = BPF_CORE_READ(hash, nelems.counter);
	table = BPF_CORE_READ(hash, tbl);
	/* During a resize its elements are spread over the chain of tables. */
	bpf_for(generation, 0, 4) {
		if (!table)
			break;
		/* Nested tables (made when a bucket array could not be allocated) are not walked. */
		if (BPF_CORE_READ(table, nest))
			return -EAGAIN;
		bpf_loop(BPF_CORE_READ(table, size), walk_bucket, &table, 0);
		table = BPF_CORE_READ(table, future_tbl);
	}
	return 0;
}
