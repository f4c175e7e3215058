# SPDX-License-Identifier: GPL-2.0-only
"""Where the hunks of a patch belong in a tree, and which of them it has already: white space does not count.

A page of a web archive loses tabs and blanks; a patch that was merged is there in the same words, at another line, in a
file that was moved, or in other words. Each hunk is looked for as its old lines (it applies), as its new lines (it is
there already), and as what comes nearest to them.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.records import HunkState, PatchHunk
from harness.host import below
from harness.source.hunks import FileHunks, Hunk, squeezed

TELLING = 8
"""Characters of a line, without white space, that make it one to look for."""

COMMON = 12
"""Places of a line in a file above which it tells nothing of where a hunk belongs."""

AROUND = 40
"""Lines before and after a place that may still belong to what was merged in other words."""

HALF = 0.5
"""The share of a hunk's added lines of which more must be there for it to be merged in other words."""

ALIKE, LONG = 0.8, 200
"""How alike two lines must be to be the same in other words; longer ones are not compared but by equality."""

SHOWN = 30
"""Lines of the tree that are shown beside those of a hunk."""

FUZZ = 3
"""Lines of context on each side that may differ around what is there already."""


@dataclass
class Text:
    """A file of the tree: its lines, as they are and without white space, and where each of these stands."""

    path: str
    lines: list[str]
    bare: list[str] = field(default_factory=list)
    at: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bare = [squeezed(line) for line in self.lines]
        for number, line in enumerate(self.bare):
            self.at.setdefault(line, []).append(number)

    def find(self, wanted: Sequence[str]) -> list[int]:
        """Where these lines stand one after the other, counted from 0."""
        if not wanted:
            return []
        rarest = min(range(len(wanted)), key=lambda index: len(self.at.get(wanted[index], ())))
        starts = (place - rarest for place in self.at.get(wanted[rarest], ()))
        return [at for at in starts if at >= 0 and self.bare[at : at + len(wanted)] == list(wanted)]


@dataclass(frozen=True)
class Fit:
    """Where one hunk belongs: the record of it, the file, and the line there, counted from 0, at which its old lines
    begin (it applies) or its new ones (it is there)."""

    told: PatchHunk
    file: FileHunks
    hunk: Hunk
    text: Text | None = None
    at: int = 0


class Files:
    """The texts of a tree in which hunks are looked for."""

    def __init__(self, trees: Sequence[Path]) -> None:
        self._trees = trees
        self._texts: dict[str, Text | None] = {}

    def text(self, path: str) -> Text | None:
        """A file of the tree; None where there is none that can be read."""
        if path not in self._texts:
            found: Text | None = None
            tree = next((tree for tree in self._trees if path and below.is_file(tree, path)), None)
            if tree is not None:
                try:
                    data = below.read_bytes(tree, path)
                    found = Text(path, data.decode("utf-8", "surrogateescape").split("\n"))
                except (below.Unsafe, OSError):
                    found = None
            self._texts[path] = found
        return self._texts[path]

    def near(self, path: str) -> bool:
        """Whether the tree has a file, of any kind, or one of its name where it may have been moved to."""
        if any(below.is_file(tree, path, links=True) for tree in self._trees):
            return True
        folder, _, name = path.rpartition("/")
        around = below.walk(self._trees[-1], "/".join(folder.split("/")[:2]), skip=True)
        return any(other.rpartition("/")[2] == name for other, _ in around)

    def others(self, path: str) -> list[str]:
        """Where the content of a file that is not there may be now: a file of its name, or in a folder of its name."""
        folder, _, name = path.rpartition("/")
        stem = name.partition(".")[0]
        near = "/".join(folder.split("/")[:2])
        tree = self._trees[-1]
        found = [other for other, _ in below.walk(tree, near, skip=True) if other.endswith((".c", ".h"))]
        same = [other for other in found if other.rpartition("/")[2] == name]
        inside = [other for other in found if other.startswith(f"{folder}/{stem}/") and other not in same]
        return [*same, *inside]


def in_tree(found: Sequence[Fit]) -> bool:
    """Whether a tree has a patch already: most of its hunks, one of them at least in the same words."""
    states = Counter(fit.told.state for fit in found)
    there = states[HunkState.CONTAINED] + states[HunkState.DIFFERS]
    return states[HunkState.CONTAINED] > 0 and 2 * there > len(found)


