/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The guest agent: generic verbs over a virtio-serial port.
 *
 * In: one operation a line, "ID<TAB>VERB<TAB>key=value<TAB>key=value...", values percent-encoded.
 * Out: one JSON object a line, {"id":ID,"ok":bool,"us":microseconds,...}; on failure "errno" and "error".
 * The agent knows files, BPF objects, programs, workloads and fail-nth; it does not know what they are for.
 */
#ifndef KHARNESS_AGENT_H
#define KHARNESS_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_ARGS 256

struct buf {
	char *data;
	size_t len, cap;
};

/* One operation, parsed; strings point into the line. */
struct op {
	const char *id, *verb;
	struct {
		const char *key, *value;
	} args[MAX_ARGS];
	int nr_args;
};

/* One answer under construction: JSON members after "id". */
struct reply {
	struct buf body;
	bool failed;
};

/* json.c */
void buf_add(struct buf *b, const char *data, size_t len);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void json_string(struct buf *b, const char *data, size_t len);
void json_hex(struct buf *b, const void *data, size_t len);
void reply_str(struct reply *r, const char *key, const char *data, size_t len);
void reply_int(struct reply *r, const char *key, long long value);
/* Marks the answer as failed with this errno (positive) and a message. */
void reply_error(struct reply *r, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
bool parse_op(char *line, struct op *op);
const char *arg_str(const struct op *op, const char *key, const char *fallback);
long long arg_int(const struct op *op, const char *key, long long fallback);
/* Decodes a hex argument; returns its length in bytes or -1. */
int arg_hex(const struct op *op, const char *key, void *out, size_t max);

/* files.c */
void do_read(const struct op *op, struct reply *r);
void do_write(const struct op *op, struct reply *r);
void do_wait_file(const struct op *op, struct reply *r);
void do_settle(const struct op *op, struct reply *r);
void do_kmsg(const struct op *op, struct reply *r);
void do_idle(const struct op *op, struct reply *r);
void do_settime(const struct op *op, struct reply *r);
void do_entropy(const struct op *op, struct reply *r);
int kmsg_open(void);
/* Reads a whole file into b; returns 0 or an errno. */
int read_file(const char *path, struct buf *b, size_t max);
int write_file(const char *path, const char *data, size_t len, bool append);
long long now_us(void);
void sleep_us(long us);

/* work.c */
void do_spawn(const struct op *op, struct reply *r);
void do_work(const struct op *op, struct reply *r);
void do_progress(const struct op *op, struct reply *r);
void do_kill(const struct op *op, struct reply *r);
void do_reap(const struct op *op, struct reply *r);
void work_reset(void);

/* bpf.c */
struct object;
void do_load(const struct op *op, struct reply *r);
void do_unload(const struct op *op, struct reply *r);
void do_attach(const struct op *op, struct reply *r);
void do_detach(const struct op *op, struct reply *r);
void bpf_reset(void);
void bpf_setup(void);
struct object *find_object(const struct op *op, const char *key, struct reply *r);
int object_prog_fd(struct object *o, const char *prog);
struct bpf_link;
/* The struct_ops map or program "what", attached; NULL with errno. */
struct bpf_link *object_attach(struct object *o, const char *what);

/* nth.c */
/* Where a tracing object tells which site failed last; see bpf_progs/fault_sites.bpf.c. */
struct nth_observer {
	volatile uint64_t *site;
	volatile uint64_t *fired;
};
/* Makes the object named by "observer" watch the thread, and only what is made to fail there. */
bool nth_observe(const struct op *op, long tid, struct nth_observer *ob, struct reply *r);
/* The file that arms a thread; below 0 with errno. */
int nth_open(long tid);
bool nth_arm(int fd, int n);
/* What is left of fail-nth: 0 when the fault fired. */
int nth_left(int fd);
void nth_forget(void);
/* Counts one outcome: the site that failed (0: none did) and what was answered. */
void nth_count(uint64_t site, int ret);
/* "lost" and "outcomes" of an answer. */
void nth_outcomes(struct reply *r);
/* The thread id of a process or kthread by its whole name (/proc/PID/comm); 0 if there is none. */
long find_thread(const char *name);
void do_thread(const struct op *op, struct reply *r);

/* attach.c */
void do_sweep_attach(const struct op *op, struct reply *r);

/* kept.c */
void do_keep(const struct op *op, struct reply *r);
struct bpf_object;
/* An object kept from this path, whose variables can all be set as the load wants, or NULL. */
struct bpf_object *kept_take(const char *path, const struct op *op);
/* Brings an object back to what it was after loading and keeps it; false when it was not a kept one. */
bool kept_give_back(struct bpf_object *bpf);

/* vars.c */
void do_get(const struct op *op, struct reply *r);
void do_set(const struct op *op, struct reply *r);
void do_dump(const struct op *op, struct reply *r);
struct bpf_object *object_bpf(struct object *o);
/* Finds a global variable: its memory, size and kind; returns 0 or an errno. */
struct var {
	void *at;
	size_t size, elem;
	bool is_signed, is_char, is_array, is_const;
};
int find_var(struct bpf_object *obj, const char *name, struct var *var);
int set_var(struct bpf_object *obj, const char *name, const char *value);

/* relay.c */
int relay(int argc, char **argv);

/* run.c */
void do_run(const struct op *op, struct reply *r);
void do_sweep(const struct op *op, struct reply *r);

#endif
