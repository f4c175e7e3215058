// SPDX-License-Identifier: GPL-2.0-only
/*
 * "agent relay PORT PROGRAM ARGS...": runs a program whose standard input and output are a socket, and carries
 * bytes between that socket and a virtio-serial port. So SSH needs no network in the guest's kernel.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

/* Carries the available bytes; false when the source has ended or the target is closed. */
static bool carry(int from, int to)
{
	char chunk[16384];
	ssize_t n = read(from, chunk, sizeof(chunk)), done = 0;

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	while (done < n) {
		ssize_t written = write(to, chunk + done, n - done);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return false;
		done += written;
	}
	return n > 0;
}

static void carry_both(int port, int sock)
{
	struct pollfd fds[] = { { .fd = port, .events = POLLIN }, { .fd = sock, .events = POLLIN } };

	for (;;) {
		if (poll(fds, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return;
		}
		/* The port hangs up when the host closes its side. */
		if ((fds[0].revents & POLLIN ? !carry(port, sock) : fds[0].revents) ||
		    (fds[1].revents && !carry(sock, port)))
			return;
	}
}

int relay(int argc, char **argv)
{
	int port, pair[2], status = 0;
	pid_t pid;

	if (argc < 2) {
		fprintf(stderr, "relay wants a port and a program\n");
		return 2;
	}
	port = open(argv[0], O_RDWR | O_CLOEXEC);
	if (port < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		perror(argv[0]);
		return 1;
	}
	pid = fork();
	if (!pid) {
		dup2(pair[1], 0);
		dup2(pair[1], 1);
		execv(argv[1], argv + 1);
		perror(argv[1]);
		_exit(127);
	}
	close(pair[1]);
	if (pid > 0)
		carry_both(port, pair[0]);
	close(pair[0]);
	close(port);
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
