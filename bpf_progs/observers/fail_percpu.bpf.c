/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Lets the k-th alloc_percpu() of certain callers fail, exactly once. fail_function with its stack filter cannot
 * do that on arm64, where the unwinder leaves out the immediate caller at a function's entry.
 */
#include "kharness.bpf.h"
#include <asm/ptrace.h>

#define MAX_CALLERS 64

/* The return addresses of the calls that count; none: every call does. */
u64 callers[MAX_CALLERS];
u32 nr_callers;

/* Which of the calls fails; 0 fails none. */
u64 nth;

/* The thread whose calls count; 0: all threads'. */
s32 only_tid;

/* Calls that counted so far, and how many failed: 0 or 1. */
u64 calls;
u64 fired;

/* The failed call, and its stack; on arm64 the stack lacks the caller. */
#define MAX_DEPTH 16

u64 fired_caller;
u64 fired_stack[MAX_DEPTH];
u32 fired_depth;

/* Return addresses seen while `learn` is set, and how often. */
u32 learn;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u64);
} seen SEC(".maps");

static __always_inline void note(u64 caller)
{
	u64 one = 1, *times = bpf_map_lookup_elem(&seen, &caller);

	if (times)
		__sync_fetch_and_add(times, 1);
	else
		bpf_map_update_elem(&seen, &caller, &one, BPF_ANY);
}

static __always_inline bool counts(u64 caller)
{
	int i;

	if (!nr_callers)
		return true;
	bpf_for(i, 0, MAX_CALLERS) {
		if (i >= nr_callers)
			break;
		if (callers[i] == caller)
			return true;
	}
	return false;
}

SEC("kprobe/pcpu_alloc_noprof")
int BPF_KPROBE(alloc_percpu)
{
	u64 caller = 0;

#ifdef bpf_target_riscv /* the macro of libbpf 1.5 reads memory; at a function's entry the address is in ra */
	caller = PT_REGS_RET(ctx);
#else
	BPF_KPROBE_READ_RET_IP(caller, ctx);
#endif
	if (only_tid && (s32)bpf_get_current_pid_tgid() != only_tid)
		return 0;
	if (learn)
		note(caller);
	if (!nth || !counts(caller))
		return 0;
	if (__sync_fetch_and_add(&calls, 1) + 1 == nth) {
		long bytes = bpf_get_stack(ctx, fired_stack, sizeof(fired_stack), 0);

		fired_depth = bytes > 0 ? bytes / sizeof(u64) : 0;
		fired_caller = caller;
		__sync_fetch_and_add(&fired, 1);
		bpf_override_return(ctx, 0);
	}
	return 0;
}
