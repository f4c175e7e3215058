// SPDX-License-Identifier: GPL-2.0-only
/* The remaining objects of a ledger (bpf_progs/observers/ledger.bpf.c): those that runs under a fault left behind. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

#define MAX_DEPTH 28
#define MAX_PAST 16384
#define MAX_LEFT 512

/* As in bpf_progs/observers/ledger.bpf.c. */
struct entry {
	uint64_t run;
	uint32_t kind, size, depth, unused;
	uint64_t stack[MAX_DEPTH];
};

static struct ending past[MAX_PAST];
static long long nr_past;

void ledger_forget(void)
{
	nr_past = 0;
}

void ledger_past(const struct ending *e)
{
	if (nr_past < MAX_PAST)
		past[nr_past] = *e;
	nr_past++;
}

static void add_entry(struct buf *out, const struct entry *e, const struct ending *of)
{
	buf_printf(out, "%s[%llu,%d,%d,%u,%u,[", out->len ? "," : "", (unsigned long long)of->site, of->n, of->ret,
		   e->kind, e->size);
	for (uint32_t i = 0; i < e->depth && i < MAX_DEPTH; i++)
		buf_printf(out, "%s%llu", i ? "," : "", (unsigned long long)e->stack[i]);
	buf_add(out, "]]", 2);
}

int ledger_left(struct object *ledger, uint64_t run, const struct ending *of, struct buf *out)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object_bpf(ledger), "objects");
	static const struct ending unknown;
	uint64_t key, next;
	int found = 0;

	for (bool have = false; map && !bpf_map_get_next_key(bpf_map__fd(map), have ? &key : NULL, &next); have = true) {
		const struct ending *whose = of;
		struct entry e;

		key = next;
		if (bpf_map_lookup_elem(bpf_map__fd(map), &key, &e) || !e.run || (run && e.run != run))
			continue;
		if (!whose)
			whose = e.run <= (uint64_t)nr_past && e.run <= MAX_PAST ? &past[e.run - 1] : &unknown;
		if (found++ < MAX_LEFT)
			add_entry(out, &e, whose);
	}
	return found;
}

/*
 * left: what object "name" holds of the sweep over operations that was done last, at a quiescent point. "left" are
 * [site, n, answer, kind, size, [stack]], at most 512; "count" is how many there are.
 */
static void do_left(const struct op *op, struct reply *r)
{
	struct object *o = find_object(op, "name", r);
	struct buf rows = {};

	if (!o)
		return;
	buf_add(&rows, "", 0);
	reply_int(r, "count", ledger_left(o, 0, NULL, &rows));
	buf_printf(&r->body, ",\"left\":[%s]", rows.data);
	free(rows.data);
}
VERB("left", do_left);
