/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A scheduler of the SCHED_EXT tasks on several user DSQs, two FIFOs and two ordered by virtual time, that follows a
 * script for each task, and records the events of every CPU.
 */
#include "flags.bpf.h"
#include "trace.bpf.h"

/* tests/kernel/sched_ext/model/event.py and tests/kernel/sched_ext/traced.py have the same. */
#define FIRST_DSQ 64
#define NR_DSQS 4
#define FIRST_PRIQ 2
#define MAX_SCRIPT 256
#define MAX_WORDS 24
#define TURNS (1 << 20)

/* include/linux/sched/ext.h, enum scx_ops_flags: exiting tasks and those that may not migrate too. */
#define SCX_OPS_ENQ_EXITING (1ULL << 2)
#define SCX_OPS_ENQ_MIGRATION_DISABLED (1ULL << 4)

u64 nr_reenqueued;
u64 nr_taken;

/*
 * For each arrival: DSQ, AT_HEAD, slice, a byte each, lowest first; and its virtual time. For each dispatch: the DSQ from
 * which it takes first, and the one to which it moves the first task before (NO_DSQ: none).
 */
enum { ARRIVALS, VTIMES, MOVES, SLICES, NR_SCRIPTS };
u64 script[NR_SCRIPTS * MAX_SCRIPT];
u32 nr_script;
u32 next_script;
u32 next_move;
u32 next_cpu;
u32 nr_cpus = 1;

/* While it is set no task leaves its DSQ by ops.dispatch. */
u32 hold;

/* How many tasks are ready to request re-enqueues. */
u32 together;

struct cpumask {
	unsigned long bits[1];
} KERNEL_TYPE;

struct task_struct___affine {
	const struct cpumask *cpus_ptr;
	unsigned short migration_disabled;
} KERNEL_TYPE;

extern void scx_bpf_kick_cpu(s32 cpu, u64 flags) __ksym;
extern s32 scx_bpf_task_cpu(const struct task_struct *p) __ksym;
extern bool scx_bpf_task_set_slice(struct task_struct *p, u64 slice) __ksym __weak;
extern void scx_bpf_dsq_move_set_vtime(struct bpf_iter_scx_dsq *it, u64 vtime) __ksym __weak;
extern bool scx_bpf_dsq_move(struct bpf_iter_scx_dsq *it, struct task_struct *p, u64 dsq_id, u64 enq_flags) __ksym __weak;
extern bool scx_bpf_dsq_move_vtime(struct bpf_iter_scx_dsq *it, struct task_struct *p, u64 dsq_id,
				   u64 enq_flags) __ksym __weak;

static __always_inline u32 turn_of(u32 *next)
{
	return __sync_fetch_and_add(next, 1) % (nr_script ?: 1);
}

static __always_inline u64 line(u32 which, u32 turn)
{
	return script[(which * MAX_SCRIPT + (turn & (MAX_SCRIPT - 1))) & (NR_SCRIPTS * MAX_SCRIPT - 1)];
}

s32 STRUCT_OPS_SLEEPABLE(traced_init)
{
	s32 ret, i;

	bpf_for(i, 0, NR_DSQS) {
		ret = scx_bpf_create_dsq(FIRST_DSQ + i, NUMA_NO_NODE);
		if (ret)
			return ret;
	}
	return 0;
}

/* Every CPU in turn; the kernel takes another where the task may not run there. */
s32 STRUCT_OPS(traced_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	return __sync_fetch_and_add(&next_cpu, 1) % (nr_cpus ?: 1);
}

void STRUCT_OPS(traced_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_struct___affine *affine = (void *)p;
	u32 turn = turn_of(&next_script);
	u64 word = line(ARRIVALS, turn), vtime = line(VTIMES, turn), slice = line(SLICES, word >> 16);
	u32 dsq = word % NR_DSQS, flags = 0, slot;

	if (dsq < FIRST_PRIQ && word >> 8 & 1)
		enq_flags |= FLAG(SCX_ENQ_HEAD);
	if (enq_flags & (FLAG(SCX_ENQ_HEAD) | FLAG(SCX_ENQ_PREEMPT)))
		flags |= AT_HEAD;
	if (enq_flags & FLAG(SCX_ENQ_REENQ)) {
		flags |= REENQUEUED;
		__sync_fetch_and_add(&nr_reenqueued, 1);
	}
	if (BPF_CORE_READ(affine, migration_disabled))
		flags |= PINNED;
	slot = begin_event(ENQUEUED, p, scx_bpf_task_cpu(p), dsq, NO_DSQ, flags);
	if (slot < MAX_EVENTS) {
		slot &= MAX_EVENTS - 1;
		event_slices[slot] = slice;
		event_vtimes[slot] = vtime;
		event_masks[slot] = BPF_CORE_READ(affine, cpus_ptr, bits[0]);
	}
	leave_open(slot);
	if (dsq < FIRST_PRIQ)
		dsq_insert(p, FIRST_DSQ + dsq, slice, enq_flags);
	else
		dsq_insert_vtime(p, FIRST_DSQ + dsq, slice, vtime, enq_flags);
}

