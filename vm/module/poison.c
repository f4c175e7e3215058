// SPDX-License-Identifier: GPL-2.0-only
/* Examines the objects in the quarantine: reports overwritten poison, and double frees. */
#include <linux/cpumask.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "kharness.h"
#include "quarantine.h"

static DEFINE_MUTEX(control);
static bool armed;

static void print_stack(const char *what, const struct trail *trail)
{
	unsigned int i;

	pr_err("kharness: %s:\n", what);
	for (i = 0; i < trail->depth; i++)
		pr_err(" %pB\n", (void *)trail->by[i]);
}

static void tell_whose(const struct object *o)
{
	struct trail made = { 1, { o->made_by } };

	print_stack("allocated by", &made);
	pr_err("kharness: end of report\n");
}

/* The first word of an object that is no longer poison; false if there is none. */
static bool damaged(const struct object *o, int *cpu, size_t *offset, u64 *word)
{
	for_each_possible_cpu(*cpu) {
		void *copy = per_cpu_ptr((void __percpu *)o->ptr, *cpu);
		void *at = memchr_inv(copy, POISON, o->size);

		if (!at)
			continue;
		*offset = (at - copy) & ~7UL;
		*word = 0;
		memcpy(word, copy + *offset, min(sizeof(*word), o->size - *offset));
		return true;
	}
	return false;
}

static void check(const struct object *o)
{
	size_t offset;
	u64 word;
	int cpu;

	counts.checked++;
	if (damaged(o, &cpu, &offset, &word)) {
		counts.bad++;
		pr_err("kharness: percpu object used after it was freed: %#lx, of CPU %d, offset %zu of %zu, holds %#llx\n",
		       o->ptr, cpu, offset, o->size, word);
		print_stack("freed by", &o->first);
		tell_whose(o);
	}
	if (o->again.depth) {
		pr_err("kharness: percpu object freed twice: %#lx of %zu bytes\n", o->ptr, o->size);
		print_stack("freed again by", &o->again);
		print_stack("freed first by", &o->first);
		tell_whose(o);
	}
}

/* Examines what was freed so far, and releases it afterwards: it may be freed again meanwhile. */
static void drain(void)
{
	unsigned int place;

	for (place = 0; place < OBJECTS; place++) {
		struct object *o = quarantine_kept(place);

		if (o) {
			check(o);
			free_percpu(quarantine_release(o));
		}
		cond_resched();
	}
}

static void disarm(void)
{
	if (!armed)
		return;
	armed = false;
	quarantine_stop();
	drain();
	quarantine_close();
}

static int arm(char *text)
{
	int err = armed ? -EBUSY : quarantine_arm(text);

	if (!err)
		armed = true;
	return err;
}

/* "arm RANGES", "drain", or "disarm", which drains for the last time and forgets objects that are still alive. */
static ssize_t poison_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	char *text = memdup_user_nul(from, len);
	int err = 0;

	if (IS_ERR(text))
		return PTR_ERR(text);
	strim(text);
	mutex_lock(&control);
	if (!strncmp(text, "arm ", 4))
		err = arm(text + 4);
	else if (strcmp(text, "drain") && strcmp(text, "disarm"))
		err = -EINVAL;
	else if (!armed)
		err = -ENODEV;
	else if (!strcmp(text, "drain"))
		drain();
	else
		disarm();
	mutex_unlock(&control);
	kfree(text);
	return err ?: len;
}

/* Counts since it was armed; they stay until it is armed again. */
static int poison_show(struct seq_file *out, void *unused)
{
	seq_printf(out, "tracked %lu\npoisoned %lu\nchecked %lu\nbad %lu\ntwice %lu\nlost %lu\nmissed %lu\nlive %lu\nkept %lu\n",
		   counts.tracked, counts.poisoned, counts.checked, counts.bad, counts.twice, counts.lost,
		   counts.missed, counts.live, counts.kept);
	return 0;
}

static int poison_open(struct inode *inode, struct file *file)
{
	return single_open(file, poison_show, NULL);
}

const struct file_operations poison_fops = {
	.owner = THIS_MODULE,
	.open = poison_open,
	.read = seq_read,
	.write = poison_write,
	.llseek = seq_lseek,
	.release = single_release,
};

void poison_exit(void)
{
	disarm();
}
