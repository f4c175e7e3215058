# SPDX-License-Identifier: GPL-2.0-only
"""Symbols of a built kernel: a function and offset to file, line and inlined functions, and text ranges.

The kernel is linked where it runs (CONFIG_RANDOMIZE_BASE=n), so vmlinux's addresses are the guest's.
"""

from __future__ import annotations

import json
import posixpath
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from harness.core.errors import HarnessError
from harness.core.records import Frame
from harness.host.process import Done
from harness.host.toolchain import Bind

_INSIDE = "/run/vmlinux"
_SOURCE = "/src/"
_SYMBOLIZE = 'tool=$(command -v llvm-symbolizer-19 || command -v llvm-symbolizer) || exit 127; exec "$tool" "$@"'
_NM = re.compile(r"^([0-9a-f]{8,16}) (?:([0-9a-f]{8,16}) )?([A-Za-z?]) (\S+)$", re.MULTILINE)
_NOT_IN_KALLSYMS = re.compile(r"^(?:\$|\.L|L0|__crc_|__kstrtab|__kcfi_typeid_|__pi_\$)")
_CLONE = re.compile(r"\.(?:isra|constprop|part|cold|llvm|lto_priv|localalias)(?:\.\d+)?(?=\.|$)")


class Tools(Protocol):
    """The part of a toolchain that symbols need (implemented by harness.host.toolchain.Toolchain)."""

    def run(self, argv: Sequence[str], *, what: str, binds: Sequence[Bind] = (), input: str | None = None) -> Done: ...


@dataclass(frozen=True)
class _Symbol:
    """A function: first address, bytes of its own (ELF), and bytes up to the next symbol (what %pS prints)."""

    name: str
    start: int
    size: int
    span: int


