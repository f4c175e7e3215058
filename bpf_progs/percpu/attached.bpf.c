/* SPDX-License-Identifier: GPL-2.0-only */
/* Programs whose attachment, not their load, takes percpu memory. */
#include "kharness.bpf.h"

/* Each cgroup that the program is attached to has storage of its own (kernel/bpf/local_storage.c). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE);
	__type(key, struct bpf_cgroup_storage_key);
	__type(value, u64);
} storage SEC(".maps");

SEC("cgroup_skb/egress")
int count_packets(struct __sk_buff *skb)
{
	u64 *packets = bpf_get_local_storage(&storage, 0);

	(*packets)++;
	return 1;
}

/* A trampoline counts its users (bpf_tramp_image_alloc(), kernel/bpf/trampoline.c). The function does nothing. */
SEC("fentry/bpf_fentry_test1")
int traced(void *ctx)
{
	return 0;
}

/* A probe counts its hits (alloc_trace_kprobe(), kernel/trace/trace_kprobe.c). */
SEC("kprobe/bpf_fentry_test1")
int probed(void *ctx)
{
	return 0;
}
