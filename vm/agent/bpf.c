// SPDX-License-Identifier: GPL-2.0-only
/* BPF objects by name: load with variables set, attach, detach, unload. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

#define MAX_OBJECTS 32
#define MAX_LINKS 12

struct object {
	char name[32];
	struct bpf_object *bpf;
	bool resident; /* stays through a reset */
	struct {
		char what[32];
		struct bpf_link *link;
	} links[MAX_LINKS];
};

static struct object objects[MAX_OBJECTS];
static struct buf libbpf_log;

static int keep_log(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	char line[16384];
	int len;

	if (level == LIBBPF_DEBUG)
		return 0;
	len = vsnprintf(line, sizeof(line), fmt, ap);
	if (len > 0)
		buf_add(&libbpf_log, line, len < (int)sizeof(line) ? (size_t)len : sizeof(line) - 1);
	return 0;
}

void bpf_setup(void)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY }, files = { 65536, 65536 };

	setrlimit(RLIMIT_MEMLOCK, &all);
	setrlimit(RLIMIT_NOFILE, &files);
	libbpf_set_print(keep_log);
}

/* A failure with the messages of libbpf and the verifier; their end, which has the reason. */
static void libbpf_error(struct reply *r, int err, const char *what)
{
	size_t skip = libbpf_log.len > 8192 ? libbpf_log.len - 8192 : 0;

	reply_error(r, err < 0 ? -err : err, "%s: %s", what, strerror(err < 0 ? -err : err));
	reply_str(r, "log", libbpf_log.data ? libbpf_log.data + skip : "", libbpf_log.len - skip);
}

static struct object *object_named(const char *name)
{
	for (int i = 0; i < MAX_OBJECTS; i++)
		if (objects[i].bpf && !strcmp(objects[i].name, name))
			return &objects[i];
	return NULL;
}

struct object *find_object(const struct op *op, const char *key, struct reply *r)
{
	const char *name = arg_str(op, key, "");
	struct object *o = object_named(name);

	if (!o)
		reply_error(r, ENOENT, "no object '%s' is loaded", name);
	return o;
}

struct bpf_object *object_bpf(struct object *o)
{
	return o->bpf;
}

int object_prog_fd(struct object *o, const char *prog)
{
	struct bpf_program *p = bpf_object__find_program_by_name(o->bpf, prog);

	return p ? bpf_program__fd(p) : -ENOENT;
}

static int set_arguments(struct bpf_object *bpf, const struct op *op, struct reply *r)
{
	for (int i = 0; i < op->nr_args; i++) {
		const char *key = op->args[i].key;
		int err = 0;

		if (!strncmp(key, "set.", 4))
			err = set_var(bpf, key + 4, op->args[i].value, 0);
		else if (!strncmp(key, "ops.", 4))
			err = set_member(bpf, "ops", key + 4, op->args[i].value);
		if (err) {
			reply_error(r, err, "%s: %s", key, strerror(err));
			return err;
		}
	}
	return 0;
}

static struct bpf_object *load_file(const char *path, const struct op *op, struct reply *r)
{
	struct bpf_object *bpf = bpf_object__open_file(path, NULL);
	int err;

	if (!bpf) {
		libbpf_error(r, errno, path);
		return NULL;
	}
	err = set_arguments(bpf, op, r);
	if (!err) {
		err = bpf_object__load(bpf);
		if (err)
			libbpf_error(r, err, path);
	}
	if (!err)
		return bpf;
	bpf_object__close(bpf);
	return NULL;
}

/*
 * load: "path" as "name"; before it is loaded, set.VAR=value for each global to set and ops.MEMBER=value for each member
 * of its struct_ops map "ops" (a callback takes the name of a program, or nothing to be left out). "resident": it stays
 * until it is unloaded by name.
 */
static void do_load(const struct op *op, struct reply *r)
{
	const char *name = arg_str(op, "name", ""), *path = arg_str(op, "path", "");
	struct object *o = NULL;

	libbpf_log.len = 0;
	if (!*name || strlen(name) >= sizeof(o->name) || object_named(name)) {
		reply_error(r, EEXIST, "object name '%s' is missing, too long or taken", name);
		return;
	}
	for (int i = 0; i < MAX_OBJECTS && !o; i++)
		if (!objects[i].bpf)
			o = &objects[i];
	if (!o) {
		reply_error(r, ENOSPC, "too many objects");
		return;
	}
	memset(o, 0, sizeof(*o));
	o->bpf = kept_take(path, op);
	if (o->bpf)
		set_arguments(o->bpf, op, r);
	else
		o->bpf = load_file(path, op, r);
	o->resident = arg_int(op, "resident", 0);
	if (o->bpf)
		strcpy(o->name, name);
}
VERB("load", do_load);

