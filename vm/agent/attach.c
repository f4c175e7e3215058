// SPDX-License-Identifier: GPL-2.0-only
/* Attaches again and again, each time with another allocation failing: a sweep over what no program can be run for. */
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

#define POLL_US 500

/* How a run ended besides a negative errno of the attach itself. */
enum { STAYED = 0, ENDED = 1, STUCK = 2 };

struct attach_sweep {
	struct object *object;
	const char *what, *state, *on, *off;
	volatile int *ended; /* the object's own word that it came to its end after attaching */
	struct nth_observer ob;
	int nth_fd;
	long long wait_us, runs, injected, disputed;
};

static bool state_is(const struct attach_sweep *s, const char *word)
{
	struct buf text = {};
	bool is = !read_file(s->state, &text, 256) && text.data && !strncmp(text.data, word, strlen(word));

	free(text.data);
	return is;
}

/* After a successful attach: until it is on, or has ended and is off again. */
static int settled(const struct attach_sweep *s)
{
	long long deadline = now_us() + s->wait_us;

	for (;; sleep_us(POLL_US)) {
		if (*s->ended && state_is(s, s->off))
			return ENDED;
		if (!*s->ended && state_is(s, s->on))
			return STAYED;
		if (now_us() > deadline)
			return STUCK;
	}
}

static bool wait_off(const struct attach_sweep *s)
{
	long long deadline = now_us() + s->wait_us;

	while (!state_is(s, s->off)) {
		if (now_us() > deadline)
			return false;
		sleep_us(POLL_US);
	}
	return true;
}

/* One attach with the n-th allocation failing; true when it fired. *ret is a negative errno or how it ended. */
static bool attach_once(struct attach_sweep *s, int n, int *ret)
{
	uint64_t before = *s->ob.fired;
	struct bpf_link *link;
	int left;

	*s->ended = 0;
	nth_arm(s->nth_fd, n);
	link = object_attach(s->object, s->what);
	*ret = link ? settled(s) : -errno;
	left = nth_left(s->nth_fd);
	if (left)
		nth_arm(s->nth_fd, 0);
	if (link)
		bpf_link__destroy(link);
	if (*ret != STUCK && !wait_off(s))
		*ret = STUCK;
	s->runs++;
	if (left)
		return false;
	if (*s->ob.fired != before + 1)
		s->disputed++;
	s->injected++;
	nth_count(*s->ob.site, *ret);
	return true;
}

static bool open_sweep(const struct op *op, struct attach_sweep *s, struct reply *r)
{
	const char *thread = arg_str(op, "thread", "");
	long tid = *thread ? find_thread(thread) : syscall(SYS_gettid);
	struct var ended;
	int err;

	s->object = find_object(op, "name", r);
	if (!s->object)
		return false;
	if (!tid) {
		reply_error(r, ESRCH, "no thread '%s'", thread);
		return false;
	}
	err = find_var(object_bpf(s->object), arg_str(op, "ended", ""), &ended);
	if (err || ended.size != sizeof(int)) {
		reply_error(r, err ?: EINVAL, "no variable '%s' that tells of the end", arg_str(op, "ended", ""));
		return false;
	}
	s->ended = ended.at;
	s->what = arg_str(op, "what", "ops");
	s->state = arg_str(op, "state", "");
	s->on = arg_str(op, "on", "");
	s->off = arg_str(op, "off", "");
	s->wait_us = arg_int(op, "wait_ms", 5000) * 1000;
	if (!nth_observe(op, tid, &s->ob, r))
		return false;
	s->nth_fd = nth_open(tid);
	if (s->nth_fd < 0)
		reply_error(r, errno, "fail-nth of thread %ld: %s", tid, strerror(errno));
	return s->nth_fd >= 0;
}

/*
 * sweep-attach: attaches the struct_ops map "what" of object "name" and detaches it, with the allocation "from", "from" + 1,
 * ... of the thread called "thread" (none: this one) failing, until "misses" in a row did not fire, or "max" runs or
 * "timeout_ms" are over ("done" tells). An attach that succeeded is left alone until the file "state" says "on", or
 * "off" with the object's variable "ended" set. "outcomes" are [site, answer, times]: a negative errno, 0 for one that
 * stayed, 1 for one that ended by itself, 2 for one that got stuck.
 */
void do_sweep_attach(const struct op *op, struct reply *r)
{
	struct attach_sweep s = {};
	long long budget = arg_int(op, "timeout_ms", 60000) * 1000, start = now_us(), max = arg_int(op, "max", 1 << 20);
	int n = arg_int(op, "from", 1), missed = 0, misses = arg_int(op, "misses", 3), ret = 0;

	if (!open_sweep(op, &s, r))
		return;
	nth_forget();
	for (; missed < misses && s.runs < max && now_us() - start < budget; n++) {
		if (attach_once(&s, n, &ret)) {
			missed = 0;
		} else {
			missed++;
			if (ret != STAYED)
				nth_count(0, ret); /* failed although nothing was injected */
		}
		if (ret == STUCK)
			break;
	}
	close(s.nth_fd);
	reply_int(r, "runs", s.runs);
	reply_int(r, "injected", s.injected);
	reply_int(r, "disputed", s.disputed);
	reply_int(r, "next", n);
	reply_int(r, "done", missed >= misses);
	reply_int(r, "sweep_us", now_us() - start);
	nth_outcomes(r);
}
