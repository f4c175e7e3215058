// SPDX-License-Identifier: GPL-2.0-only
/* Last words: the operation during which the kernel died, and its fault. */
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/kdebug.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/panic_notifier.h>
#include <linux/uaccess.h>

#include "kharness.h"

/*
 * The current operation and the injected fault: a BPF program and the agent write them into memory that they share
 * (bpf_progs/observers/fault_sites.bpf.c has the same layout), and this module reads its page when the kernel dies.
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

static struct page *last_words_page;
static const struct last_words *last_words;

static void print_last_words(void)
{
	const struct last_words *now = READ_ONCE(last_words);
	unsigned int i;

	if (!now || !now->what[0])
		return;
	pr_emerg("kharness: died during: %.64s, allocation %llu\n", now->what, now->nth);
	if (!now->site)
		return;
	pr_emerg("kharness: fault type %u\n", now->type);
	for (i = 0; i < now->depth && i < LAST_WORDS_DEPTH; i++)
		pr_emerg("kharness: fault at %pB\n", (void *)now->stack[i]);
}

static int last_words_died(struct notifier_block *nb, unsigned long why, void *data)
{
	if (why == DIE_OOPS)
		print_last_words();
	return NOTIFY_DONE;
}

static int last_words_panicked(struct notifier_block *nb, unsigned long why, void *data)
{
	print_last_words();
	return NOTIFY_DONE;
}

static struct notifier_block died_block = { .notifier_call = last_words_died };
static struct notifier_block panicked_block = { .notifier_call = last_words_panicked };

static void last_words_forget(void)
{
	WRITE_ONCE(last_words, NULL);
	if (last_words_page)
		unpin_user_page(last_words_page);
	last_words_page = NULL;
}

/* The address of a struct last_words in the writer's memory, within one page; 0 forgets it. */
static ssize_t last_words_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	unsigned long at, offset;
	int err = kstrtoul_from_user(from, len, 0, &at);

	if (err)
		return err;
	last_words_forget();
	if (!at)
		return len;
	offset = offset_in_page(at);
	if (offset + sizeof(*last_words) > PAGE_SIZE)
		return -EINVAL;
	if (pin_user_pages_fast(at & PAGE_MASK, 1, 0, &last_words_page) != 1)
		return -EFAULT;
	WRITE_ONCE(last_words, page_address(last_words_page) + offset);
	return len;
}

/* Its physical address, by which the host can read it from a guest that no longer answers. */
static ssize_t last_words_read(struct file *file, char __user *to, size_t len, loff_t *pos)
{
	char text[32];
	int size;

	size = scnprintf(text, sizeof(text), "%llu\n",
			 last_words_page ? (u64)page_to_phys(last_words_page) + offset_in_page((unsigned long)last_words) : 0);
	return simple_read_from_buffer(to, len, pos, text, size);
}

const struct file_operations last_words_fops = {
	.owner = THIS_MODULE,
	.read = last_words_read,
	.write = last_words_write,
};

void last_words_init(void)
{
	register_die_notifier(&died_block);
	atomic_notifier_chain_register(&panic_notifier_list, &panicked_block);
}

void last_words_exit(void)
{
	atomic_notifier_chain_unregister(&panic_notifier_list, &panicked_block);
	unregister_die_notifier(&died_block);
	last_words_forget();
}
