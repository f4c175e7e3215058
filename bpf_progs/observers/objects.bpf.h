/* SPDX-License-Identifier: GPL-2.0-only */
/* Shared by the ledgers of objects: what kinds there are, their keys, and the text of the code under test. */
#ifndef OBJECTS_BPF_H
#define OBJECTS_BPF_H

#include "kharness.bpf.h"

enum { KIND_PERCPU = 1, KIND_SLAB = 2 };

#define MAX_RANGES 16

/* Text of the code under test, [start, end): slab objects count if they are allocated there. */
u64 starts[MAX_RANGES];
u64 ends[MAX_RANGES];
u32 nr_ranges;

/* Objects that did not fit. */
u64 lost;

static __always_inline bool in_ranges(u64 address)
{
	for (u32 i = 0; i < MAX_RANGES && i < nr_ranges; i++) {
		if (address >= starts[i] && address < ends[i])
			return true;
	}
	return false;
}

/*
 * The address of an object as a key of a map. kmemleak scans maps (their memory is vmalloc()'s), elements that were deleted
 * too, and would take the address itself for a reference: turned, it is no address. Those of percpu objects, offsets, are
 * distinguished by bit 0.
 */
static __always_inline u64 object_key(const void *at, bool percpu)
{
	u64 address = (u64)at | percpu;

	return address << 16 | address >> 48;
}

#endif
