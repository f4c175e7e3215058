# SPDX-License-Identifier: GPL-2.0-only
"""Kconfig as a value: fragments and .config files read, merged, compared and rendered.

A symbol is named without its ``CONFIG_`` prefix; "not set" is the value ``n``. Nothing here runs
a process: the kernel's own ``conf`` decides what a request becomes, this module checks whether the
answer is what was asked for.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HarnessError, KharnessError, UsageError
from harness.host import below

CONFIG_MOST = 4 << 20
"""Bytes of a .config; one of Linux 7.2 has 0.3 MB."""

# The value forms of scripts/kconfig/confdata.c: tristate, int, hex, string with \" and \\ escapes.
_VALUE = r'[ymn]|-?\d+|0[xX][0-9a-fA-F]+|"(?:[^"\\]|\\.)*"'
_SET = re.compile(rf"CONFIG_(\w+)=({_VALUE})\s*(#.*)?")
_UNSET = re.compile(r"# CONFIG_(\w+) is not set\s*(#.*)?")
_WHERE_KNOWN = re.compile(r"#\s*where-known\s*")
_ALMOST = re.compile(r"(#\s*)?CONFIG_\w*\b.*(=|is not set)")
_DEFINITION = re.compile(r"^[ \t]*(?:menu)?config[ \t]+(\w+)[ \t]*(?:#.*)?$", re.MULTILINE)
_BLOCK_END = re.compile(
    r"^[ \t]*(?:(?:menu)?config|choice|endchoice|menu|endmenu|if|endif|source|comment)\b", re.MULTILINE
)
_DEPENDS = re.compile(r"^[ \t]+depends on ((?:.*\\\n)*.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One symbol's line. `line` counts from 1; `where_known` asks only where the tree has the symbol."""

    symbol: str
    value: str
    origin: str = ""
    line: int = 0
    where_known: bool = False

    @property
    def place(self) -> str:
        return f"{self.origin}:{self.line}"

    def render(self) -> str:
        if self.value == "n":
            return f"# CONFIG_{self.symbol} is not set"
        return f"CONFIG_{self.symbol}={self.value}"


@dataclass(frozen=True)
class Mismatch:
    """A requested symbol that has another value in the final .config. `got` is ``n`` when absent."""

    symbol: str
    wanted: str
    got: str
    fragment: str
    line: int

    def describe(self) -> str:
        return f"CONFIG_{self.symbol} (wanted {self.wanted}, got {self.got}, {self.fragment}:{self.line})"


class Refused(UsageError):
    """Symbols of a user's fragment that did not make it into the final .config: `got` are their final values."""

    got: Mapping[str, str] = {}


