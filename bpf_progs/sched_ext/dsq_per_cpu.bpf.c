/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A scheduler with one user DSQ for each CPU. It stays when CPUs go offline and come back. From the DSQ of one CPU it
 * takes nothing: only the kernel itself moves tasks away from there. On its way offline a CPU can be made to request a
 * re-enqueue, which then waits until other work is deferred there.
 */
#include "flags.bpf.h"

extern s32 scx_bpf_task_cpu(const struct task_struct *p) __ksym;
extern const void __cpu_active_mask __ksym; /* kernel/cpu.c */

u32 nr_cpus = 1;
s32 closed_cpu = -1;

/* The CPU that requests re-enqueues of its own DSQ and of another one on its way offline, and their number. */
s32 asking_cpu = -1;
u64 asked_dsq;
u64 asked;

u64 offline;
u64 online;

/* Tasks that were enqueued by scx_bpf_dsq_reenq(). */
u64 reenqueued;

s32 STRUCT_OPS_SLEEPABLE(percpu_init)
{
	u32 i;

	bpf_for(i, 0, nr_cpus) {
		s32 ret = scx_bpf_create_dsq(i, NUMA_NO_NODE);

		if (ret)
			return ret;
	}
	return 0;
}

/* The kernel's own choice would send a task past its DSQ to an idle CPU. */
s32 STRUCT_OPS(percpu_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	return prev_cpu;
}

void STRUCT_OPS(percpu_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (enq_flags & FLAG(SCX_ENQ_REENQ))
		__sync_fetch_and_add(&reenqueued, 1);
	dsq_insert(p, scx_bpf_task_cpu(p), SCX_SLICE_DFL, enq_flags);
}

static __always_inline bool is_active(u32 cpu)
{
	u64 word = 0;

	bpf_probe_read_kernel(&word, sizeof(word), (void *)&__cpu_active_mask + cpu / 64 * sizeof(word));
	return word >> cpu % 64 & 1;
}

/*
 * sched_cpu_deactivate() waits for a grace period between balance_push_set() and rq_offline_scx(): the CPU still comes
 * here, but queue_balance_callback() no longer queues the callback for the deferred work.
 */
static __always_inline void ask(s32 cpu)
{
	if (cpu != asking_cpu || is_active(cpu) || !bpf_ksym_exists(scx_bpf_dsq_reenq))
		return;
	scx_bpf_dsq_reenq(cpu, 0);
	scx_bpf_dsq_reenq(asked_dsq, 0);
	__sync_fetch_and_add(&asked, 1);
}

void STRUCT_OPS(percpu_dispatch, s32 cpu, struct task_struct *prev)
{
	ask(cpu);
	if (cpu != closed_cpu)
		dsq_move_to_local(cpu);
}

void STRUCT_OPS(percpu_cpu_online, s32 cpu)
{
	__sync_fetch_and_add(&online, 1);
}

void STRUCT_OPS(percpu_cpu_offline, s32 cpu)
{
	__sync_fetch_and_add(&offline, 1);
}

void STRUCT_OPS(percpu_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

struct per_cpu_args {
	u64 dsq_id;
};

/* Re-enqueues every task on the DSQ, by the DSQ's per-CPU data of the CPU that this runs on. */
SEC("syscall")
int reenqueue(struct per_cpu_args *args)
{
	if (!bpf_ksym_exists(scx_bpf_dsq_reenq))
		return -EOPNOTSUPP;
	scx_bpf_dsq_reenq(args->dsq_id, 0);
	return 0;
}

SEC(".struct_ops.link")
struct sched_ext_ops ops = {
	.select_cpu = (void *)percpu_select_cpu,
	.enqueue = (void *)percpu_enqueue,
	.dispatch = (void *)percpu_dispatch,
	.cpu_online = (void *)percpu_cpu_online,
	.cpu_offline = (void *)percpu_cpu_offline,
	.init = (void *)percpu_init,
	.exit = (void *)percpu_exit,
	.flags = SCX_OPS_SWITCH_PARTIAL,
	.timeout_ms = 30000,
	.name = "kh_dsq_per_cpu",
};
