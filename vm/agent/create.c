// SPDX-License-Identifier: GPL-2.0-only
/* Creates and releases objects that user space may request: BPF maps and programs, mounts, namespaces. */
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "agent.h"

#define MAX_KEY 64
#define MAX_VALUE 65536

/* Elements 0, 1, ..., each with the value 1; on every possible CPU in percpu maps. 0 or an errno. */
static int fill_map(int fd, const struct op *op)
{
	static char key[MAX_KEY], value[MAX_VALUE];
	uint32_t nr = arg_int(op, "fill", 0), one = 1;

	memset(value, 0, sizeof(value));
	memcpy(value, &one, sizeof(one));
	for (uint32_t i = 0; i < nr; i++) {
		memcpy(key, &i, sizeof(i));
		if (bpf_map_update_elem(fd, key, value, BPF_ANY))
			return errno;
	}
	return 0;
}

/*
 * bpf-map: a BPF map of "type" (a number, as the rest) with "flags", "key" and "value" bytes and "entries". "fill" elements
 * are stored in it, then it is closed.
 */
static void do_bpf_map(const struct op *op, struct reply *r)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = arg_int(op, "flags", 0));
	int fd, err;

	fd = bpf_map_create(arg_int(op, "type", 0), "kharness", arg_int(op, "key", 4), arg_int(op, "value", 4),
			    arg_int(op, "entries", 1), &opts);
	err = fd < 0 ? errno : fill_map(fd, op);
	if (err)
		reply_error(r, err, "%s: %s", fd < 0 ? "BPF_MAP_CREATE" : "BPF_MAP_UPDATE_ELEM", strerror(err));
	if (fd >= 0)
		close(fd);
}
VERB("bpf-map", do_bpf_map);

/* bpf-prog: a BPF program of "type" (a number) that returns 0; it is loaded and closed. */
static void do_bpf_prog(const struct op *op, struct reply *r)
{
	static const struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	int fd = bpf_prog_load(arg_int(op, "type", 0), "kharness", "GPL", insns, sizeof(insns) / sizeof(insns[0]), NULL);

	if (fd < 0)
		reply_error(r, errno, "BPF_PROG_LOAD: %s", strerror(errno));
	else
		close(fd);
}
VERB("bpf-prog", do_bpf_prog);

/* mount: a file system of "type", which needs no device, onto the folder "path", with the options "data". */
static void do_mount(const struct op *op, struct reply *r)
{
	const char *path = arg_str(op, "path", "");

	if (mount("none", path, arg_str(op, "type", ""), 0, arg_str(op, "data", "")))
		reply_error(r, errno, "mounting %s: %s", path, strerror(errno));
}
VERB("mount", do_mount);

static void do_umount(const struct op *op, struct reply *r)
{
	const char *path = arg_str(op, "path", "");

	if (umount2(path, 0))
		reply_error(r, errno, "unmounting %s: %s", path, strerror(errno));
}
VERB("umount", do_umount);

/* unshare: a new namespace of a "kind" (its file in /proc/self/ns), which ends as the agent leaves it at once. */
static void do_unshare(const struct op *op, struct reply *r)
{
	static const struct {
		const char *kind;
		int flag;
	} kinds[] = { { "cgroup", CLONE_NEWCGROUP }, { "ipc", CLONE_NEWIPC }, { "mnt", CLONE_NEWNS },
		      { "net", CLONE_NEWNET }, { "uts", CLONE_NEWUTS } };
	const char *kind = arg_str(op, "kind", "");
	char path[64];
	int flag = 0, home;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i].kind, kind))
			flag = kinds[i].flag;
	snprintf(path, sizeof(path), "/proc/self/ns/%s", kind);
	home = open(path, O_RDONLY | O_CLOEXEC);
	if (!flag || home < 0)
		reply_error(r, flag ? errno : EINVAL, "no kind of namespace: '%s'", kind);
	else if (unshare(flag))
		reply_error(r, errno, "unshare: %s", strerror(errno));
	else
		while (setns(home, flag)) /* its needs must not affect the next operation */
			if (errno != ENOMEM) {
				reply_error(r, errno, "setns: %s", strerror(errno));
				break;
			}
	if (home >= 0)
		close(home);
}
VERB("unshare", do_unshare);
