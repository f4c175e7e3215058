// SPDX-License-Identifier: GPL-2.0-only
/*
 * Objects that a reader uses: whether they have been freed, by which stack, and whether a grace period has passed since
 * the watch began.
 */
#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/stacktrace.h>
#include <linux/string.h>
#include <linux/tracepoint.h>

#include "kharness.h"

#define MAX_WATCHED 16
#define DEPTH 24

static struct watched {
	unsigned long at;
	int claimed; /* by the first free */
	unsigned int depth; /* set last */
	unsigned long by[DEPTH];
} watched[MAX_WATCHED];

static unsigned int nr_watched;
static unsigned long grace;
static DEFINE_MUTEX(control);

struct lookup {
	const char *name;
	struct tracepoint *found;
};

static void compare_name(struct tracepoint *tp, void *data)
{
	struct lookup *lookup = data;

	if (!strcmp(tp->name, lookup->name))
		lookup->found = tp;
}

struct tracepoint *find_tracepoint(const char *name)
{
	struct lookup lookup = { .name = name };

	for_each_kernel_tracepoint(compare_name, &lookup);
	return lookup.found;
}

/* Called wherever memory is freed, so it takes no lock: the first caller claims the slot. */
void watched_freed(unsigned long at)
{
	unsigned int i, nr = smp_load_acquire(&nr_watched);

	for (i = 0; i < nr; i++) {
		struct watched *h = &watched[i];

		if (h->at == at && !cmpxchg(&h->claimed, 0, 1))
			smp_store_release(&h->depth, stack_trace_save(h->by, DEPTH, 0));
	}
}

/* The tracepoints kmem:kfree, kmem:kmem_cache_free and percpu:percpu_free_percpu. */
static void slab_freed(void *data, unsigned long call_site, const void *ptr)
{
	watched_freed((unsigned long)ptr);
}

static void cache_freed(void *data, unsigned long call_site, const void *ptr, const struct kmem_cache *cache)
{
	watched_freed((unsigned long)ptr);
}

static void percpu_freed(void *data, void *base_addr, int off, void __percpu *ptr)
{
	watched_freed((unsigned long)ptr);
}

static struct {
	const char *name;
	void *probe;
	struct tracepoint *tp;
} points[] = {
	{ "kfree", slab_freed },
	{ "kmem_cache_free", cache_freed },
	{ "percpu_free_percpu", percpu_freed },
};

static void release(void)
{
	int i;

	if (!nr_watched)
		return;
	smp_store_release(&nr_watched, 0);
	for (i = 0; i < ARRAY_SIZE(points); i++)
		if (points[i].tp)
			tracepoint_probe_unregister(points[i].tp, points[i].probe, NULL);
	tracepoint_synchronize_unregister();
	memset(watched, 0, sizeof(watched));
}

static int watch(unsigned int nr)
{
	int i, err = 0;

	for (i = 0; i < ARRAY_SIZE(points); i++) {
		points[i].tp = find_tracepoint(points[i].name);
		if (!points[i].tp)
			err = -ENOENT;
		else if (!err)
			err = tracepoint_probe_register(points[i].tp, points[i].probe, NULL);
		if (err)
			points[i].tp = NULL;
	}
	smp_store_release(&nr_watched, nr);
	if (err)
		release();
	else
		grace = get_state_synchronize_rcu();
	return err;
}

static int read_addresses(char *text, unsigned int *nr)
{
	char *word;

	for (*nr = 0; (word = strsep(&text, " "));) {
		if (!*word)
			continue;
		if (*nr == MAX_WATCHED)
			return -E2BIG;
		if (kstrtoul(word, 16, &watched[*nr].at))
			return -EINVAL;
		++*nr;
	}
	return 0;
}

/* Addresses in hex, those of percpu objects as alloc_percpu() gave them. None: ends the watch. */
static ssize_t watched_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	char *text = memdup_user_nul(from, len);
	unsigned int nr;
	int err;

	if (IS_ERR(text))
		return PTR_ERR(text);
	mutex_lock(&control);
	release();
	err = read_addresses(strim(text), &nr);
	if (!err && nr)
		err = watch(nr);
	mutex_unlock(&control);
	kfree(text);
	return err ?: len;
}

/* "grace 1" if a whole grace period has passed; then for each "ADDRESS live", or "ADDRESS freed" and the stack. */
static int watched_show(struct seq_file *out, void *unused)
{
	unsigned int i, k, depth;

	mutex_lock(&control);
	seq_printf(out, "grace %d\n", nr_watched && poll_state_synchronize_rcu(grace));
	for (i = 0; i < nr_watched; i++) {
		depth = smp_load_acquire(&watched[i].depth);
		seq_printf(out, "%lx %s", watched[i].at, READ_ONCE(watched[i].claimed) ? "freed" : "live");
		for (k = 0; k < depth; k++)
			seq_printf(out, " %lx", watched[i].by[k]);
		seq_putc(out, '\n');
	}
	mutex_unlock(&control);
	return 0;
}

static int watched_open(struct inode *inode, struct file *file)
{
	return single_open(file, watched_show, NULL);
}

const struct file_operations watched_fops = {
	.owner = THIS_MODULE,
	.open = watched_open,
	.read = seq_read,
	.write = watched_write,
	.llseek = seq_lseek,
	.release = single_release,
};

void watched_exit(void)
{
	release();
}
