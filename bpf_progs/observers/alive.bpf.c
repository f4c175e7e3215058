/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The live objects that were allocated since the guest was saved: all percpu objects, and the slab objects that the
 * code under test allocates by kmalloc(). Attached before the guest is saved, so it runs from a restored guest's first
 * instruction on. Everything is counted: a loss shows.
 *
 * Nothing here allocates (the map has all its elements from the start), so it is no fault site.
 */
#include "objects.bpf.h"

/* A percpu object that is older than the agent's last reset of the ledger. */
#define KIND_OLD 4

#define MAX_OBJECTS 262144
#define MAX_PLACES 256

/* vm/agent/alive.c has the same layout. */
struct object {
	u64 call_site;
	u64 caller; /* of the function that the call is in; of slab objects, 0 where it is not known */
	u32 kind;
	u32 size;
};

/* By object_key(). A percpu address stands for (base_addr, off) of its chunk (__addr_to_pcpu_ptr(), mm/percpu.c). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_OBJECTS);
	__type(key, u64);
	__type(value, struct object);
} objects SEC(".maps");

/*
 * By call site, how many such old objects were freed: later allocations there replace them. (An attach to a
 * function that has a program already replaces its trampoline, with a percpu_ref: bpf_trampoline_update().)
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PLACES);
	__type(key, u64);
	__type(value, u64);
} replaced SEC(".maps");

/* Since the agent last reset the ledger; the freed percpu objects are those that were recorded ... */
s64 percpu_allocated;
s64 percpu_freed;
/* ... and these were not, or are old. */
s64 percpu_older;
s64 slab_allocated;
s64 slab_alive;

/*
 * include/trace/events/percpu.h. The tracepoint of the free is reached with pcpu_lock held and interrupts off, before the
 * area can be handed out again: the two are never in the wrong order, and the latter's program never comes to itself.
 */
SEC("tp_btf/percpu_alloc_percpu")
int BPF_PROG(percpu_object_made, unsigned long call_site, bool reserved, bool is_atomic, u64 size, u64 align,
	     void *base_addr, int off, void *ptr)
{
	struct object object = { .call_site = call_site, .kind = KIND_PERCPU, .size = size };
	u64 key = object_key(ptr, true);

	__sync_fetch_and_add(&percpu_allocated, 1);
	if (bpf_map_update_elem(&objects, &key, &object, BPF_ANY))
		__sync_fetch_and_add(&lost, 1);
	return 0;
}

static __always_inline void old_one_gone(u64 call_site)
{
	u64 *times = bpf_map_lookup_elem(&replaced, &call_site), once = 1;

	if (times)
		++*times; /* pcpu_lock is global */
	else if (bpf_map_update_elem(&replaced, &call_site, &once, BPF_NOEXIST))
		__sync_fetch_and_add(&lost, 1);
}

SEC("tp_btf/percpu_free_percpu")
int BPF_PROG(percpu_object_gone, void *base_addr, int off, void *ptr)
{
	u64 key = object_key(ptr, true);
	struct object *object = bpf_map_lookup_elem(&objects, &key);

	if (object && object->kind == KIND_PERCPU) {
		__sync_fetch_and_add(&percpu_freed, 1);
	} else {
		__sync_fetch_and_add(&percpu_older, 1);
		if (object)
			old_one_gone(object->call_site);
	}
	bpf_map_delete_elem(&objects, &key);
	return 0;
}

#define CALLERS 12

/* The compiler may not inline a wrapper of kmalloc() in the code under test: then its caller is one frame further. */
static __always_inline u64 caller_of(void *ctx, u64 call_site)
{
	u64 stack[CALLERS] = {};
	long bytes = bpf_get_stack(ctx, stack, sizeof(stack), 0);
	int i;

	for (i = 0; i < CALLERS - 1 && (i + 1) * (long)sizeof(u64) < bytes; i++) {
		if (stack[i] == call_site)
			return stack[i + 1];
	}
	return 0;
}

static __always_inline int slab_made(void *ctx, u64 call_site, const void *ptr, u64 size)
{
	struct object object = { .call_site = call_site, .kind = KIND_SLAB, .size = size };
	u64 key = object_key(ptr, false);
	long err;

	if (!ptr || !in_ranges(call_site) || bpf_map_lookup_elem(&objects, &key))
		return 0;
	object.caller = caller_of(ctx, call_site);
	err = bpf_map_update_elem(&objects, &key, &object, BPF_NOEXIST);
	if (!err) {
		__sync_fetch_and_add(&slab_alive, 1);
		__sync_fetch_and_add(&slab_allocated, 1);
	} else if (err != -EEXIST) { /* its twin has it */
		__sync_fetch_and_add(&lost, 1);
	}
	return 0;
}

static __always_inline int slab_gone(const void *ptr)
{
	u64 key = object_key(ptr, false);

	/* Every kfree() of the system comes by here. */
	if (slab_alive && !bpf_map_delete_elem(&objects, &key))
		__sync_fetch_and_add(&slab_alive, -1);
	return 0;
}

/*
 * Each slab tracepoint has two programs: a CPU does not run a program while it runs it already, and an interrupt that
 * allocates or frees comes in between. One of the two sees it (it takes an interrupt in an interrupt's to miss both), and
 * that both do does no harm. kfree()'s tracepoint comes before the object can be handed out again.
 *
 * include/trace/events/kmem.h
 */
SEC("tp_btf/kmalloc")
int BPF_PROG(slab_object_made, unsigned long call_site, const void *ptr, u64 bytes_req)
{
	return slab_made(ctx, call_site, ptr, bytes_req);
}

SEC("tp_btf/kmalloc")
int BPF_PROG(slab_object_made_again, unsigned long call_site, const void *ptr, u64 bytes_req)
{
	return slab_made(ctx, call_site, ptr, bytes_req);
}

SEC("tp_btf/kfree")
int BPF_PROG(slab_object_gone, unsigned long call_site, const void *ptr)
{
	return slab_gone(ptr);
}

SEC("tp_btf/kfree")
int BPF_PROG(slab_object_gone_again, unsigned long call_site, const void *ptr)
{
	return slab_gone(ptr);
}

/* kfree_rcu(): the object counts as freed, as no tracepoint reports it later (mm/slab_common.c). */
SEC("fentry/kvfree_call_rcu")
int BPF_PROG(slab_object_handed_over, void *head, void *ptr)
{
	return slab_gone(ptr);
}

SEC("fentry/kvfree_call_rcu")
int BPF_PROG(slab_object_handed_over_again, void *head, void *ptr)
{
	return slab_gone(ptr);
}
