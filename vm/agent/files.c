// SPDX-License-Identifier: GPL-2.0-only
/* Files, the kernel log, the clock and entropy. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/random.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <time.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

static int kmsg_fd = -1;

long long now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000LL + ts.tv_nsec / 1000;
}

void sleep_us(long us)
{
	struct timespec ts = { us / 1000000, us % 1000000 * 1000 };

	nanosleep(&ts, NULL);
}

int read_file(const char *path, struct buf *b, size_t max)
{
	char chunk[65536];
	int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;
	ssize_t n;

	if (fd < 0)
		return errno;
	while (b->len < max) {
		n = read(fd, chunk, sizeof(chunk));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			err = n < 0 ? errno : 0;
			break;
		}
		buf_add(b, chunk, n);
	}
	close(fd);
	return err;
}

int write_file(const char *path, const char *data, size_t len, bool append)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | (append ? O_APPEND | O_CREAT : 0), 0600), err = 0;

	if (fd < 0)
		return errno;
	if (write(fd, data, len) < 0)
		err = errno;
	close(fd);
	return err;
}

static void do_read(const struct op *op, struct reply *r)
{
	const char *path = arg_str(op, "path", "");
	struct buf b = {};
	int err = read_file(path, &b, arg_int(op, "max", 16 << 20));

	if (err)
		reply_error(r, err, "%s: %s", path, strerror(err));
	else
		reply_str(r, "data", b.data ? b.data : "", b.len);
	free(b.data);
}
VERB("read", do_read);

/* One knob in each folder that a pattern finds; a folder reached through a symbolic link is another's alias. */
static void write_each(const char *pattern, const char *data, struct reply *r)
{
	glob_t found;
	long long written = 0;

	if (glob(pattern, GLOB_NOSORT, NULL, &found)) {
		reply_error(r, ENOENT, "%s finds nothing", pattern);
		return;
	}
	for (size_t i = 0; i < found.gl_pathc; i++) {
		char *path = found.gl_pathv[i], *slash = strrchr(path, '/');
		struct stat folder;
		int err;

		*slash = 0;
		err = lstat(path, &folder) || S_ISLNK(folder.st_mode);
		*slash = '/';
		if (err)
			continue;
		err = write_file(path, data, strlen(data), false);
		if (err) {
			reply_error(r, err, "%s: %s", path, strerror(err));
			break;
		}
		written++;
	}
	globfree(&found);
	reply_int(r, "written", written);
}

/* write: "data" into the file "path", or with "each" into every file that the pattern "path" finds. */
static void do_write(const struct op *op, struct reply *r)
{
	const char *path = arg_str(op, "path", ""), *data = arg_str(op, "data", "");
	const char *mode = arg_str(op, "mode", NULL);
	int err;

	if (arg_int(op, "each", 0)) {
		write_each(path, data, r);
		return;
	}
	if (mode) { /* a regular file, not a knob */
		int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, strtol(mode, NULL, 8));

		if (fd >= 0)
			close(fd);
	}
	err = write_file(path, data, strlen(data), arg_int(op, "append", 0));
	if (err)
		reply_error(r, err, "%s: %s", path, strerror(err));
}
VERB("write", do_write);

static void do_wait_file(const struct op *op, struct reply *r)
{
	const char *path = arg_str(op, "path", ""), *want = arg_str(op, "contains", "");
	long long deadline = now_us() + arg_int(op, "timeout_ms", 5000) * 1000;
	struct buf b = {};
	int err;

	for (;;) {
		b.len = 0;
		buf_add(&b, "", 0);
		err = read_file(path, &b, 1 << 20);
		if (!err && strstr(b.data, want))
			break;
		if (now_us() > deadline) {
			reply_error(r, ETIMEDOUT, "%s never contained '%s'", path, want);
			break;
		}
		sleep_us(2000);
	}
	reply_str(r, "data", b.data, b.len);
	free(b.data);
}
VERB("wait-file", do_wait_file);

/* The value after "KEY" at the start of a line, or the whole text when there is no key. */
static long long watched_value(const struct buf *b, const char *key)
{
	const char *at = *key ? strstr(b->data, key) : b->data;

	while (at && *at && (*at < '0' || *at > '9'))
		at++;
	return at ? strtoll(at, NULL, 10) : -1;
}

