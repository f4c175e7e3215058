// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's helper module: its debugfs files, pcpu_alloc_noprof on the error-injection list, and what is too small for a
 * file of its own. It changes nothing in the kernel under test.
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

#include "kharness.h"

/*
 * Takes the mutex of the kernel's that lies at the address written, and keeps it until 0 is written, by the same task:
 * so that others can be made to wait for it.
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

/*
 * Our own functions, "address size name" a line, in hex: vmlinux does not hold them, and who looks at a CPU from outside
 * finds it in one of them. kallsyms has them in a table of the module's (struct mod_kallsyms, linux/module.h).
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
	quiet_init();
	folder = debugfs_create_dir("kharness", NULL);
	debugfs_create_file("canary", 0200, folder, NULL, &canary_fops);
	debugfs_create_file("barrier", 0200, folder, NULL, &barrier_fops);
	debugfs_create_file("flush", 0200, folder, NULL, &flush_fops);
	debugfs_create_file("churn", 0200, folder, NULL, &churn_fops);
	debugfs_create_file("poison", 0600, folder, NULL, &poison_fops);
	debugfs_create_file("held", 0600, folder, NULL, &held_fops);
	debugfs_create_file("told", 0600, folder, NULL, &told_fops);
	debugfs_create_file("hold", 0200, folder, NULL, &hold_fops);
	debugfs_create_file("symbols", 0400, folder, NULL, &symbols_fops);
	told_init();
	return 0;
}

static void __exit kharness_exit(void)
{
	debugfs_remove(folder);
	told_exit();
	poison_exit();
	held_exit();
}

module_init(kharness_init);
module_exit(kharness_exit);

/* mm/percpu.c exports it; the list takes whatever address a module's entries hold (lib/error-inject.c). */
ALLOW_ERROR_INJECTION(pcpu_alloc_noprof, NULL);
/* lib/rhashtable.c: its last try is with __GFP_NOFAIL, so no allocation's failure makes it fail. */
#ifdef rhashtable_init_noprof
ALLOW_ERROR_INJECTION(__rhashtable_init_noprof, ERRNO);
#else
ALLOW_ERROR_INJECTION(rhashtable_init_noprof, ERRNO);
#endif

MODULE_DESCRIPTION("kharness guest helper");
MODULE_LICENSE("GPL");
