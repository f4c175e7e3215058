/* SPDX-License-Identifier: GPL-2.0-only */
/* The interfaces between the parts of the guest's module: a debugfs file is one file_operations. */
#ifndef KHARNESS_H
#define KHARNESS_H

struct file_operations;
struct tracepoint;

/* canary.c */
extern const struct file_operations canary_fops;

/* watched.c */
extern const struct file_operations watched_fops;
/* The object at this address is being freed. */
void watched_freed(unsigned long at);
void watched_exit(void);
/* A tracepoint of the kernel's by its name, or NULL. */
struct tracepoint *find_tracepoint(const char *name);

/* poison.c */
extern const struct file_operations poison_fops;
void poison_exit(void);

/* quiesce.c */
extern const struct file_operations barrier_fops;
extern const struct file_operations flush_fops;
extern const struct file_operations churn_fops;
void quiesce_init(void);

/* last_words.c */
extern const struct file_operations last_words_fops;
void last_words_init(void);
void last_words_exit(void);

#endif