def fits(files: Sequence[FileHunks], *trees: Path) -> list[Fit]:
    """Each hunk's place in a tree, in their order. Of several `trees` the first that has a file counts."""
    known = Files(trees)
    out: list[Fit] = []
    for file in files:
        before: list[Fit] = []
        for hunk in file.hunks:
            before.append(_fit(file, hunk, known, before))
        out += before
    return out


def _fit(file: FileHunks, hunk: Hunk, known: Files, before: Sequence[Fit]) -> Fit:
    path = file.old or file.new
    own = known.text(path)

    def told(state: HunkState, text: Text | None, at: int, why: str, theirs: str = "", ours: str = "") -> Fit:
        where, line = (text.path, at + 1) if text else ("", 0)
        lines = _lines(state, text, at, hunk) if text else ()
        record = PatchHunk(path, hunk.number, len(file.hunks), state, where, line, why, theirs, ours, lines)
        return Fit(record, file, hunk, text, at)

    if not hunk.whole:
        return told(HunkState.NOWHERE, own, hunk.start - 1, f"lines of it are missing (line {hunk.first} of the patch)")
    if not file.old and own is None:
        return told(HunkState.MISSING, None, 0, "makes the file")
    texts = [own] if own else [text for text in map(known.text, known.others(path)) if text]
    if not texts:
        return told(HunkState.NOWHERE, None, 0, "no such file")
    old, new = ([squeezed(line) for line in hunk.side(sign)] for sign in "-+")
    places = [(text, at) for text in texts for at in text.find(old)]
    if own and (place := _one(places, hunk, before)):
        return told(HunkState.MISSING, *place, "applies")
    if contained := _contained(texts, hunk, new):
        return told(HunkState.CONTAINED, *contained, "is there" + ("" if own else f", in {contained[0].path}"))
    if own and len(places) > 1:
        lines = ", ".join(str(at + 1) for _, at in places[:4])
        return told(HunkState.NOWHERE, *places[0], f"fits in {len(places)} places, at lines {lines}")
    return _near(texts, hunk, told)


