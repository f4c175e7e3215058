# SPDX-License-Identifier: GPL-2.0-only
"""A diff made whole by the tree: white space that a page lost is the tree's, line numbers are where each hunk fits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.core.errors import UsageError
from harness.core.records import HunkState
from harness.source.diffs import Patch, patch_of, quoted
from harness.source.fit import Fit
from harness.source.hunks import Hunk
from harness.source.indent import TAB, indented

_COUNTS = re.compile(r"(?:^|/)(?:Makefile|Kbuild|Kconfig)[^/]*$|\.py$")
"""Files in which white space says what is meant."""


def missing(patch: Patch, fits: Sequence[Fit], where: str) -> Patch:
    """The hunks of a patch that the tree does not have, as git takes them.

    Raises UsageError for lines added to a file in which the white space counts that they lost.
    """
    wanted = [fit for fit in fits if fit.told.state is HunkState.MISSING]
    return _made(patch, wanted, where, reverse=False)


def without(patch: Patch, fits: Sequence[Fit], where: str) -> Patch:
    """What takes out of the tree the hunks of a patch, which it all has. Raises UsageError as :func:`missing`."""
    return _made(patch, fits, where, reverse=True)


def _made(patch: Patch, fits: Sequence[Fit], where: str, reverse: bool) -> Patch:
    kept = _kept(fits, "+" if reverse else "-")
    by_file: dict[str, list[Fit]] = {}
    for fit in fits:
        by_file.setdefault(fit.text.path if fit.text else fit.file.new, []).append(fit)
    rows: list[str] = []
    for path, mine in by_file.items():
        rows += _file(path, mine, kept, reverse, where)
    data = "\n".join([*rows, ""]).encode("utf-8", "surrogateescape")
    made = patch_of(patch.name, data, where, strip=1, reverse=reverse)
    return Patch(patch.name, made.data, made.changes, patch.message)


def _file(path: str, fits: Sequence[Fit], kept: str, reverse: bool, where: str) -> Iterable[str]:
    names = quoted(f"a/{path}"), quoted(f"b/{path}")
    new = fits[0].text is None
    yield f"diff --git {names[0]} {names[1]}"
    if new:
        yield "new file mode 100644"
    yield f"--- {'/dev/null' if new else names[0]}"
    yield f"+++ {names[1]}"
    moved = 0
    for fit in sorted(fits, key=lambda one: one.at):
        old, fresh = len(fit.hunk.side("-")), len(fit.hunk.side("+"))
        first = fit.at + 1
        # Where it applies the place is one of old lines, where it is there one of new lines.
        starts = (first - moved, first) if reverse else (first, first + moved)
        begin = (0, 1) if new else (starts[0] if old else starts[0] - 1, starts[1] if fresh else starts[1] - 1)
        yield f"@@ -{begin[0]},{old} +{begin[1]},{fresh} @@" + (f" {fit.hunk.section}" if fit.hunk.section else "")
        yield from _body(path, fit, kept, reverse, where)
        moved += fresh - old


def _body(path: str, fit: Fit, kept: str, reverse: bool, where: str) -> Iterable[str]:
    """The lines of a hunk: those of the tree as they are there, the others with the white space that they lost."""
    ours = "+" if reverse else "-"
    at = fit.at
    before = list(fit.text.lines[max(0, at - 3 * TAB) : at]) if fit.text else []
    for sign, text in fit.hunk.lines:
        if fit.text and sign in (" ", ours):
            line = fit.text.lines[at]
            at += 1
        else:
            line = _restored(path, text, kept, before, where)
        if sign == " " or (sign == "-") == reverse or sign == "+":
            before.append(line)
        yield sign + line


def _kept(fits: Sequence[Fit], ours: str) -> str:
    """What became of the white space of a text: it is there (``whole``), tabs are blanks (``wide``, or ``signed`` where
    the sign took the first of them), or it is lost. Told by the lines that the tree has, too.
    """
    votes = {"whole": 0, "wide": 0, "signed": 0, "lost": 0}
    for fit in fits:
        for text, line in zip(fit.hunk.side(ours), _theirs(fit, ours), strict=False):
            if line.startswith("\t"):
                how = {_wide(line): "wide", _wide(line) - 1: "signed"}.get(_indent(text), "lost")
                votes["whole" if text == line else how] += 1
    if not sum(votes.values()):
        return "whole"
    return max(votes, key=lambda name: votes[name])


def _theirs(fit: Fit, ours: str) -> Sequence[str]:
    return fit.text.lines[fit.at : fit.at + len(fit.hunk.side(ours))] if fit.text else ()


def _wide(line: str) -> int:
    return _indent(line.expandtabs(TAB))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _restored(path: str, text: str, kept: str, before: Sequence[str], where: str) -> str:
    if kept == "whole" or not text.strip():
        return text
    if _COUNTS.search(path):
        raise UsageError(
            f"{where}: what it adds to {path} has lost its white space, which counts there",
            step="take the raw mail or git format-patch's output",
        )
    if kept in ("wide", "signed"):
        column = _indent(text) + (kept == "signed" and _indent(text) >= TAB - 1)
        return "\t" * (column // TAB) + " " * (column % TAB) + text.strip()
    return indented(text, before)


def lines_of(hunk: Hunk) -> str:
    """A hunk as it was given, for a reader."""
    return "\n".join(sign + text for sign, text in hunk.lines)
