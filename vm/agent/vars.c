// SPDX-License-Identifier: GPL-2.0-only
/* Global variables and maps of BPF objects, by name through BTF. */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

/* The kind of scalar, or array of scalars, of a type. */
static int classify(const struct btf *btf, int type_id, struct var *var)
{
	const struct btf_type *t;

	type_id = btf__resolve_type(btf, type_id);
	t = btf__type_by_id(btf, type_id);
	if (!t)
		return EINVAL;
	var->size = btf__resolve_size(btf, type_id);
	if (btf_is_array(t)) {
		var->is_array = true;
		type_id = btf__resolve_type(btf, btf_array(t)->type);
		t = btf__type_by_id(btf, type_id);
	}
	if (!t || !(btf_is_int(t) || btf_is_any_enum(t)))
		return ENOTSUP;
	var->elem = t->size;
	if (btf_is_int(t)) {
		var->is_signed = btf_int_encoding(t) & BTF_INT_SIGNED;
		/* clang gives plain char an encoding of signed or none, never BTF_INT_CHAR: go by the name. */
		var->is_char = t->size == 1 && !strcmp(btf__name_by_offset(btf, t->name_off), "char");
	}
	return 0;
}

static void *section_memory(struct bpf_object *obj, const char *section, size_t *size)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, obj) {
		const char *name = bpf_map__name(map);
		size_t len = strlen(name), want = strlen(section);

		/* The internal map of ".bss" is named after the object: "program.bss". */
		if (bpf_map__is_internal(map) && len >= want && !strcmp(name + len - want, section))
			return bpf_map__initial_value(map, size);
	}
	return NULL;
}

int find_var(struct bpf_object *obj, const char *name, struct var *var)
{
	const struct btf *btf = bpf_object__btf(obj);

	memset(var, 0, sizeof(*var));
	for (int id = 1; btf && id < (int)btf__type_cnt(btf); id++) {
		const struct btf_type *sec = btf__type_by_id(btf, id);
		struct btf_var_secinfo *info = btf_var_secinfos(sec);

		if (!btf_is_datasec(sec))
			continue;
		for (int i = 0; i < btf_vlen(sec); i++, info++) {
			const struct btf_type *v = btf__type_by_id(btf, info->type);
			const char *section;
			size_t size;
			char *base;

			if (!btf_is_var(v) || strcmp(btf__name_by_offset(btf, v->name_off), name))
				continue;
			section = btf__name_by_offset(btf, sec->name_off);
			base = section_memory(obj, section, &size);
			if (!base)
				return ENOTSUP;
			var->is_const = !strncmp(section, ".rodata", 7);
			var->at = base + info->offset;
			return classify(btf, info->type, var);
		}
	}
	return ENOENT;
}

static long long load_elem(const struct var *var, size_t i)
{
	char *at = (char *)var->at + i * var->elem;
	uint64_t raw = 0;
	int unused = 64 - 8 * var->elem;

	memcpy(&raw, at, var->elem); /* both architectures are little endian */
	return var->is_signed ? (int64_t)(raw << unused) >> unused : (int64_t)raw;
}

int set_var(struct bpf_object *obj, const char *name, const char *value, size_t index)
{
	struct var var;
	int err = find_var(obj, name, &var);
	long long number;

	if (err)
		return err;
	if (index >= var.size / var.elem || (var.is_array && var.is_char))
		return ENOTSUP;
	number = *value == '-' ? strtoll(value, NULL, 0) : (long long)strtoull(value, NULL, 0);
	memcpy((char *)var.at + index * var.elem, &number, var.elem); /* both architectures are little endian */
	return 0;
}

static void print_elem(struct buf *b, const struct var *var, size_t i)
{
	long long v = load_elem(var, i);

	buf_printf(b, var->is_signed ? "%lld" : "%llu", v);
}

/* get: "vars" of object "name", comma-separated; arrays as lists of at most "max", char arrays as strings. */
static void do_get(const struct op *op, struct reply *r)
{
	struct object *o = find_object(op, "name", r);
	char *vars = strdup(arg_str(op, "vars", "")), *save = NULL;
	size_t max = arg_int(op, "max", 4096);

	for (char *name = strtok_r(vars, ",", &save); o && name; name = strtok_r(NULL, ",", &save)) {
		struct var var;
		int err = find_var(object_bpf(o), name, &var);

		if (err) {
			reply_error(r, err, "variable %s: %s", name, strerror(err));
			break;
		}
		if (var.is_array && var.is_char) {
			reply_str(r, name, var.at, strnlen(var.at, var.size));
			continue;
		}
		buf_printf(&r->body, ",\"%s\":%s", name, var.is_array ? "[" : "");
		for (size_t i = 0; i < var.size / var.elem && (i < max || !var.is_array); i++) {
			if (i)
				buf_add(&r->body, ",", 1);
			print_elem(&r->body, &var, i);
		}
		if (var.is_array)
			buf_add(&r->body, "]", 1);
	}
	free(vars);
}
VERB("get", do_get);

/* set: var "var" of object "name" to "value"; for an array its element "index". */
static void do_set(const struct op *op, struct reply *r)
{
	struct object *o = find_object(op, "name", r);
	const char *name = arg_str(op, "var", "");
	struct var var;
	int err;

	if (!o)
		return;
	/* The kernel freezes constants when it loads the object, and libbpf maps them read-only. */
	err = find_var(object_bpf(o), name, &var) ?: var.is_const ? EROFS : 0;
	if (!err)
		err = set_var(object_bpf(o), name, arg_str(op, "value", "0"), arg_int(op, "index", 0));
	if (err)
		reply_error(r, err, "variable %s: %s", name, strerror(err));
}
VERB("set", do_set);

/* dump: every entry of map "map" of object "name" as [key, value], both in hex. */
static void do_dump(const struct op *op, struct reply *r)
{
	struct object *o = find_object(op, "name", r);
	const char *name = arg_str(op, "map", "");
	struct bpf_map *map = o ? bpf_object__find_map_by_name(object_bpf(o), name) : NULL;
	size_t ksize, vsize;
	char *key, *next, *value;
	bool first = true;

	if (!map) {
		if (o)
			reply_error(r, ENOENT, "no map %s", name);
		return;
	}
	ksize = bpf_map__key_size(map);
	vsize = bpf_map__value_size(map);
	key = calloc(3, ksize);
	next = key + ksize;
	value = malloc(vsize);
	buf_printf(&r->body, ",\"entries\":[");
	for (bool have = false; !bpf_map_get_next_key(bpf_map__fd(map), have ? key : NULL, next); have = true) {
		memcpy(key, next, ksize);
		if (bpf_map_lookup_elem(bpf_map__fd(map), key, value))
			continue;
		buf_printf(&r->body, first ? "[" : ",[");
		first = false;
		json_hex(&r->body, key, ksize);
		buf_add(&r->body, ",", 1);
		json_hex(&r->body, value, vsize);
		buf_add(&r->body, "]", 1);
	}
	buf_printf(&r->body, "]");
	free(value);
	free(key);
}
VERB("dump", do_dump);

/* clear-map: empties map "map" of object "name". */
static void do_clear_map(const struct op *op, struct reply *r)
{
	struct object *o = find_object(op, "name", r);
	struct bpf_map *map = o ? bpf_object__find_map_by_name(object_bpf(o), arg_str(op, "map", "")) : NULL;

	if (map && clear_map(map))
		reply_error(r, EIO, "map %s could not be emptied", arg_str(op, "map", ""));
	else if (o && !map)
		reply_error(r, ENOENT, "no map %s", arg_str(op, "map", ""));
}
VERB("clear-map", do_clear_map);
