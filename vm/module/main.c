// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's helper module: its debugfs files, pcpu_alloc_noprof on the error-injection list, and parts that are too
 * small for a file of their own. It changes nothing in the kernel under test but what is written to them asks for.
 */
#include <linux/ctype.h>
#include <linux/debugfs.h>
#include <linux/error-injection.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/rhashtable.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "kharness.h"

/*
 * Takes the kernel's mutex at the address written, and holds it until the same task writes 0, so that others wait for
 * it.
 */
static struct mutex *held;

static ssize_t hold_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	unsigned long at;
	int err = kstrtoul_from_user(from, len, 0, &at);

	if (err)
		return err;
	if (!!at == !!held)
		return -EBUSY;
	if (at) {
		mutex_lock((struct mutex *)at);
		held = (struct mutex *)at;
	} else {
		mutex_unlock(held);
		held = NULL;
	}
	return len;
}

static const struct file_operations hold_fops = {
	.owner = THIS_MODULE,
	.write = hold_write,
};

/* Makes a workqueue with the flags that are written, a number (WQ_*, linux/workqueue.h), and destroys it. */
static ssize_t workqueue_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	struct workqueue_struct *made;
	unsigned int flags;
	int err = kstrtouint_from_user(from, len, 0, &flags);

	if (err)
		return err;
	made = alloc_workqueue("kharness", flags, 0);
	if (!made)
		return -ENOMEM;
	destroy_workqueue(made);
	return len;
}

static const struct file_operations workqueue_fops = {
	.owner = THIS_MODULE,
	.write = workqueue_write,
};

/*
 * Sets kmemleak's minimum age of a leak (jiffies_min_age, mm/kmemleak.c). Written are the variable's address, which the
 * host knows, the milliseconds that it has and those that it gets: what has another value is not changed.
 */
static ssize_t leak_age_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	unsigned long at;
	unsigned int before, after;
	char text[64] = "";

	if (len >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, from, len))
		return -EFAULT;
	if (sscanf(text, "%lx %u %u", &at, &before, &after) != 3)
		return -EINVAL;
	if (READ_ONCE(*(unsigned long *)at) != msecs_to_jiffies(before))
		return -ENXIO;
	WRITE_ONCE(*(unsigned long *)at, msecs_to_jiffies(after));
	return len;
}

static const struct file_operations leak_age_fops = {
	.owner = THIS_MODULE,
	.write = leak_age_write,
};

/*
 * Our own functions, "address size name" a line, in hex: vmlinux does not have them, but the host may find a CPU in one
 * of them. kallsyms has them in a table of the module (struct mod_kallsyms, linux/module.h).
 */
static int symbols_show(struct seq_file *out, void *unused)
{
#ifdef CONFIG_KALLSYMS
	const struct mod_kallsyms *all;
	unsigned int i;

	rcu_read_lock();
	all = rcu_dereference(THIS_MODULE->kallsyms);
	for (i = 0; i < all->num_symtab; i++) {
		const Elf_Sym *symbol = &all->symtab[i];

		if (tolower(all->typetab[i]) == 't')
			seq_printf(out, "%llx %llx %s\n", (u64)symbol->st_value, (u64)symbol->st_size,
				   all->strtab + symbol->st_name);
	}
	rcu_read_unlock();
#endif
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(symbols);

static struct dentry *folder;

static int __init kharness_init(void)
{
	quiesce_init();
	folder = debugfs_create_dir("kharness", NULL);
	debugfs_create_file("canary", 0200, folder, NULL, &canary_fops);
	debugfs_create_file("barrier", 0200, folder, NULL, &barrier_fops);
	debugfs_create_file("flush", 0200, folder, NULL, &flush_fops);
	debugfs_create_file("churn", 0200, folder, NULL, &churn_fops);
	debugfs_create_file("poison", 0600, folder, NULL, &poison_fops);
	debugfs_create_file("watched", 0600, folder, NULL, &watched_fops);
	debugfs_create_file("last_words", 0600, folder, NULL, &last_words_fops);
	debugfs_create_file("hold", 0200, folder, NULL, &hold_fops);
	debugfs_create_file("workqueue", 0200, folder, NULL, &workqueue_fops);
	debugfs_create_file("leak_age", 0200, folder, NULL, &leak_age_fops);
	debugfs_create_file("symbols", 0400, folder, NULL, &symbols_fops);
	last_words_init();
	return 0;
}

static void __exit kharness_exit(void)
{
	debugfs_remove(folder);
	last_words_exit();
	poison_exit();
	watched_exit();
}

module_init(kharness_init);
module_exit(kharness_exit);

/* mm/percpu.c exports it; the list takes any address in a module's entries (lib/error-inject.c). */
ALLOW_ERROR_INJECTION(pcpu_alloc_noprof, NULL);
/* lib/rhashtable.c: its last try is with __GFP_NOFAIL, so no allocation's failure makes it fail. */
#ifdef rhashtable_init_noprof
ALLOW_ERROR_INJECTION(__rhashtable_init_noprof, ERRNO);
#else
ALLOW_ERROR_INJECTION(rhashtable_init_noprof, ERRNO);
#endif

MODULE_DESCRIPTION("kharness guest helper");
MODULE_LICENSE("GPL");
