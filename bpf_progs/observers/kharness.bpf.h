/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by every BPF program of the harness and of suites.
 *
 * No vmlinux.h: a program declares the kernel types it touches, with only the fields in use (KERNEL_TYPE), and CO-RE
 * relocates them against the running kernel, so one object serves every kernel that has them.
 */
#ifndef KHARNESS_BPF_H
#define KHARNESS_BPF_H

#include <linux/bpf.h>
#include <linux/errno.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

typedef __u8 u8;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

#define KERNEL_TYPE __attribute__((preserve_access_index))

#define STRUCT_OPS(name, args...) SEC("struct_ops/" #name) BPF_PROG(name, ##args)
#define STRUCT_OPS_SLEEPABLE(name, args...) SEC("struct_ops.s/" #name) BPF_PROG(name, ##args)

char LICENSE[] SEC("license") = "GPL";

#endif
