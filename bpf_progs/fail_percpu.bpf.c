/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Makes the k-th alloc_percpu() that is called from one range of text fail, exactly once. fail_function with its stack
 * filter cannot do that on arm64, where the unwinder leaves out the immediate caller at a function's entry.
 */
#include "kharness.bpf.h"
#include <asm/ptrace.h>

/* The caller's text, [start, end), and which of its calls fails; 0 fails none. */
u64 start;
u64 end;
u64 nth;

/* The thread whose calls count; 0: everybody's. */
s32 only_tid;

/* Calls from there so far, and how many were made to fail: 0 or 1. */
u64 calls;
u64 fired;

SEC("kprobe/pcpu_alloc_noprof")
int BPF_KPROBE(alloc_percpu)
{
	u64 caller = 0;

#ifdef bpf_target_riscv /* the macro of libbpf 1.5 reads memory; at a function's entry the address is in ra */
	caller = PT_REGS_RET(ctx);
#else
	BPF_KPROBE_READ_RET_IP(caller, ctx);
#endif
	if (caller < start || caller >= end)
		return 0;
	if (only_tid && (s32)bpf_get_current_pid_tgid() != only_tid)
		return 0;
	if (__sync_fetch_and_add(&calls, 1) + 1 == nth) {
		__sync_fetch_and_add(&fired, 1);
		bpf_override_return(ctx, 0);
	}
	return 0;
}
