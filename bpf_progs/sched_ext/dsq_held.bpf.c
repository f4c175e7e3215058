/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A scheduler that holds its tasks on one user DSQ until some are released, and records each arrival, each move and each
 * task that then runs. All tasks must be pinned to one CPU: records under the lock of its runqueue are in the order of
 * the events.
 */
#include "flags.bpf.h"

#define HELD_DSQ 7
#define MAX_EVENTS 4096
#define MAX_TASKS 256
#define MAX_VTIMES 256

/* tests/kernel/sched_ext/model/order.py has the same. */
enum { INSERTED = 1, MOVED = 2, RAN = 3 };
enum { AT_HEAD = 1, REENQUEUED = 2, RESTORED = 4 };

/* kernel/sched/sched.h: a task that was taken off is put back with changed properties (sched_change_end()). */
#define ENQUEUE_RESTORE 2

u32 event_kinds[MAX_EVENTS];
u32 event_flags[MAX_EVENTS];
s32 event_pids[MAX_EVENTS];
u64 event_vtimes[MAX_EVENTS];
u64 nr_events;
u64 nr_inserted;
u64 nr_moved;

/* Arrivals take these in turn, if there are any; else the DSQ is a FIFO. */
u64 vtimes[MAX_VTIMES];
u32 nr_vtimes;
u32 next_vtime;

/* How many tasks may leave. */
s64 let_go;

/* The result of the last look(): the tasks on the DSQ, first to leave first. */
s32 queued[MAX_TASKS];
u32 nr_queued;

extern void scx_bpf_kick_cpu(s32 cpu, u64 flags) __ksym;
extern struct task_struct *scx_bpf_dsq_peek(u64 dsq_id) __ksym __weak;

static __always_inline void write_down(u32 kind, struct task_struct *p, u64 vtime, u32 flags)
{
	u64 slot = __sync_fetch_and_add(&nr_events, 1);

	if (slot >= MAX_EVENTS)
		return;
	slot &= MAX_EVENTS - 1; /* for the verifier */
	event_flags[slot] = flags;
	event_pids[slot] = p ? p->pid : 0;
	event_vtimes[slot] = vtime;
	/* The kind last, with a barrier: a concurrent reader sees a whole event or none. */
	__sync_lock_test_and_set(&event_kinds[slot], kind);
}

static __always_inline u32 flags_of(u64 enq_flags)
{
	u32 flags = enq_flags & (FLAG(SCX_ENQ_HEAD) | FLAG(SCX_ENQ_PREEMPT)) ? AT_HEAD : 0;

	if (enq_flags & ENQUEUE_RESTORE)
		flags |= RESTORED;
	return enq_flags & FLAG(SCX_ENQ_REENQ) ? flags | REENQUEUED : flags;
}

s32 STRUCT_OPS_SLEEPABLE(held_init)
{
	return scx_bpf_create_dsq(HELD_DSQ, NUMA_NO_NODE);
}

/* The kernel's own choice would send a task past the DSQ to an idle CPU. */
s32 STRUCT_OPS(held_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	return prev_cpu;
}

void STRUCT_OPS(held_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 vtime;

	__sync_fetch_and_add(&nr_inserted, 1);
	if (!nr_vtimes) {
		write_down(INSERTED, p, 0, flags_of(enq_flags));
		dsq_insert(p, HELD_DSQ, SCX_SLICE_DFL, enq_flags);
		return;
	}
	vtime = vtimes[__sync_fetch_and_add(&next_vtime, 1) % nr_vtimes & (MAX_VTIMES - 1)];
	write_down(INSERTED, p, vtime, flags_of(enq_flags));
	dsq_insert_vtime(p, HELD_DSQ, SCX_SLICE_DFL, vtime, enq_flags);
}

void STRUCT_OPS(held_dispatch, s32 cpu, struct task_struct *prev)
{
	if (let_go > 0 && dsq_move_to_local(HELD_DSQ)) {
		__sync_fetch_and_add(&let_go, -1);
		__sync_fetch_and_add(&nr_moved, 1);
		write_down(MOVED, 0, 0, 0);
	}
}

void STRUCT_OPS(held_running, struct task_struct *p)
{
	write_down(RAN, p, 0, 0);
}

void STRUCT_OPS(held_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

struct held_args {
	u64 number;
};

/* Releases so many more tasks, and kicks the CPU. */
SEC("syscall")
int release(struct held_args *args)
{
	__sync_fetch_and_add(&let_go, (s64)args->number);
	scx_bpf_kick_cpu(0, 0);
	return 0;
}

SEC("syscall")
int look(struct held_args *args)
{
	struct task_struct *p;

	nr_queued = 0;
	bpf_rcu_read_lock();
	bpf_for_each(scx_dsq, p, HELD_DSQ, 0) {
		u32 slot = nr_queued++;

		if (slot < MAX_TASKS)
			queued[slot] = p->pid;
	}
	bpf_rcu_read_unlock();
	return scx_bpf_dsq_nr_queued(HELD_DSQ);
}

/* The pid of the first task, 0 if there is none; -EOPNOTSUPP where the kernel has no such call. */
SEC("syscall")
int peek(struct held_args *args)
{
	struct task_struct *p;
	int pid = 0;

	if (!bpf_ksym_exists(scx_bpf_dsq_peek))
		return -EOPNOTSUPP;
	bpf_rcu_read_lock();
	p = scx_bpf_dsq_peek(HELD_DSQ);
	if (p)
		pid = p->pid;
	bpf_rcu_read_unlock();
	return pid;
}

/* Re-enqueues every task on the DSQ, by this CPU's per-CPU data of the DSQ. */
SEC("syscall")
int reenqueue(struct held_args *args)
{
	if (!bpf_ksym_exists(scx_bpf_dsq_reenq))
		return -EOPNOTSUPP;
	scx_bpf_dsq_reenq(HELD_DSQ, 0);
	return 0;
}

SEC(".struct_ops.link")
struct sched_ext_ops ops = {
	.select_cpu = (void *)held_select_cpu,
	.enqueue = (void *)held_enqueue,
	.dispatch = (void *)held_dispatch,
	.running = (void *)held_running,
	.init = (void *)held_init,
	.exit = (void *)held_exit,
	.flags = SCX_OPS_SWITCH_PARTIAL,
	.timeout_ms = 30000,
	.name = "kh_dsq_held",
};
