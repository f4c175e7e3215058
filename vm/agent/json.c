// SPDX-License-Identifier: GPL-2.0-only
/* Parsing of operations, building of answers. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

void buf_add(struct buf *b, const char *data, size_t len)
{
	if (b->len + len + 1 > b->cap) {
		b->cap = (b->len + len + 1) * 2;
		b->data = realloc(b->data, b->cap);
		if (!b->data)
			abort();
	}
	memcpy(b->data + b->len, data, len);
	b->len += len;
	b->data[b->len] = 0;
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	char small[512], *text = small;
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(small, sizeof(small), fmt, ap);
	va_end(ap);
	if (len >= (int)sizeof(small)) {
		va_start(ap, fmt);
		len = vasprintf(&text, fmt, ap);
		va_end(ap);
	}
	if (len < 0)
		abort();
	buf_add(b, text, len);
	if (text != small)
		free(text);
}

/* Bytes above 0x7f become \u00XX: the host reads Latin-1, so no byte of a file is lost. */
void json_string(struct buf *b, const char *data, size_t len)
{
	buf_add(b, "\"", 1);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = data[i];

		if (c == '"' || c == '\\')
			buf_printf(b, "\\%c", c);
		else if (c == '\n')
			buf_add(b, "\\n", 2);
		else if (c < 0x20 || c > 0x7e)
			buf_printf(b, "\\u%04x", c);
		else
			buf_add(b, (char *)&c, 1);
	}
	buf_add(b, "\"", 1);
}

void json_hex(struct buf *b, const void *data, size_t len)
{
	const unsigned char *p = data;

	buf_add(b, "\"", 1);
	for (size_t i = 0; i < len; i++)
		buf_printf(b, "%02x", p[i]);
	buf_add(b, "\"", 1);
}

void reply_str(struct reply *r, const char *key, const char *data, size_t len)
{
	buf_printf(&r->body, ",\"%s\":", key);
	json_string(&r->body, data, len);
}

void reply_int(struct reply *r, const char *key, long long value)
{
	if (!strcmp(key, "ret"))
		r->ret = value;
	buf_printf(&r->body, ",\"%s\":%lld", key, value);
}

void reply_error(struct reply *r, int err, const char *fmt, ...)
{
	char text[4096];
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (len >= (int)sizeof(text))
		len = sizeof(text) - 1;
	r->failed = true;
	r->err = err;
	reply_int(r, "errno", err);
	reply_str(r, "error", text, len);
}

static int hex_digit(int c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = tolower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void percent_decode(char *s)
{
	char *out = s;

	for (; *s; s++) {
		if (*s == '%' && hex_digit(s[1]) >= 0 && hex_digit(s[2]) >= 0) {
			*out++ = hex_digit(s[1]) * 16 + hex_digit(s[2]);
			s += 2;
		} else {
			*out++ = *s;
		}
	}
	*out = 0;
}

bool parse_op(char *line, struct op *op)
{
	char *save = NULL, *field;

	memset(op, 0, sizeof(*op));
	op->id = strtok_r(line, "\t", &save);
	op->verb = strtok_r(NULL, "\t", &save);
	if (!op->id || !op->verb)
		return false;
	while ((field = strtok_r(NULL, "\t", &save))) {
		char *value = strchr(field, '=');

		if (!value || op->nr_args == MAX_ARGS)
			return false;
		*value++ = 0;
		percent_decode(value);
		op->args[op->nr_args].key = field;
		op->args[op->nr_args++].value = value;
	}
	return true;
}

const char *arg_str(const struct op *op, const char *key, const char *fallback)
{
	for (int i = 0; i < op->nr_args; i++)
		if (!strcmp(op->args[i].key, key))
			return op->args[i].value;
	return fallback;
}

long long arg_int(const struct op *op, const char *key, long long fallback)
{
	const char *text = arg_str(op, key, NULL);

	if (!text)
		return fallback;
	/* Ids use all 64 bits: unsigned unless negative. */
	return *text == '-' ? strtoll(text, NULL, 0) : (long long)strtoull(text, NULL, 0);
}

int arg_hex(const struct op *op, const char *key, void *out, size_t max)
{
	const char *text = arg_str(op, key, "");
	unsigned char *p = out;
	size_t len = strlen(text) / 2;

	if (strlen(text) % 2 || len > max)
		return -1;
	for (size_t i = 0; i < len; i++) {
		int hi = hex_digit(text[2 * i]), lo = hex_digit(text[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -1;
		p[i] = hi * 16 + lo;
	}
	return len;
}