/*
 * Runs for a moment on each CPU: an idle CPU keeps the memory map of the last process it ran (lazy TLB), and with
 * it two percpu objects of a process that has long exited, until another process runs there.
 */
static void visit_cpus(void)
{
	cpu_set_t home, one;

	if (sched_getaffinity(0, sizeof(home), &home))
		return;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &home))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
	}
	sched_setaffinity(0, sizeof(home), &home);
}

/*
 * Quiescence: writes to "barrier" and reads the number behind "key" in "watch" until it stood still for "rounds"
 * rounds. Teardown chains rcu_work, irq_work and call_rcu, so one barrier is not enough.
 */
static void do_settle(const struct op *op, struct reply *r)
{
	const char *barrier = arg_str(op, "barrier", ""), *watch = arg_str(op, "watch", "");
	const char *key = arg_str(op, "key", "");
	long long deadline = now_us() + arg_int(op, "timeout_ms", 10000) * 1000;
	long long value = -1, last = -2;
	int rounds = arg_int(op, "rounds", 3), still = 0, turns = 0, err = 0;
	struct buf b = {};

	while (still < rounds) {
		visit_cpus();
		err = write_file(barrier, "1", 1, false);
		if (err) {
			reply_error(r, err, "%s: %s", barrier, strerror(err));
			break;
		}
		b.len = 0;
		buf_add(&b, "", 0);
		err = read_file(watch, &b, 1 << 20);
		if (err) {
			reply_error(r, err, "%s: %s", watch, strerror(err));
			break;
		}
		value = watched_value(&b, key);
		still = value == last ? still + 1 : 0;
		last = value;
		turns++;
		if (now_us() > deadline) {
			reply_error(r, ETIMEDOUT, "%s did not stand still, last %lld", watch, value);
			break;
		}
	}
	reply_int(r, "value", value);
	reply_int(r, "turns", turns);
	free(b.data);
}
VERB("settle", do_settle);

int kmsg_open(void)
{
	kmsg_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	return kmsg_fd;
}

/* All kernel log records since the last call, as /dev/kmsg gives them; "overruns" counts EPIPE (records lost). */
static void do_kmsg(const struct op *op, struct reply *r)
{
	char record[8192 + 1];
	int overruns = 0;
	bool first = true;
	ssize_t n;

	(void)op;
	buf_printf(&r->body, ",\"records\":[");
	for (;;) {
		n = read(kmsg_fd, record, sizeof(record) - 1);
		if (n < 0 && errno == EPIPE) {
			overruns++;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		if (record[n - 1] == '\n')
			n--;
		if (!first)
			buf_add(&r->body, ",", 1);
		first = false;
		json_string(&r->body, record, n);
	}
	buf_printf(&r->body, "]");
	reply_int(r, "overruns", overruns);
}
VERB("kmsg", do_kmsg);

/* idle: lets "ms" of guest time pass, for conditions that only depend on age (kmemleak's minimum). */
static void do_idle(const struct op *op, struct reply *r)
{
	(void)r;
	sleep_us(arg_int(op, "ms", 0) * 1000);
}
VERB("idle", do_idle);

static void do_settime(const struct op *op, struct reply *r)
{
	struct timespec ts = { arg_int(op, "sec", 0), arg_int(op, "nsec", 0) };

	if (clock_settime(CLOCK_REALTIME, &ts))
		reply_error(r, errno, "clock_settime: %s", strerror(errno));
}
VERB("settime", do_settime);

static void do_entropy(const struct op *op, struct reply *r)
{
	struct {
		struct rand_pool_info info;
		unsigned char seed[64];
	} pool = {};
	int len = arg_hex(op, "seed", pool.info.buf, sizeof(pool.seed)), fd;

	if (len <= 0) {
		reply_error(r, EINVAL, "seed wants 1 to 64 bytes of hex");
		return;
	}
	fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	pool.info.entropy_count = len * 8;
	pool.info.buf_size = len;
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG))
		reply_error(r, errno, "/dev/urandom: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}
VERB("entropy", do_entropy);
