/* SPDX-License-Identifier: GPL-2.0-only */
/* Operations on DSQs as SYSCALL programs, so that user space does them one at a time and sees each answer. */
#ifndef CALLS_BPF_H
#define CALLS_BPF_H

#include "scx.bpf.h"

struct api_args {
	u64 dsq_id;
	s32 node;
	s32 pad;
};

SEC("syscall")
int create(struct api_args *args)
{
	return scx_bpf_create_dsq(args->dsq_id, args->node);
}

SEC("syscall")
int destroy(struct api_args *args)
{
	scx_bpf_destroy_dsq(args->dsq_id);
	return 0;
}

SEC("syscall")
int nr_queued(struct api_args *args)
{
	return scx_bpf_dsq_nr_queued(args->dsq_id);
}

#endif
