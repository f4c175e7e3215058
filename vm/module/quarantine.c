// SPDX-License-Identifier: GPL-2.0-only
/*
 * A quarantine for percpu objects, as KASAN has one for slab's: what certain callers allocated is poisoned when it is
 * freed, on every possible CPU, and kept until poison.c has looked at it.
 *
 * Objects are learned from the tracepoint of the allocation. A kprobe at the entry of free_percpu() lets the freeing of
 * such an object return at once; any other goes its way. Nothing is allocated in either: the table is there before.
 */
#include <linux/cpumask.h>
#include <linux/hash.h>
#include <linux/kprobes.h>
#include <linux/kstrtox.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/spinlock.h>
#include <linux/stacktrace.h>
#include <linux/string.h>
#include <linux/tracepoint.h>
#include <linux/vmalloc.h>

#include "kharness.h"
#include "quarantine.h"

#define MAX_RANGES 64
#define ENTRY_BYTES 16 /* an address within so many bytes of its first instruction is at a function's entry */

struct quarantine_counts counts;
static DEFINE_RAW_SPINLOCK(objects_lock); /* what follows, and the counts */
static struct object *objects;
static struct hlist_head *buckets;
static HLIST_HEAD(spare);
static struct {
	unsigned long start, end;
} ranges[MAX_RANGES];
static unsigned int nr_ranges;

static bool in_ranges(unsigned long at)
{
	unsigned int i;

	for (i = 0; i < nr_ranges; i++)
		if (at >= ranges[i].start && at < ranges[i].end)
			return true;
	return false;
}

static struct hlist_head *bucket_of(unsigned long ptr)
{
	return &buckets[hash_long(ptr, OBJECT_BITS)];
}

static struct object *find(unsigned long ptr)
{
	struct object *o;

	hlist_for_each_entry(o, bucket_of(ptr), node)
		if (o->ptr == ptr)
			return o;
	return NULL;
}

static void forget(struct object *o)
{
	if (o->freed)
		counts.kept--;
	else
		counts.live--;
	o->freed = false;
	hlist_del(&o->node);
	hlist_add_head(&o->node, &spare);
}

/* The tracepoint percpu:percpu_alloc_percpu. */
static void allocated(void *data, unsigned long call_site, bool reserved, bool is_atomic, size_t size, size_t align,
		      void *base_addr, int off, void __percpu *ptr, size_t bytes_alloc, gfp_t flags)
{
	unsigned long irq;
	struct object *o;

	if (!in_ranges(call_site))
		return;
	raw_spin_lock_irqsave(&objects_lock, irq);
	if (hlist_empty(&spare)) {
		counts.lost++;
	} else {
		o = hlist_entry(spare.first, struct object, node);
		hlist_del(&o->node);
		o->ptr = (unsigned long)ptr;
		o->size = size;
		o->made_by = call_site;
		o->first.depth = o->again.depth = 0;
		hlist_add_head(&o->node, bucket_of(o->ptr));
		counts.tracked++;
		counts.live++;
	}
	raw_spin_unlock_irqrestore(&objects_lock, irq);
}

/* The tracepoint percpu:percpu_free_percpu: it was really freed, even if the kprobe missed it. */
static void really_freed(void *data, void *base_addr, int off, void __percpu *ptr)
{
	unsigned long irq;
	struct object *o;

	raw_spin_lock_irqsave(&objects_lock, irq);
	o = find((unsigned long)ptr);
	if (o) {
		counts.missed++;
		forget(o);
	}
	raw_spin_unlock_irqrestore(&objects_lock, irq);
}

static unsigned long caller_of(struct pt_regs *regs)
{
#if defined(CONFIG_X86)
	return *(unsigned long *)kernel_stack_pointer(regs);
#elif defined(CONFIG_RISCV)
	return regs->ra;
#else
	return procedure_link_pointer(regs);
#endif
}

/* Leaves out the frames up to the function's entry, and adds the caller, which arm64's unwinder misses there. */
static void follow(struct trail *trail, struct kprobe *kp, struct pt_regs *regs)
{
	unsigned long seen[DEPTH + 14];
	unsigned int nr = stack_trace_save(seen, ARRAY_SIZE(seen), 0), i;

	trail->by[0] = caller_of(regs);
	trail->depth = 1;
	for (i = 0; i < nr; i++)
		if (seen[i] - (unsigned long)kp->addr < ENTRY_BYTES)
			break;
	i++;
	if (i < nr && seen[i] == trail->by[0])
		i++;
	for (; i < nr && trail->depth < DEPTH; i++)
		trail->by[trail->depth++] = seen[i];
}
NOKPROBE_SYMBOL(follow);

