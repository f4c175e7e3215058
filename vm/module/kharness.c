// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's helper module: deliberate defects that prove the oracles on this very kernel, barriers for
 * quiescence, and pcpu_alloc_noprof on the error-injection list. It changes nothing in the kernel under test.
 */
#include <linux/ctype.h>
#include <linux/debugfs.h>
#include <linux/error-injection.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/irq_work.h>
#include <linux/kdebug.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/panic_notifier.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/rcupdate_trace.h>
#include <linux/rhashtable.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

struct kharness_percpu {
	u64 words[3];
};

/* Written by the leaking canaries and then forgotten: kmemleak must find nothing that still points there. */
static noinline void kharness_leak_slab(void)
{
	/*
	 * In turn: objects of one cache may all be hidden by what lives beside them (a freed vm_struct of 72 bytes by the
	 * vmap_area that still points to it).
	 */
	static const size_t sizes[] = { 104, 40, 232, 400 };
	static unsigned int turn;
	size_t size = sizes[turn++ % ARRAY_SIZE(sizes)];
	char *lost = kmalloc(size, GFP_KERNEL);

	if (lost)
		strscpy(lost, "kharness", size);
}

static noinline void kharness_leak_percpu(void)
{
	struct kharness_percpu __percpu *lost = alloc_percpu(struct kharness_percpu);

	if (lost)
		this_cpu_ptr(lost)->words[0] = 1;
}

static noinline void kharness_warn(void)
{
	WARN(1, "kharness: deliberate WARN\n");
}

static noinline void hang_here(void *unused)
{
	for (;;)
		cpu_relax();
}

/* Every CPU spins with interrupts off, this one last. */
static noinline void kharness_hang(void)
{
	on_each_cpu(hang_here, NULL, 0);
}

/* This CPU alone spins with interrupts off: whether it can be asked for its stack depends on who gets the interrupts. */
static noinline void kharness_hang_one(void)
{
	local_irq_disable();
	hang_here(NULL);
}

/* A task that never leaves the kernel; interrupts come, and where the kernel may be preempted so do other tasks. */
static noinline void kharness_spin(void)
{
	for (;;)
		cpu_relax();
}

static DEFINE_SPINLOCK(never_given_back);

/* A lock that is not given back: its holder spins with preemption off, interrupts on. */
static noinline void kharness_spin_locked(void)
{
	spin_lock(&never_given_back);
	kharness_spin();
}

static DECLARE_WAIT_QUEUE_HEAD(nobody_wakes);
static bool woken;

/* A lost wake-up: a task waits for what has no waker. */
static noinline void kharness_sleep(void)
{
	wait_event(nobody_wakes, READ_ONCE(woken));
}

/* The same in a wait that does not count as blocked: the kernel's own detectors do not look at it. */
static noinline void kharness_doze(void)
{
	wait_event_interruptible(nobody_wakes, READ_ONCE(woken));
}

static noinline void kharness_panic(void)
{
	panic("kharness: deliberate panic");
}

static const struct {
	const char *name;
	void (*run)(void);
} canaries[] = {
	{ "warn", kharness_warn },
	{ "slab-leak", kharness_leak_slab },
	{ "percpu-leak", kharness_leak_percpu },
	{ "panic", kharness_panic },
	{ "hang", kharness_hang },
	{ "hang-one", kharness_hang_one },
	{ "spin", kharness_spin },
	{ "spin-locked", kharness_spin_locked },
	{ "sleep", kharness_sleep },
	{ "doze", kharness_doze },
};

static ssize_t canary_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	char name[32] = "";
	int i;

	if (len >= sizeof(name) || copy_from_user(name, from, len))
		return -EINVAL;
	strim(name);
	for (i = 0; i < ARRAY_SIZE(canaries); i++) {
		if (!strcmp(name, canaries[i].name)) {
			canaries[i].run();
			return len;
		}
	}
	return -ENOENT;
}

static const struct file_operations canary_fops = {
	.owner = THIS_MODULE,
	.write = canary_write,
};

static void nothing_irq(struct irq_work *work)
{
}

static void nothing_work(struct work_struct *work)
{
}