def _lines(state: HunkState, text: Text, at: int, hunk: Hunk) -> tuple[int, ...]:
    """The lines of a file, counted from 1, that a hunk which is there added."""
    new = [(kind, line) for kind, line in hunk.lines if kind != "-"]
    if state is HunkState.CONTAINED:
        return tuple(at + index + 1 for index, (kind, _) in enumerate(new) if kind == "+")
    if state is not HunkState.DIFFERS:
        return ()
    around = range(max(0, at - AROUND // 2), min(len(text.bare), at + len(new) + AROUND))
    window = {text.bare[number] for number in around}
    minus, plus = (_telling(hunk.changed(sign)) for sign in "-+")
    found = {bare for bare in plus if bare in window}
    found |= {like for bare in plus if bare not in window for like in _alike(bare, minus, window)[:1]}
    return tuple(number + 1 for number in around if text.bare[number] in found)


def _one(places: Sequence[tuple[Text, int]], hunk: Hunk, before: Sequence[Fit]) -> tuple[Text, int] | None:
    """The only place; of several the one that the hunk's own line number names, or that of the hunk before it does."""
    if len(places) == 1:
        return places[0]
    moved = [fit.at - (fit.hunk.start - 1) for fit in before if fit.told.state is HunkState.MISSING][-1:] or [0]
    named = [place for place in places if place[1] - (hunk.start - 1) in {0, *moved}]
    return named[0] if len(named) == 1 else None


def _contained(texts: Sequence[Text], hunk: Hunk, new: Sequence[str]) -> tuple[Text, int] | None:
    """Where the new lines stand, with as much of their context as it takes for there to be one such place."""
    signs = [kind for kind, _ in hunk.lines if kind != "-"]
    kinds = [kind for kind, _ in hunk.lines]
    lead = next((at for at, kind in enumerate(kinds) if kind != " "), 0)
    tail = next((at for at, kind in enumerate(reversed(kinds)) if kind != " "), 0)
    for fuzz in range(FUZZ + 1):
        top, bottom = min(fuzz, lead), min(fuzz, tail)
        part = new[top : len(signs) - bottom]
        if fuzz and sum(map(len, part)) < 2 * TELLING:
            return None
        if not hunk.changed("+") and fuzz:
            return None  # a context that is whole alone shows that something is gone
        places = [(text, at - top) for text in texts for at in text.find(part)]
        if len(places) == 1:
            return places[0]
    return None


@dataclass(frozen=True)
class _Likeness:
    """How much of a hunk is around a place: shares of its added and of its removed lines that tell something."""

    text: Text
    at: int
    added: float
    removed: float
    hits: int


def _likeness(texts: Sequence[Text], hunk: Hunk) -> _Likeness | None:
    """The place where most of a hunk's lines are near each other; None where none of them tells."""
    wanted = [squeezed(line) for _, line in hunk.lines]
    name = squeezed(hunk.section)
    best: _Likeness | None = None
    for text in texts:
        votes = Counter(_votes(text, wanted, name))
        for at, _ in votes.most_common(3):
            window = set(text.bare[max(0, at - AROUND // 2) : at + len(wanted) + AROUND])
            plus, minus = (_telling(hunk.changed(sign)) for sign in "+-")
            added = _share([bare in window or bool(_alike(bare, minus, window)) for bare in plus])
            removed = _share([bare in window for bare in minus])
            found = _Likeness(text, max(0, at), added, removed, votes[at])
            if best is None or (found.added, found.hits) > (best.added, best.hits):
                best = found
    return best


def _votes(text: Text, wanted: Sequence[str], name: str) -> Iterator[int]:
    """For each line of a hunk that tells something, where the hunk would begin, in steps of some lines."""
    for index, line in enumerate(wanted):
        places = text.at.get(line, ()) if len(line) >= TELLING else ()
        if len(places) <= COMMON:
            yield from (max(0, (at - index) // 8 * 8) for at in places)
    if name:
        yield from (at // 8 * 8 for at in text.at.get(name, ())[:COMMON])


def _telling(lines: Sequence[str]) -> list[str]:
    return [bare for bare in map(squeezed, lines) if len(bare) >= TELLING]


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0


def _alike(line: str, others: Sequence[str], window: set[str]) -> list[str]:
    """The lines around a place that are like an added one, and less like `others`, the lines that it takes the place
    of: a name in them was changed since."""

    def ratio(one: str, other: str) -> float:
        return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()

    found = difflib.get_close_matches(line[:LONG], [one for one in window if len(one) <= LONG], 3, ALIKE)
    return [one for one in found if ratio(one, line) > max((ratio(one, old[:LONG]) for old in others), default=0)]


def _near(texts: Sequence[Text], hunk: Hunk, told: Callable[..., Fit]) -> Fit:
    """A hunk that is there in other words, with both, or that has no place, with the nearest."""
    near = _likeness(texts, hunk)
    if near is None:
        return told(HunkState.NOWHERE, texts[0], max(0, hunk.start - 1), "nothing like it is there")
    theirs = "\n".join(kind + line for kind, line in hunk.lines)
    first = _first(near, hunk)
    ours = "\n".join(near.text.lines[first : first + min(SHOWN, len(hunk.side("+")) + 4)])
    shares = f"{near.added:.0%} of what it adds, {near.removed:.0%} of what it removes are there"
    if near.added > HALF and near.added > near.removed:
        return told(HunkState.DIFFERS, near.text, first, f"merged in other words: {shares}", theirs, ours)
    window = set(near.text.bare[max(0, near.at - AROUND) : near.at + len(hunk.lines) + AROUND])
    lost = next((line.strip() for line in hunk.side("-") if squeezed(line) not in window), "")
    why = f"does not fit: {lost[:60]!a} is not there" if lost else "does not fit: its lines are not in this order"
    return told(HunkState.NOWHERE, near.text, first, f"{why}; nearest", theirs, ours)


def _first(near: _Likeness, hunk: Hunk) -> int:
    """The first line around a place that is one of the hunk's."""
    wanted = set(_telling([line for _, line in hunk.lines]))
    window = range(max(0, near.at - AROUND // 2), min(len(near.text.bare), near.at + AROUND * 2))
    close = [at for at in window if near.text.bare[at] in wanted]
    return next((at for at in close if at >= near.at), close[0] if close else near.at)