void STRUCT_OPS(traced_dequeue, struct task_struct *p, u64 deq_flags)
{
	leave_open(begin_event(LEFT, p, scx_bpf_task_cpu(p), NO_DSQ, NO_DSQ, deq_flags ? CHANGED : 0));
}

/* The first task of a DSQ goes to another, or to this CPU where it already is. */
static __always_inline void move_first(s32 cpu, u32 from, u32 to, u64 vtime)
{
	u32 slot = begin_event(FIRST, NULL, cpu, from, NO_DSQ, 0), pid = 0;
	struct task_struct *p;

	bpf_for_each(scx_dsq, p, FIRST_DSQ + from, 0) {
		s32 there = scx_bpf_task_cpu(p);
		bool done;

		pid = p->pid;
		if (slot < MAX_EVENTS)
			event_pids[slot & (MAX_EVENTS - 1)] = pid;
		end_event(slot, true);
		if (to == LOCAL_DSQ && there != cpu)
			return;
		slot = begin_event(MOVED, p, cpu, from, to, 0);
		if (slot < MAX_EVENTS)
			event_vtimes[slot & (MAX_EVENTS - 1)] = vtime;
		if (to == LOCAL_DSQ) {
			done = scx_bpf_dsq_move(&___it, p, SCX_DSQ_LOCAL, 0);
		} else if (to < FIRST_PRIQ) {
			done = scx_bpf_dsq_move(&___it, p, FIRST_DSQ + to, 0);
		} else {
			scx_bpf_dsq_move_set_vtime(&___it, vtime);
			done = scx_bpf_dsq_move_vtime(&___it, p, FIRST_DSQ + to, 0);
		}
		end_event(slot, done);
		/* A CPU that looked for it meanwhile may have gone idle. */
		scx_bpf_kick_cpu(there, 0);
		break;
	}
	if (!pid)
		end_event(slot, false);
}

void STRUCT_OPS(traced_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 turn = turn_of(&next_move);
	u64 word = line(MOVES, turn);
	u32 from = word % NR_DSQS, to = word >> 8 & 255;
	int i;

	if (hold)
		return;
	if (to != NO_DSQ)
		move_first(cpu, from, to == LOCAL_DSQ ? to : to % NR_DSQS, line(VTIMES, turn));
	bpf_for(i, 0, NR_DSQS) {
		u32 dsq = (from + i) % NR_DSQS;
		u32 slot = begin_event(TAKEN, NULL, cpu, dsq, NO_DSQ, 0);
		bool done = dsq_move_to_local(FIRST_DSQ + dsq);

		end_event(slot, done);
		if (!done)
			continue;
		__sync_fetch_and_add(&nr_taken, 1);
		return;
	}
}

void STRUCT_OPS(traced_running, struct task_struct *p)
{
	begin_event(RAN, p, bpf_get_smp_processor_id(), NO_DSQ, NO_DSQ, 0);
}

void STRUCT_OPS(traced_stopping, struct task_struct *p, bool runnable)
{
	begin_event(STOPPED, p, bpf_get_smp_processor_id(), NO_DSQ, NO_DSQ, runnable ? RUNNABLE : 0);
}

/* No task keeps the CPU for ever, whatever its slice. */
void STRUCT_OPS(traced_tick, struct task_struct *p)
{
	if (p->scx.slice <= SCX_SLICE_DFL)
		return;
	if (bpf_ksym_exists(scx_bpf_task_set_slice))
		scx_bpf_task_set_slice(p, 0);
	else
		p->scx.slice = 0;
}

void STRUCT_OPS(traced_exit_task, struct task_struct *p, struct scx_exit_task_args *args)
{
	begin_event(GONE, p, NO_DSQ, NO_DSQ, NO_DSQ, 0);
}

