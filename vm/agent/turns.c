// SPDX-License-Identifier: GPL-2.0-only
/* One turn of a worker, by its kind. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define CGROUP_ROOT "/sys/fs/cgroup"

static void fork_once(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

/* A child of the worker that spins for ever: mostly it waits for a CPU. */
static pid_t spinner(void)
{
	static pid_t pid;

	if (pid)
		return pid;
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			;
	}
	return pid;
}

/* Changes another task's niceness and allowed CPUs, in whatever state it is. */
static void nudge(long us)
{
	static unsigned int turns;
	static cpu_set_t all;
	cpu_set_t one;
	pid_t pid = spinner();

	if (!turns++)
		sched_getaffinity(0, sizeof(all), &all);
	setpriority(PRIO_PROCESS, pid, turns % 5);
	CPU_ZERO(&one);
	CPU_SET(turns % CPU_COUNT(&all), &one);
	sched_setaffinity(pid, sizeof(all), turns % 3 ? &all : &one);
	sleep_us(us);
}

static bool put(const char *folder, const char *name, const char *text)
{
	char path[96];
	bool done;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return done;
}

/* Removes the cgroup of a worker. It is busy for a while after the last of its tasks was reaped. */
static bool remove_cgroup(pid_t pid)
{
	char group[64];

	snprintf(group, sizeof(group), CGROUP_ROOT "/work-%d", pid);
	while (rmdir(group)) {
		if (errno != EBUSY)
			return errno == ENOENT;
		sleep_us(1000);
	}
	return true;
}

/*
 * The worker makes a cgroup, moves there, has a child there, moves back and removes it. With the controller, which others
 * may have taken away, each move is one between task groups (sched_move_task()).
 */
static void regroup(void)
{
	char group[64];

	snprintf(group, sizeof(group), CGROUP_ROOT "/work-%d", getpid());
	if (!put(CGROUP_ROOT, "cgroup.subtree_control", "+cpu") || mkdir(group, 0755) || !put(group, "cgroup.procs", "0"))
		_exit(6);
	fork_once();
	if (!put(CGROUP_ROOT, "cgroup.procs", "0") || !remove_cgroup(getpid()))
		_exit(7);
}

void work_turn(const char *kind, long us)
{
	if (!strcmp(kind, "spin")) {
		for (volatile int i = 0; i < 20000; i++)
			;
	} else if (!strcmp(kind, "sleep")) {
		sleep_us(us);
	} else if (!strcmp(kind, "yield")) {
		sched_yield();
	} else if (!strcmp(kind, "fork")) {
		fork_once();
	} else if (!strcmp(kind, "nudge")) {
		nudge(us);
	} else if (!strcmp(kind, "cgroup")) {
		regroup();
	} else {
		_exit(2);
	}
}

void work_forget_cgroups(const pid_t *pids, int nr)
{
	for (int i = 0; i < nr; i++)
		remove_cgroup(pids[i]);
	put(CGROUP_ROOT, "cgroup.subtree_control", "-cpu");
}
