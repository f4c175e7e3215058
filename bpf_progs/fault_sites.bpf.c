/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Observes fault injection: each allocation site that the watched task reaches, with its stack, size and gfp
 * flags, and which of them were made to fail. Replaces the printk dump of lib/fault-inject.c, which prints
 * neither size nor flags and disturbs what it describes.
 */
#include "kharness.bpf.h"

enum { SITE_SLAB = 1, SITE_PAGE = 2 };

#define MAX_SITES 4096

struct kmem_cache {
	unsigned int object_size;
} KERNEL_TYPE;

struct site_key {
	u32 type;
	s32 stack;
};

struct site {
	u64 reached;
	u64 injected;
	u32 size;
	u32 gfp;
};

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, MAX_SITES);
	__uint(key_size, sizeof(u32));
	__uint(value_size, 32 * sizeof(u64));
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SITES);
	__type(key, struct site_key);
	__type(value, struct site);
} sites SEC(".maps");

/* The thread id to watch; 0 watches nobody, below 0 everybody. */
s32 watch_tid;

/* Look only at sites that are made to fail. */
u32 only_injected;

/* The site that was made to fail last, and how many were: what the agent's sweep reads after each run. */
u32 last_type;
s32 last_stack;
u64 fired;

/* Observations that found no room: the evidence is then incomplete. */
u64 lost;

static __always_inline void observe(void *ctx, u32 type, u32 size, u32 gfp, bool injected)
{
	struct site_key key = { .type = type };
	struct site *site;

	if (only_injected && !injected)
		return;
	if (!watch_tid || (watch_tid > 0 && (s32)bpf_get_current_pid_tgid() != watch_tid))
		return;
	key.stack = bpf_get_stackid(ctx, &stacks, 0);
	if (key.stack < 0) {
		__sync_fetch_and_add(&lost, 1);
	} else {
		site = bpf_map_lookup_elem(&sites, &key);
		if (!site) {
			struct site fresh = { .size = size, .gfp = gfp };

			bpf_map_update_elem(&sites, &key, &fresh, BPF_NOEXIST);
			site = bpf_map_lookup_elem(&sites, &key);
		}
		if (site) {
			__sync_fetch_and_add(&site->reached, 1);
			if (injected)
				__sync_fetch_and_add(&site->injected, 1);
		} else {
			__sync_fetch_and_add(&lost, 1);
		}
	}
	if (injected) {
		last_type = type;
		last_stack = key.stack;
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
