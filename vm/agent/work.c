// SPDX-License-Identifier: GPL-2.0-only
/* Programs and workloads: children of the agent, each in a process group of its own, by name. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define MAX_GROUPS 64
#define MAX_WORKERS 256
#define PROGRESS_BYTES (MAX_WORKERS * sizeof(uint64_t))

static struct group {
	char name[32];
	int nr;
	pid_t pids[MAX_WORKERS];
	bool cgroups; /* its workers make cgroups */
	volatile uint64_t *progress; /* one counter for each worker, shared with it */
	int shared; /* the file of these */
} groups[MAX_GROUPS];

static struct group *group_find(const char *name)
{
	for (int i = 0; i < MAX_GROUPS; i++)
		if (groups[i].nr && !strcmp(groups[i].name, name))
			return &groups[i];
	return NULL;
}

static volatile uint64_t *progress_of(int fd)
{
	void *at = mmap(NULL, PROGRESS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (at == MAP_FAILED)
		abort();
	return at;
}

static struct group *group_new(const char *name, struct reply *r)
{
	if (!*name || strlen(name) >= sizeof(groups[0].name) || group_find(name)) {
		reply_error(r, EEXIST, "name '%s' is missing, too long or taken", name);
		return NULL;
	}
	for (int i = 0; i < MAX_GROUPS; i++) {
		struct group *g = &groups[i];

		if (g->nr)
			continue;
		memset(g, 0, sizeof(*g));
		strcpy(g->name, name);
		g->shared = memfd_create("progress", MFD_CLOEXEC);
		if (g->shared < 0 || ftruncate(g->shared, PROGRESS_BYTES))
			abort();
		g->progress = progress_of(g->shared);
		return g;
	}
	reply_error(r, ENOSPC, "too many groups");
	return NULL;
}

static void group_free(struct group *g)
{
	munmap((void *)g->progress, PROGRESS_BYTES);
	close(g->shared);
	g->nr = 0;
}

static bool pin(long cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return !sched_setaffinity(0, sizeof(set), &set);
}

/*
 * The worker runs under another scheduling policy, with all its memory there: a scheduler of BPF may put it off its CPU and
 * hold it anywhere, also while it has the lock of a page, for which others that fault then wait for ever.
 */
static bool becomes(int policy)
{
	struct sched_param param = {};

	return !mlockall(MCL_CURRENT | MCL_FUTURE) && !sched_setscheduler(0, policy, &param);
}

int worker(char **argv)
{
	const char *kind = argv[0];
	long us = atol(argv[1]), cpu = atol(argv[2]), slot = atol(argv[4]);
	int policy = atoi(argv[3]), shared = atoi(argv[5]);
	volatile uint64_t *progress = progress_of(shared);

	close(shared);
	prctl(PR_SET_NAME, "worker");
	if (cpu >= 0 && !pin(cpu))
		return 3;
	if (policy && !becomes(policy))
		return 4;
	for (;;) {
		work_turn(kind, us);
		progress[slot]++;
	}
}

/*
 * Becomes a worker, as a program of its own: a copy of the agent has its tens of megabytes, locks them all, and a scheduler
 * that gives it a tick at a time needs seconds to let it end. It is no vfork(), for with that the kernel allocates what stays
 * with the agent (futex_hash_allocate_default()). What went wrong is written to the pipe.
 */
static void __attribute__((noreturn)) become_worker(const struct group *g, char *const argv[], int pipe)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0);
	/* A scheduler stays as long as its link is open in any process. */
	if (!syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC) && !fcntl(g->shared, F_SETFD, 0))
		execv("/proc/self/exe", argv);
	if (write(pipe, &errno, sizeof(errno)) != sizeof(errno))
		abort();
	_exit(127);
}

/*
 * work: "nr" workers of a "kind" (spin, sleep, yield, fork, nudge, cgroup) until killed; "policy" is their
 * scheduling policy, a number of include/uapi/linux/sched.h. Answered, with their "pids", when each of them has closed what it
 * had of ours.
 */
static void do_work(const struct op *op, struct reply *r)
{
	char us[24], cpu[24], policy[24], slot[24], shared[24];
	char *argv[] = { "agent", "worker", (char *)arg_str(op, "kind", "spin"), us, cpu, policy, slot, shared, NULL };
	int nr = arg_int(op, "nr", 1), open[2], failed = 0;
	struct group *g;
	ssize_t got;

	if (nr < 1 || nr > MAX_WORKERS) {
		reply_error(r, EINVAL, "nr wants 1 to %d", MAX_WORKERS);
		return;
	}
	if (pipe2(open, O_CLOEXEC)) {
		reply_error(r, errno, "pipe: %s", strerror(errno));
		return;
	}
	g = group_new(arg_str(op, "name", ""), r);
	if (g) {
		g->cgroups = !strcmp(arg_str(op, "kind", ""), "cgroup");
		snprintf(us, sizeof(us), "%lld", (long long)arg_int(op, "us", 1000));
		snprintf(cpu, sizeof(cpu), "%lld", (long long)arg_int(op, "cpu", -1));
		snprintf(policy, sizeof(policy), "%lld", (long long)arg_int(op, "policy", 0));
		snprintf(shared, sizeof(shared), "%d", g->shared);
	}
	for (int i = 0; g && i < nr; i++) {
		pid_t pid;

		snprintf(slot, sizeof(slot), "%d", i);
		pid = fork();
		if (!pid)
			become_worker(g, argv, open[1]);
		if (pid < 0) {
			reply_error(r, errno, "fork: %s", strerror(errno));
			break;
		}
		g->pids[g->nr++] = pid;
	}
	close(open[1]);
	/* At its end when the last of them has closed the other one. */
	while ((got = read(open[0], &failed, sizeof(failed))) > 0 || (got < 0 && errno == EINTR))
		;
	close(open[0]);
	if (failed)
		reply_error(r, failed, "a worker: %s", strerror(failed));
	buf_printf(&r->body, ",\"pids\":[");
	for (int i = 0; g && i < g->nr; i++)
		buf_printf(&r->body, "%s%d", i ? "," : "", g->pids[i]);
	buf_printf(&r->body, "]");
}
VERB("work", do_work);

