/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Decides which allocations fail, the same ones each time: the n-th, every n-th, or a share of them drawn from a seed.
 * The kernel's own fault injection cannot be seeded, and where its "every n-th" begins is not known.
 */
#include "kharness.bpf.h"
#include <asm/ptrace.h>

enum { TYPE_SLAB = 1, TYPE_PAGE = 2, TYPE_PERCPU = 4 };

#define MAX_DEPTH 64
#define MAX_RANGES 16
#define TOLD_DEPTH 16

/* Set by the agent right before the operation, cleared right after it: only what comes meanwhile counts. */
u32 live;

/* Which allocations can fail: a sum of TYPE_*. */
u32 types;

/* The thread whose allocations count; 0: all, interrupts included. */
s32 only_tid;

/* Text ranges [start, end) of which one must be on the stack; none: no condition. */
u64 starts[MAX_RANGES];
u64 ends[MAX_RANGES];
u32 nr_ranges;

/* The text whose calls of alloc_percpu() count; none: all calls. */
u64 caller_starts[MAX_RANGES];
u64 caller_ends[MAX_RANGES];
u32 nr_callers;

/* Which of those that count fail; of nth, every and probability (per cent) one is set. At most `times` of them. */
u64 nth;
u64 every;
u64 probability;
u64 seed;
u64 times;

/* This kernel's __GFP_NOFAIL: such an allocation may not fail. */
u32 gfp_nofail;

/* How many counted, and how many failed. */
u64 calls;
u64 fired;

/* The last failed alloc_percpu(); on arm64 the stack lacks its caller. */
u64 fired_caller;
u64 fired_stack[TOLD_DEPTH];
u32 fired_depth;

struct kmem_cache {
	const char *name;
} KERNEL_TYPE;

/* Too large for the BPF stack. Each type has its own, for one allocation may come within another. */
struct stack {
	u64 at[MAX_DEPTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TYPE_PERCPU + 1);
	__type(key, u32);
	__type(value, struct stack);
} scratch SEC(".maps");

/* preempt_count() with a hard interrupt, an NMI or a soft interrupt in service (include/linux/preempt.h) */
#define INTERRUPTED 0x00ff0100

#ifdef bpf_target_x86
struct pcpu_hot {
	int preempt_count;
} KERNEL_TYPE;

extern const int __preempt_count __ksym __weak;
extern const struct pcpu_hot pcpu_hot __ksym __weak; /* until 6.14 */

static __always_inline int preempt_count(void)
{
	if (bpf_ksym_exists(&__preempt_count))
		return *(int *)bpf_this_cpu_ptr(&__preempt_count);
	if (bpf_ksym_exists(&pcpu_hot))
		return ((struct pcpu_hot *)bpf_this_cpu_ptr(&pcpu_hot))->preempt_count;
	return 0;
}
#else
struct thread_info {
	int preempt_count;
} KERNEL_TYPE;

struct task_struct___info {
	struct thread_info thread_info;
} KERNEL_TYPE;

static __always_inline int preempt_count(void)
{
	struct task_struct___info *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, thread_info.preempt_count);
}
#endif

static __always_inline bool in_text(const u64 *from, const u64 *to, u32 nr, u64 address)
{
	int i;

	bpf_for(i, 0, MAX_RANGES) {
		if (i >= nr)
			break;
		/* a return address is one past its call, which may be a function's last instruction */
		if (from[i] < address && address <= to[i])
			return true;
	}
	return false;
}

static __always_inline bool on_stack(void *ctx, u32 type, u64 caller)
{
	struct stack *stack = bpf_map_lookup_elem(&scratch, &type);
	long bytes;
	int i;

	if (!stack)
		return false;
	if (caller && in_text(starts, ends, nr_ranges, caller))
		return true;
	bytes = bpf_get_stack(ctx, stack->at, sizeof(stack->at), 0);
	bpf_for(i, 0, MAX_DEPTH) {
		if (bytes < 0 || i >= bytes / sizeof(u64))
			break;
		if (in_text(starts, ends, nr_ranges, stack->at[i]))
			return true;
	}
	return false;
}

/* splitmix64 of the seed and the number of the call, so that the order of CPUs does not matter. */
static __always_inline u64 draw(u64 n)
{
	u64 z = seed + n * 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static __always_inline bool chosen(u64 n)
{
	if (nth)
		return n == nth;
	if (every)
		return n % every == 0;
	return draw(n) % 100 < probability;
}

/* Whether this allocation is to fail. `caller` is a return address, where the stack may lack it. */
static __always_inline bool decide(void *ctx, u32 type, u64 caller)
{
	if (!live || !(types & type))
		return false;
	if (only_tid && ((s32)bpf_get_current_pid_tgid() != only_tid || preempt_count() & INTERRUPTED))
		return false;
	if (nr_callers && caller && !in_text(caller_starts, caller_ends, nr_callers, caller))
		return false;
	if (nr_ranges && !on_stack(ctx, type, caller))
		return false;
	if (!chosen(__sync_fetch_and_add(&calls, 1) + 1))
		return false;
	if (__sync_fetch_and_add(&fired, 1) < times)
		return true;
	__sync_fetch_and_add(&fired, -1);
	return false;
}

/* As in mm/failslab.c: allocations that may not fail, and the cache of caches, are spared. */
static __always_inline bool spared(struct kmem_cache *cache, u32 gfp)
{
	static const char caches[] = "kmem_cache";
	char name[sizeof(caches)] = {};
	int i;

	if (gfp & gfp_nofail)
		return true;
	bpf_probe_read_kernel_str(name, sizeof(name), cache->name);
	for (i = 0; i < sizeof(caches); i++)
		if (name[i] != caches[i])
			return false;
	return true;
}

SEC("fmod_ret/should_failslab")
int BPF_PROG(fail_slab, struct kmem_cache *cache, u32 gfp, int ret)
{
	if (ret || !live || spared(cache, gfp))
		return ret;
	return decide(ctx, TYPE_SLAB, 0) ? -ENOMEM : 0;
}

SEC("fmod_ret/should_fail_alloc_page")
int BPF_PROG(fail_page, u32 gfp, u32 order, int ret)
{
	if (ret || gfp & gfp_nofail)
		return ret;
	return decide(ctx, TYPE_PAGE, 0);
}

static __always_inline void record_caller(struct pt_regs *ctx, u64 caller)
{
	long bytes = bpf_get_stack(ctx, fired_stack, sizeof(fired_stack), 0);

	fired_depth = bytes > 0 ? bytes / sizeof(u64) : 0;
	fired_caller = caller;
}

SEC("kprobe/pcpu_alloc_noprof")
int BPF_KPROBE(fail_percpu)
{
	u64 caller = 0;

#ifdef bpf_target_riscv /* the macro of libbpf 1.5 reads memory; at a function's entry the address is in ra */
	caller = PT_REGS_RET(ctx);
#else
	BPF_KPROBE_READ_RET_IP(caller, ctx);
#endif
	if (!decide(ctx, TYPE_PERCPU, caller))
		return 0;
	record_caller(ctx, caller);
	bpf_override_return(ctx, 0);
	return 0;
}
