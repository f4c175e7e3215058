/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A reader of a user DSQ that stays inside its RCU read-side section until user space releases it: it has looked the DSQ
 * up, as an iterator does, and then uses it.
 */
#include "scx.bpf.h"

/* Why it found no DSQ; 0: it did. */
s32 refused;
/* 1: it uses the DSQ; 2: it has left it. */
u32 stage;
/* Set to end it; it ends by itself after patience_ns. */
u32 release;
u32 gave_up;
/* Set if the DSQ has been freed nevertheless: its memory is not touched. */
u32 keep_off;
u64 patience_ns = 1000000000;
/* Its CPU, and the number of tasks that it found in the DSQ. */
u32 cpu;
u64 tasks;

#define TURNS (1 << 16)

static bool over(u64 end)
{
	if (*(volatile u32 *)&release)
		return true;
	gave_up = bpf_ktime_get_ns() > end;
	return gave_up;
}

static long turn(u64 i, u64 *end)
{
	return over(*end);
}

static long turns(u64 i, u64 *end)
{
	bpf_loop(TURNS, turn, end, 0);
	return over(*end);
}

struct reader_args {
	u64 dsq_id;
};

SEC("syscall")
int hold(struct reader_args *args)
{
	u64 end = bpf_ktime_get_ns() + patience_ns;
	struct bpf_iter_scx_dsq it;
	int i;

	bpf_rcu_read_lock();
	refused = bpf_iter_scx_dsq_new(&it, args->dsq_id, 0);
	if (!refused) {
		cpu = bpf_get_smp_processor_id();
		__sync_lock_test_and_set(&stage, 1);
		bpf_loop(TURNS, turns, &end, 0);
		bpf_for(i, 0, 16) {
			if (*(volatile u32 *)&keep_off || !bpf_iter_scx_dsq_next(&it))
				break;
			tasks++;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	bpf_rcu_read_unlock();
	__sync_lock_test_and_set(&stage, 2);
	return refused;
}
