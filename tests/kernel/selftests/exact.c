// SPDX-License-Identifier: GPL-2.0-only
/*
 * Linked into the runner of the sched_ext selftests with --wrap=strstr: its -t runs each test whose name includes a
 * string, and to run one alone the name has to be the string. Every other search of a string is what it was.
 */
#include <stddef.h>
#include <string.h>

char *__real_strstr(const char *haystack, const char *needle);
char *__wrap_strstr(const char *haystack, const char *needle);

static const char *wanted;

/* glibc gives constructors the arguments of main(); getopt() hands them on as they are, not as copies. */
__attribute__((constructor)) static void remember(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], "-t"))
			wanted = argv[i + 1];
}

char *__wrap_strstr(const char *haystack, const char *needle)
{
	if (needle == wanted)
		return strcmp(haystack, needle) ? NULL : (char *)haystack;
	return __real_strstr(haystack, needle);
}
