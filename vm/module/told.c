// SPDX-License-Identifier: GPL-2.0-only
/* Last words: what was being done when the kernel died, and under which fault. */
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/kdebug.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/panic_notifier.h>
#include <linux/uaccess.h>

#include "kharness.h"

/*
 * What was being done when the kernel died, and which fault had been injected: a BPF program and the agent write it into
 * memory that they share (bpf_progs/fault_sites.bpf.c has the same layout), and its page is read from here.
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

static struct page *told_page;
static const struct told *told;

static void tell(void)
{
	const struct told *now = READ_ONCE(told);
	unsigned int i;

	if (!now || !now->what[0])
		return;
	pr_emerg("kharness: died during: %.64s, allocation %llu\n", now->what, now->nth);
	if (!now->site)
		return;
	pr_emerg("kharness: fault type %u\n", now->type);
	for (i = 0; i < now->depth && i < TOLD_DEPTH; i++)
		pr_emerg("kharness: fault at %pB\n", (void *)now->stack[i]);
}

static int told_died(struct notifier_block *nb, unsigned long why, void *data)
{
	if (why == DIE_OOPS)
		tell();
	return NOTIFY_DONE;
}

static int told_panicked(struct notifier_block *nb, unsigned long why, void *data)
{
	tell();
	return NOTIFY_DONE;
}

static struct notifier_block died_block = { .notifier_call = told_died };
static struct notifier_block panicked_block = { .notifier_call = told_panicked };

static void told_forget(void)
{
	WRITE_ONCE(told, NULL);
	if (told_page)
		unpin_user_page(told_page);
	told_page = NULL;
}

/* The address of a struct told in the writer's memory, within one page; 0 forgets it. */
static ssize_t told_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	unsigned long at, offset;
	int err = kstrtoul_from_user(from, len, 0, &at);

	if (err)
		return err;
	told_forget();
	if (!at)
		return len;
	offset = offset_in_page(at);
	if (offset + sizeof(*told) > PAGE_SIZE)
		return -EINVAL;
	if (pin_user_pages_fast(at & PAGE_MASK, 1, 0, &told_page) != 1)
		return -EFAULT;
	WRITE_ONCE(told, page_address(told_page) + offset);
	return len;
}

/* Where it lies in the guest's memory: for who looks in from outside when nothing answers in here. */
static ssize_t told_read(struct file *file, char __user *to, size_t len, loff_t *pos)
{
	char text[32];
	int size;

	size = scnprintf(text, sizeof(text), "%llu\n",
			 told_page ? (u64)page_to_phys(told_page) + offset_in_page((unsigned long)told) : 0);
	return simple_read_from_buffer(to, len, pos, text, size);
}

const struct file_operations told_fops = {
	.owner = THIS_MODULE,
	.read = told_read,
	.write = told_write,
};

void told_init(void)
{
	register_die_notifier(&died_block);
	atomic_notifier_chain_register(&panic_notifier_list, &panicked_block);
}

void told_exit(void)
{
	atomic_notifier_chain_unregister(&panic_notifier_list, &panicked_block);
	unregister_die_notifier(&died_block);
	told_forget();
}
