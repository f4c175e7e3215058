// SPDX-License-Identifier: GPL-2.0-only
/* Prints the frequency of this machine's time stamp counter in kHz, rounded to 100; 0 where there is none. */
#include <stdio.h>
#include <time.h>

#if defined(__x86_64__)
#include <x86intrin.h>

static long long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

int main(void)
{
	long long start = now_ns(), end;
	unsigned long long from = __rdtsc(), to;

	do {
		end = now_ns();
		to = __rdtsc();
	} while (end - start < 200000000);
	printf("%lld\n", (long long)((double)(to - from) * 1e6 / (double)(end - start) / 100 + 0.5) * 100);
	return 0;
}
#else
int main(void)
{
	puts("0");
	return 0;
}
#endif