void STRUCT_OPS(traced_cpu_online, s32 cpu)
{
	begin_event(ONLINE, NULL, cpu, NO_DSQ, NO_DSQ, 0);
}

void STRUCT_OPS(traced_cpu_offline, s32 cpu)
{
	begin_event(OFFLINE, NULL, cpu, NO_DSQ, NO_DSQ, 0);
}

void STRUCT_OPS(traced_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

/* The wake-up or the switch that an insertion belongs to is over. */
SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_wakeup)
{
	close_event();
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_wakeup_new)
{
	close_event();
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch)
{
	close_event();
	return 0;
}

struct script_args {
	u64 which, first, count;
	u64 words[MAX_WORDS];
};

/* Some lines of a script. */
SEC("syscall")
int write_script(struct script_args *args)
{
	u32 i;

	bpf_for(i, 0, MAX_WORDS) {
		if (i >= args->count)
			break;
		script[(args->which * MAX_SCRIPT + args->first + i) & (NR_SCRIPTS * MAX_SCRIPT - 1)] = args->words[i];
	}
	return 0;
}

struct traced_args {
	u64 number;
	u64 times;
};

/* Lets tasks leave, or not; kicks every CPU. */
SEC("syscall")
int let_go(struct traced_args *args)
{
	int cpu;

	hold = !args->number;
	bpf_for(cpu, 0, nr_cpus)
		scx_bpf_kick_cpu(cpu, 0);
	return 0;
}

SEC("syscall")
int count(struct traced_args *args)
{
	u32 slot = begin_event(COUNTED, NULL, NO_DSQ, args->number, NO_DSQ, 0);
	s32 answer = scx_bpf_dsq_nr_queued(FIRST_DSQ + args->number);

	if (slot < MAX_EVENTS)
		event_vtimes[slot & (MAX_EVENTS - 1)] = answer;
	end_event(slot, true);
	return answer;
}

struct reenq_args {
	u64 dsq; /* NO_DSQ: one after the other */
	u64 times;
	u64 together; /* how many of these are to begin at once */
};

static long until_together(u64 i, u64 *wanted)
{
	return *(volatile u32 *)&together >= *wanted;
}

/* Re-enqueues every task on the DSQ, so many times, by this CPU's per-CPU data of the DSQ. */
SEC("syscall")
int reenqueue(struct reenq_args *args)
{
	u64 wanted = args->together, i;

	if (!bpf_ksym_exists(scx_bpf_dsq_reenq))
		return -EOPNOTSUPP;
	__sync_fetch_and_add(&together, 1);
	bpf_loop(TURNS, until_together, &wanted, 0);
	bpf_for(i, 0, args->times) {
		u32 dsq = args->dsq == NO_DSQ ? i % NR_DSQS : args->dsq;
		u32 slot = begin_event(ASKED, NULL, NO_DSQ, dsq, NO_DSQ, 0);

		scx_bpf_dsq_reenq(FIRST_DSQ + dsq, 0);
		end_event(slot, true);
	}
	return 0;
}

/* The operations of kharness.bpf.h's sched_ext_ops and those of CPUs: CO-RE finds members by their names. */
struct sched_ext_ops___traced {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dequeue)(struct task_struct *p, u64 deq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	void (*tick)(struct task_struct *p);
	void (*running)(struct task_struct *p);
	void (*stopping)(struct task_struct *p, bool runnable);
	void (*cpu_online)(s32 cpu);
	void (*cpu_offline)(s32 cpu);
	void (*exit_task)(struct task_struct *p, struct scx_exit_task_args *args);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u64 flags;
	u32 timeout_ms;
	char name[128];
};

SEC(".struct_ops.link")
struct sched_ext_ops___traced ops = {
	.select_cpu = (void *)traced_select_cpu,
	.enqueue = (void *)traced_enqueue,
	.dequeue = (void *)traced_dequeue,
	.dispatch = (void *)traced_dispatch,
	.tick = (void *)traced_tick,
	.running = (void *)traced_running,
	.stopping = (void *)traced_stopping,
	.cpu_online = (void *)traced_cpu_online,
	.cpu_offline = (void *)traced_cpu_offline,
	.exit_task = (void *)traced_exit_task,
	.init = (void *)traced_init,
	.exit = (void *)traced_exit,
	.flags = SCX_OPS_SWITCH_PARTIAL | SCX_OPS_ENQ_EXITING | SCX_OPS_ENQ_MIGRATION_DISABLED,
	.timeout_ms = 30000,
	.name = "kh_dsq_traced",
};
