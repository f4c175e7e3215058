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

/*
 * Which stack goes with which return addresses on it: unwinding costs as much as all the rest of a create that fails, and
 * a sweep sees the same few stacks again and again.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SITES);
	__type(key, u64);
	__type(value, u64);
} known SEC(".maps");

#define MAX_WORDS 256
#define STACK_SIZE 16384 /* the least THREAD_SIZE, to which stacks are aligned */

struct words {
	u64 at[MAX_WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SITE_PAGE + 1);
	__type(key, u32);
	__type(value, struct words);
} raw SEC(".maps");

/* Where the kernel's text lies, [start, end); 0: every stack is unwound. */
u64 text_start;
u64 text_end;

/* Records of the kernel log since this was attached: as long as it does not change the log need not be read. */
u64 printed;

/* The thread id to watch; 0: none, below 0: all. */
s32 watch_tid;

/* Record only sites that fail. */
u32 only_injected;

/* The last failed site, and the number of faults, which the agent's sweep reads after each run. */
u64 last_site;
u64 fired;

/* Observations that did not fit: the evidence is then incomplete. */
u64 lost;

/*
 * What the guest's module prints on the console if the kernel dies (vm/module/last_words.c has the same layout): the
 * agent writes its operation, `site` to `stack` are the fault that was injected meanwhile.
 */
#define LAST_WORDS_DEPTH 16

struct last_words {
	char what[64];
	u64 nth;
	u64 site;
	u32 type;
	u32 depth;
	u64 stack[LAST_WORDS_DEPTH];
};

struct last_words last_words;

/* FNV-1a by words, with the upper bits folded in. */
#define HASH_BASIS 0xcbf29ce484222325ULL

static __always_inline u64 mix(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x100000001b3ULL;
	return hash ^ hash >> 29;
}

/* Over the type and the words of the stack. */
static __always_inline u64 hash_site(const struct site *site)
{
	u64 hash = HASH_BASIS ^ site->type;

	/* Not bpf_for, which calls the kernel for each turn. */
	for (u32 i = 0; i < MAX_DEPTH && i < site->depth; i++) {
		hash = mix(hash, site->stack[i]);
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

/*
 * A hash of what looks like a return address on the stack from `ctx` on, which lies on it, or on its uppermost part; 0 if
 * it cannot be read. Without a branch in the loop, each of which the verifier would follow.
 */
static __always_inline u64 fingerprint(const void *ctx, u32 type, u32 size, u32 gfp)
{
	u64 hash = HASH_BASIS ^ type ^ (u64)size << 8 ^ (u64)gfp << 32;
	struct words *words = bpf_map_lookup_elem(&raw, &type);
	u64 from, uppermost;

	if (!words || !text_start)
		return 0;
	/* Through memory, as the verifier forbids to mask a pointer. */
	*(volatile u64 *)words->at = (u64)ctx;
	from = *(volatile u64 *)words->at;
	uppermost = (from | (STACK_SIZE - 1)) + 1 - sizeof(*words);
	if (from > uppermost)
		from = uppermost;
	if (bpf_probe_read_kernel(words, sizeof(*words), (void *)from))
		return 0;
	for (u32 i = 0; i < MAX_WORDS; i++) {
		/* arm64 may keep a signature in the upper bits. */
		u64 word = words->at[i] | 0xffffULL << 48;
		u64 inside = (~(word - text_start) & (word - text_end)) >> 63;

		hash = mix(hash, word & -inside);
	}
	return hash ?: 1;
}

static __always_inline void set_last_words(const struct site *site, u64 hash)
{
	__builtin_memcpy(last_words.stack, site->stack, sizeof(last_words.stack));
	last_words.type = site->type;
	last_words.depth = site->depth < LAST_WORDS_DEPTH ? site->depth : LAST_WORDS_DEPTH;
	last_words.site = hash;
}

static __always_inline void count(struct site *site, const struct site *stack, u64 hash, bool injected)
{
	if (site) {
		__sync_fetch_and_add(&site->reached, 1);
		if (injected)
			__sync_fetch_and_add(&site->injected, 1);
	} else {
		__sync_fetch_and_add(&lost, 1);
	}
	if (injected) {
		last_site = hash;
		set_last_words(stack, hash);
		__sync_fetch_and_add(&fired, 1);
	}
}

static __always_inline void observe(void *ctx, u32 type, u32 size, u32 gfp, bool injected)
{
	struct site *fresh, *site;
	u64 hash, print = 0, *before;
	long bytes;

	if (only_injected && !injected)
		return;
	if (!watch_tid || (watch_tid > 0 && (s32)bpf_get_current_pid_tgid() != watch_tid))
		return;
	/* All that a thread allocates is unwound each time: it is reported once for each operation, and nothing is left out. */
	if (only_injected)
		print = fingerprint(ctx, type, size, gfp);
	before = print ? bpf_map_lookup_elem(&known, &print) : NULL;
	hash = before ? *before : 0;
	site = hash ? bpf_map_lookup_elem(&sites, &hash) : NULL;
	if (site) {
		count(site, site, hash, injected);
		return;
	}
	fresh = bpf_map_lookup_elem(&scratch, &type);
	if (!fresh)
		return;
	bytes = bpf_get_stack(ctx, fresh->stack, sizeof(fresh->stack), 0);
	fresh->type = type;
	fresh->size = size;
	fresh->gfp = gfp;
	fresh->depth = bytes > 0 ? bytes / sizeof(u64) : 0;
	hash = hash_site(fresh);
	count(find_site(hash, fresh), fresh, hash, injected);
	if (print)
		bpf_map_update_elem(&known, &print, &hash, BPF_ANY);
}

/* Called for each record as it is stored, whatever its level (printk_sprint(), kernel/printk/printk.c). */
SEC("tp_btf/console")
int BPF_PROG(record_printed)
{
	__sync_fetch_and_add(&printed, 1);
	return 0;
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
