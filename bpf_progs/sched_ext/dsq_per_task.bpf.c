/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A scheduler with one DSQ for each task: created in ops.init_task, destroyed in ops.exit_task.
 *
 * Tasks wait in their own DSQ; their ids wait in a BPF queue, from which ops.dispatch takes them. Tasks
 * bound to one CPU go straight to that CPU's local DSQ. A task is put into its DSQ only after ops.enqueue has returned, so
 * an id may be taken out while the DSQ is still empty: it then goes back, and is in the queue at most once.
 */
#include "scx.bpf.h"

#define ID_BASE 0x100000000ULL
#define DISPATCH_TRIES 16

u64 created;
u64 create_failed;
u64 destroyed;
u64 dispatched;
u64 queue_full;

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 65536);
	__type(value, u64);
} waiting SEC(".maps");

/* Whether a task's id is in the queue. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, u64);
	__type(value, u64);
} queued SEC(".maps");

/* Puts an id into the queue, unless it is there; false if the queue is full. */
static __always_inline bool queue_up(u64 id)
{
	u64 *there = bpf_map_lookup_elem(&queued, &id);

	if (!there)
		return false;
	if (__sync_lock_test_and_set(there, 1))
		return true;
	if (!bpf_map_push_elem(&waiting, &id, 0))
		return true;
	__sync_lock_test_and_set(there, 0);
	return false;
}

void STRUCT_OPS(per_task_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 id = ID_BASE + p->pid;

	if (p->nr_cpus_allowed == 1) {
		dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, enq_flags);
		return;
	}
	if (!queue_up(id)) {
		__sync_fetch_and_add(&queue_full, 1);
		dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
		return;
	}
	dsq_insert(p, id, SCX_SLICE_DFL, enq_flags);
}

void STRUCT_OPS(per_task_dispatch, s32 cpu, struct task_struct *prev)
{
	int i;

	bpf_for(i, 0, DISPATCH_TRIES) {
		u64 id, *there;

		if (bpf_map_pop_elem(&waiting, &id))
			return;
		there = bpf_map_lookup_elem(&queued, &id);
		if (there)
			__sync_lock_test_and_set(there, 0);
		if (dsq_move_to_local(id)) {
			__sync_fetch_and_add(&dispatched, 1);
			return;
		}
		/* It may not run here, is not there yet, or was dequeued meanwhile. */
		queue_up(id);
	}
}

s32 STRUCT_OPS_SLEEPABLE(per_task_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	u64 id = ID_BASE + p->pid, no = 0;
	s32 ret = scx_bpf_create_dsq(id, NUMA_NO_NODE);

	if (!ret)
		bpf_map_update_elem(&queued, &id, &no, BPF_ANY);
	if (ret)
		__sync_fetch_and_add(&create_failed, 1);
	else
		__sync_fetch_and_add(&created, 1);
	return ret;
}

void STRUCT_OPS(per_task_exit_task, struct task_struct *p, struct scx_exit_task_args *args)
{
	u64 id = ID_BASE + p->pid;

	bpf_map_delete_elem(&queued, &id);
	scx_bpf_destroy_dsq(id);
	__sync_fetch_and_add(&destroyed, 1);
}

void STRUCT_OPS(per_task_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops ops = {
	.enqueue = (void *)per_task_enqueue,
	.dispatch = (void *)per_task_dispatch,
	.init_task = (void *)per_task_init_task,
	.exit_task = (void *)per_task_exit_task,
	.exit = (void *)per_task_exit,
	.name = "kh_dsq_per_task",
};
