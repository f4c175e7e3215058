/* SPDX-License-Identifier: GPL-2.0-only */
/* What the parts of the guest's module have for each other: a debugfs file is one file_operations. */
#ifndef KHARNESS_H
#define KHARNESS_H

struct file_operations;
struct tracepoint;

/* canary.c */
extern const struct file_operations canary_fops;

/* held.c */
extern const struct file_operations held_fops;
/* Somebody frees what lies there. */
void held_freed(unsigned long at);
void held_exit(void);
/* A tracepoint of the kernel's by its name, or NULL. */
struct tracepoint *find_tracepoint(const char *name);

/* poison.c */
extern const struct file_operations poison_fops;
void poison_exit(void);

/* quiet.c */
extern const struct file_operations barrier_fops;
extern const struct file_operations flush_fops;
extern const struct file_operations churn_fops;
void quiet_init(void);

/* told.c */
extern const struct file_operations told_fops;
void told_init(void);
void told_exit(void);

#endif
