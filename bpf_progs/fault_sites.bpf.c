/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Observes fault injection: each allocation site that the watched task reaches, with its stack, size and gfp
 * flags, and which of them were made to fail. Replaces the printk dump of lib/fault-inject.c, which prints
 * neither size nor flags and disturbs what it describes.
 */
#include "kharness.bpf.h"

enum { SITE_SLAB = 1, SITE_PAGE = 2 };

#define MAX_SITES 4096
#define MAX_DEPTH 32

struct kmem_cache {
	unsigned int object_size;
} KERNEL_TYPE;

/* One site: a type and a stack. The map's key is a hash of both; 0 is never one. */
struct site {
	u64 reached;
	u64 injected;
	u32 type;
	u32 size;
	u32 gfp;
	u32 depth;
	u64 stack[MAX_DEPTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SITES);
	__type(key, u64);
	__type(value, struct site);
} sites SEC(".maps");

/* Too large for the BPF stack; one for each type, since either program may interrupt the other but not itself. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SITE_PAGE + 1);
	__type(key, u32);
	__type(value, struct site);
} scratch SEC(".maps");

/* The thread id to watch; 0 watches nobody, below 0 everybody. */
s32 watch_tid;

/* Look only at sites that are made to fail. */
u32 only_injected;

/* The site that was made to fail last, and how many were: what the agent's sweep reads after each run. */
u64 last_site;
u64 fired;

/* Observations that found no room: the evidence is then incomplete. */
u64 lost;

/*
 * What the guest's module says on the console should the kernel die (vm/module/kharness.c has the same layout): the agent
 * writes what it is doing, `site` to `stack` are the fault that was injected meanwhile.
 */
#define TOLD_DEPTH 16

struct told {
	char what[64];
	u64 nth;
	u64 site;
	u32 type;
	u32 depth;
	u64 stack[TOLD_DEPTH];
};

struct told told;

/* FNV-1a over the type and the words of the stack. */
static __always_inline u64 hash_site(const struct site *site)
{
	u64 hash = 0xcbf29ce484222325ULL ^ site->type;

	/* Not bpf_for, which calls the kernel for each turn. */
	for (u32 i = 0; i < MAX_DEPTH && i < site->depth; i++) {
		hash = (hash ^ site->stack[i]) * 0x100000001b3ULL;
		hash ^= hash >> 29;
	}
	return hash ?: 1;
}

static __always_inline struct site *find_site(u64 hash, const struct site *fresh)
{
	struct site *site = bpf_map_lookup_elem(&sites, &hash);

	if (!site) {
		bpf_map_update_elem(&sites, &hash, fresh, BPF_NOEXIST);
		site = bpf_map_lookup_elem(&sites, &hash);
	}
	return site;
}

static __always_inline void tell(const struct site *site, u64 hash)
{
	__builtin_memcpy(told.stack, site->stack, sizeof(told.stack));
	told.type = site->type;
	told.depth = site->depth < TOLD_DEPTH ? site->depth : TOLD_DEPTH;
	told.site = hash;
}

static __always_inline void observe(void *ctx, u32 type, u32 size, u32 gfp, bool injected)
{
	struct site *fresh, *site;
	long bytes;
	u64 hash;

	if (only_injected && !injected)
		return;
	if (!watch_tid || (watch_tid > 0 && (s32)bpf_get_current_pid_tgid() != watch_tid))
		return;
	fresh = bpf_map_lookup_elem(&scratch, &type);
	if (!fresh)
		return;
	bytes = bpf_get_stack(ctx, fresh->stack, sizeof(fresh->stack), 0);
	fresh->type = type;
	fresh->size = size;
	fresh->gfp = gfp;
	fresh->depth = bytes > 0 ? bytes / sizeof(u64) : 0;
	hash = hash_site(fresh);
	site = find_site(hash, fresh);
	if (site) {
		__sync_fetch_and_add(&site->reached, 1);
		if (injected)
			__sync_fetch_and_add(&site->injected, 1);
	} else {
		__sync_fetch_and_add(&lost, 1);
	}
	if (injected) {
		last_site = hash;
		tell(fresh, hash);
		__sync_fetch_and_add(&fired, 1);
	}
}

SEC("fexit/should_failslab")
int BPF_PROG(slab_site, struct kmem_cache *cache, u32 gfp, int ret)
{
	observe(ctx, SITE_SLAB, cache ? cache->object_size : 0, gfp, ret != 0);
	return 0;
}

SEC("fexit/should_fail_alloc_page")
int BPF_PROG(page_site, u32 gfp, u32 order, bool ret)
{
	observe(ctx, SITE_PAGE, order, gfp, ret);
	return 0;
}
