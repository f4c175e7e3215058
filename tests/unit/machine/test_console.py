# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what is kept of a console, and that none is ever waited for longer than was said, however much it shows."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import Ended, How, MachineEnded
from harness.machine.console import Console
from harness.machine.deadline import Deadline
from harness.machine.scroll import Scroll
from harness.oracles import crash
from tests.unit.machine.talkers import FLOOD, SOON, TORRENT, TRICKLE, Wired, begun, endless, resident, talker, wired

LINES = b"[    1.000000] a line that says nothing\n" * 1000


@pytest.fixture
def pair() -> Iterator[tuple[Console, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield Console(ours), theirs
    ours.close()
    theirs.close()


# --- what is kept -------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=60), max_size=30), st.integers(0, 1000))
def test_little_is_kept_whole_and_found_again_by_its_place(parts: list[bytes], mark: int) -> None:
    scroll = Scroll(head=100, tail=2000)
    for part in parts:
        scroll.add(part)
    whole = b"".join(parts).decode("latin-1")
    assert (scroll.text, scroll.shown, scroll.lost) == (whole, len(whole), 0)
    assert scroll.since(mark) == whole[mark:]
    assert scroll.since(mark, 7) == whole[mark : mark + 7]


@given(st.lists(st.binary(max_size=300), min_size=20, max_size=60), st.integers(0, 8000))
def test_of_much_both_ends_are_kept_and_places_stay_true(parts: list[bytes], mark: int) -> None:
    scroll = Scroll(head=100, tail=800)
    for part in parts:
        scroll.add(part)
    whole = b"".join(parts).decode("latin-1")
    assert scroll.shown == len(whole)
    rest = scroll.since(max(mark, 100))
    assert whole[max(mark, 100) :].endswith(rest)
    assert scroll.first(mark) == max(mark, len(whole) - len(rest)) or mark < 100
    assert len(scroll.since(0)) == len(whole) - scroll.lost <= 100 + 800 + 100 + 300
    assert scroll.text.startswith(whole[:100]) and scroll.text.endswith(whole[-800:] if scroll.lost else whole[100:])
    assert (f"[{scroll.lost} characters are missing here]" in scroll.text) == (scroll.lost > 0)


def test_what_is_left_of_a_log_begins_with_a_whole_line() -> None:
    scroll = Scroll(head=100, tail=1000)
    for number in range(1000):
        scroll.add(f"line {number}\n".encode())
    assert scroll.lost
    assert re.fullmatch(r"(line \d+\n)+(line.*)?\n\[\d+ characters are missing here\]\n(line \d+\n)+", scroll.text)


def test_a_panic_is_found_before_and_after_a_flood() -> None:
    panic = "[    2.000000] Kernel panic - not syncing: it broke"
    for order in (0, 1):
        scroll = Scroll(head=50_000, tail=100_000)
        said = [f"{panic}\n".encode(), *[LINES] * 20]
        for part in said if order else reversed(said):
            scroll.add(part)
        assert scroll.lost
        found = crash.findings(scroll.text.splitlines(), Ended(How.EXITED, status=0), False)
        assert [(one.kind, one.title) for one in found] == [("panic", "the kernel panicked: it broke")]


def test_adding_is_linear() -> None:
    """A console that was copied whole for each piece took minutes for this."""
    scroll = Scroll()
    start = time.process_time()
    for _ in range(100_000):
        scroll.add(b"x" * 500)
    assert time.process_time() - start < 10
    assert scroll.shown == 50_000_000 and scroll.lost > 10_000_000


# --- waiting ------------------------------------------------------------------------------


def test_expected_lines_are_each_found_once_whatever_else_was_read(pair: tuple[Console, socket.socket]) -> None:
    console, guest = pair
    guest.sendall(b"one\r\ntwo\r\nready: x\r\nthree\r\n")
    assert console.line(5) == "one"
    assert console.expect(["never", r"ready: \S", "three"], 5) == 1
    assert console.line(5) == "" and console.line(5) == "three"
    guest.sendall(b"four\r\n")
    console.drain()
    assert console.expect(["four"], 5) == 0
    assert console.text == "one\r\ntwo\r\nready: x\r\nthree\r\nfour\r\n"
    with pytest.raises(pexpect.TIMEOUT):
        console.expect(["four"], 0.1)
    assert console.line(5) == ""
    guest.sendall(b"last")
    guest.close()
    with pytest.raises(pexpect.EOF):
        console.line(5)
    assert console.text.endswith("last")


def test_a_line_without_an_end_comes_in_pieces() -> None:
    with wired(FLOOD.format(data=b"x" * 4096)) as vm:
        assert {len(vm.line(Deadline(20, "a line"))) for _ in range(20)} == {1 << 16}


@pytest.mark.parametrize(
    "says", [TORRENT, FLOOD.format(data=LINES), FLOOD.format(data=b"\n" * 4096), TRICKLE.format(data=b"x")]
)
@pytest.mark.parametrize("wait", ["expect", "receive", "attend", "line"])
def test_a_console_that_never_stops_ends_every_wait_in_time(says: str, wait: str) -> None:
    with wired(says) as vm:
        waits(vm, wait)


@pytest.mark.parametrize("data", [LINES, b"\n" * 65536, b"x", b"\0" * 65536])
@pytest.mark.parametrize("wait", ["expect", "receive", "attend", "line"])
def test_a_console_that_is_always_faster_ends_every_wait_in_time(data: bytes, wait: str) -> None:
    with endless(console=data) as vm:
        waits(vm, wait)


def waits(vm: Wired, how: str) -> None:
    """Waits for a second for what never comes."""
    begun(vm.console)
    start = time.monotonic()
    deadline = Deadline(1.0, "a word")
    if how == "attend":
        vm.attend(1.0, vm.ours.fileno())
        assert vm.console.shown > 5 and time.monotonic() - start < SOON
        return
    with pytest.raises(MachineEnded, match="waited 1 s for a word") as raised:
        if how == "expect":
            vm.expect(["never"], deadline)
        elif how == "receive":
            vm.receive(deadline, re.compile("never"))
        else:
            while True:  # as who waits for the guest to boot under a debugger
                vm.line(deadline)
    assert raised.value.expired and raised.value.ended == Ended(How.RUNNING)
    assert len(raised.value.lines) < 2_000_000
    assert time.monotonic() - start < SOON


def test_silence_is_not_waited_for_beyond_the_deadline(pair: tuple[Console, socket.socket]) -> None:
    with talker(FLOOD.format(data=LINES)) as sock:
        console = Console(sock)
        start = time.monotonic()
        with console.listening():
            assert console.until(re.compile("(?!)"), console.shown, 0.5, Deadline(1.0, "silence")) is False
            assert console.until(re.compile("says nothing"), console.shown, 0.5, Deadline(5.0, "a word")) is True
        assert time.monotonic() - start < SOON


def test_memory_stays_bounded_under_200_mb() -> None:
    counted = f"data = {LINES!r}\nfor _ in range({200_000_000 // len(LINES)}):\n sock.sendall(data)\n"
    before = resident()
    with wired(counted + "sock.sendall(b'the end\\n')\ntime.sleep(1000)") as vm:
        vm.expect(["the end"], Deadline(60.0, "the end"))
        assert vm.console.shown > 199_000_000
        assert vm.console.lost > 150_000_000
        assert resident() - before < 150 << 20
        assert len(vm.console_lines) < 1_000_000


def test_a_guest_that_takes_nothing_does_not_keep_the_sender() -> None:
    start = time.monotonic()
    with wired() as vm:
        vm.send(b"x" * (8 << 20))
        with pytest.raises(MachineEnded, match="waited 1 s"):
            vm.receive(Deadline(1.0, "an answer"))
    assert time.monotonic() - start < SOON


def test_what_did_not_fit_is_sent_while_the_answer_is_waited_for() -> None:
    count = "left = 8 << 20\nwhile left:\n left -= len(sock.recv(65536))\nsock.sendall(b'all of it')\ntime.sleep(1000)"
    with wired(FLOOD.format(data=b"."), count) as vm:
        vm.send(b"x" * (8 << 20))
        assert vm.receive(Deadline(30.0, "an answer")) == b"all of it"