@dataclass(frozen=True)
class Kconfig:
    """An ordered set of symbols with values; each symbol once, the last line that named it."""

    entries: tuple[Entry, ...] = ()

    def values(self) -> Mapping[str, str]:
        """Symbol to value, as written (strings keep their quotes)."""
        return {entry.symbol: entry.value for entry in self.entries}

    def get(self, symbol: str) -> str:
        """The value of a symbol; ``n`` when it is absent, as for the kernel's own build."""
        return self.values().get(symbol, "n")

    def over(self, base: Kconfig) -> Kconfig:
        """Merge this over `base`: this one's lines replace base's."""
        return Kconfig(_last((*base.entries, *self.entries)))

    def only_known(self, known: frozenset[str]) -> Kconfig:
        """Without the where-known entries whose symbol the tree does not have."""
        return Kconfig(tuple(e for e in self.entries if not e.where_known or e.symbol in known))

    def unknown(self, known: frozenset[str]) -> list[Entry]:
        """The entries, where-known ones aside, whose symbol the tree does not have."""
        return [e for e in self.entries if not e.where_known and e.symbol not in known]

    def missing(self, final: Kconfig) -> list[Mismatch]:
        """The requested symbols that `final` does not have with these values."""
        have = final.values()
        return [
            Mismatch(e.symbol, e.value, have.get(e.symbol, "n"), e.origin, e.line)
            for e in self.entries
            if have.get(e.symbol, "n") != e.value
        ]

    def render(self) -> str:
        """As the text of a .config, which :func:`parse` reads back to the same values."""
        return "".join(entry.render() + "\n" for entry in self.entries)

    def sha256(self) -> str:
        """Hash of the set symbols, sorted: comments, order and "is not set" lines do not count."""
        lines = sorted(entry.render() for entry in self.entries if entry.value != "n")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _last(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    by_symbol: dict[str, Entry] = {}
    for entry in entries:
        by_symbol.pop(entry.symbol, None)
        by_symbol[entry.symbol] = entry
    return tuple(by_symbol.values())


def _entries(text: str, origin: str) -> Iterator[Entry]:
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line:
            continue
        match = _SET.fullmatch(line) or _UNSET.fullmatch(line)
        if match is None:
            if line.startswith("#") and not _ALMOST.match(line):
                continue
            raise UsageError(
                f"{origin}:{number}: not a Kconfig line: {line[:80]!r}",
                step="write CONFIG_NAME=value, '# CONFIG_NAME is not set' or a comment",
            )
        value = match[2] if match.re is _SET else "n"
        note = match[match.re.groups]
        if note and not _WHERE_KNOWN.fullmatch(note):
            raise UsageError(
                f"{origin}:{number}: only '# where-known' may follow a value, not {note!r}",
                step="put the comment on a line of its own",
            )
        yield Entry(match[1], value, origin, number, bool(note))


def parse(text: str, origin: str) -> Kconfig:
    """A fragment or .config from its text; `origin` is the name that errors show.

    A symbol named twice keeps its last line, as in the kernel's scripts/kconfig/confdata.c.
    Raises UsageError naming file and line when a line is neither a symbol, a comment nor empty.
    """
    return Kconfig(_last(_entries(text, origin)))


def read(path: Path) -> Kconfig:
    """A fragment or .config from a file. Raises UsageError when it cannot be read or is malformed."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        what = f"{path}: cannot read this Kconfig fragment: {reason}"
        raise UsageError(what, step="name a readable file") from error
    shown = path
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        shown = path.relative_to(Path.cwd())
    return parse(text, str(shown))


def left_by_build(build: Path) -> Kconfig:
    """The .config that make left in a build folder.

    Raises Unsafe for what is no file, UsageError for none at all or a malformed one.
    """
    try:
        return parse(below.read_text(build, ".config", most=CONFIG_MOST), ".config")
    except OSError as error:
        raise UsageError(f".config: {error.strerror}", step="see what the tree's makefiles do") from error


def merge(ours: Sequence[Kconfig], users: Sequence[Kconfig] = ()) -> Kconfig:
    """All fragments as one request: ours must agree with each other, a user's may override.

    Raises HarnessError when two of our own fragments ask for different values of one symbol, for
    then the order in which they are named would silently decide.
    """
    base: dict[str, Entry] = {}
    for fragment in ours:
        for entry in fragment.entries:
            other = base.get(entry.symbol)
            if other is not None and other.value != entry.value:
                raise HarnessError(
                    f"CONFIG_{entry.symbol} is {other.value} at {other.place} and {entry.value} at {entry.place}",
                    step="make kharness's own fragments agree",
                )
            # A required symbol wins over one that may be left out.
            if other is None or (other.where_known and not entry.where_known):
                base[entry.symbol] = entry
    merged = Kconfig(tuple(base.values()))
    for fragment in users:
        merged = fragment.over(merged)
    return merged


def kconfig_files(tree: Path, srcarch: str | None = None) -> Iterator[Path]:
    """The Kconfig files of a kernel tree; with `srcarch` without those of the other architectures.

    Left out: Documentation, tools and the test data of scripts/kconfig, which define no symbol of
    the kernel.
    """
    skip = {tree / "Documentation", tree / "tools", tree / "scripts" / "kconfig"}
    for folder, folders, files in os.walk(tree):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if here / name not in skip and name != ".git")
        if srcarch is not None and here == tree / "arch":
            folders[:] = [name for name in folders if name == srcarch]
        yield from (here / name for name in sorted(files) if name.startswith("Kconfig"))


def known_symbols(tree: Path, srcarch: str | None = None) -> frozenset[str]:
    """Every symbol that the tree's Kconfig files define (``config`` and ``menuconfig`` lines).

    With `srcarch` (a folder name of arch/) only what that architecture can see.
    """
    found: set[str] = set()
    for path in kconfig_files(tree, srcarch):
        found.update(_DEFINITION.findall(below.text_of(tree, str(path.relative_to(tree)))))
    return frozenset(found)


def depends_on(tree: Path, symbols: Iterable[str], srcarch: str | None = None) -> dict[str, str]:
    """For each symbol the tree defines: the file that defines it and its ``depends on`` lines.

    For error messages only: conditions of surrounding ``if`` blocks are not looked at.
    """
    wanted = set(symbols)
    answers: dict[str, list[str]] = {}
    for path in kconfig_files(tree, srcarch):
        text = below.text_of(tree, str(path.relative_to(tree)))
        for match in _DEFINITION.finditer(text):
            if match[1] not in wanted:
                continue
            end = _BLOCK_END.search(text, match.end())
            block = text[match.end() : end.start() if end else len(text)]
            conditions = [" ".join(d.replace("\\\n", " ").split()) for d in _DEPENDS.findall(block)]
            needs = f"depends on {' && '.join(conditions)}" if conditions else "no 'depends on' of its own"
            answers.setdefault(match[1], []).append(f"{path.relative_to(tree)}: {needs}")
    return {symbol: "; ".join(lines) for symbol, lines in answers.items()}


def refuse_unknown(fragments: Sequence[Kconfig], tree: Path, srcarch: str) -> None:
    """Raises UsageError for user fragments that name a symbol which this architecture of the tree lacks."""
    known = known_symbols(tree, srcarch)
    unknown = [entry for fragment in fragments for entry in fragment.unknown(known)]
    if not unknown:
        return
    everywhere = known_symbols(tree)
    lines = [_explain_unknown(entry, known, everywhere, srcarch) for entry in unknown]
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    raise UsageError(
        lines[0] + more,
        step="correct the name, or write '# where-known' after it to ask only where it exists",
        detail="\n".join(lines),
    )


def _explain_unknown(entry: Entry, known: frozenset[str], everywhere: frozenset[str], srcarch: str) -> str:
    if entry.symbol in everywhere:
        return f"{entry.place}: CONFIG_{entry.symbol} exists only for architectures other than {srcarch}"
    near = difflib.get_close_matches(entry.symbol, known, n=3, cutoff=0.75)
    hint = f"; near: {', '.join('CONFIG_' + name for name in near)}" if near else ""
    return f"{entry.place}: this kernel tree has no symbol CONFIG_{entry.symbol}{hint}"


def refusal(
    mismatches: Sequence[Mismatch], tree: Path, srcarch: str, *, from_user: bool, why: str = ""
) -> KharnessError:
    """The error for requested symbols that did not make it, every one by name; the build is refused.

    UsageError when a user's fragment takes part (it may have switched off what ours need), else
    HarnessError: our fragments do not fit this tree. `why` is a further cause known to the caller.
    """
    needs = depends_on(tree, (m.symbol for m in mismatches), srcarch)
    names = ", ".join(m.describe() for m in mismatches)
    count = f"{len(mismatches)} requested symbol{'s' if len(mismatches) != 1 else ''}"
    what = f"{count} did not make it into the final .config: {names}"
    none = "no such symbol in this tree"
    detail = "\n".join(f"{m.describe()}: {needs.get(m.symbol, none)}" for m in mismatches)
    if from_user:
        step = why or "see what each depends on, and ask for that too or drop the line"
        refused = Refused(what, step=step, detail=detail)
        refused.got = {mismatch.symbol: mismatch.got for mismatch in mismatches}
        return refused
    step = why or "this tree is not one that kharness's kconfigs/ fit: see what each depends on"
    return HarnessError(what, step=step, detail=detail)
