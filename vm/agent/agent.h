/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The guest agent: generic verbs over a virtio-serial port.
 *
 * In: one operation a line, "ID<TAB>VERB<TAB>key=value<TAB>key=value...", values percent-encoded.
 * Out: one JSON object a line, {"id":ID,"ok":bool,"us":microseconds,"at":when it began,...}; on failure "errno" and
 * "error".
 * The agent knows files, BPF objects, programs, workloads and fail-nth, but not their purpose.
 */
#ifndef KHARNESS_AGENT_H
#define KHARNESS_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

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
	int err, ret; /* its "errno" and "ret", for callers that do operations themselves */
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
int kmsg_open(void);
/* Reads a whole file into b; returns 0 or an errno. */
int read_file(const char *path, struct buf *b, size_t max);
int write_file(const char *path, const char *data, size_t len, bool append);
long long now_us(void);
void sleep_us(long us);

/* turns.c: one turn of a worker, which counts as progress; and the cleanup of the cgroups of reaped workers. */
void work_turn(const char *kind, long us);
void work_forget_cgroups(const pid_t *pids, int nr);

/* work.c */
/* "agent worker KIND US CPU POLICY SLOT FD": turns of a kind for ever, counted in a slot of the file. */
int worker(char **argv);
/* A child on one CPU, for do_reap() and do_kill() by this name: its pid, 0 in the child itself, -1 with an answer. */
pid_t work_fork(const char *name, long cpu, struct reply *r);
void work_reset(void);

/* bpf.c */
struct object;
void bpf_reset(void);
void bpf_setup(void);
struct object *find_object(const struct op *op, const char *key, struct reply *r);
/* The number of its attached programs and maps. */
int object_links(const struct object *o);
int object_prog_fd(struct object *o, const char *prog);
struct bpf_link;
/* The struct_ops map or program "what", attached; NULL with errno. */
struct bpf_link *object_attach(struct object *o, const char *what);

/* nth.c */
struct ending {
	uint64_t site; /* the failed site, a key of the observer's map; 0: none */
	int ret, flags, n;
	long long times;
};
/* bpf_progs/observers/fault_sites.bpf.c and vm/module/last_words.c have the same layout. */
struct last_words {
	char what[64];
	uint64_t nth, site;
	uint32_t type, depth;
	uint64_t stack[16];
};
/* A running sweep: the thread whose allocations fail, and the tracing objects' counts of each run. */
struct nth {
	int fd, log_fd, k, fine;
	bool every; /* not the k-th, but all that the knobs in debugfs choose */
	volatile uint64_t *site, *fired; /* the observer: the last failed site, the number of faults */
	volatile int32_t *watch_tid;
	volatile uint64_t *printed; /* the observer: the number of kernel log records */
	uint64_t read; /* that number when the log was last read */
	struct last_words *last_words;
	struct object *ledger; /* NULL: no ledger, and the fields below are unused */
	volatile uint64_t *run;
	volatile int32_t *tid, *other_tid;
	volatile int64_t *live[2]; /* percpu and slab objects of this run */
	uint64_t seen;
	long long runs, injected, disputed, highest;
};
/* From the objects named by "observer" and, if given, "ledger"; "label" names the operation if the kernel dies. */
bool nth_open(const struct op *op, struct nth *n, struct reply *r);
void nth_close(struct nth *n);
/* Choose the thread whose allocations fail; false with errno. */
bool nth_thread(struct nth *n, long tid);
/* A run with the k-th allocation failing; nth_end() returns whether it fired. */
void nth_begin(struct nth *n, int k);
bool nth_end(struct nth *n);
/* Counts one ending, except a run without a fault with the expected answer. */
void nth_book(struct nth *n, bool fired, int ret, int flags);
/* Before nth_close(). Marks the answer as failed where the log was not watched. */
void nth_reply(const struct nth *n, struct reply *r);
/* The thread id of a process or kthread by its whole name (/proc/PID/comm); 0 if there is none. */
long find_thread(const char *name);

/* ledger.c */
void ledger_forget(void);
/* Remembers how the next run ended, for do_left(). */
void ledger_past(const struct ending *e);
/* Adds the objects left by a run (0: by all), ended as `of` says (NULL: as remembered); returns their number. */
int ledger_left(struct object *ledger, uint64_t run, const struct ending *of, struct buf *out);

/* steps.c */
/* Removes the folders that mkdir made. */
void steps_reset(void);
void do_drain(const struct op *op, struct reply *r);

/*
 * A verb: VERB("name", do_name) below a do_name(op, r). The linker puts all of them into one array, whose first and
 * last it names.
 */
struct verb {
	const char *name;
	void (*run)(const struct op *op, struct reply *r);
};
#define VERB(called, function)                                                                      \
	static const struct verb verb_##function __attribute__((section("verbs"), used)) = { called, function }
extern const struct verb __start_verbs[], __stop_verbs[];

/* main.c */
/* Does one parsed operation; false if there is no such verb. */
bool run_verb(const struct op *op, struct reply *r);
/* A line to the host between its answers. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* kept.c */
struct bpf_object;
/* An object kept from this path, whose variables can all be set as the load requests, or NULL. */
struct bpf_object *kept_take(const char *path, const struct op *op);
/* Resets an object to its state after loading and keeps it; false when it was not a kept one. */
bool kept_give_back(struct bpf_object *bpf);
struct bpf_map;
/* Empties a hash, queue or array; 0 or an errno. */
int clear_map(const struct bpf_map *map);

/* vars.c */
struct bpf_object *object_bpf(struct object *o);
/* Finds a global variable: its memory, size and kind; returns 0 or an errno. */
struct var {
	void *at;
	size_t size, elem;
	bool is_signed, is_char, is_array, is_const;
};
int find_var(struct bpf_object *obj, const char *name, struct var *var);
/* Sets it, or one element of an array. */
int set_var(struct bpf_object *obj, const char *name, const char *value, size_t index);

/* members.c */
/* Sets a member of a struct_ops map that is not loaded: a number, a string, a callback by its program's name (or none). */
int set_member(struct bpf_object *obj, const char *map_name, const char *member, const char *value);

/* relay.c */
int relay(int argc, char **argv);

/* run.c */
void do_run(const struct op *op, struct reply *r);

#endif
