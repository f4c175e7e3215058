// SPDX-License-Identifier: GPL-2.0-only
/* fail-nth: arming it for a thread, the tracing objects' counts of each run, and how many runs ended in which way. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

#define MAX_ENDINGS 1024
#define MAX_LOUD 512

static struct ending endings[MAX_ENDINGS];
static int nr_endings;
static long long endings_lost;

/* Runs during which the kernel log got records of level warning or worse: which records, and which fault. */
static struct loud {
	struct ending ending;
	unsigned long long first, last;
} louds[MAX_LOUD];
static int nr_louds;

static bool find_number(struct bpf_object *bpf, const char *name, void *at, size_t size)
{
	struct var var;

	if (find_var(bpf, name, &var) || var.size != size)
		return false;
	*(void **)at = var.at;
	return true;
}

static bool open_observer(const struct op *op, struct nth *n, struct reply *r)
{
	struct object *o = find_object(op, "observer", r);
	struct var last_words;
	int err;

	if (!o)
		return false;
	/* Each site fails in one of the runs: stacks of failed sites are enough, and three times cheaper than of "all". */
	err = set_var(object_bpf(o), "only_injected", arg_int(op, "all", 0) ? "0" : "1", 0);
	if (err || !find_number(object_bpf(o), "last_site", &n->site, 8) ||
	    !find_number(object_bpf(o), "fired", &n->fired, 8) ||
	    !find_number(object_bpf(o), "printed", &n->printed, 8) ||
	    !find_number(object_bpf(o), "watch_tid", &n->watch_tid, 4)) {
		reply_error(r, EINVAL, "not an observer of faults");
		return false;
	}
	n->read = *n->printed;
	if (find_var(object_bpf(o), "last_words", &last_words) != ENOENT && last_words.at &&
	    last_words.size == sizeof(*n->last_words))
		n->last_words = last_words.at;
	return true;
}

static bool open_ledger(const struct op *op, struct nth *n, struct reply *r)
{
	if (!*arg_str(op, "ledger", ""))
		return true;
	n->ledger = find_object(op, "ledger", r);
	if (!n->ledger)
		return false;
	if (find_number(object_bpf(n->ledger), "run", &n->run, 8) &&
	    find_number(object_bpf(n->ledger), "tid", &n->tid, 4) &&
	    find_number(object_bpf(n->ledger), "other_tid", &n->other_tid, 4) &&
	    find_number(object_bpf(n->ledger), "live_percpu", &n->live[0], 8) &&
	    find_number(object_bpf(n->ledger), "live_slab", &n->live[1], 8))
		return true;
	reply_error(r, EINVAL, "not a ledger");
	return false;
}

#define LAST_WORDS "/sys/kernel/debug/kharness/last_words"

/*
 * The module prints the operation if the kernel dies of it; the host gets its address, to read it from a guest that no
 * longer answers. Without the module both are missing.
 */
static void announce(const struct last_words *last_words)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "%#lx", (unsigned long)last_words);
	struct buf where = {};

	if (!write_file(LAST_WORDS, text, len, false) && !read_file(LAST_WORDS, &where, 64)) {
		buf_add(&where, "", 0);
		say("{\"id\":0,\"last_words\":%llu}\n", strtoull(where.data, NULL, 10));
	}
	free(where.data);
}

bool nth_open(const struct op *op, struct nth *n, struct reply *r)
{
	memset(n, 0, sizeof(*n));
	n->fd = n->log_fd = -1;
	n->every = arg_int(op, "every", 0);
	nr_endings = nr_louds = 0;
	endings_lost = 0;
	if (!open_observer(op, n, r) || !open_ledger(op, n, r))
		return false;
	n->log_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (n->log_fd < 0 || lseek(n->log_fd, 0, SEEK_END) < 0) {
		reply_error(r, errno, "/dev/kmsg: %s", strerror(errno));
		nth_close(n);
		return false;
	}
	if (n->last_words) {
		snprintf(n->last_words->what, sizeof(n->last_words->what), "%s", arg_str(op, "label", op->verb));
		announce(n->last_words);
	}
	return true;
}

bool nth_thread(struct nth *n, long tid)
{
	char path[64];

	if (n->fd >= 0)
		close(n->fd);
	snprintf(path, sizeof(path), "/proc/%ld/%s", tid, n->every ? "make-it-fail" : "fail-nth");
	n->fd = open(path, O_RDWR | O_CLOEXEC);
	*n->watch_tid = tid;
	if (n->run) {
		*n->tid = tid;
		*n->other_tid = syscall(SYS_gettid);
	}
	return n->fd >= 0;
}

void nth_close(struct nth *n)
{
	if (n->run)
		*n->run = 0;
	if (n->last_words) {
		n->last_words->what[0] = 0;
		write_file(LAST_WORDS, "0", 1, false);
	}
	if (n->watch_tid)
		*n->watch_tid = 0;
	if (n->fd >= 0)
		close(n->fd);
	if (n->log_fd >= 0)
		close(n->log_fd);
	n->fd = n->log_fd = -1;
}

