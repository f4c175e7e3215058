// SPDX-License-Identifier: GPL-2.0-only
/* A toy for the tests of coverage: callers of init_queue() that do and do not see it fail. */
#include <errno.h>
#include <stdlib.h>

struct queue {
	int *slots;
};

#define WARN_ON(condition) (condition)
#define FATAL(condition) do { if (condition) exit(1); } while (0)
#define BUG_ON FATAL

static int budget;

static void *take(size_t size)
{
	if (budget-- <= 0)
		return NULL;
	return malloc(size);
}

static int init_queue(struct queue *q)
{
	q->slots = take(8);
	if (!q->slots)
		return -ENOMEM;
	return 0;
}

/* Its answer is handed on. */
static int init_default(struct queue *q)
{
	return init_queue(q);
}

static struct queue *make(void)
{
	struct queue *q = take(sizeof(*q));

	if (!q)
		return NULL;
	if (WARN_ON(!q)) /* asserted: no error branch */
		return NULL;
	if (init_queue(q)) {
		free(q);
		return NULL;
	}
	return q;
}

static int open_queue(struct queue *q, int mode)
{
	int ret;

	if (mode < 0)
		return -EINVAL;
	ret = init_default(q); /* init_queue(q) in a comment */
	if (ret) {
		goto err_out;
	} else {
		q->slots[0] = mode;
	}
	return 0;
err_out:
	q->slots = NULL;
	return ret;
}

static int careless(struct queue *q)
{
	init_queue(q);
	return q->slots ? 1 : 2;
}

static int upside_down(struct queue *q)
{
	int err = init_queue(q);

	if (!err)
		q->slots[0] = 1;
	return err;
}

static int unused(struct queue *q)
{
	int ret = init_queue(q);

	if (ret)
		return ret;
	return 1;
}

#define __init

static void __init boot(struct queue *q)
{
	init_queue(q);
}

static void must(struct queue *q)
{
	BUG_ON(init_queue(q)); /* the end, or no failure */
}

#ifdef NEVER
static int left_out(struct queue *q)
{
	return init_queue(q) ? -EIO : 0;
}
#endif

int main(int argc, char **argv)
{
	struct queue q;
	int turns = argc > 1 ? atoi(argv[1]) : 0;

	for (budget = 1; turns--; budget = 1)
		make();
	budget = 9;
	boot(&q);
	must(&q);
	make();
	careless(&q);
	budget = 0;
	open_queue(&q, 1);
	upside_down(&q);
	budget = 9;
	open_queue(&q, 2);
	upside_down(&q);
	return argc > 9 ? unused(&q) : 0;
}
