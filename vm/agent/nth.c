// SPDX-License-Identifier: GPL-2.0-only
/* fail-nth: arming it for a thread, what a tracing object saw of it, and the outcomes, counted. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

#define MAX_PAIRS 512

/* A small table of counted pairs: (site, answer) of injected faults. */
static struct pair {
	uint64_t site; /* 0: nothing was injected */
	int ret;
	long long count;
} pairs[MAX_PAIRS];
static int nr_pairs;
static long long pairs_lost;

void nth_forget(void)
{
	nr_pairs = 0;
	pairs_lost = 0;
}

void nth_count(uint64_t site, int ret)
{
	for (int i = 0; i < nr_pairs; i++) {
		struct pair *p = &pairs[i];

		if (p->site == site && p->ret == ret) {
			p->count++;
			return;
		}
	}
	if (nr_pairs == MAX_PAIRS) {
		pairs_lost++;
		return;
	}
	pairs[nr_pairs++] = (struct pair){ site, ret, 1 };
}

void nth_outcomes(struct reply *r)
{
	reply_int(r, "lost", pairs_lost);
	buf_printf(&r->body, ",\"outcomes\":[");
	for (int p = 0; p < nr_pairs; p++)
		buf_printf(&r->body, "%s[%llu,%d,%lld]", p ? "," : "", (unsigned long long)pairs[p].site,
			   pairs[p].ret, pairs[p].count);
	buf_printf(&r->body, "]");
}

bool nth_observe(const struct op *op, long tid, struct nth_observer *ob, struct reply *r)
{
	struct object *o = find_object(op, "observer", r);
	char text[16];
	struct var site, fired;
	int err;

	if (!o)
		return false;
	snprintf(text, sizeof(text), "%ld", tid);
	/* Each site has its turn to fail: a stack for those that do is enough, and three times cheaper. */
	err = set_var(object_bpf(o), "only_injected", "1");
	err = err ?: set_var(object_bpf(o), "watch_tid", text);
	err = err ?: find_var(object_bpf(o), "last_site", &site);
	err = err ?: find_var(object_bpf(o), "fired", &fired);
	if (err) {
		reply_error(r, err, "not an observer: %s", strerror(err));
		return false;
	}
	ob->site = site.at;
	ob->fired = fired.at;
	return true;
}

int nth_open(long tid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%ld/fail-nth", tid);
	return open(path, O_RDWR | O_CLOEXEC);
}

bool nth_arm(int fd, int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", n);

	return pwrite(fd, text, len, 0) == len;
}

int nth_left(int fd)
{
	char text[16] = "";

	if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
		return -1;
	return atoi(text);
}

/* thread: the id of the process or kthread called "name"; 0 if there is none. */
void do_thread(const struct op *op, struct reply *r)
{
	reply_int(r, "tid", find_thread(arg_str(op, "name", "")));
}

long find_thread(const char *name)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	long found = 0;

	while (proc && !found && (entry = readdir(proc))) {
		char path[300];
		struct buf comm = {};

		if (entry->d_name[0] < '1' || entry->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		/* A process that ended meanwhile is none that was looked for. */
		if (!read_file(path, &comm, 256) && comm.len > 1 && !strncmp(comm.data, name, comm.len - 1) &&
		    strlen(name) == comm.len - 1)
			found = atol(entry->d_name);
		free(comm.data);
	}
	if (proc)
		closedir(proc);
	return found;
}
