# SPDX-License-Identifier: GPL-2.0-only
"""A stand-in for QEMU: opens the three sockets of an argv, speaks QMP, and ends as its first argument says.

Modes: ``echo`` answers the agent's bytes with the same; ``silent`` answers nothing; ``exit:N`` and ``kill:N`` end
when the agent is sent something or QMP says ``stop``; ``babble`` answers ``stop`` with a line that has no end;
``terminated`` ends as by a SIGTERM when the agent is sent something, ``unplugged`` closes its monitor then; ``mute``
never greets, ``stammer`` not to the end, ``events`` tells of events without an end; ``refuse`` ends at once, ``deaf``
opens no socket; ``grumble`` says a MiB on its standard error, or as much as that takes. All print one line on the
console when the guest is let run.

``sysrq`` answers a break and a letter on the console as a kernel does, ``sysrq:N`` only the N-th break of each letter;
``broken:N`` ends by signal N when a break is sent. ``reset`` says SHUTDOWN, together with another event before it, when
the agent is sent something, and stays. A file that was passed is what dump-guest-memory writes; ``full`` lets that fail.
"""

from __future__ import annotations

import contextlib
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
    b"w": "Show Blocked State",
    b"t": "Show State",
    b"l": "Show backtrace of all active CPUs",
    b"h": "HELP : loglevel(0-9)",
}
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

    def __init__(self, console: socket.socket, peer: socket.socket, mode: str) -> None:
        self.console, self.peer, self.mode = console, peer, mode
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
        if (self.mode, name) == ("babble", "stop"):
            while True:
                self.peer.sendall(b" " * (1 << 16))
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


def flood(peer: socket.socket, whole: threading.Lock) -> None:
    """Events that a guest can cause as often as it likes; each whole, between two answers."""
    event = {"event": "RTC_CHANGE", "timestamp": {"seconds": 1, "microseconds": 0}, "data": {"offset": 1}}
    while True:
        with whole:
            peer.sendall(json.dumps(event).encode() + b"\r\n")


def monitor(server: socket.socket, console: socket.socket, mode: str, peers: list[socket.socket]) -> None:
    peer, _ = server.accept()
    if mode == "stammer":
        peer.sendall(b'{"QMP": {"version": ')
    if mode in ("mute", "stammer"):
        threading.Event().wait()
    peers.append(peer)
    peer.sendall(b'{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": []}}\r\n')
    guest = Guest(console, peer, mode)
    whole = threading.Lock()
    threading.Thread(target=guest.serve_console, daemon=True).start()
    for command in commands(peer, guest.files):
        answer: dict[str, object] = {"return": guest.answer(command)}
        if command["execute"] == "no-such-command":
            answer = {"error": {"class": "CommandNotFound", "desc": "no such command"}}
        with whole:
            peer.sendall(json.dumps({**answer, "id": command.get("id")}).encode() + b"\r\n")
        if (mode, command["execute"]) == ("events", "cont"):
            threading.Thread(target=flood, args=(peer, whole), daemon=True).start()


def main() -> None:
    mode, argv = sys.argv[1], sys.argv[2:]
    if mode == "refuse":
        print("fake-qemu: warming up\nfake-qemu: no such machine", file=sys.stderr)
        sys.exit(1)
    paths = dict(re.findall(r"socket,id=(\w+),path=([^,]+)", " ".join(argv)))
    if mode == "deaf":
        return
    if mode == "grumble":
        for _ in range(256):
            with contextlib.suppress(BlockingIOError):
                os.write(2, b"fake-qemu: " + b"x" * 4084 + b"\n")
    servers = {name: listen(path) for name, path in paths.items()}
    console, _ = servers["console"].accept()
    agent, _ = servers["agent"].accept()
    peers: list[socket.socket] = []
    threading.Thread(target=monitor, args=(servers["qmp"], console, mode, peers), daemon=True).start()
    while data := agent.recv(1 << 16):
        leave(mode)
        if mode == "terminated":
            event = {"event": "SHUTDOWN", "data": {"guest": False, "reason": "host-signal"}}
            peers[0].sendall(json.dumps({**event, "timestamp": {"seconds": 1, "microseconds": 0}}).encode() + b"\r\n")
            os.write(2, b"fake-qemu: terminating on signal 15 from pid 7 (killer)\n")
            os._exit(0)
        if mode == "unplugged":
            peers[0].shutdown(socket.SHUT_RDWR)
        if mode == "reset":
            when = {"seconds": 1, "microseconds": 0}
            events = [json.dumps({"event": name, "timestamp": when}) for name in ("WATCHDOG", "SHUTDOWN")]
            peers[0].sendall("".join(f"{event}\r\n" for event in events).encode())
        if mode == "echo":
            agent.sendall(data)


if __name__ == "__main__":
    # Ends by itself: no fault of the harness under test may leave it, or a test that waits for it, behind.
    signal.alarm(LIFE_SECONDS)
    main()
    threading.Event().wait()
