/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Events of all CPUs, with stamps of one counter. An operation has a stamp from before it and one from after it: what the
 * kernel did lies between. An insertion is done when ops.enqueue has returned, so its second stamp is taken by whatever this
 * CPU writes down, wakes or switches to next.
 */
#ifndef TRACE_BPF_H
#define TRACE_BPF_H

/* tests/kernel/sched_ext/model/event.py has the same. */
#define NO_DSQ 255
#define LOCAL_DSQ 254
#define MAX_EVENTS 131072
#define MAX_CPUS 64

enum {
	ENQUEUED = 1, /* ops.enqueue puts it on a DSQ */
	LEFT = 2,     /* ops.dequeue: it is no longer the scheduler's */
	TAKEN = 3,    /* a move of the first task that may run here to this CPU */
	MOVED = 4,    /* a move of one task to another DSQ */
	RAN = 5,
	STOPPED = 6,
	GONE = 7,
	ONLINE = 8,
	OFFLINE = 9,
	COUNTED = 10, /* how many tasks a DSQ has */
	FIRST = 11,   /* the first task of a walk */
	ASKED = 12,   /* scx_bpf_dsq_reenq() */
};
enum { AT_HEAD = 1, REENQUEUED = 2, DONE = 4, CHANGED = 8, RUNNABLE = 16, PINNED = 32 };

u64 clock;
u64 nr_events;
u64 lost;
u64 event_begins[MAX_EVENTS];
u64 event_ends[MAX_EVENTS];
u64 event_times[MAX_EVENTS];
u64 event_words[MAX_EVENTS]; /* kind, CPU, runqueue, DSQ, other DSQ, flags: a byte each, lowest first */
s32 event_pids[MAX_EVENTS];
u64 event_vtimes[MAX_EVENTS]; /* of COUNTED the answer */
u64 event_slices[MAX_EVENTS];
u64 event_masks[MAX_EVENTS]; /* the first 64 CPUs that a task may run on */

/* The event of this CPU that needs its second stamp, one more than its number; 0: none. */
u32 open_events[MAX_CPUS];

static __always_inline u64 stamp(void)
{
	return __sync_fetch_and_add(&clock, 1) + 1;
}

/* This CPU's last operation is done. */
static __always_inline void close_event(void)
{
	u32 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);
	u32 slot = open_events[cpu];

	if (!slot)
		return;
	open_events[cpu] = 0;
	event_ends[(slot - 1) & (MAX_EVENTS - 1)] = stamp();
}

static __always_inline u32 begin_event(u32 kind, struct task_struct *p, u32 rq, u32 dsq, u32 other, u32 flags)
{
	u32 cpu = bpf_get_smp_processor_id(), slot;
	u64 begin, number;

	close_event();
	begin = stamp();
	number = __sync_fetch_and_add(&nr_events, 1);
	if (number >= MAX_EVENTS) {
		__sync_fetch_and_add(&lost, 1);
		return MAX_EVENTS;
	}
	slot = number & (MAX_EVENTS - 1);
	event_begins[slot] = begin;
	event_times[slot] = bpf_ktime_get_ns();
	event_words[slot] = kind | (u64)(cpu & 255) << 8 | (u64)(rq & 255) << 16 | (u64)(dsq & 255) << 24 |
			    (u64)(other & 255) << 32 | (u64)flags << 40;
	if (p) {
		event_pids[slot] = p->pid;
		event_slices[slot] = p->scx.slice;
		event_vtimes[slot] = p->scx.dsq_vtime;
	}
	return slot;
}

static __always_inline void end_event(u32 slot, bool done)
{
	u64 end;

	close_event();
	end = stamp();
	if (slot >= MAX_EVENTS)
		return;
	slot &= MAX_EVENTS - 1;
	event_ends[slot] = end;
	if (done)
		event_words[slot] |= (u64)DONE << 40;
}

/* Its second stamp comes with what this CPU does next. */
static __always_inline void leave_open(u32 slot)
{
	if (slot < MAX_EVENTS)
		open_events[bpf_get_smp_processor_id() & (MAX_CPUS - 1)] = slot + 1;
}

#endif
