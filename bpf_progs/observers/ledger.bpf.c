/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Records every percpu and slab object that the watched threads allocate under the functions under test, with the
 * number of the run, and removes the freed ones, whichever task frees them. What is left at a quiescent point is leaked,
 * and its run shows which fault it was. Exact: nothing is scanned, nothing waits.
 */
#include "objects.bpf.h"

#define MAX_OBJECTS 16384
#define MAX_DEPTH 28

struct object {
	u64 run;
	u32 kind;
	u32 size;
	u32 depth;
	u32 unused;
	u64 stack[MAX_DEPTH];
};

/* By object_key(). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_OBJECTS);
	__type(key, u64);
	__type(value, struct object);
} objects SEC(".maps");

/* One for each kind: the programs of two kinds may interrupt each other, one never itself. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * (KIND_SLAB + 1));
	__type(key, u32);
	__type(value, struct object);
} scratch SEC(".maps");

/* Recording is on while this is not 0. The agent sets it, and the counts below to 0, before each run. */
u64 run;

/* The threads; 0: none. */
s32 tid;
s32 other_tid;

/* Slab objects count if they are allocated in the ranges or, with this set, anywhere below. Stacks are kept only then. */
u32 deep;

/* Objects of this run that are alive. */
s64 live_percpu;
s64 live_slab;

/* Failed alloc_percpu() calls of any task. */
u64 percpu_failed;

static __always_inline bool stack_in_ranges(const struct object *object)
{
	u32 i;

	bpf_for(i, 0, MAX_DEPTH) {
		if (i >= object->depth)
			break;
		if (in_ranges(object->stack[i]))
			return true;
	}
	return false;
}

static __always_inline bool watched(void)
{
	s32 now = (s32)bpf_get_current_pid_tgid();

	return run && now && (now == tid || now == other_tid);
}

/* The whole stack where it is requested and available, else the caller of the allocator. */
static __always_inline void keep_stack(void *ctx, struct object *object, u64 call_site)
{
	long bytes = deep ? bpf_get_stack(ctx, object->stack, sizeof(object->stack), 0) : 0;

	object->depth = 1;
	if (bytes > 0)
		object->depth = bytes / sizeof(u64);
	else
		object->stack[0] = call_site;
}

static __always_inline void allocated(void *ctx, u32 slot, u32 kind, u64 call_site, const void *at, u64 size)
{
	u64 key = object_key(at, kind == KIND_PERCPU);
	struct object *object = bpf_map_lookup_elem(&scratch, &slot);

	if (!object || !at)
		return;
	object->run = run;
	object->kind = kind;
	object->size = size;
	keep_stack(ctx, object, call_site);
	if (kind == KIND_SLAB && !in_ranges(call_site) && !(deep && stack_in_ranges(object)))
		return;
	if (bpf_map_update_elem(&objects, &key, object, BPF_ANY)) {
		__sync_fetch_and_add(&lost, 1);
		return;
	}
	if (kind == KIND_PERCPU)
		__sync_fetch_and_add(&live_percpu, 1);
	else
		__sync_fetch_and_add(&live_slab, 1);
}

static __always_inline void freed(const void *at, u32 kind)
{
	u64 key = object_key(at, kind == KIND_PERCPU);
	struct object *object = bpf_map_lookup_elem(&objects, &key);

	if (!object)
		return;
	if (object->run == run) {
		if (kind == KIND_PERCPU)
			__sync_fetch_and_add(&live_percpu, -1);
		else
			__sync_fetch_and_add(&live_slab, -1);
	}
	bpf_map_delete_elem(&objects, &key);
}

/* include/trace/events/percpu.h */
SEC("tp_btf/percpu_alloc_percpu")
int BPF_PROG(percpu_allocated, unsigned long call_site, bool reserved, bool is_atomic, u64 size, u64 align,
	     void *base_addr, int off, void *ptr)
{
	if (watched())
		allocated(ctx, 0, KIND_PERCPU, call_site, ptr, size);
	return 0;
}

SEC("tp_btf/percpu_free_percpu")
int BPF_PROG(percpu_freed, void *base_addr, int off, void *ptr)
{
	freed(ptr, KIND_PERCPU);
	return 0;
}

SEC("tp_btf/percpu_alloc_percpu_fail")
int BPF_PROG(percpu_empty_handed, bool reserved, bool is_atomic, u64 size, u64 align)
{
	__sync_fetch_and_add(&percpu_failed, 1);
	return 0;
}

/* include/trace/events/kmem.h */
SEC("tp_btf/kmalloc")
int BPF_PROG(slab_allocated, unsigned long call_site, const void *ptr, u64 bytes_req)
{
	if (watched())
		allocated(ctx, 1, KIND_SLAB, call_site, ptr, bytes_req);
	return 0;
}

struct kmem_cache {
	unsigned int object_size;
} KERNEL_TYPE;

SEC("tp_btf/kmem_cache_alloc")
int BPF_PROG(cache_allocated, unsigned long call_site, const void *ptr, struct kmem_cache *cache)
{
	if (watched() && deep)
		allocated(ctx, 2, KIND_SLAB, call_site, ptr, cache ? cache->object_size : 0);
	return 0;
}

/*
 * Each freeing tracepoint has two programs: a CPU does not run a program while it runs it already, and an interrupt
 * that frees comes in between. One of the two always sees it; crossing out twice does no harm.
 */
SEC("tp_btf/kfree")
int BPF_PROG(slab_freed, unsigned long call_site, const void *ptr)
{
	freed(ptr, KIND_SLAB);
	return 0;
}

SEC("tp_btf/kfree")
int BPF_PROG(slab_freed_again, unsigned long call_site, const void *ptr)
{
	freed(ptr, KIND_SLAB);
	return 0;
}

/* kfree_rcu(): the object counts as freed, as no tracepoint reports it later (mm/slab_common.c). */
SEC("fentry/kvfree_call_rcu")
int BPF_PROG(freed_later, void *head, void *ptr)
{
	freed(ptr, KIND_SLAB);
	return 0;
}

SEC("tp_btf/kmem_cache_free")
int BPF_PROG(cache_freed, unsigned long call_site, const void *ptr)
{
	freed(ptr, KIND_SLAB);
	return 0;
}

SEC("tp_btf/kmem_cache_free")
int BPF_PROG(cache_freed_again, unsigned long call_site, const void *ptr)
{
	freed(ptr, KIND_SLAB);
	return 0;
}
