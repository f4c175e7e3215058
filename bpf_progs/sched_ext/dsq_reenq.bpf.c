/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A scheduler that lets re-enqueues of an empty DSQ wait in the per-CPU data of several CPUs while the DSQ is destroyed.
 * In ops.dispatch interrupts are off and the runqueue is locked: a request there is done when ops.dispatch has returned,
 * and that waits until another CPU has destroyed the DSQ.
 */
#include "flags.bpf.h"

#define MAX_CPUS 64
#define TURNS (1 << 20)

/* The CPUs that request a re-enqueue at their next dispatch, its DSQ, and whether they destroy it themselves. */
u64 wanted;
u64 dsq_id;
u32 alone;

/*
 * CPUs that are about to request, those that have requested and wait, all that did so until the DSQ was destroyed, and
 * those that timed out. Once it is closed no CPU requests any more: for a DSQ that is gone that would eject the scheduler.
 */
u64 asking;
u64 waiting;
u32 closed;
u64 held[MAX_CPUS];
u32 gave_up;
u32 destroyed;
u64 patience_ns = 200000000;
u32 nr_cpus = 1;

extern void scx_bpf_kick_cpu(s32 cpu, u64 flags) __ksym;

static long until_destroyed(u64 i, u64 *end)
{
	return *(volatile u32 *)&destroyed || bpf_ktime_get_ns() > *end;
}

static long until_all_wait(u64 i, u64 *end)
{
	return *(volatile u64 *)&waiting == wanted || bpf_ktime_get_ns() > *end;
}

static long until_none_asks(u64 i, u64 *end)
{
	return !(*(volatile u64 *)&asking & ~*(volatile u64 *)&waiting) || bpf_ktime_get_ns() > *end;
}

void STRUCT_OPS(reenq_dispatch, s32 cpu, struct task_struct *prev)
{
	u64 mine = 1ULL << (cpu & (MAX_CPUS - 1)), end = bpf_ktime_get_ns() + patience_ns;

	if (!(wanted & mine) || waiting & mine || destroyed || !bpf_ksym_exists(scx_bpf_dsq_reenq))
		return;
	__sync_fetch_and_or(&asking, mine);
	if (*(volatile u32 *)&closed) {
		__sync_fetch_and_and(&asking, ~mine);
		return;
	}
	scx_bpf_dsq_reenq(dsq_id, 0);
	if (alone) {
		scx_bpf_destroy_dsq(dsq_id);
		destroyed = 1;
	}
	__sync_fetch_and_or(&waiting, mine);
	bpf_loop(TURNS, until_destroyed, &end, 0);
	if (destroyed)
		__sync_fetch_and_add(&held[cpu & (MAX_CPUS - 1)], 1);
	else
		__sync_fetch_and_add(&gave_up, 1);
}

void STRUCT_OPS(reenq_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

struct reenq_args {
	u64 dsq_id;
	u64 cpus; /* one bit each */
};

static __always_inline void want(struct reenq_args *args, bool by_itself)
{
	u32 cpu;

	dsq_id = args->dsq_id;
	alone = by_itself;
	asking = waiting = closed = destroyed = 0;
	__sync_lock_test_and_set(&wanted, args->cpus);
	bpf_for(cpu, 0, nr_cpus)
		if (args->cpus >> (cpu & (MAX_CPUS - 1)) & 1)
			scx_bpf_kick_cpu(cpu, 0);
}

/* The first of these CPUs that dispatches requests a re-enqueue of the DSQ and destroys it. */
SEC("syscall")
int destroy_there(struct reenq_args *args)
{
	want(args, true);
	return 0;
}

/*
 * Destroys the DSQ while re-enqueues of it wait on these CPUs, which do not include this one. 0, or -ETIMEDOUT if not
 * all of them came to wait: it is destroyed nevertheless. -EBUSY: it is not, as one of them was still requesting.
 */
SEC("syscall")
int destroy_under(struct reenq_args *args)
{
	u64 end = bpf_ktime_get_ns() + patience_ns;
	bool all;

	want(args, false);
	bpf_loop(TURNS, until_all_wait, &end, 0);
	__sync_lock_test_and_set(&closed, 1);
	end = bpf_ktime_get_ns() + patience_ns;
	bpf_loop(TURNS, until_none_asks, &end, 0);
	if (*(volatile u64 *)&asking & ~*(volatile u64 *)&waiting) {
		wanted = 0;
		return -EBUSY;
	}
	all = *(volatile u64 *)&waiting == args->cpus;
	scx_bpf_destroy_dsq(dsq_id);
	__sync_lock_test_and_set(&destroyed, 1);
	wanted = 0;
	return all ? 0 : -ETIMEDOUT;
}

SEC(".struct_ops.link")
struct sched_ext_ops ops = {
	.dispatch = (void *)reenq_dispatch,
	.exit = (void *)reenq_exit,
	.flags = SCX_OPS_SWITCH_PARTIAL,
	.name = "kh_dsq_reenq",
};
