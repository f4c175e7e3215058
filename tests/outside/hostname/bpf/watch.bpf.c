/* SPDX-License-Identifier: GPL-2.0-only */
/* Counts the writes to the host name. */
#include "kharness.bpf.h"

u64 writes;

SEC("fentry/proc_do_uts_string")
int BPF_PROG(count_writes, const void *table, int write)
{
	if (write)
		__sync_fetch_and_add(&writes, 1);
	return 0;
}
