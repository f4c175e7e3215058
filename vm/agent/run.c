// SPDX-License-Identifier: GPL-2.0-only
/* Runs SYSCALL programs: once, many times over consecutive ids, and as a fail-nth sweep. */
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

#define MAX_CTX 256

struct call {
	int fd;
	unsigned char ctx[MAX_CTX];
	size_t len;
};

/* The program's own answer, or *err when the syscall itself failed before or after it. */
static int call_prog(struct call *c, int *err)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = c->len ? c->ctx : NULL, .ctx_size_in = c->len);

	*err = bpf_prog_test_run_opts(c->fd, &opts) ? errno : 0;
	return (int)opts.retval;
}

/* The first eight bytes of the context are the id that moves from call to call. */
static void step_id(struct call *c, uint64_t id)
{
	memcpy(c->ctx, &id, sizeof(id));
}

static bool open_call(const struct op *op, const char *prog_key, struct call *c, struct reply *r)
{
	struct object *o = find_object(op, "name", r);
	const char *prog = arg_str(op, prog_key, "");
	int len;

	if (!o)
		return false;
	c->fd = object_prog_fd(o, prog);
	if (c->fd < 0) {
		reply_error(r, ENOENT, "no program '%s'", prog);
		return false;
	}
	len = arg_hex(op, "ctx", c->ctx, sizeof(c->ctx));
	if (len < 0) {
		reply_error(r, EINVAL, "ctx wants at most %d bytes of hex", MAX_CTX);
		return false;
	}
	c->len = len;
	return true;
}

/*
 * With "fifo", the agent runs at real-time priority while it works: kworkers bound to its CPU wait, among them the one
 * that keeps spare percpu pages populated, so that alloc_percpu() has to allocate by itself.
 */
static void set_fifo(const struct op *op, bool on)
{
	struct sched_param param = { .sched_priority = on };

	if (arg_int(op, "fifo", 0))
		sched_setscheduler(0, on ? SCHED_FIFO : SCHED_OTHER, &param);
}

/*
 * run: program "prog" of object "name" with context "ctx" (hex). With "repeat", as often as that, the id rising
 * by one each time; "rets" are the answers in order, run-length encoded as [answer, times].
 */
void do_run(const struct op *op, struct reply *r)
{
	long long repeat = arg_int(op, "repeat", 1), run = 0, done = 0;
	struct call c;
	uint64_t id = 0;
	int ret = 0, last = 0, err = 0;

	if (!open_call(op, "prog", &c, r))
		return;
	memcpy(&id, c.ctx, sizeof(id));
	buf_printf(&r->body, ",\"rets\":[");
	set_fifo(op, true);
	for (done = 0; done < repeat; done++) {
		if (c.len >= sizeof(id) && repeat > 1)
			step_id(&c, id + done);
		ret = call_prog(&c, &err);
		if (err)
			break;
		if (run && ret != last) {
			buf_printf(&r->body, "[%d,%lld],", last, run);
			run = 0;
		}
		last = ret;
		run++;
	}
	set_fifo(op, false);
	if (run)
		buf_printf(&r->body, "[%d,%lld]", last, run);
	else if (r->body.data[r->body.len - 1] == ',')
		r->body.data[--r->body.len] = 0;
	buf_printf(&r->body, "]");
	reply_int(r, "done", done);
	if (err) {
		reply_error(r, err, "BPF_PROG_RUN: %s", strerror(err));
	} else {
		reply_int(r, "ret", ret);
		buf_printf(&r->body, ",\"ctx\":");
		json_hex(&r->body, c.ctx, c.len);
	}
}

struct sweep {
	struct call call, undo;
	struct nth_observer ob;
	int nth_fd, last_ret;
	long long injected, runs, undone, disputed, highest_n;
};

/* One run with the n-th site failing; answers whether it fired, and with what in s->last_ret. */
static bool sweep_once(struct sweep *s, int n)
{
	uint64_t before = *s->ob.fired, after;
	int err, left;

	nth_arm(s->nth_fd, n);
	s->last_ret = call_prog(&s->call, &err);
	left = nth_left(s->nth_fd);
	if (left)
		nth_arm(s->nth_fd, 0);
	after = *s->ob.fired;
	if (err) /* the site lay in the syscall itself, not in the program */
		s->last_ret = -err;
	s->runs++;
	if (left)
		return false;
	/* fail-nth says it fired; the tracer must have seen exactly that. */
	if (after != before + 1)
		s->disputed++;
	s->injected++;
	nth_count(*s->ob.site, s->last_ret);
	return true;
}

static void sweep_id(struct sweep *s, uint64_t id, bool keep)
{
	int n, err;

	step_id(&s->call, id);
	step_id(&s->undo, id);
	for (n = 1;; n++) {
		bool fired = sweep_once(s, n);

		if (s->last_ret == 0 && (fired || !keep)) {
			call_prog(&s->undo, &err); /* it succeeded in spite of the fault: back to the same state */
			s->undone++;
		}
		if (!fired)
			break;
		if (n > s->highest_n)
			s->highest_n = n;
	}
	if (s->last_ret != 0)
		nth_count(0, s->last_ret); /* failed although nothing was injected */
}

/*
 * sweep: for "repeat" ids, runs "prog" with the first, second, ... allocation of this task failing until none is
 * left to fail. A run that succeeds in spite of its fault is undone with "undo"; the last, unharmed one is kept when
 * "keep" is set. "outcomes" are [site, answer, times], site a key of the observer's map; 0 means failed with nothing injected.
 */
void do_sweep(const struct op *op, struct reply *r)
{
	struct sweep s = {};
	long long repeat = arg_int(op, "repeat", 1), budget = arg_int(op, "timeout_ms", 60000) * 1000;
	long long start = now_us(), i;
	uint64_t id = 0;

	if (!open_call(op, "prog", &s.call, r) || !open_call(op, "undo", &s.undo, r) ||
	    !nth_observe(op, syscall(SYS_gettid), &s.ob, r))
		return;
	s.nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (s.nth_fd < 0) {
		reply_error(r, errno, "/proc/thread-self/fail-nth: %s", strerror(errno));
		return;
	}
	nth_forget();
	memcpy(&id, s.call.ctx, sizeof(id));
	set_fifo(op, true);
	for (i = 0; i < repeat && now_us() - start < budget; i++)
		sweep_id(&s, id + i, arg_int(op, "keep", 1));
	set_fifo(op, false);
	close(s.nth_fd);
	reply_int(r, "ids", i);
	reply_int(r, "runs", s.runs);
	reply_int(r, "injected", s.injected);
	reply_int(r, "undone", s.undone);
	reply_int(r, "disputed", s.disputed);
	reply_int(r, "highest_n", s.highest_n);
	reply_int(r, "sweep_us", now_us() - start);
	nth_outcomes(r);
}
