// SPDX-License-Identifier: GPL-2.0-only
/* Deliberate defects, which prove the oracles on this kernel. */
#include <linux/cpumask.h>
#include <linux/fs.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/mutex.h>
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
 * objects (bpf_progs/observers/alive.bpf.c) watches the functions whose names begin with kharness_leak_.
 */
static __always_inline void leak_slab(const char *text)
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
		strscpy(lost, text, size);
}

static noinline void kharness_leak_slab(void)
{
	leak_slab("kharness");
}

/* A leak like that of a test: by a function that the ledger does not watch and no leak batch uses. */
static noinline void kharness_lose_slab(void)
{
	leak_slab("lost");
}

/*
 * In turn, too: a percpu pointer of the first chunk has the value of an address behind __per_cpu_end, in the kernel's own
 * data, and what points there is a reference to kmemleak. On arm64 that may be an array of list heads (bit_wait_table),
 * which hides every small object. What finds no room in the first chunk has no such value.
 */
static noinline void kharness_leak_percpu(void)
{
	static const size_t sizes[] = { sizeof(struct kharness_percpu), 24 << 10, 24 << 10, 24 << 10 };
	static unsigned int turn;
	struct kharness_percpu __percpu *lost =
		__alloc_percpu(sizes[turn++ % ARRAY_SIZE(sizes)], __alignof__(struct kharness_percpu));

	if (lost)
		per_cpu_ptr(lost, 0)->words[0] = 1;
}

/* Writes into a percpu object that it has freed, into the copy of the last possible CPU. */
static noinline void kharness_use_freed_percpu(void)
{
	struct kharness_percpu __percpu *gone = alloc_percpu(struct kharness_percpu);

	if (!gone)
		return;
	free_percpu(gone);
	per_cpu_ptr(gone, cpumask_last(cpu_possible_mask))->words[1] = 1;
}

/* Follows a pointer that it has read from a freed percpu object: under the quarantine the kernel dies of it. */
static noinline void kharness_follow_freed_percpu(void)
{
	struct kharness_percpu __percpu *gone = alloc_percpu(struct kharness_percpu);
	u64 *where;

	if (!gone)
		return;
	free_percpu(gone);
	where = (u64 *)(unsigned long)READ_ONCE(per_cpu_ptr(gone, 0)->words[0]);
	if (where)
		WRITE_ONCE(where[1], 1);
}

/* Only under the quarantine, which keeps the second free from the kernel. */
static noinline void kharness_free_percpu_twice(void)
{
	struct kharness_percpu __percpu *gone = alloc_percpu(struct kharness_percpu);

	free_percpu(gone);
	free_percpu(gone);
	barrier(); /* no tail call, or this function would not be on the stack */
}

static noinline void kharness_warn(void)
{
	WARN(1, "kharness: deliberate WARN\n");
}

/* Read through a pointer that the compiler cannot follow: it would drop the read, or warn of it. */
static noinline void kharness_use_after_free(void)
{
	u64 *freed = kmalloc(64, GFP_KERNEL);

	if (!freed)
		return;
	kfree(freed);
	OPTIMIZER_HIDE_VAR(freed);
	READ_ONCE(*freed);
}

static DEFINE_MUTEX(one_lock);
static DEFINE_MUTEX(other_lock);

/* Two locks in one order and then in the other: no deadlock here, but two tasks could deadlock. */
static noinline void kharness_lock_order(void)
{
	mutex_lock(&one_lock);
	mutex_lock(&other_lock);
	mutex_unlock(&other_lock);
	mutex_unlock(&one_lock);

	mutex_lock(&other_lock);
	mutex_lock(&one_lock);
	mutex_unlock(&one_lock);
	mutex_unlock(&other_lock);
}

static DEFINE_SPINLOCK(no_sleep_under);

/* An allocation that may sleep, in atomic context. */
static noinline void kharness_sleep_atomic(void)
{
	spin_lock(&no_sleep_under);
	kfree(kmalloc(64, GFP_KERNEL));
	spin_unlock(&no_sleep_under);
}

static int cpu_then;

/* This CPU's number, while the task can be moved to another. Stored: a tail call would leave no frame of its own. */
static noinline void kharness_cpu_not_held(void)
{
	WRITE_ONCE(cpu_then, smp_processor_id());
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

/* This CPU alone spins with interrupts off: whether its stack can be requested depends on which CPU gets the interrupts. */
static noinline void kharness_hang_one(void)
{
	local_irq_disable();
	hang_here(NULL);
}

/* A task that never leaves the kernel; interrupts are on, and a preemptible kernel also runs other tasks. */
static noinline void kharness_spin(void)
{
	for (;;)
		cpu_relax();
}

static DEFINE_SPINLOCK(never_given_back);

/* A lock that is not released: its holder spins with preemption off, interrupts on. */
static noinline void kharness_spin_locked(void)
{
	spin_lock(&never_given_back);
	kharness_spin();
}

static DECLARE_WAIT_QUEUE_HEAD(nobody_wakes);
static bool woken;

/* A lost wake-up: a task waits without a waker. */
static noinline void kharness_sleep(void)
{
	wait_event(nobody_wakes, READ_ONCE(woken));
}

/* The same in a wait that does not count as blocked: the kernel's own detectors ignore it. */
static noinline void kharness_doze(void)
{
	wait_event_interruptible(nobody_wakes, READ_ONCE(woken));
}

/* The argument behind the canary's name: the address at which it acts. */
static unsigned long where;

/* Increments a counter at an address that the host has found, so that it is wrong. */
static noinline void kharness_count_one_more(void)
{
	if (where)
		WRITE_ONCE(*(u32 *)where, READ_ONCE(*(u32 *)where) + 1);
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
	{ "slab-lost", kharness_lose_slab },
	{ "percpu-leak", kharness_leak_percpu },
	{ "use-after-free", kharness_use_after_free },
	{ "lock-order", kharness_lock_order },
	{ "sleep-atomic", kharness_sleep_atomic },
	{ "cpu-not-held", kharness_cpu_not_held },
	{ "percpu-use-after-free", kharness_use_freed_percpu },
	{ "percpu-follow-freed", kharness_follow_freed_percpu },
	{ "percpu-double-free", kharness_free_percpu_twice },
	{ "count-one-more", kharness_count_one_more },
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
	char text[48] = "", *rest = text, *name;
	int i;

	if (len >= sizeof(text) || copy_from_user(text, from, len))
		return -EINVAL;
	strim(text);
	name = strsep(&rest, " ");
	where = 0;
	if (rest && kstrtoul(rest, 16, &where))
		return -EINVAL;
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
