# SPDX-License-Identifier: GPL-2.0-only
"""Stack frames in text: reading a trace's lines, decoding them with symbols, naming a signature.

Line formats read from arch/x86/kernel/dumpstack.c (printk_stack_address, show_ip),
arch/arm64/kernel/stacktrace.c (dump_backtrace_entry), arch/{arm64,riscv}/kernel/process.c (__show_regs),
kernel/stacktrace.c and lib/stackdepot.c.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

from harness.core.records import Frame
from harness.oracles.splat.blame import base_name, is_helper

Symbolize: TypeAlias = Callable[[Frame], Sequence[Frame]]
"""A frame's function and offset taken as the exact address: the frame with file and line, preceded
by what was inlined there (innermost first, ``inlined=True``). What it does not know comes back as is."""

_CHAIN = 4  # functions in a signature: enough to distinguish callers, few enough to be stable


@runtime_checkable
class Prefetching(Protocol):
    """A Symbolize that can look up many frames at once."""

    def prefetch(self, frames: Iterable[Frame]) -> None: ...


@dataclass(frozen=True)
class Raw:
    """A frame as printed. `exact`: the address of the instruction itself (a program counter), not a
    return address, which is one past the call."""

    frame: Frame
    exact: bool = False


SYMBOL = (
    r"(?P<func>[A-Za-z_$.][\w.$@]{0,511})\+0x(?P<off>[0-9a-f]{1,8})/0x(?P<size>[0-9a-f]{1,8})"
    r"(?: \[(?P<mod>[\w.-]{1,64})(?: [0-9a-f]{8,64})?\])?"
)
"""What %pS, %pB and %pBb print (lib/vsprintf.c)."""

_LINE = re.compile(
    rf"^\s*(?:\[<[0-9a-fA-F]{{1,16}}>\]\s*)?(?P<guess>\? )?(?:{SYMBOL}|(?P<addr>0x[0-9a-f]{{8,16}}))"
    r"(?: \((?P<note>[A-Z]{1,4})\))?\s*$"
)
_RIP = re.compile(rf"^\s*RIP: 0010:{SYMBOL}")
_PC = re.compile(rf"^\s*e?pc : {SYMBOL}")


def symbol(match: re.Match[str], *, reliable: bool = True) -> Frame:
    """The Frame of a match of SYMBOL."""
    return Frame(
        function=match["func"],
        offset=int(match["off"], 16),
        size=int(match["size"], 16),
        module=match["mod"],
        reliable=reliable,
    )


def frame_line(text: str) -> Raw | None:
    """The frame of a line of a call trace that has nothing else, or None.

    ``?`` on x86 and the notes L and U on arm64 mark guesses. (P) is a program counter.
    """
    match = _LINE.match(text)
    if match is None:
        return None
    note = match["note"] or ""
    if match["addr"]:
        return Raw(Frame(function=match["addr"], reliable=False))
    sure = match["guess"] is None and "U" not in note and "L" not in note
    return Raw(symbol(match, reliable=sure), exact="P" in note)


def pc_line(text: str) -> Raw | None:
    """The kernel's program counter in a register dump: ``RIP: 0010:``, ``pc :`` or ``epc :``, else None."""
    match = _RIP.match(text) or _PC.match(text)
    return Raw(symbol(match), exact=True) if match else None


def clean_path(path: str) -> str:
    """A source path relative to the tree (the build sees the source at /src)."""
    path = posixpath.normpath(path.removeprefix("/src/"))
    while path.startswith("../"):
        path = path[3:]
    return path


def _lookup(raw: Raw) -> Frame:
    """The frame to ask symbols for: a return address may lie on the next source line or function."""
    if raw.exact or not raw.frame.offset:
        return raw.frame
    return replace(raw.frame, offset=raw.frame.offset - 1)


