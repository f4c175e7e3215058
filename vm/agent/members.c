// SPDX-License-Identifier: GPL-2.0-only
/*
 * Members of a struct_ops map before it is loaded, by the BTF of the object's own type. libbpf shows what the map was
 * compiled with as its initial value, where a callback is a pointer to its program (bpf_map__initial_value()).
 */
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

/* A callback: the program of that name, or none. Only programs that a map points to can be loaded. */
static int set_callback(struct bpf_object *obj, struct bpf_program **at, const char *name)
{
	struct bpf_program *new = *name ? bpf_object__find_program_by_name(obj, name) : NULL;

	if (*name && !new)
		return ENOENT;
	if (*at)
		bpf_program__set_autoload(*at, false);
	if (new)
		bpf_program__set_autoload(new, true);
	*at = new;
	return 0;
}

static int set_string(char *at, size_t size, const char *value)
{
	if (strlen(value) > size)
		return E2BIG;
	memset(at, 0, size);
	memcpy(at, value, strlen(value)); /* as long as the array: then it has no terminator, and the kernel must cope */
	return 0;
}

static int set_number(void *at, size_t size, const char *value)
{
	char *end;
	long long number;

	if (size > sizeof(number))
		return ENOTSUP;
	errno = 0;
	number = *value == '-' ? strtoll(value, &end, 0) : (long long)strtoull(value, &end, 0);
	if (errno || end == value || *end)
		return EINVAL;
	memcpy(at, &number, size); /* all architectures are little endian */
	return 0;
}

int set_member(struct bpf_object *obj, const char *map_name, const char *member, const char *value)
{
	struct bpf_map *map = bpf_object__find_map_by_name(obj, map_name);
	const struct btf *btf = bpf_object__btf(obj);
	const struct btf_type *t;
	const struct btf_member *m;
	size_t size = 0;
	char *data;

	if (!map || bpf_map__type(map) != BPF_MAP_TYPE_STRUCT_OPS)
		return ENOENT;
	data = bpf_map__initial_value(map, &size);
	t = btf__type_by_id(btf, bpf_map__btf_value_type_id(map));
	if (!data || !t || !btf_is_struct(t))
		return ENOTSUP;
	m = btf_members(t);
	for (int i = 0; i < btf_vlen(t); i++, m++) {
		const struct btf_type *type;
		char *at = data + btf_member_bit_offset(t, i) / 8;
		int id;

		if (strcmp(btf__name_by_offset(btf, m->name_off), member))
			continue;
		id = btf__resolve_type(btf, m->type);
		type = btf__type_by_id(btf, id);
		if (btf_is_ptr(type))
			return set_callback(obj, (struct bpf_program **)at, value);
		if (btf_is_array(type))
			return set_string(at, btf__resolve_size(btf, id), value);
		if (btf_is_int(type) || btf_is_any_enum(type))
			return set_number(at, type->size, value);
		return ENOTSUP;
	}
	return ENOENT;
}
