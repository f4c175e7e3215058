/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A scheduler with configurable answers: each callback's answer, and each insertion's DSQ, slice, virtual time and
 * flags, is a global variable; members of its ops are set before it is loaded. Only SCHED_EXT tasks are its own, so that
 * the rest of the system goes on whatever it answers.
 */
#include "flags.bpf.h"

#define MAX_CREATES 8

struct scx_init_task_args {
	bool fork;
} KERNEL_TYPE;

struct sched_ext_entity___disallow {
	bool disallow;
} KERNEL_TYPE;

struct task_struct___disallow {
	struct sched_ext_entity___disallow scx;
} KERNEL_TYPE;

struct cgroup;
struct scx_cgroup_init_args;

/* All that is varied; CO-RE finds members by their names. */
struct sched_ext_ops___fields {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	void (*update_idle)(s32 cpu, bool idle);
	s32 (*init_task)(struct task_struct *p, struct scx_init_task_args *args);
	void (*exit_task)(struct task_struct *p, struct scx_exit_task_args *args);
	void (*enable)(struct task_struct *p);
	s32 (*cgroup_init)(struct cgroup *cgrp, struct scx_cgroup_init_args *args);
	void (*cpu_online)(s32 cpu);
	void (*cpu_offline)(s32 cpu);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u32 dispatch_max_batch;
	u64 flags;
	u32 timeout_ms;
	u32 exit_dump_len;
	u64 hotplug_seq;
	char name[128];
};

/* ops.init: creates these, then answers that. */
u32 nr_creates;
u64 create_ids[MAX_CREATES];
s32 create_nodes[MAX_CREATES];
s32 init_answer;

/* ops.init_task, for the n-th task (from 1) of those that exist when the scheduler is enabled. */
u64 init_task_nth;
s32 init_task_answer;
u64 init_tasks;

/* The same for each task that the process `fork_parent` makes later. */
u32 fork_parent;
s32 fork_answer;
bool fork_disallow;

s32 cgroup_init_answer;

/* ops.select_cpu: where the task was, or `select_cpu`. */
bool selects;
s32 select_cpu;

/* Insertions, so many a call: in ops.select_cpu, ops.enqueue and ops.dispatch. */
u32 select_times, enqueue_times = 1, dispatch_times;
u64 select_dsq, enqueue_dsq = SCX_DSQ_GLOBAL, dispatch_dsq;
u64 select_slice, enqueue_slice = SCX_SLICE_DFL, dispatch_slice;
u64 select_vtime, enqueue_vtime, dispatch_vtime;
u64 select_flags, enqueue_flags, dispatch_flags;
bool select_by_vtime, enqueue_by_vtime, dispatch_by_vtime;

/* ops.dispatch: takes a task from this DSQ. */
bool moves;
u64 move_dsq;

u64 selected, enqueued, dispatched, moved, enabled, exited_tasks, went_online, went_offline;

