// SPDX-License-Identifier: GPL-2.0-only
/* The content of the resident ledger (bpf_progs/observers/alive.bpf.c): the live objects, counted by call site. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

#define MAX_PLACES 1024
#define BATCH 4096
#define KIND_PERCPU 1
#define KIND_OLD 4

/* As in bpf_progs/observers/alive.bpf.c. */
struct entry {
	uint64_t call_site, caller;
	uint32_t kind, size;
};

static struct place {
	struct entry what;
	long long count;
} places[MAX_PLACES];
static int nr_places;
static long long omitted; /* objects of further places */

static const char *const counts[] = {
	"percpu_allocated", "percpu_freed", "percpu_older", "slab_allocated", "slab_alive", "lost",
};

static void count(const struct entry *e)
{
	int i = 0;

	while (i < nr_places && memcmp(&places[i].what, e, sizeof(*e)))
		i++;
	if (i == MAX_PLACES) {
		omitted++;
		return;
	}
	if (i == nr_places) {
		places[nr_places++].what = *e;
		places[i].count = 0;
	}
	places[i].count++;
}

/* Marks an object as old: percpu objects are recognised when they are freed, others are not. */
static int forget_one(int fd, const uint64_t *key, struct entry *e)
{
	if (!(e->kind & KIND_PERCPU))
		return bpf_map_delete_elem(fd, key) ? errno : 0;
	e->kind |= KIND_OLD;
	return bpf_map_update_elem(fd, key, e, BPF_EXIST) ? errno : 0;
}

/* Counts all objects, in batches, and forgets them if `forget` is set; 0 or an errno. */
static int count_all(int fd, bool forget)
{
	static uint64_t keys[BATCH];
	static struct entry entries[BATCH];
	uint32_t token, nr;
	int err = 0;

	nr_places = 0;
	omitted = 0;
	for (bool more = false; !err; more = true) {
		uint32_t *from = more ? &token : NULL;

		nr = BATCH;
		if (bpf_map_lookup_batch(fd, from, &token, keys, entries, &nr, NULL))
			err = errno;
		if (err && err != ENOENT)
			return err;
		for (uint32_t i = 0; i < nr; i++) {
			int gone = forget ? forget_one(fd, &keys[i], &entries[i]) : 0;

			if (gone && gone != ENOENT) /* it was freed meanwhile */
				return gone;
			if (!(entries[i].kind & KIND_OLD))
				count(&entries[i]);
		}
	}
	return 0; /* ENOENT: that was the last batch */
}

static void reply_counts(struct object *o, bool forget, struct reply *r)
{
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct var var;

		if (find_var(object_bpf(o), counts[i], &var) || var.size != sizeof(long long)) {
			reply_error(r, EINVAL, "not a ledger: it has no %s", counts[i]);
			return;
		}
		reply_int(r, counts[i], *(volatile long long *)var.at);
		if (forget)
			*(volatile long long *)var.at = 0;
	}
}

/* How often each program was not run because its CPU was running it already, the only reason for an attached one. */
static void reply_missed(struct object *o, struct reply *r)
{
	struct bpf_program *prog;
	int programs = 0;

	buf_printf(&r->body, ",\"missed\":{");
	bpf_object__for_each_program(prog, object_bpf(o)) {
		struct bpf_prog_info info = {};
		uint32_t size = sizeof(info);

		if (bpf_obj_get_info_by_fd(bpf_program__fd(prog), &info, &size)) {
			buf_printf(&r->body, "}");
			reply_error(r, errno, "%s: %s", bpf_program__name(prog), strerror(errno));
			return;
		}
		buf_printf(&r->body, "%s\"%s\":%llu", programs++ ? "," : "", bpf_program__name(prog),
			   (unsigned long long)info.recursion_misses);
	}
	buf_printf(&r->body, "}");
	reply_int(r, "programs", programs);
	reply_int(r, "attached", object_links(o));
}

static void reply_replaced(const struct bpf_map *map, bool forget, struct reply *r)
{
	uint64_t site, next, times;
	bool first = true;

	buf_printf(&r->body, ",\"replaced\":[");
	for (bool have = false; !bpf_map_get_next_key(bpf_map__fd(map), have ? &site : NULL, &next); have = true) {
		site = next;
		if (bpf_map_lookup_elem(bpf_map__fd(map), &site, &times))
			continue;
		buf_printf(&r->body, "%s[%llu,%llu]", first ? "" : ",", (unsigned long long)site,
			   (unsigned long long)times);
		first = false;
	}
	buf_printf(&r->body, "]");
	if (forget && clear_map(map))
		reply_error(r, EIO, "the ledger could not be emptied");
}

/*
 * alive: the content of object "name", a ledger, at a quiescent point. "places" are [kind, call site, size, objects, caller],
 * at most 1024, "omitted" is how many objects more there are; "replaced" are [call site, old objects that were freed];
 * the ledger's counts by their names; "missed" by program. With "forget" all but "missed" is reset: live percpu objects
 * are old from then on.
 */
static void do_alive(const struct op *op, struct reply *r)
{
	struct object *o = find_object(op, "name", r);
	struct bpf_map *map = o ? bpf_object__find_map_by_name(object_bpf(o), "objects") : NULL;
	struct bpf_map *old = o ? bpf_object__find_map_by_name(object_bpf(o), "replaced") : NULL;
	bool forget = arg_int(op, "forget", 0);
	int err;

	if (!o)
		return;
	err = map && old ? count_all(bpf_map__fd(map), forget) : EINVAL;
	if (err) {
		reply_error(r, err, "the ledger's objects: %s", strerror(err));
		return;
	}
	reply_counts(o, forget, r);
	reply_missed(o, r);
	reply_replaced(old, forget, r);
	reply_int(r, "omitted", omitted);
	buf_printf(&r->body, ",\"places\":[");
	for (int i = 0; i < nr_places; i++)
		buf_printf(&r->body, "%s[%u,%llu,%u,%lld,%llu]", i ? "," : "", places[i].what.kind,
			   (unsigned long long)places[i].what.call_site, places[i].what.size, places[i].count,
			   (unsigned long long)places[i].what.caller);
	buf_printf(&r->body, "]");
}
VERB("alive", do_alive);
