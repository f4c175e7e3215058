// SPDX-License-Identifier: GPL-2.0-only
/*
 * The agent's loop: one operation in, one JSON line out. "agent relay ..." and "agent worker ..." are other programs, see relay.c
 * and work.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

static void do_ping(const struct op *op, struct reply *r)
{
	(void)op;
	reply_int(r, "pid", getpid());
	reply_int(r, "tid", syscall(SYS_gettid));
	reply_int(r, "now_us", now_us());
}
VERB("ping", do_ping);

static void do_reset(const struct op *op, struct reply *r)
{
	work_reset();
	do_drain(op, r);
	bpf_reset();
	steps_reset();
}
VERB("reset", do_reset);

bool run_verb(const struct op *op, struct reply *r)
{
	for (const struct verb *verb = __start_verbs; verb < __stop_verbs; verb++) {
		if (!strcmp(verb->name, op->verb)) {
			verb->run(op, r);
			return true;
		}
	}
	return false;
}

static void send_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return; /* no host is connected: the next one asks again */
		data += n;
		len -= n;
	}
}

static int port_fd = -1;

void say(const char *fmt, ...)
{
	char text[256];
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	send_all(port_fd, text, len < (int)sizeof(text) ? (size_t)len : sizeof(text) - 1);
}

static void serve(int fd, char *line)
{
	struct reply r = {};
	struct buf out = {};
	struct op op;
	long long start = now_us();

	buf_add(&r.body, "", 0);
	if (!parse_op(line, &op)) {
		op.id = op.id ?: "0";
		reply_error(&r, EINVAL, "malformed operation");
	} else if (!run_verb(&op, &r)) {
		reply_error(&r, ENOSYS, "no verb '%s'", op.verb);
	}
	buf_printf(&out, "{\"id\":%ld,\"ok\":%s,\"us\":%lld,\"at\":%lld", strtol(op.id, NULL, 10),
		   r.failed ? "false" : "true", now_us() - start, start);
	buf_add(&out, r.body.data, r.body.len);
	buf_add(&out, "}\n", 2);
	send_all(fd, out.data, out.len);
	free(out.data);
	free(r.body.data);
}

static int wait_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (poll(&p, 1, -1) < 0)
		return errno == EINTR ? 0 : -1;
	if (p.revents & POLLIN)
		return 1;
	/* No host on the other side: POLLHUP comes back at once, so do not spin. */
	sleep_us(5000);
	return 0;
}

int main(int argc, char **argv)
{
	const char *port = argc > 1 ? argv[1] : "/dev/kharness.agent";
	struct buf in = {};
	char chunk[65536];
	int fd;

	if (!strcmp(port, "relay"))
		return relay(argc - 2, argv + 2);
	if (!strcmp(port, "worker") && argc == 8)
		return worker(argv + 2);
	fd = open(port, O_RDWR | O_CLOEXEC);
	if (fd < 0 || kmsg_open() < 0) {
		perror(port);
		return 1;
	}
	signal(SIGPIPE, SIG_IGN);
	port_fd = fd;
	bpf_setup();
	for (;;) {
		char *eol, *at;
		ssize_t n;

		if (wait_readable(fd) <= 0)
			continue;
		n = read(fd, chunk, sizeof(chunk));
		if (n <= 0)
			continue;
		buf_add(&in, chunk, n);
		for (at = in.data; (eol = memchr(at, '\n', in.data + in.len - at)); at = eol + 1) {
			*eol = 0;
			serve(fd, at);
		}
		in.len -= at - in.data;
		memmove(in.data, at, in.len);
	}
}