class Symbols:
    """The symbols of one vmlinux; callable as the oracles' Symbolize.

    `toolchain` runs nm and llvm-symbolizer. Tools run on first use, once for all functions and once for
    each batch of addresses; answers are kept. Raises HarnessError when vmlinux or a tool is missing.
    """

    def __init__(self, vmlinux: Path, toolchain: Tools) -> None:
        self._vmlinux = vmlinux
        self._toolchain = toolchain
        self._places: dict[int, tuple[Frame, ...]] = {}

    def __call__(self, frame: Frame) -> Sequence[Frame]:
        """The frame with file and line, preceded by what was inlined at exactly this offset.

        A frame of a module or of an unknown function, or of a name that several functions share and the size does not
        resolve, is returned unchanged: no place is better than a wrong one.
        """
        address = self.address(frame)
        if address is None:
            return (frame,)
        self._resolve([address])
        return self._dressed(frame, self._places[address])

    def prefetch(self, frames: Iterable[Frame]) -> None:
        """Look up all these frames with one run of the symbolizer."""
        self._resolve([a for f in frames if (a := self.address(f)) is not None])

    def address(self, frame: Frame) -> int | None:
        """The address of a frame's offset, or None if it is not certain."""
        if frame.module is not None or frame.offset is None:
            return None
        offset, size = frame.offset, frame.size
        fits = [s for s in self._functions.get(frame.function, ()) if offset <= max(s.span, s.size)]
        if size is not None:
            fits = [s for s in fits if size in (s.span, s.size)] or (fits if len(fits) == 1 else [])
        starts = {s.start for s in fits}
        return starts.pop() + offset if len(starts) == 1 else None

    def ranges(self, functions: Iterable[str]) -> dict[str, tuple[tuple[int, int], ...]]:
        """For each function the text ranges [start, end) that hold its code, in address order.

        More than one when the compiler split or cloned it (.cold, .isra, .constprop, .part) or when static
        functions share the name; empty when it was inlined everywhere or does not exist.
        """
        return {name: self._ranges_of(name) for name in functions}

    def variables(self, name: str) -> set[int]:
        """The addresses of all variables of a name."""
        return {int(at, 16) for at, _, kind, symbol in self._rows if symbol == name and kind in "bBdDrR"}

    def data(self, name: str) -> int:
        """The address of a variable. Raises HarnessError where there is not one of this name."""
        found = self.variables(name)
        if len(found) != 1:
            raise HarnessError(f"this kernel has {len(found) or 'no'} variables {name}", step="see its System.map")
        return found.pop()

    def _ranges_of(self, name: str) -> tuple[tuple[int, int], ...]:
        found = {(s.start, s.start + (s.size or s.span)) for s in self._clones.get(name, ())}
        return tuple(sorted(found))

    def spans(self, functions: Iterable[str], near: int) -> tuple[tuple[int, int], ...]:
        """Text ranges [start, end) of these functions, in address order, with the gaps of at most `near` bytes between
        two of them. The linker keeps the text of an object together."""
        out: list[tuple[int, int]] = []
        for start, end in sorted(span for name in functions for span in self._ranges_of(name)):
            if out and start - out[-1][1] <= near:
                out[-1] = out[-1][0], max(out[-1][1], end)
            else:
                out.append((start, end))
        return tuple(out)

    def text(self) -> dict[str, tuple[int, int]]:
        """The first text range of every function, by its name in the source."""
        return {name: min(self._ranges_of(name)) for name in self._clones}

    def extent(self) -> tuple[int, int]:
        """The addresses [start, end) between which all functions lie."""
        last = self._by_start[self._starts[-1]]
        return self._starts[0], last.start + last.span

    def chain(self, addresses: Sequence[int]) -> tuple[Frame, ...]:
        """Raw stack addresses, innermost first, as frames with their inlined functions (BPF stack maps).

        All but the first are return addresses, one past the call. An address outside the kernel's
        functions (a module, a BPF program) becomes a frame named by its number, not reliable.
        """
        exact = [a if i == 0 else a - 1 for i, a in enumerate(addresses)]
        self._resolve([a for a in exact if self._containing(a) is not None])
        out: list[Frame] = []
        for address, call in zip(addresses, exact, strict=True):
            symbol = self._containing(call)
            if symbol is None:
                out.append(Frame(function=f"{address:#x}", reliable=False))
                continue
            frame = Frame(symbol.name, offset=address - symbol.start, size=symbol.span)
            out += self._dressed(frame, self._places[call])
        return tuple(out)

    def _containing(self, address: int) -> _Symbol | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        symbol = self._by_start[self._starts[index]]
        return symbol if address < symbol.start + max(symbol.size, 1) else None

    @staticmethod
    def _dressed(frame: Frame, places: tuple[Frame, ...]) -> tuple[Frame, ...]:
        """The symbolizer's answer with the offset and size of the frame that was looked up."""
        if not places:
            return (frame,)
        outer = places[-1]
        name = outer.function or frame.function
        own = replace(frame, function=name, file=outer.file, line=outer.line)
        return (*(replace(p, reliable=frame.reliable) for p in places[:-1]), own)

    @cached_property
    def _rows(self) -> list[tuple[str, str, str, str]]:
        """Every symbol: address, size, kind, name, as nm prints them."""
        done = self._toolchain.run(
            ["nm", "-S", "--defined-only", _INSIDE], binds=[self._bind()], what="reading the kernel's symbols"
        )
        return [row for row in _NM.findall(done.stdout) if not _NOT_IN_KALLSYMS.match(row[3])]

    @cached_property
    def _functions(self) -> dict[str, list[_Symbol]]:
        """Functions of the text by their full name."""
        rows = self._rows
        if not any(kind in "tT" for _, _, kind, _ in rows):
            raise HarnessError(
                f"{self._vmlinux} holds no functions", step="delete its cache entry: 'kharness cache prune'"
            )
        every = sorted({int(row[0], 16) for row in rows if row[2] not in "aANU?"})
        out: dict[str, list[_Symbol]] = {}
        for at, size, kind, name in rows:
            if kind not in "tTwW":
                continue
            start = int(at, 16)
            after = bisect_right(every, start)
            span = every[after] - start if after < len(every) else 0
            out.setdefault(name, []).append(_Symbol(name, start, int(size, 16) if size else 0, span))
        return out

    @cached_property
    def _clones(self) -> dict[str, list[_Symbol]]:
        """Functions by their names in the source."""
        out: dict[str, list[_Symbol]] = {}
        for name, symbols in self._functions.items():
            out.setdefault(_CLONE.sub("", name), []).extend(symbols)
        return out

    @cached_property
    def _by_start(self) -> dict[int, _Symbol]:
        """One symbol an address: of aliases the largest, then the last by name, so that it is always the same."""
        every = [s for symbols in self._functions.values() for s in symbols]
        return {s.start: s for s in sorted(every, key=lambda s: (s.size, s.name))}

    @cached_property
    def _starts(self) -> list[int]:
        return sorted(self._by_start)

    def _bind(self) -> Bind:
        if not self._vmlinux.is_file():
            raise HarnessError(f"{self._vmlinux} is gone", step="run again: it will be built again")
        return Bind(self._vmlinux, _INSIDE)

    def _resolve(self, addresses: Sequence[int]) -> None:
        """Ask llvm-symbolizer for the addresses that are not known yet, all at once."""
        new = sorted(set(addresses) - self._places.keys())
        if not new:
            return
        options = ["--obj=" + _INSIDE, "--inlines", "--functions=short", "--relativenames", "--output-style=JSON"]
        done = self._toolchain.run(
            ["sh", "-c", _SYMBOLIZE, "llvm-symbolizer", *options],
            binds=[self._bind()],
            input="".join(f"{a:#x}\n" for a in new),
            what=f"finding the source lines of {len(new)} addresses",
        )
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if len(answers) != len(new):
            raise HarnessError(
                f"llvm-symbolizer answered {len(answers)} of {len(new)} addresses",
                step="run 'kharness doctor'",
                detail=done.stderr[-2000:],
            )
        for address, answer in zip(new, answers, strict=True):
            self._places[address] = _frames(answer)


def _frames(answer: dict[str, Any]) -> tuple[Frame, ...]:
    """One answer of llvm-symbolizer, innermost first; empty when it knows nothing of the address."""
    found = [s for s in answer.get("Symbol", ()) if s.get("FunctionName") or s.get("Line")]
    last = len(found) - 1
    return tuple(
        Frame(
            function=symbol.get("FunctionName") or "",
            file=_in_tree(symbol.get("FileName") or ""),
            line=symbol.get("Line") or None,
            inlined=index < last,
        )
        for index, symbol in enumerate(found)
    )


def _in_tree(name: str) -> str | None:
    """A file name relative to the source tree, which the build sees at /src."""
    if not name:
        return None
    path = posixpath.normpath(name).removeprefix(_SOURCE)
    while path.startswith("../"):
        path = path[3:]
    return path