static void fill(const struct object *o)
{
	int cpu;

	for_each_possible_cpu(cpu)
		memset(per_cpu_ptr((void __percpu *)o->ptr, cpu), POISON, o->size);
}

/* Replaces free_percpu(): returns to its caller. */
static noinline void kharness_kept_percpu(void)
{
	barrier();
}

/* At the entry of free_percpu(). */
static int freeing(struct kprobe *kp, struct pt_regs *regs)
{
	unsigned long ptr = regs_get_kernel_argument(regs, 0), irq;
	struct object *o;

	if (!ptr)
		return 0;
	raw_spin_lock_irqsave(&objects_lock, irq);
	o = find(ptr);
	if (o && o->freed) {
		counts.twice++;
		if (!o->again.depth)
			follow(&o->again, kp, regs);
	} else if (o) {
		fill(o);
		follow(&o->first, kp, regs);
		o->freed = true;
		counts.poisoned++;
		counts.live--;
		counts.kept++;
	}
	raw_spin_unlock_irqrestore(&objects_lock, irq);
	if (!o)
		return 0;
	watched_freed(ptr);
	instruction_pointer_set(regs, (unsigned long)kharness_kept_percpu);
	return 1;
}
NOKPROBE_SYMBOL(freeing);

struct object *quarantine_kept(unsigned int place)
{
	return READ_ONCE(objects[place].freed) ? &objects[place] : NULL;
}

void __percpu *quarantine_release(struct object *o)
{
	unsigned long ptr = 0, irq;

	raw_spin_lock_irqsave(&objects_lock, irq);
	if (o->freed) {
		ptr = o->ptr;
		forget(o);
	}
	raw_spin_unlock_irqrestore(&objects_lock, irq);
	return (void __percpu *)ptr;
}

static struct kprobe probe;
static struct tracepoint *alloc_point, *free_point;

void quarantine_stop(void)
{
	unregister_kprobe(&probe);
	tracepoint_probe_unregister(alloc_point, allocated, NULL);
	tracepoint_probe_unregister(free_point, really_freed, NULL);
	tracepoint_synchronize_unregister();
}

static int watch(void)
{
	int err;

	alloc_point = find_tracepoint("percpu_alloc_percpu");
	free_point = find_tracepoint("percpu_free_percpu");
	if (!alloc_point || !free_point)
		return -ENOENT;
	memset(&probe, 0, sizeof(probe));
	probe.symbol_name = "free_percpu";
	probe.pre_handler = freeing;
	err = register_kprobe(&probe);
	if (err)
		return err;
	err = tracepoint_probe_register(free_point, really_freed, NULL);
	if (err)
		goto no_free_point;
	err = tracepoint_probe_register(alloc_point, allocated, NULL);
	if (!err)
		return 0;
	tracepoint_probe_unregister(free_point, really_freed, NULL);
no_free_point:
	unregister_kprobe(&probe);
	tracepoint_synchronize_unregister();
	return err;
}

static int read_ranges(char *text)
{
	char *word;

	nr_ranges = 0;
	while ((word = strsep(&text, " "))) {
		char *start = strsep(&word, "-");

		if (!*start)
			continue;
		if (nr_ranges == MAX_RANGES)
			return -E2BIG;
		if (!word || kstrtoul(start, 16, &ranges[nr_ranges].start) ||
		    kstrtoul(word, 16, &ranges[nr_ranges].end))
			return -EINVAL;
		nr_ranges++;
	}
	return nr_ranges ? 0 : -EINVAL;
}

void quarantine_close(void)
{
	vfree(objects);
	vfree(buckets);
}

int quarantine_arm(char *text)
{
	int err = read_ranges(text), i;

	if (err)
		return err;
	memset(&counts, 0, sizeof(counts));
	INIT_HLIST_HEAD(&spare);
	objects = vzalloc(array_size(OBJECTS, sizeof(*objects)));
	buckets = vzalloc(array_size(OBJECTS, sizeof(*buckets)));
	err = objects && buckets ? 0 : -ENOMEM;
	if (!err) {
		for (i = 0; i < OBJECTS; i++)
			hlist_add_head(&objects[i].node, &spare);
		err = watch();
	}
	if (err)
		quarantine_close();
	return err;
}
