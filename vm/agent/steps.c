// SPDX-License-Identifier: GPL-2.0-only
/* Small operations that answer 0 or an errno: the parts of a sweep over operations. */
#include <bpf/bpf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define POLL_US 500
#define MAX_FILLERS 16384

/* The answer for a scheduler that ended by itself: its errno plus this. */
#define ENDED_BASE (-100000)

static bool file_says(const char *path, const char *word)
{
	struct buf text = {};
	bool is = !read_file(path, &text, 256) && text.data && !strncmp(text.data, word, strlen(word));

	free(text.data);
	return is;
}

/* The first "(-N)" of a message. */
static int errno_in(const char *text)
{
	const char *at = strstr(text, "(-");

	return at ? atoi(at + 1) : 0;
}

/*
 * settled: after an attach of object "name" that succeeded: waits until the file "state" says "on", which answers 0, or
 * says "off" and the object's variable "ended" is set, which answers ENDED_BASE and the errno in its variable "why".
 */
static void do_settled(const struct op *op, struct reply *r)
{
	const char *state = arg_str(op, "state", ""), *on = arg_str(op, "on", ""), *off = arg_str(op, "off", "");
	long long deadline = now_us() + arg_int(op, "timeout_ms", 5000) * 1000;
	struct object *o = find_object(op, "name", r);
	struct var ended, why;

	if (!o)
		return;
	if (find_var(object_bpf(o), arg_str(op, "ended", ""), &ended) || ended.size != sizeof(int) ||
	    find_var(object_bpf(o), arg_str(op, "why", ""), &why) || !why.is_char) {
		reply_error(r, EINVAL, "object '%s' has no variable for its end", arg_str(op, "name", ""));
		return;
	}
	for (;; sleep_us(POLL_US)) {
		bool over = *(volatile int *)ended.at;

		if (over && file_says(state, off)) {
			reply_int(r, "ret", ENDED_BASE + errno_in(why.at));
			return;
		}
		if (!over && file_says(state, on))
			return;
		if (now_us() > deadline) {
			reply_error(r, ETIMEDOUT, "%s says neither %s nor %s", state, on, off);
			return;
		}
	}
}
VERB("settled", do_settled);

/* clear: sets the int variable "var" of object "name" to 0, without looking at the kernel. */
static void do_clear(const struct op *op, struct reply *r)
{
	struct object *o = find_object(op, "name", r);
	struct var var;

	if (o && !find_var(object_bpf(o), arg_str(op, "var", ""), &var) && var.size == sizeof(int))
		*(volatile int *)var.at = 0;
}
VERB("clear", do_clear);

/* fork: one child that exits at once, and is waited for. */
static void do_fork(const struct op *op, struct reply *r)
{
	pid_t pid = fork();
	int status;

	(void)op;
	if (!pid)
		_exit(0);
	if (pid < 0) {
		reply_error(r, errno, "fork: %s", strerror(errno));
		return;
	}
	if (waitpid(pid, &status, 0) != pid || status)
		reply_error(r, ECHILD, "the child ended with status %#x", status);
}
VERB("fork", do_fork);

#define MAX_MADE 32
static char made[MAX_MADE][128];
static int nr_made;

/* mkdir: answers the folder's inode number, which of a cgroup is its id. A reset removes the remaining ones. */
static void do_mkdir(const struct op *op, struct reply *r)
{
	const char *path = arg_str(op, "path", "");
	struct stat st;

	if (mkdir(path, 0755) || stat(path, &st))
		reply_error(r, errno, "%s: %s", path, strerror(errno));
	else
		reply_int(r, "ino", st.st_ino);
	if (!r->failed && nr_made < MAX_MADE && strlen(path) < sizeof(made[0]))
		strcpy(made[nr_made++], path);
}
VERB("mkdir", do_mkdir);

/* Once they are empty; those that are gone already, or never got empty, are left alone. */
void steps_reset(void)
{
	while (nr_made)
		rmdir(made[--nr_made]);
}

