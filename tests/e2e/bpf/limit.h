/* SPDX-License-Identifier: GPL-2.0-only */
/* After how many tasks thrown.bpf.c has had enough: attaching alone queues fewer, the workload more. */
#define LIMIT 300
