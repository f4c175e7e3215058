# SPDX-License-Identifier: GPL-2.0-only
"""bisect.log: the results in the form of `git bisect replay`. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from harness.bisect.drive import Answer, Ending
from harness.bisect.history import History
from harness.bisect.search import Find, Seen
from harness.core.printable import one_line

TERMS = {Find.REGRESSION: ("good", "bad"), Find.FIXED: ("broken", "fixed")}
"""Git's terms for the old and the new side."""


def render(history: History, old: str, find: Find, answer: Answer) -> str:
    """The log. A point with several runs has one line, with their joint result."""
    return "".join(f"{one_line(line)}\n" for line in _lines(history, old, find, answer))


def _lines(history: History, old: str, find: Find, answer: Answer) -> Iterator[str]:
    before, after = TERMS[find]
    titles = {point.id: point.title for point in history.points}
    new = history.points[-1].id
    # git reads these words as a shell's, in single quotes.
    terms = f" '--term-old' '{before}' '--term-new' '{after}'" if find is Find.FIXED else ""
    yield f"git bisect start{terms}"
    yield f"# {after}: [{new}] {titles[new]}"
    yield f"git bisect {after} {new}"
    yield f"# {before}: [{old}]"
    yield f"git bisect {before} {old}"
    culprit = answer.candidates[0][0] if answer.ending is Ending.FOUND else ""
    for id, seen in answer.seen.items():
        if id in (old, new):
            continue
        word = after if _is_new(history, id, seen, find, culprit) else before
        times = f" ({seen.failed} of {seen.runs} runs failed)" if seen.runs > 1 else ""
        yield f"# {word}: [{id}] {titles[id]}{times}"
        yield f"git bisect {word} {id}"
    for id in answer.unfit:
        if id not in answer.seen:
            yield f"# skip: [{id}] {titles[id]}"
            yield f"git bisect skip {id}"
    if culprit:
        yield f"# first {after} commit: [{culprit}] {titles[culprit]}"
    else:
        for id, chance in answer.candidates:
            yield f"# possible first {after} commit: [{id}] {titles[id]} ({chance:.1%})"


def _is_new(history: History, id: str, seen: Seen, find: Find, culprit: str) -> bool:
    """Whether a commit is on the new side: by the culprit where one was found, else by its runs alone."""
    if culprit:
        return bool(history.contained[history.index[id]] >> history.index[culprit] & 1)
    return (seen.failed > 0) == (find is Find.REGRESSION)
