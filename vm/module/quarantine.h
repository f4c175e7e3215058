/* SPDX-License-Identifier: GPL-2.0-only */
/* The interface between quarantine.c and poison.c. */
#ifndef KHARNESS_QUARANTINE_H
#define KHARNESS_QUARANTINE_H

#include <linux/types.h>

/*
 * A pointer made of it is no address on any architecture: bits 63 to 47 differ (x86_64 and riscv64, also with five
 * levels), and on arm64 bit 55 makes it the kernel's while bits 54 to 48 are not all ones. No poison of the kernel's own
 * (linux/poison.h) looks like it. harness/oracles/splat/rules.py knows it.
 */
#define POISON 0xd6

#define OBJECT_BITS 14
#define OBJECTS (1 << OBJECT_BITS)
#define DEPTH 10

struct trail {
	unsigned int depth;
	unsigned long by[DEPTH]; /* return addresses, innermost first */
};

struct object {
	struct hlist_node node; /* of its bucket, or of the spare ones */
	unsigned long ptr;
	unsigned long made_by;
	size_t size;
	bool freed;
	struct trail first, again;
};

/* Since it was armed. */
extern struct quarantine_counts {
	unsigned long tracked, poisoned, checked, bad, twice;
	unsigned long lost; /* the table was full */
	unsigned long missed; /* really freed: a kprobe does not run within another */
	unsigned long live, kept;
} counts;

/* "START-END START-END ...", in hex: return addresses of the calls whose objects count. 0 or an errno. */
int quarantine_arm(char *text);
/* Stops taking in objects. */
void quarantine_stop(void);
/* Frees the table, with its objects that are still alive. */
void quarantine_close(void);
/* The kept object in this slot of the table, or NULL. */
struct object *quarantine_kept(unsigned int place);
/* Removes it; returns the pointer to be freed now. */
void __percpu *quarantine_release(struct object *o);

#endif