def prefetch(raws: Iterable[Raw], symbolize: Symbolize | None) -> None:
    """Let a Symbolize that can look up many frames at once do so."""
    if isinstance(symbolize, Prefetching):
        symbolize.prefetch([_lookup(r) for r in raws if r.frame.reliable])


def decode(raws: Iterable[Raw], symbolize: Symbolize | None) -> tuple[Frame, ...]:
    """Frames with file and line where symbols know them; the printed offset is kept.

    A console loses characters (``__le`` was ``__schedule`` once): a name that is not in vmlinux, where others of the
    stack are, is unsure.
    """
    out: list[Frame] = []
    for raw in raws:
        if symbolize is None or not raw.frame.reliable:
            out.append(raw.frame)
            continue
        found = list(symbolize(_lookup(raw))) or [raw.frame]
        found[-1] = replace(found[-1], offset=raw.frame.offset, size=raw.frame.size)
        out += [replace(f, file=clean_path(f.file)) if f.file else f for f in found]
    if not any(f.file for f in out):
        return tuple(out)
    known = [f.file or f.module or base_name(f.function).startswith("bpf_") for f in out]
    return tuple(f if sure else replace(f, reliable=False) for f, sure in zip(out, known, strict=True))


def culprit(frames: Sequence[Frame], skip: Callable[[str], bool] = is_helper) -> Frame | None:
    """The first reliable frame that is no helper; failing that the first reliable one.

    Inlined functions of a header (of lists or hash tables) are helpers of the function that contains them.
    """
    sure = [f for f in frames if f.reliable]
    return next((f for f in sure if not _passes(f, skip)), sure[0] if sure else None)


@dataclass(frozen=True)
class Guilt:
    """The function that a stack is named by, and where it is; all None where the stack names none."""

    function: str | None = None
    file: str | None = None
    line: int | None = None

    @property
    def where(self) -> str:
        """`` (FILE:LINE)`` for a title; empty where that is not known."""
        return f" ({self.file}:{self.line})" if self.file else ""


def guilt(frames: Sequence[Frame], skip: Callable[[str], bool] = is_helper) -> Guilt:
    """The frame that :func:`culprit` finds, by its name in the source."""
    found = culprit(frames, skip)
    return Guilt(base_name(found.function), found.file, found.line) if found else Guilt()


# Static functions that these inline into an allocator's entry have any name; a frame that says its file needs none.
_ALLOCATOR_FILES = frozenset(
    {"mm/slub.c", "mm/slab_common.c", "mm/slab.h", "mm/percpu.c", "mm/percpu-km.c", "mm/percpu-vm.c", "mm/kmemleak.c"}
)


def _passes(frame: Frame, skip: Callable[[str], bool]) -> bool:
    file = frame.file or ""
    return skip(frame.function) or (frame.inlined and (file.startswith("include/") or file in _ALLOCATOR_FILES))


def chain(function: str | None, frames: Sequence[Frame], skip: Callable[[str], bool] = is_helper) -> list[str]:
    """Names from the blamed function outwards, at most a few, helpers left out."""
    names = [base_name(f.function) for f in frames if f.reliable and not _passes(f, skip)]
    if function is not None:
        names = names[names.index(function) :] if function in names else [function, *names]
    return names[:_CHAIN]


def neutral(text: str) -> str:
    """Text without what differs between runs: addresses and numbers, except an errno as in ``(-12)``."""
    text = re.sub(r"\b0x[0-9a-fA-F]+\b|\b[0-9a-f]{8,16}\b", "#", text)
    return " ".join(re.sub(r"(?<!\(-)(?<!\(-\d)(?<!\(-\d\d)\d+", "#", text).split())[:160]


def signature(oracle: str, kind: str, functions: Sequence[str], text: str = "") -> str:
    """A stable name for a finding: no addresses, offsets, pids, CPUs or compiler suffixes."""
    tail = f":{neutral(text)}" if text else ""
    return f"{oracle}:{kind}:{'<'.join(functions)}{tail}"
