// SPDX-License-Identifier: GPL-2.0-only
/* Quiescence: barriers for queued work, and the turnover of the slab's sheaves. */
#include <linux/fs.h>
#include <linux/irq_work.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/rcupdate_trace.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/workqueue.h>

#include "kharness.h"

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

/* irq_work on each CPU; then one turn of the system workqueue on each, except one where no task can run. */
static void flush_but(int busy)
{
	int cpu;

	on_each_cpu(queue_irq_work, NULL, 1);
	for_each_online_cpu(cpu)
		irq_work_sync(per_cpu_ptr(&barrier_irq_work, cpu));
	for_each_online_cpu(cpu) {
		struct work_struct item;

		if (cpu == busy)
			continue;
		INIT_WORK_ONSTACK(&item, nothing_work);
		schedule_work_on(cpu, &item);
		flush_work(&item);
		destroy_work_on_stack(&item);
	}
}

/*
 * Lets everything already queued run: irq_work on each CPU, one turn of the system workqueue on each CPU, RCU
 * callbacks of all flavours in use. Teardown chains these, so the caller repeats until its counters stand still.
 */
static ssize_t barrier_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	flush_but(-1);
#ifdef CONFIG_TASKS_TRACE_RCU /* BPF frees programs and maps after it */
	rcu_barrier_tasks_trace();
#endif
	rcu_barrier();
#ifdef CONFIG_TASKS_RCU /* only with preemption */
	rcu_barrier_tasks();
#endif
	return len;
}

const struct file_operations barrier_fops = {
	.owner = THIS_MODULE,
	.write = barrier_write,
};

/* The barrier without waiting for RCU: a reader spins on the CPU that is written, or -1. */
static ssize_t flush_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	int busy, err = kstrtoint_from_user(from, len, 0, &busy);

	if (err)
		return err;
	flush_but(busy);
	return len;
}

const struct file_operations flush_fops = {
	.owner = THIS_MODULE,
	.write = flush_write,
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

const struct file_operations churn_fops = {
	.owner = THIS_MODULE,
	.write = churn_write,
};

void quiesce_init(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		init_irq_work(per_cpu_ptr(&barrier_irq_work, cpu), nothing_irq);
}
