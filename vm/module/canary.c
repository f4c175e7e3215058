// SPDX-License-Identifier: GPL-2.0-only
/* Deliberate defects: they prove the oracles on this very kernel. */
#include <linux/fs.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "kharness.h"

struct kharness_percpu {
	u64 words[3];
};

/*
 * Written by the leaking canaries and then forgotten: kmemleak must find nothing that still points there. The ledger of
 * objects (bpf_progs/alive.bpf.c) watches the functions whose names begin with kharness_leak_.
 */
static __always_inline void lose_slab(void)
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

static noinline void kharness_leak_slab(void)
{
	lose_slab();
}

/* Outside of the code that the ledger watches. */
static noinline void kharness_lose_slab(void)
{
	lose_slab();
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
	{ "slab-loss", kharness_lose_slab },
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

const struct file_operations canary_fops = {
	.owner = THIS_MODULE,
	.write = canary_write,
};