/* Tasks that ops.enqueue left to ops.dispatch. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1024);
	__type(value, s32);
} waiting SEC(".maps");

extern struct task_struct *bpf_task_from_pid(s32 pid) __ksym;
extern void bpf_task_release(struct task_struct *p) __ksym;

static __always_inline void insert(struct task_struct *p, u32 times, bool by_vtime, u64 dsq, u64 slice, u64 vtime,
				   u64 flags)
{
	u32 i;

	bpf_for(i, 0, times) {
		if (by_vtime)
			dsq_insert_vtime(p, dsq, slice, vtime, flags);
		else
			dsq_insert(p, dsq, slice, flags);
	}
}

s32 STRUCT_OPS_SLEEPABLE(fields_init)
{
	u32 i;

	bpf_for(i, 0, nr_creates) {
		s32 ret = scx_bpf_create_dsq(create_ids[i & (MAX_CREATES - 1)], create_nodes[i & (MAX_CREATES - 1)]);

		if (ret)
			return ret;
	}
	return init_answer;
}

s32 STRUCT_OPS(fields_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	if (!args->fork)
		return __sync_fetch_and_add(&init_tasks, 1) + 1 == init_task_nth ? init_task_answer : 0;
	if (!fork_parent || bpf_get_current_pid_tgid() >> 32 != fork_parent)
		return 0;
	if (fork_disallow)
		((struct task_struct___disallow *)p)->scx.disallow = true;
	return fork_answer;
}

void STRUCT_OPS(fields_exit_task, struct task_struct *p, struct scx_exit_task_args *args)
{
	__sync_fetch_and_add(&exited_tasks, 1);
}

void STRUCT_OPS(fields_enable, struct task_struct *p)
{
	__sync_fetch_and_add(&enabled, 1);
}

s32 STRUCT_OPS_SLEEPABLE(fields_cgroup_init, struct cgroup *cgrp, struct scx_cgroup_init_args *args)
{
	return cgroup_init_answer;
}

s32 STRUCT_OPS(fields_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	__sync_fetch_and_add(&selected, 1);
	insert(p, select_times, select_by_vtime, select_dsq, select_slice, select_vtime, select_flags);
	return selects ? select_cpu : prev_cpu;
}

void STRUCT_OPS(fields_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 pid = p->pid;

	__sync_fetch_and_add(&enqueued, 1);
	if (!enqueue_times)
		bpf_map_push_elem(&waiting, &pid, 0);
	insert(p, enqueue_times, enqueue_by_vtime, enqueue_dsq, enqueue_slice, enqueue_vtime, enq_flags | enqueue_flags);
}

void STRUCT_OPS(fields_dispatch, s32 cpu, struct task_struct *prev)
{
	struct task_struct *p;
	s32 pid;

	if (moves && dsq_move_to_local(move_dsq))
		__sync_fetch_and_add(&moved, 1);
	if (!dispatch_times || bpf_map_pop_elem(&waiting, &pid))
		return;
	p = bpf_task_from_pid(pid);
	if (!p)
		return;
	__sync_fetch_and_add(&dispatched, 1);
	insert(p, dispatch_times, dispatch_by_vtime, dispatch_dsq, dispatch_slice, dispatch_vtime, dispatch_flags);
	bpf_task_release(p);
}

void STRUCT_OPS(fields_cpu_online, s32 cpu)
{
	__sync_fetch_and_add(&went_online, 1);
}

void STRUCT_OPS(fields_cpu_offline, s32 cpu)
{
	__sync_fetch_and_add(&went_offline, 1);
}

void STRUCT_OPS(fields_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

/* Not in the ops as compiled: a test that needs one of these names it. */

SEC("?struct_ops/update_idle")
void BPF_PROG(fields_update_idle, s32 cpu, bool idle)
{
}

SEC("?struct_ops.s/enqueue")
void BPF_PROG(fields_enqueue_may_sleep, struct task_struct *p, u64 enq_flags)
{
}

SEC("?struct_ops.s/dispatch")
void BPF_PROG(fields_dispatch_may_sleep, s32 cpu, struct task_struct *prev)
{
}

SEC("?struct_ops.s/init_task")
s32 BPF_PROG(fields_init_task_may_sleep, struct task_struct *p, struct scx_init_task_args *args)
{
	return 0;
}

SEC("?struct_ops.s/exit_task")
void BPF_PROG(fields_exit_task_may_sleep, struct task_struct *p, struct scx_exit_task_args *args)
{
}

SEC("?struct_ops.s/cpu_online")
void BPF_PROG(fields_cpu_online_may_sleep, s32 cpu)
{
}

SEC(".struct_ops.link")
struct sched_ext_ops___fields ops = {
	.select_cpu = (void *)fields_select_cpu,
	.enqueue = (void *)fields_enqueue,
	.dispatch = (void *)fields_dispatch,
	.init_task = (void *)fields_init_task,
	.exit_task = (void *)fields_exit_task,
	.enable = (void *)fields_enable,
	.cgroup_init = (void *)fields_cgroup_init,
	.cpu_online = (void *)fields_cpu_online,
	.cpu_offline = (void *)fields_cpu_offline,
	.init = (void *)fields_init,
	.exit = (void *)fields_exit,
	.flags = SCX_OPS_SWITCH_PARTIAL,
	.timeout_ms = 30000,
	.name = "kh_dsq_fields",
};
