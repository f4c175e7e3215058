# SPDX-License-Identifier: GPL-2.0-only
"""Reading one answer of the guest's agent: JSON of a kernel that may be broken, so its form is checked here."""

from __future__ import annotations

from typing import Annotated, Any, Required, TypedDict

import msgspec

from harness.core.errors import GuestError

SHOWN = 80
"""Characters of an answer that its error quotes."""


Int = Annotated[int, msgspec.Meta(ge=-(2**63) + 1, le=2**63 - 1)]
"""The numbers that reply_int() of vm/agent/json.c writes. An address may be larger, and has no limit here."""


class Envelope(TypedDict, total=False):
    """Fields of any answer, in addition to its verb's (serve_line() in vm/agent/main.c, do_kmsg() in files.c)."""

    id: Required[Int]
    ok: bool
    us: Int
    at: Int
    last_words: int
    errno: Int
    error: str
    log: str
    records: list[str]
    overruns: Int


Left = list[tuple[int, Int, Int, Int, Int, list[int]]]
"""Rows of add_entry() in vm/agent/ledger.c."""


class Fields(Envelope, total=False):
    """The fields of the verbs (reply_int(), reply_str() and buf_printf() in vm/agent), except ``get``, whose keys are
    the names of a program's variables. ``left`` is text where a verb says what it did not keep (kept.c)."""

    attached: Int
    begun: list[Int]
    count: Int
    ctx: str
    data: str
    disputed: Int
    done: Int
    entries: list[tuple[str, str]]
    highest_n: Int
    ids: Int
    injected: Int
    ino: Int
    kept: str
    killed: Int
    left: str | Left
    lost: Int
    loud: list[tuple[int, Int, Int, Int]]
    maps: Int
    missed: dict[str, Int]
    next: Int
    now_us: Int
    outcomes: list[tuple[int, Int, Int, Int, Int]]
    percpu_allocated: Int
    percpu_freed: Int
    percpu_older: Int
    pid: Int
    pids: list[Int]
    places: list[tuple[Int, int, Int, Int, int]]
    programs: Int
    progress: list[Int]
    replaced: list[tuple[int, Int]]
    ret: Int
    rets: list[tuple[Int, Int]]
    runs: Int
    slab_allocated: Int
    status: Int
    stuck: Int
    sweep_us: Int
    tid: Int
    turns: Int
    undone: Int
    unready: Int
    omitted: Int
    value: Int
    written: Int


VARIABLES = "get"
"""The verb whose answer has the names of variables as keys."""


class Answer(dict[str, Any]):
    """The agent's answer. A missing field is the guest's fault: reading it raises GuestError."""

    def __missing__(self, key: str) -> Any:
        raise GuestError(f"the guest's agent answered without '{key}'", detail=", ".join(self))

    def check(self, verb: str) -> None:
        """Raise GuestError for a field of another form than the agent's answer to `verb` has (empty: to any verb)."""
        try:
            msgspec.convert(self, Envelope if verb in ("", VARIABLES) else Fields)
        except msgspec.ValidationError as error:
            raise GuestError(f"the guest's agent answered garbage to '{verb}': {error}") from error


def read(line: bytes) -> Answer:
    """One line, of any operation. Raises GuestError for an invalid answer."""
    try:
        found = msgspec.json.decode(line.decode("latin-1"))
    except (msgspec.DecodeError, RecursionError) as error:
        raise GuestError(f"the guest's agent answered garbage: {line[:SHOWN]!r}", detail=str(error)) from error
    if type(found) is not dict or type(found.get("id")) is not int:
        raise GuestError(f"the guest's agent answered garbage: {line[:SHOWN]!r}")
    return Answer(found)