static bool arm(int fd, int k)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", k);

	return pwrite(fd, text, len, 0) == len;
}

void nth_begin(struct nth *n, int k)
{
	n->seen = *n->fired;
	n->k = k;
	if (n->last_words) {
		n->last_words->nth = k;
		n->last_words->site = 0;
	}
	if (n->run) {
		*n->live[0] = *n->live[1] = 0;
		*n->run = n->runs + 1;
	}
	arm(n->fd, n->every ? 1 : k);
}

/* What is left of fail-nth: 0 when the fault fired. */
static int left(int fd)
{
	char text[16] = "";

	if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
		return -1;
	return atoi(text);
}

bool nth_end(struct nth *n)
{
	uint64_t fired;
	int rest;

	if (n->every)
		arm(n->fd, 0);
	fired = *n->fired - n->seen;
	/* If the tracer saw it fire, fail-nth need not be read; faults that the tracer missed may still show there. */
	rest = n->every || fired == 1 ? !fired : left(n->fd);
	if (rest < 0) /* the thread is gone: the tracer decides */
		rest = !fired;
	if (rest)
		arm(n->fd, 0);
	if (n->run)
		*n->run = 0;
	n->runs++;
	if (rest)
		return false;
	/* Either says it fired; the tracer must have seen exactly that. */
	if (!n->every && fired != 1)
		n->disputed++;
	n->injected += n->every ? fired : 1;
	if (n->k > n->highest)
		n->highest = n->k;
	return true;
}

static void note_loud(struct nth *n, const struct ending *e)
{
	char record[8192];
	struct loud *loud = NULL;
	ssize_t len;

	if (*n->printed == n->read)
		return;
	n->read = *n->printed;
	while ((len = read(n->log_fd, record, sizeof(record) - 1)) > 0 || (len < 0 && errno == EPIPE)) {
		unsigned long long seq = 0;
		unsigned int priority = 7;

		record[len > 0 ? len : 0] = 0;
		if (sscanf(record, "%u,%llu", &priority, &seq) != 2 || (priority & 7) > 4)
			continue;
		if (!loud && nr_louds < MAX_LOUD) {
			loud = &louds[nr_louds++];
			loud->ending = *e;
			loud->first = seq;
		}
		if (loud)
			loud->last = seq;
	}
}

void nth_book(struct nth *n, bool fired, int ret, int flags)
{
	struct ending e = { fired ? *n->site : 0, ret, flags, n->k, 1 };
	int i = 0;

	note_loud(n, &e);
	if (!fired && !flags && ret == n->fine)
		return;
	while (i < nr_endings && (endings[i].site != e.site || endings[i].ret != ret || endings[i].flags != flags))
		i++;
	if (i == MAX_ENDINGS) {
		endings_lost++;
	} else if (i == nr_endings) {
		endings[nr_endings++] = e;
	} else {
		endings[i].times++;
	}
}

void nth_reply(const struct nth *n, struct reply *r)
{
	char record[8192];

	reply_int(r, "runs", n->runs);
	reply_int(r, "injected", n->injected);
	reply_int(r, "disputed", n->disputed);
	reply_int(r, "highest_n", n->highest);
	reply_int(r, "lost", endings_lost);
	buf_printf(&r->body, ",\"outcomes\":[");
	for (int i = 0; i < nr_endings; i++)
		buf_printf(&r->body, "%s[%llu,%d,%d,%d,%lld]", i ? "," : "", (unsigned long long)endings[i].site,
			   endings[i].ret, endings[i].flags, endings[i].n, endings[i].times);
	buf_printf(&r->body, "],\"loud\":[");
	for (int i = 0; i < nr_louds; i++)
		buf_printf(&r->body, "%s[%llu,%d,%llu,%llu]", i ? "," : "",
			   (unsigned long long)louds[i].ending.site, louds[i].ending.n, louds[i].first, louds[i].last);
	buf_printf(&r->body, "]");
	/* A record is counted before it can be read, so that none is left unread after a run. */
	if (read(n->log_fd, record, sizeof(record)) > 0 && *n->printed == n->read)
		reply_error(r, ENODATA, "the kernel log grew, and the observer of faults did not count it");
}

/* thread: the id of the process or kthread called "name"; 0 if there is none. */
static void do_thread(const struct op *op, struct reply *r)
{
	reply_int(r, "tid", find_thread(arg_str(op, "name", "")));
}
VERB("thread", do_thread);

long find_thread(const char *name)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	long found = 0;

	/* The newest: an exiting one may still be there. */
	while (proc && (entry = readdir(proc))) {
		char path[300];
		struct buf comm = {};

		if (entry->d_name[0] < '1' || entry->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		/* A process that ended meanwhile does not match. */
		if (!read_file(path, &comm, 256) && comm.len > 1 && !strncmp(comm.data, name, comm.len - 1) &&
		    strlen(name) == comm.len - 1 && atol(entry->d_name) > found)
			found = atol(entry->d_name);
		free(comm.data);
	}
	if (proc)
		closedir(proc);
	return found;
}
