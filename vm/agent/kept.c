// SPDX-License-Identifier: GPL-2.0-only
/*
 * BPF objects loaded once at boot and saved with the guest: under TCG the verifier's code is cold after each restore,
 * and a load then takes a second. load takes a kept object, unload gives it back as it was.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

#define MAX_KEPT 32
#define MAX_IMAGES 4

struct kept {
	char path[128];
	struct bpf_object *bpf;
	bool taken;
	int nr_images;
	struct {
		void *at, *first; /* a writable section now, and its content after loading */
		size_t size;
	} images[MAX_IMAGES];
};

static struct kept kept[MAX_KEPT];

static bool is_rodata(const struct bpf_map *map)
{
	return strstr(bpf_map__name(map), ".rodata") != NULL;
}

/* Whether clear_map() can reset a map. */
static bool clearable(const struct bpf_map *map)
{
	switch (bpf_map__type(map)) {
	case BPF_MAP_TYPE_HASH:
	case BPF_MAP_TYPE_PERCPU_HASH:
	case BPF_MAP_TYPE_QUEUE:
	case BPF_MAP_TYPE_STACK:
	case BPF_MAP_TYPE_ARRAY:
	case BPF_MAP_TYPE_PERCPU_ARRAY:
	case BPF_MAP_TYPE_STRUCT_OPS:
		return true;
	default:
		return false;
	}
}

/* A value as user space sees it: one for each possible CPU in per-CPU maps, rounded up to eight bytes. */
static size_t seen_size(const struct bpf_map *map)
{
	size_t size = bpf_map__value_size(map);
	enum bpf_map_type type = bpf_map__type(map);

	if (type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_ARRAY)
		return ((size + 7) & ~7UL) * libbpf_num_possible_cpus();
	return size;
}

int clear_map(const struct bpf_map *map)
{
	char *key = calloc(1, bpf_map__key_size(map) + 1), *value = calloc(1, seen_size(map));
	int fd = bpf_map__fd(map), err = 0;

	switch (bpf_map__type(map)) {
	case BPF_MAP_TYPE_HASH:
	case BPF_MAP_TYPE_PERCPU_HASH:
		while (!err && !bpf_map_get_next_key(fd, NULL, key)) {
			err = bpf_map_delete_elem(fd, key);
			if (err == -ENOENT) /* a program removed it meanwhile */
				err = 0;
		}
		break;
	case BPF_MAP_TYPE_QUEUE:
	case BPF_MAP_TYPE_STACK:
		while (!bpf_map_lookup_and_delete_elem(fd, NULL, value))
			;
		break;
	case BPF_MAP_TYPE_ARRAY:
	case BPF_MAP_TYPE_PERCPU_ARRAY:
		for (uint32_t i = 0; !err && i < bpf_map__max_entries(map); i++)
			err = bpf_map_update_elem(fd, &i, value, BPF_ANY);
		break;
	default:
		break;
	}
	free(value);
	free(key);
	return err;
}

/* Remembers the writable sections; false when the object could not be reset. */
static bool remember(struct kept *k)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, k->bpf) {
		size_t size;
		void *at;

		if (!bpf_map__is_internal(map)) {
			if (!clearable(map))
				return false;
			continue;
		}
		if (is_rodata(map))
			continue;
		at = bpf_map__initial_value(map, &size);
		if (!at || k->nr_images == MAX_IMAGES)
			return false;
		k->images[k->nr_images].at = at;
		k->images[k->nr_images].size = size;
		k->images[k->nr_images].first = malloc(size);
		memcpy(k->images[k->nr_images].first, at, size);
		k->nr_images++;
	}
	return true;
}

static void forget(struct kept *k)
{
	bpf_object__close(k->bpf);
	for (int i = 0; i < k->nr_images; i++)
		free(k->images[i].first);
	memset(k, 0, sizeof(*k));
}

static bool keep_one(const char *path)
{
	struct kept *k = kept;

	while (k < kept + MAX_KEPT && k->bpf)
		k++;
	if (k == kept + MAX_KEPT || strlen(path) >= sizeof(k->path))
		return false;
	k->bpf = bpf_object__open_file(path, NULL);
	if (!k->bpf)
		return false;
	if (bpf_object__load(k->bpf) || !remember(k)) {
		forget(k);
		return false;
	}
	strcpy(k->path, path);
	return true;
}

/* keep: loads every object file of folder "path"; answers which are "kept", and which are "left" and loaded on demand. */
static void do_keep(const struct op *op, struct reply *r)
{
	const char *folder = arg_str(op, "path", "");
	struct buf done = {}, left = {};
	struct dirent **entries;
	int count = scandir(folder, &entries, NULL, alphasort);

	if (count < 0) {
		reply_error(r, errno, "%s: %s", folder, strerror(errno));
		return;
	}
	buf_add(&done, "", 0);
	buf_add(&left, "", 0);
	for (int i = 0; i < count; i++) {
		const char *name = entries[i]->d_name, *dot = strrchr(name, '.');
		char path[512];

		if (dot && !strcmp(dot, ".o")) {
			struct buf *list;

			if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
				continue;
			list = keep_one(path) ? &done : &left;
			buf_printf(list, list->len ? " %s" : "%s", name);
		}
		free(entries[i]);
	}
	free(entries);
	reply_str(r, "kept", done.data, done.len);
	reply_str(r, "left", left.data, left.len);
	free(done.data);
	free(left.data);
}
VERB("keep", do_keep);

/* Whether all values of a load can still be set: members of a struct_ops map cannot. */
static bool settable(struct bpf_object *bpf, const struct op *op)
{
	for (int i = 0; i < op->nr_args; i++) {
		struct var var;

		if (!strncmp(op->args[i].key, "ops.", 4))
			return false;
		if (strncmp(op->args[i].key, "set.", 4))
			continue;
		if (find_var(bpf, op->args[i].key + 4, &var) || var.is_const)
			return false;
	}
	return true;
}

struct bpf_object *kept_take(const char *path, const struct op *op)
{
	for (struct kept *k = kept; k < kept + MAX_KEPT; k++) {
		if (!k->bpf || k->taken || strcmp(k->path, path) || !settable(k->bpf, op))
			continue;
		k->taken = true;
		return k->bpf;
	}
	return NULL;
}

bool kept_give_back(struct bpf_object *bpf)
{
	struct bpf_map *map;
	struct kept *k = kept;

	while (k < kept + MAX_KEPT && k->bpf != bpf)
		k++;
	if (k == kept + MAX_KEPT)
		return false;
	for (int i = 0; i < k->nr_images; i++)
		memcpy(k->images[i].at, k->images[i].first, k->images[i].size);
	k->taken = false;
	bpf_object__for_each_map(map, bpf) {
		if (!bpf_map__is_internal(map) && clear_map(map)) {
			forget(k); /* the next load starts from the file */
			break;
		}
	}
	return true;
}