static void do_rmdir(const struct op *op, struct reply *r)
{
	if (rmdir(arg_str(op, "path", "")))
		reply_error(r, errno, "%s: %s", arg_str(op, "path", ""), strerror(errno));
}
VERB("rmdir", do_rmdir);

static int fillers[MAX_FILLERS];
static int nr_fillers;

/* fill: "nr" BPF maps, each with "size" bytes for each possible CPU: percpu memory that is then not available to others. */
static void do_fill(const struct op *op, struct reply *r)
{
	int nr = arg_int(op, "nr", 1), size = arg_int(op, "size", 4096);

	while (nr-- > 0 && nr_fillers < MAX_FILLERS) {
		int fd = bpf_map_create(BPF_MAP_TYPE_PERCPU_ARRAY, "kh_filler", 4, size, 1, NULL);

		if (fd < 0) {
			reply_error(r, errno, "map %d of %d bytes: %s", nr_fillers, size, strerror(errno));
			break;
		}
		fillers[nr_fillers++] = fd;
	}
	reply_int(r, "maps", nr_fillers);
}
VERB("fill", do_fill);

void do_drain(const struct op *op, struct reply *r)
{
	(void)op;
	(void)r;
	while (nr_fillers)
		close(fillers[--nr_fillers]);
}
VERB("drain", do_drain);

/* Waits until the file contains "text"; false when the deadline comes first. */
static bool wait_text(const char *path, const char *text, long long deadline)
{
	for (;; sleep_us(POLL_US)) {
		struct buf b = {};
		bool has = !read_file(path, &b, 1 << 16) && b.data && strstr(b.data, text);

		free(b.data);
		if (has)
			return true;
		if (now_us() > deadline)
			return false;
	}
}

/* A child that waits for a byte and then runs the program, during which its parent kills it. */
static pid_t fork_caller(const struct op *op, int gate[2], struct reply *r)
{
	pid_t pid;

	if (pipe(gate)) {
		reply_error(r, errno, "pipe: %s", strerror(errno));
		return -1;
	}
	pid = fork();
	if (!pid) {
		char go;

		close(gate[1]);
		if (read(gate[0], &go, 1) == 1)
			do_run(op, r);
		_exit(0);
	}
	if (pid < 0)
		reply_error(r, errno, "fork: %s", strerror(errno));
	return pid;
}

/* Lets the child run into the held mutex, and kills it there. */
static void kill_in(const struct op *op, pid_t pid, int gate, struct reply *r)
{
	long long deadline = now_us() + arg_int(op, "timeout_ms", 5000) * 1000;
	const char *in = arg_str(op, "in", "");
	char stack[64];
	int status = 0;

	snprintf(stack, sizeof(stack), "/proc/%d/stack", pid);
	if (write(gate, "g", 1) != 1 || !wait_text(stack, in, deadline)) {
		reply_error(r, ETIMEDOUT, "the program never waited in %s", in);
		return;
	}
	kill(pid, SIGKILL);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (now_us() > deadline) {
			reply_int(r, "killed", 0);
			return;
		}
		sleep_us(POLL_US);
	}
	reply_int(r, "killed", WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/*
 * run-killed: program "prog" of object "name" in a child that is killed while it waits for a mutex of the kernel's, at
 * address "mutex", in function "in". "killed" is 1 if it died of it while the mutex was still held, 0 if it did not die.
 */
static void do_run_killed(const struct op *op, struct reply *r)
{
	const char *hold = "/sys/kernel/debug/kharness/hold", *mutex = arg_str(op, "mutex", "");
	int gate[2] = { -1, -1 }, err;
	pid_t pid = fork_caller(op, gate, r);

	if (pid > 0) {
		close(gate[0]);
		err = write_file(hold, mutex, strlen(mutex), false);
		if (err)
			reply_error(r, err, "%s: %s", hold, strerror(err));
		else
			kill_in(op, pid, gate[1], r);
		if (!err)
			write_file(hold, "0", 1, false);
		/* In any case reap the child; closing the gate releases one that never started. */
		kill(pid, SIGKILL);
		close(gate[1]);
		waitpid(pid, NULL, 0);
	}
}
VERB("run-killed", do_run_killed);
