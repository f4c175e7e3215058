/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A scheduler of the cid form, which may be root or a sub-scheduler of a cgroup: creates nr_dsqs user DSQs in ops.init, and
 * has the operations on DSQs as SYSCALL programs of its own, to be associated with it. Tasks go to the local DSQ, or, while
 * they are to be held, to the first user DSQ, from which nothing is taken.
 */
#ifndef SUB_BPF_H
#define SUB_BPF_H

#include "calls.bpf.h"
#include "flags.bpf.h"

u64 nr_dsqs = 1;
u64 first_id = 0;
s32 node = NUMA_NO_NODE;

u64 created;
s32 first_error;

/* Whether arriving tasks are held, and how many were. */
u32 hold;
u64 nr_held;

struct scx_sub_attach_args;
struct scx_sub_detach_args;

/* kernel/sched/ext/internal.h (7.2): the form that sub-schedulers and those that take them must have. */
struct sched_ext_ops_cid {
	s32 (*select_cid)(struct task_struct *p, s32 prev_cid, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	s32 (*sub_attach)(struct scx_sub_attach_args *args);
	void (*sub_detach)(struct scx_sub_detach_args *args);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u64 flags;
	u32 timeout_ms;
	u64 sub_cgroup_id;
	char name[128];
};

/* A scheduler of this form must have an arena (bpf_scx_reg_cid()); a program has one by loading its address. */
struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << 14); /* each attach takes four pages, which come back with the map only */
} arena SEC(".maps");

#define USE_ARENA asm volatile("" :: "r"(&arena))

static __always_inline s32 make_dsqs(void)
{
	int i;

	USE_ARENA;
	bpf_for(i, 0, nr_dsqs) {
		s32 ret = scx_bpf_create_dsq(first_id + i, node);

		if (ret) {
			first_error = ret;
			return ret;
		}
		created++;
	}
	return 0;
}

/* The kernel's own choice would send a task past the DSQ to an idle CPU. */
s32 STRUCT_OPS(sub_select_cid, struct task_struct *p, s32 prev_cid, u64 wake_flags)
{
	return prev_cid;
}

void STRUCT_OPS(sub_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (hold) {
		__sync_fetch_and_add(&nr_held, 1);
		dsq_insert(p, first_id, SCX_SLICE_DFL, enq_flags);
	} else {
		dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, enq_flags);
	}
}

void STRUCT_OPS(sub_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

#define SUB_OPS							\
	.select_cid = (void *)sub_select_cid,			\
	.enqueue = (void *)sub_enqueue,				\
	.exit = (void *)sub_exit,				\
	.flags = SCX_OPS_SWITCH_PARTIAL,			\
	.timeout_ms = 30000

#endif