/* A group's only task: its pid, 0 in the child itself, -1 with an answer and without the group. */
static pid_t group_fork(struct group *g, struct reply *r)
{
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
	} else if (pid < 0) {
		reply_error(r, errno, "fork: %s", strerror(errno));
		group_free(g);
	} else {
		g->pids[0] = pid;
		g->nr = 1;
	}
	return pid;
}

/* spawn: one program, argv in a0, a1, ...; its output goes to the file "out". */
static void do_spawn(const struct op *op, struct reply *r)
{
	char *argv[MAX_ARGS + 1] = {}, key[16] = "a0";
	struct group *g = group_new(arg_str(op, "name", ""), r);
	const char *out = arg_str(op, "out", "/dev/null");
	int n = 0;
	pid_t pid;

	if (!g)
		return;
	while (n < 90 && (argv[n] = (char *)arg_str(op, key, NULL))) {
		n++;
		key[1] = '0' + n / 10;
		key[2] = '0' + n % 10;
		if (n < 10) {
			key[1] = '0' + n;
			key[2] = 0;
		}
	}
	pid = group_fork(g, r);
	if (!pid) {
		int fd = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600);

		dup2(fd, 1);
		dup2(fd, 2);
		execvp(argv[0], argv);
		_exit(127);
	}
	if (pid > 0)
		reply_int(r, "pid", pid);
}
VERB("spawn", do_spawn);

pid_t work_fork(const char *name, long cpu, struct reply *r)
{
	struct group *g = group_new(name, r);
	pid_t pid;

	if (!g)
		return -1;
	pid = group_fork(g, r);
	if (!pid && !pin(cpu))
		_exit(126);
	return pid;
}

/* pin: the agent itself to "cpu", or, with -1, to all again. */
static void do_pin(const struct op *op, struct reply *r)
{
	static cpu_set_t before;
	static bool pinned;
	long cpu = arg_int(op, "cpu", -1);

	if (!pinned && sched_getaffinity(0, sizeof(before), &before))
		reply_error(r, errno, "sched_getaffinity: %s", strerror(errno));
	else if (cpu < 0 ? sched_setaffinity(0, sizeof(before), &before) : !pin(cpu))
		reply_error(r, errno, "CPU %ld: %s", cpu, strerror(errno));
	else
		pinned = cpu >= 0;
}
VERB("pin", do_pin);

static void do_progress(const struct op *op, struct reply *r)
{
	struct group *g = group_find(arg_str(op, "name", ""));

	if (!g) {
		reply_error(r, ENOENT, "no such group");
		return;
	}
	buf_printf(&r->body, ",\"progress\":[");
	for (int i = 0; i < g->nr; i++)
		buf_printf(&r->body, "%s%llu", i ? "," : "", (unsigned long long)g->progress[i]);
	buf_printf(&r->body, "]");
}
VERB("progress", do_progress);

static void group_kill(struct group *g)
{
	for (int i = 0; i < g->nr; i++) {
		/* The whole group: a fork worker may have a child. */
		kill(-g->pids[i], SIGKILL);
		kill(g->pids[i], SIGKILL);
	}
	for (int i = 0; i < g->nr; i++)
		waitpid(g->pids[i], NULL, 0);
	if (g->cgroups)
		work_forget_cgroups(g->pids, g->nr);
	group_free(g);
}

static void do_kill(const struct op *op, struct reply *r)
{
	struct group *g = group_find(arg_str(op, "name", ""));

	if (g)
		group_kill(g);
	else
		reply_error(r, ENOENT, "no such group");
}
VERB("kill", do_kill);

/* reap: waits for a spawned program; answers its exit status, or 128 + signal. */
static void do_reap(const struct op *op, struct reply *r)
{
	struct group *g = group_find(arg_str(op, "name", ""));
	long long deadline = now_us() + arg_int(op, "timeout_ms", 5000) * 1000;
	int status;

	if (!g) {
		reply_error(r, ENOENT, "no such group");
		return;
	}
	while (waitpid(g->pids[0], &status, WNOHANG) == 0) {
		if (now_us() > deadline) {
			reply_error(r, ETIMEDOUT, "pid %d still runs", g->pids[0]);
			return;
		}
		sleep_us(2000);
	}
	group_free(g);
	reply_int(r, "status", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}
VERB("reap", do_reap);

void work_reset(void)
{
	for (int i = 0; i < MAX_GROUPS; i++)
		if (groups[i].nr)
			group_kill(&groups[i]);
}
