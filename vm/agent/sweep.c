// SPDX-License-Identifier: GPL-2.0-only
/*
 * Repeats a sequence of operations, each time with another allocation of one thread failing. The sequence is data:
 * lines of the agent's own protocol.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

#define MAX_STEPS 12

struct steps {
	char *text;
	struct op ops[MAX_STEPS];
	int nr;
};

struct op_sweep {
	struct nth nth;
	struct steps before, during, after;
	const char *thread;
	long long stuck;
	struct buf begun;
};

/* Lines "VERB<TAB>key=value...", values percent-encoded. */
static bool parse_steps(const struct op *op, const char *key, struct steps *s, struct reply *r)
{
	const char *text = arg_str(op, key, "");
	char *save = NULL, *line;
	struct buf all = {};

	/* The parser wants an id before the verb. */
	for (const char *at = text; *at;) {
		size_t len = strcspn(at, "\n");

		buf_printf(&all, "0\t%.*s\n", (int)len, at);
		at += len + (at[len] == '\n');
	}
	buf_add(&all, "", 0);
	s->text = all.data;
	for (line = strtok_r(s->text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (s->nr == MAX_STEPS || !parse_op(line, &s->ops[s->nr++])) {
			reply_error(r, EINVAL, "%s wants at most %d operations", key, MAX_STEPS);
			return false;
		}
	}
	return true;
}

/* The first answer that is not 0, negative errnos included; the rest is then skipped, unless `all` is set. */
static int do_steps(struct steps *s, bool all)
{
	int answer = 0;

	for (int i = 0; i < s->nr && (all || !answer); i++) {
		struct reply sub = {};

		buf_add(&sub.body, "", 0);
		if (!run_verb(&s->ops[i], &sub))
			sub.err = ENOSYS;
		free(sub.body.data);
		if (!answer)
			answer = sub.err ? -sub.err : sub.ret;
	}
	return answer;
}

/* One run with the k-th allocation failing; true when it fired. */
static bool sweep_run(struct op_sweep *s, int k)
{
	struct ending e = { .n = k };
	bool fired;
	int undone;

	nth_begin(&s->nth, k);
	e.ret = do_steps(&s->during, false);
	fired = nth_end(&s->nth);
	e.site = fired ? *s->nth.site : 0;
	undone = do_steps(&s->after, true);
	if (e.ret == -ETIMEDOUT || undone == -ETIMEDOUT) {
		s->stuck++;
		e.ret = -ETIMEDOUT;
	}
	if (s->nth.ledger)
		ledger_past(&e);
	nth_book(&s->nth, fired, e.ret, 0);
	return fired;
}

/* The thread is looked up before each run, as some only exist as long as the object of the run. */
static bool find_target(struct op_sweep *s, struct reply *r)
{
	long tid = *s->thread ? find_thread(s->thread) : syscall(SYS_gettid);

	if (!tid)
		reply_error(r, ESRCH, "no thread '%s'", s->thread);
	else if (!nth_thread(&s->nth, tid))
		reply_error(r, errno, "fail-nth of thread %ld: %s", tid, strerror(errno));
	return !r->failed;
}

static void sweep_all(const struct op *op, struct op_sweep *s, struct reply *r)
{
	long long budget = arg_int(op, "timeout_ms", 60000) * 1000, start = now_us(), max = arg_int(op, "max", 1 << 20);
	int k = arg_int(op, "from", 1), to = arg_int(op, "to", 1 << 20), missed = 0, misses = arg_int(op, "misses", 3);
	struct reply late = {};
	int unready = 0;

	for (; missed < misses && s->nth.runs < max && k <= to && now_us() - start < budget; k++) {
		int ready = do_steps(&s->before, false);

		if (ready) {
			unready = ready;
			break;
		}
		if (!find_target(s, s->nth.runs ? &late : r)) {
			if (!s->nth.runs)
				return;
			unready = -late.err;
			break;
		}
		buf_printf(&s->begun, "%s%lld", s->begun.len ? "," : "", now_us());
		missed = sweep_run(s, k) ? 0 : missed + 1;
		if (s->stuck)
			break;
	}
	free(late.body.data);
	reply_int(r, "next", k);
	reply_int(r, "unready", unready);
	reply_int(r, "done", missed >= misses || k > to);
	reply_int(r, "stuck", s->stuck);
	reply_int(r, "sweep_us", now_us() - start);
	buf_printf(&r->body, ",\"begun\":[%s]", s->begun.data ?: "");
	nth_reply(&s->nth, r);
}

/*
 * sweep-ops: for n = 1, 2, ... until "misses" in a row fired nothing: the operations "before", then with the n-th
 * allocation of the thread called "thread" (none: this one) failing the operations "during", then all of "after",
 * whatever came before; or, with "every", all that the knobs in debugfs let fail. A run's answer is the first that is not
 * 0 among those of "during". "observer" and "ledger" are tracing objects; "left" reads the ledger's objects at the end,
 * once all is quiescent. "fine" is what a run without a fault answers. A timeout among the operations (ETIMEDOUT)
 * is a hang and ends the sweep. "unready" is what "before", or the look for the thread, answered if it was not 0: then the
 * last run did not leave the state that it found, and the sweep ends. "outcomes" are [site, answer, 0, n, times], "loud"
 * [site, n, first, last] with the sequence numbers of the kernel's log; "begun" is when each run began, in microseconds as
 * "at" of every answer.
 */
static void do_sweep_ops(const struct op *op, struct reply *r)
{
	static struct op_sweep s;

	memset(&s, 0, sizeof(s));
	s.thread = arg_str(op, "thread", "");
	ledger_forget();
	if (parse_steps(op, "before", &s.before, r) && parse_steps(op, "during", &s.during, r) &&
	    parse_steps(op, "after", &s.after, r) && nth_open(op, &s.nth, r)) {
		s.nth.fine = arg_int(op, "fine", 0);
		sweep_all(op, &s, r);
		nth_close(&s.nth);
	}
	free(s.before.text);
	free(s.during.text);
	free(s.after.text);
	free(s.begun.data);
}
VERB("sweep-ops", do_sweep_ops);