static DEFINE_PER_CPU(struct irq_work, barrier_irq_work);

static void queue_irq_work(void *unused)
{
	irq_work_queue(this_cpu_ptr(&barrier_irq_work));
}

/*
 * Lets everything already queued run: irq_work on each CPU, one turn of the system workqueue on each CPU, RCU
 * callbacks of all flavours in use. Teardown chains these, so the caller repeats until its counters stand still.
 */
static ssize_t barrier_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	int cpu;

	on_each_cpu(queue_irq_work, NULL, 1);
	for_each_online_cpu(cpu) {
		struct work_struct item;

		irq_work_sync(per_cpu_ptr(&barrier_irq_work, cpu));
		INIT_WORK_ONSTACK(&item, nothing_work);
		schedule_work_on(cpu, &item);
		flush_work(&item);
		destroy_work_on_stack(&item);
	}
#ifdef CONFIG_TASKS_TRACE_RCU /* BPF frees programs and maps after it */
	rcu_barrier_tasks_trace();
#endif
	rcu_barrier();
#ifdef CONFIG_TASKS_RCU /* without preemption there is none */
	rcu_barrier_tasks();
#endif
	return len;
}

static const struct file_operations barrier_fops = {
	.owner = THIS_MODULE,
	.write = barrier_write,
};

#define CHURN_OBJECTS 1024

/*
 * Turns over the per-CPU sheaves of every kmalloc cache of this CPU. A sheaf (mm/slub.c) keeps the pointers of
 * objects it has handed out until their slots are filled again, and kmemleak, which scans it, takes them for
 * references: without this the first hundred or so leaked objects of a size are invisible.
 */
static void churn_work(struct work_struct *work)
{
	void **objects = kvmalloc_array(CHURN_OBJECTS, sizeof(*objects), GFP_KERNEL | __GFP_ZERO);
	size_t size;
	int i, half;

	if (!objects)
		return;
	for (size = 8; size <= 8192; size *= 2) {
		for (half = 0; half < 2; half++) {
			/* 96 and 192 bytes have caches of their own between the powers of two. */
			size_t want = half ? size + size / 2 : size;

			if (half && size != 64 && size != 128)
				continue;
			for (i = 0; i < CHURN_OBJECTS; i++)
				objects[i] = kmalloc(want, GFP_KERNEL);
			for (i = 0; i < CHURN_OBJECTS; i++)
				kfree(objects[i]);
		}
		cond_resched();
	}
	kvfree(objects);
}

static ssize_t churn_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	int cpu;

	for_each_online_cpu(cpu) {
		struct work_struct item;

		INIT_WORK_ONSTACK(&item, churn_work);
		schedule_work_on(cpu, &item);
		flush_work(&item);
		destroy_work_on_stack(&item);
	}
	return len;
}

static const struct file_operations churn_fops = {
	.owner = THIS_MODULE,
	.write = churn_write,
};

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

static const struct file_operations told_fops = {
	.owner = THIS_MODULE,
	.read = told_read,
	.write = told_write,
};

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
	int cpu;

	for_each_possible_cpu(cpu)
		init_irq_work(per_cpu_ptr(&barrier_irq_work, cpu), nothing_irq);
	folder = debugfs_create_dir("kharness", NULL);
	debugfs_create_file("canary", 0200, folder, NULL, &canary_fops);
	debugfs_create_file("barrier", 0200, folder, NULL, &barrier_fops);
	debugfs_create_file("churn", 0200, folder, NULL, &churn_fops);
	debugfs_create_file("told", 0600, folder, NULL, &told_fops);
	debugfs_create_file("hold", 0200, folder, NULL, &hold_fops);
	debugfs_create_file("symbols", 0400, folder, NULL, &symbols_fops);
	register_die_notifier(&died_block);
	atomic_notifier_chain_register(&panic_notifier_list, &panicked_block);
	return 0;
}

static void __exit kharness_exit(void)
{
	atomic_notifier_chain_unregister(&panic_notifier_list, &panicked_block);
	unregister_die_notifier(&died_block);
	told_forget();
	debugfs_remove(folder);
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
