# SPDX-License-Identifier: GPL-2.0-only
"""Owns a stand-in for QEMU: opens the three sockets of an argv, speaks QMP, and ends as its first argument says.

Modes: ``echo`` answers the agent's bytes with the same; ``silent`` answers nothing; ``exit:N`` and ``kill:N`` end
when the agent is sent something or QMP says ``stop``; ``mute`` never greets; ``refuse`` ends at once, ``deaf`` opens no socket. All print one line on the
console when the guest is let run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator

LIFE_SECONDS = 20
CONSOLE_LINE = b"[    0.000000] Linux version 0.0 (fake)\r\n"


def listen(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(1)
    return server


def leave(mode: str) -> None:
    kind, _, number = mode.partition(":")
    if kind == "exit":
        os._exit(int(number))
    if kind == "kill":
        os.kill(os.getpid(), int(number))


def commands(peer: socket.socket) -> Iterator[dict[str, str]]:
    """QMP's JSON objects, which a client need not end with a newline."""
    text = ""
    while data := peer.recv(1 << 16):
        text += data.decode()
        while text.strip():
            try:
                command, end = json.JSONDecoder().raw_decode(text := text.lstrip())
            except ValueError:
                break  # not whole yet
            text = text[end:]
            yield command


def monitor(server: socket.socket, console: socket.socket, mode: str) -> None:
    peer, _ = server.accept()
    if mode == "mute":
        threading.Event().wait()
    peer.sendall(b'{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": []}}\r\n')
    for command in commands(peer):
        answer: dict[str, object] = {"return": {"status": "running"}}
        if command["execute"] == "no-such-command":
            answer = {"error": {"class": "CommandNotFound", "desc": "no such command"}}
        if command["execute"] == "cont":
            console.sendall(CONSOLE_LINE)
        if command["execute"] == "stop":
            leave(mode)
        peer.sendall(json.dumps({**answer, "id": command.get("id")}).encode() + b"\r\n")


def main() -> None:
    mode, argv = sys.argv[1], sys.argv[2:]
    if mode == "refuse":
        print("fake-qemu: warming up\nfake-qemu: no such machine", file=sys.stderr)
        sys.exit(1)
    paths = dict(re.findall(r"socket,id=(\w+),path=([^,]+)", " ".join(argv)))
    if mode == "deaf":
        return
    servers = {name: listen(path) for name, path in paths.items()}
    console, _ = servers["console"].accept()
    agent, _ = servers["agent"].accept()
    threading.Thread(target=monitor, args=(servers["qmp"], console, mode), daemon=True).start()
    while data := agent.recv(1 << 16):
        leave(mode)
        if mode == "echo":
            agent.sendall(data)


if __name__ == "__main__":
    # Ends by itself: no fault of the harness under test may leave it, or a test that waits for it, behind.
    signal.alarm(LIFE_SECONDS)
    main()
    threading.Event().wait()
