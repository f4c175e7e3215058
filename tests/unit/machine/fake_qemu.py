# SPDX-License-Identifier: GPL-2.0-only
"""Owns a stand-in for QEMU: opens the three sockets of an argv, speaks QMP, and ends as its first argument says.

Modes: ``echo`` answers the agent's bytes with the same; ``silent`` answers nothing; ``exit:N`` and ``kill:N`` end
when the agent is sent something or QMP says ``stop``; ``mute`` never greets; ``refuse`` ends at once, ``deaf`` opens no socket. All print one line on the
console when the guest is let run.

``sysrq`` answers a break and a letter on the console as a kernel does, ``sysrq:N`` only the N-th break of each letter;
``broken:N`` ends by signal N when a break is sent. ``reset`` says SHUTDOWN when the agent is sent something and stays. A
file that was passed is what dump-guest-memory writes; ``full`` lets that fail.
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
from typing import Any

LIFE_SECONDS = 20
REGISTERS = "RIP=ffffffff81000007 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\nRSP=ffa0000000003ff0\n"
SAYS = {
    b"w": "Show Blocked State", b"t": "Show State", b"l": "Show backtrace of all active CPUs", b"h": "HELP : loglevel(0-9)"
}  # fmt: skip
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


def commands(peer: socket.socket, files: list[int]) -> Iterator[dict[str, Any]]:
    """QMP's JSON objects, which a client need not end with a newline; files that come along are put in the list."""
    text = ""
    while True:
        data, passed, _, _ = socket.recv_fds(peer, 1 << 16, 1)
        files += passed
        if not data:
            return
        text += data.decode()
        while text.strip():
            try:
                command, end = json.JSONDecoder().raw_decode(text := text.lstrip())
            except ValueError:
                break  # not whole yet
            text = text[end:]
            yield command


class Guest:
    """What is behind the monitor: a console that was sent breaks, files that were passed, the state of a dump."""

    def __init__(self, console: socket.socket, mode: str) -> None:
        self.console, self.mode = console, mode
        self.armed, self.breaks = False, 0
        self.files: list[int] = []

    def serve_console(self) -> None:
        """Answers letters after a break, as drivers/tty/sysrq.c words it."""
        wanted = int(self.mode.partition(":")[2] or 1)
        while letter := self.console.recv(1):
            if self.mode.startswith("sysrq") and self.armed and self.breaks >= wanted:
                self.console.sendall(f"[    5.000000][    C0] sysrq: {SAYS[letter]}\r\n".encode())
                self.breaks = 0
            self.armed = False

    def answer(self, command: dict[str, Any]) -> object:
        """What QMP's command returns."""
        name, given = command["execute"], command.get("arguments", {})
        if name == "cont":
            self.console.sendall(CONSOLE_LINE)
        if name == "stop":
            leave(self.mode)
        if name == "chardev-send-break":
            leave(self.mode.replace("broken", "kill"))
            self.armed, self.breaks = True, self.breaks + 1
        if name == "memsave":
            with open(given["filename"], "wb") as file:
                file.write(bytes(given["size"]))
        if name == "dump-guest-memory":
            os.write(self.files[-1], b"memory as " + given["format"].encode())
        answers: dict[str, object] = {
            "query-cpus-fast": [{"cpu-index": 0}, {"cpu-index": 1}],
            "human-monitor-command": REGISTERS,
            "query-dump-guest-memory-capability": {"formats": ["elf", "kdump-zlib", "kdump-raw-zlib"]},
            "query-dump": {"status": "failed" if self.mode == "full" else "completed"},
        }
        return answers.get(name, {"status": "running"})


def monitor(server: socket.socket, console: socket.socket, mode: str, peers: list[socket.socket]) -> None:
    peer, _ = server.accept()
    if mode == "mute":
        threading.Event().wait()
    peers.append(peer)
    peer.sendall(b'{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": []}}\r\n')
    guest = Guest(console, mode)
    threading.Thread(target=guest.serve_console, daemon=True).start()
    for command in commands(peer, guest.files):
        answer: dict[str, object] = {"return": guest.answer(command)}
        if command["execute"] == "no-such-command":
            answer = {"error": {"class": "CommandNotFound", "desc": "no such command"}}
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
    peers: list[socket.socket] = []
    threading.Thread(target=monitor, args=(servers["qmp"], console, mode, peers), daemon=True).start()
    while data := agent.recv(1 << 16):
        leave(mode)
        if mode == "reset":
            peers[0].sendall(json.dumps({"event": "SHUTDOWN", "timestamp": {"seconds": 1, "microseconds": 0}}).encode() + b"\r\n")
        if mode == "echo":
            agent.sendall(data)


if __name__ == "__main__":
    # Ends by itself: no fault of the harness under test may leave it, or a test that waits for it, behind.
    signal.alarm(LIFE_SECONDS)
    main()
    threading.Event().wait()