struct bpf_link *object_attach(struct object *o, const char *what)
{
	struct bpf_map *map = bpf_object__find_map_by_name(o->bpf, what);
	struct bpf_program *prog;

	if (map)
		return bpf_map__attach_struct_ops(map);
	prog = bpf_object__find_program_by_name(o->bpf, what);
	if (!prog) {
		errno = ENOENT;
		return NULL;
	}
	return bpf_program__attach(prog);
}

/* A program of its type's kind, attached to the cgroup at this path; NULL with errno. */
static struct bpf_link *attach_to_cgroup(struct object *o, const char *what, const char *cgroup)
{
	struct bpf_program *prog = bpf_object__find_program_by_name(o->bpf, what);
	int fd = prog ? open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1, err;
	struct bpf_link *link;

	if (fd < 0) {
		errno = prog ? errno : ENOENT;
		return NULL;
	}
	link = bpf_program__attach_cgroup(prog, fd);
	err = errno;
	close(fd);
	errno = err;
	return link;
}

/* attach: the struct_ops map or program "what" of object "name"; with "cgroup", a path, to that cgroup. */
static void do_attach(const struct op *op, struct reply *r)
{
	struct object *o = find_object(op, "name", r);
	const char *what = arg_str(op, "what", "ops"), *cgroup = arg_str(op, "cgroup", "");
	struct bpf_link *link;
	int slot = 0;

	if (!o)
		return;
	libbpf_log.len = 0;
	while (slot < MAX_LINKS && o->links[slot].link)
		slot++;
	if (slot == MAX_LINKS || strlen(what) >= sizeof(o->links[0].what)) {
		reply_error(r, ENOSPC, "too many links");
		return;
	}
	link = *cgroup ? attach_to_cgroup(o, what, cgroup) : object_attach(o, what);
	if (!link) {
		libbpf_error(r, errno, what);
		return;
	}
	o->links[slot].link = link;
	strcpy(o->links[slot].what, what);
}
VERB("attach", do_attach);

/* include/uapi/linux/bpf.h (6.20): the libbpf of the guest root does not know it. */
#define PROG_ASSOC_STRUCT_OPS 38

/* assoc: ties SYSCALL program "prog" of object "name" to its struct_ops map "what", for as long as it is loaded. */
static void do_assoc(const struct op *op, struct reply *r)
{
	struct object *o = find_object(op, "name", r);
	struct bpf_map *map = o ? bpf_object__find_map_by_name(o->bpf, arg_str(op, "what", "ops")) : NULL;
	struct {
		uint32_t map_fd, prog_fd, flags;
	} attr = { .map_fd = -1 };
	int prog = o ? object_prog_fd(o, arg_str(op, "prog", "")) : -1;

	if (!o)
		return;
	if (!map || prog < 0) {
		reply_error(r, ENOENT, "no program %s and map %s", arg_str(op, "prog", ""), arg_str(op, "what", "ops"));
		return;
	}
	attr.map_fd = bpf_map__fd(map);
	attr.prog_fd = prog;
	if (syscall(SYS_bpf, PROG_ASSOC_STRUCT_OPS, &attr, sizeof(attr)))
		reply_error(r, errno, "associating %s: %s", arg_str(op, "prog", ""), strerror(errno));
}
VERB("assoc", do_assoc);

int object_links(const struct object *o)
{
	int links = 0;

	for (int i = 0; i < MAX_LINKS; i++)
		links += o->links[i].link != NULL;
	return links;
}

static void destroy_links(struct object *o, const char *what)
{
	for (int i = 0; i < MAX_LINKS; i++) {
		if (!o->links[i].link || (what && strcmp(o->links[i].what, what)))
			continue;
		bpf_link__destroy(o->links[i].link);
		o->links[i].link = NULL;
	}
}

static void do_detach(const struct op *op, struct reply *r)
{
	struct object *o = find_object(op, "name", r);

	if (o)
		destroy_links(o, arg_str(op, "what", NULL));
}
VERB("detach", do_detach);

static void unload(struct object *o)
{
	destroy_links(o, NULL);
	if (!kept_give_back(o->bpf))
		bpf_object__close(o->bpf);
	o->bpf = NULL;
}

static void do_unload(const struct op *op, struct reply *r)
{
	struct object *o = find_object(op, "name", r);

	if (o)
		unload(o);
}
VERB("unload", do_unload);

void bpf_reset(void)
{
	for (int i = MAX_OBJECTS - 1; i >= 0; i--)
		if (objects[i].bpf && !objects[i].resident)
			unload(&objects[i]);
}
