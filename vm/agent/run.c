// SPDX-License-Identifier: GPL-2.0-only
/* Runs SYSCALL programs: once, many times over consecutive ids, and as a fail-nth sweep. */
#include <bpf/bpf.h>
#include <errno.h>
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
VERB("run", do_run);

/*
 * run-beside: the program once, in a "task" of its own on CPU "cpu", while the agent goes on; reap and kill know the task
 * by that name. Its exit status is 0 where the program answered 0.
 */
static void do_run_beside(const struct op *op, struct reply *r)
{
	struct call c;
	int err, ret;
	pid_t pid;

	if (!open_call(op, "prog", &c, r))
		return;
	pid = work_fork(arg_str(op, "task", ""), arg_int(op, "cpu", 0), r);
	if (!pid) {
		ret = call_prog(&c, &err);
		_exit(err || ret ? 1 : 0);
	}
	if (pid > 0)
		reply_int(r, "pid", pid);
}
VERB("run-beside", do_run_beside);

/* No operation allocates so often: nothing fails. */
#define UNHARMED (1 << 20)

/* Errors of a run besides its answer. */
enum { LEFT_PERCPU = 1, LEFT_SLAB = 2, NOT_DONE = 4 };

struct sweep {
	struct call call, undo, check;
	struct nth nth;
	struct buf left;
	long long want[2]; /* objects of a successful run: percpu, slab; below 0: not known */
	long long undone;
	int ret, nr_left;
};

/* After an error no object of the run may be left; after a success its objects must be there. */
static int flaws(struct sweep *s)
{
	int flags = 0, err;

	for (int i = 0; s->nth.ledger && i < 2; i++) {
		long long live = *s->nth.live[i];

		if (s->ret && live)
			flags |= i ? LEFT_SLAB : LEFT_PERCPU;
		else if (!s->ret && s->want[i] >= 0 && live != s->want[i])
			flags |= NOT_DONE;
	}
	if (!s->ret && s->check.fd > 0 && call_prog(&s->check, &err))
		flags |= NOT_DONE;
	return flags;
}

/* One run with the k-th site failing; returns whether it fired, with the program's answer in s->ret. */
static bool sweep_once(struct sweep *s, int k)
{
	int err, flags;
	bool fired;

	nth_begin(&s->nth, k);
	s->ret = call_prog(&s->call, &err);
	fired = nth_end(&s->nth);
	if (err) /* the site was in the syscall itself, not in the program */
		s->ret = -err;
	flags = flaws(s);
	if (flags & (LEFT_PERCPU | LEFT_SLAB)) {
		struct ending e = { fired ? *s->nth.site : 0, s->ret, flags, k, 1 };

		if (s->nr_left < 8) /* the first few are enough: the counts show the rest */
			s->nr_left += ledger_left(s->nth.ledger, s->nth.runs, &e, &s->left);
	}
	nth_book(&s->nth, fired, s->ret, flags);
	return fired;
}

static void sweep_id(struct sweep *s, uint64_t id, bool keep, int from, int to)
{
	int k, err;

	step_id(&s->call, id);
	step_id(&s->undo, id);
	step_id(&s->check, id);
	for (k = from;; k = k < to ? k + 1 : UNHARMED) {
		bool fired = sweep_once(s, k);

		if (s->ret == 0 && (fired || !keep)) {
			call_prog(&s->undo, &err); /* it succeeded in spite of the fault: undo it */
			s->undone++;
		}
		if (!fired)
			break;
	}
}

static bool open_sweep(const struct op *op, struct sweep *s, struct reply *r)
{
	s->want[0] = arg_int(op, "want_percpu", -1);
	s->want[1] = arg_int(op, "want_slab", -1);
	if (!open_call(op, "prog", &s->call, r) || !open_call(op, "undo", &s->undo, r) ||
	    (*arg_str(op, "verify", "") && !open_call(op, "verify", &s->check, r)) || !nth_open(op, &s->nth, r))
		return false;
	if (nth_thread(&s->nth, syscall(SYS_gettid))) {
		s->nth.fine = arg_int(op, "fine", 0);
		return true;
	}
	reply_error(r, errno, "fail-nth: %s", strerror(errno));
	nth_close(&s->nth);
	return false;
}

/*
 * sweep: for "repeat" ids, runs "prog" with the first, second, ... allocation of this task failing until none is
 * left to fail, or with those "from" to "to", and then unharmed. A run that succeeds in spite of its fault is looked at
 * with "verify", which must answer 0, and undone with "undo"; the last, unharmed one is kept when "keep" is set. "fine"
 * is what it answers without a fault. Names of tracing objects and "outcomes" are those of sweep-ops, their third number
 * flags (LEFT_PERCPU, ...); "left" is that of left.
 */
static void do_sweep(const struct op *op, struct reply *r)
{
	long long repeat = arg_int(op, "repeat", 1), budget = arg_int(op, "timeout_ms", 60000) * 1000;
	long long start = now_us(), i;
	int from = arg_int(op, "from", 1), to = arg_int(op, "to", UNHARMED);
	struct sweep s = {};
	uint64_t id = 0;

	if (!open_sweep(op, &s, r))
		return;
	buf_add(&s.left, "", 0);
	memcpy(&id, s.call.ctx, sizeof(id));
	set_fifo(op, true);
	for (i = 0; i < repeat && now_us() - start < budget; i++)
		sweep_id(&s, id + i, arg_int(op, "keep", 1), from, to);
	set_fifo(op, false);
	reply_int(r, "ids", i);
	reply_int(r, "undone", s.undone);
	reply_int(r, "sweep_us", now_us() - start);
	reply_int(r, "count", s.nr_left);
	buf_printf(&r->body, ",\"left\":[%s]", s.left.data);
	nth_reply(&s.nth, r);
	nth_close(&s.nth);
	free(s.left.data);
}
VERB("sweep", do_sweep);
