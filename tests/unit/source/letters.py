# SPDX-License-Identifier: GPL-2.0-only
"""Mails for tests: patches of a file of numbered lines, replies, and threads of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

CORE = "".join(f"int line_{number};\n" for number in range(1, 41))
NAME = "kernel/sched/core.c"


def diff(number: int, new: str, old: str = "") -> str:
    """The diff that makes line `number` of CORE (or `old`, which stands there by now) another one."""
    first, last = max(1, number - 3), min(40, number + 3)
    lines = [f" int line_{at};" for at in range(first, number)]
    lines += [f"-{old or f'int line_{number};'}", f"+{new}"]
    lines += [f" int line_{at};" for at in range(number + 1, last + 1)]
    span = f"{first},{last - first + 1}"
    header = f"diff --git a/{NAME} b/{NAME}\nindex 1111111..2222222 100644\n--- a/{NAME}\n+++ b/{NAME}\n"
    return header + f"@@ -{span} +{span} @@\n" + "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Letter:
    """One mail. `id` is its message-id, `to` the one that it answers; `day` makes its date."""

    id: str
    subject: str
    body: str
    to: str = ""
    author: str = "A Person <a@example.org>"
    day: int = 1
    headers: Sequence[str] = field(default_factory=tuple)

    def text(self) -> str:
        rows = [
            f"From: {self.author}",
            f"Date: Mon, {self.day % 28 + 1} Jan {2024 + self.day // 28} 00:00:{self.day % 60:02} +0000",
            f"Subject: {self.subject}",
            *([f"Message-ID: <{self.id}@example.org>"] if self.id else []),
            *([f"In-Reply-To: <{self.to}@example.org>", f"References: <{self.to}@example.org>"] if self.to else []),
            *self.headers,
        ]
        return "\n".join(rows) + "\n\n" + self.body


def patch(id: str, subject: str, text: str, to: str = "", day: int = 1, note: str = "") -> Letter:
    """A mail as git send-email sends it; `note` comes last, as base-commit does."""
    signed = "Signed-off-by: A Person <a@example.org>"
    return Letter(id, subject, f"Why.\n\n{signed}\n---\n {NAME} | 2 +-\n\n{text}-- \n2.47.0\n\n{note}", to, day=day)


def reply(id: str, subject: str, body: str, to: str, who: str = "B Person <b@example.org>", day: int = 2) -> Letter:
    return Letter(id, f"Re: {subject}", body, to, who, day)


def box(letters: Sequence[Letter]) -> bytes:
    """A mailbox as a public archive gives it."""
    return "".join(f"From mboxrd@z Thu Jan  1 00:00:00 1970\n{letter.text()}\n\n" for letter in letters).encode()


@dataclass(frozen=True)
class Expected:
    """What must be read out of a random thread: the lines that the newest version's patches make, in their order."""

    subjects: tuple[str, ...]
    version: int
    trailers: tuple[str, ...]
    missing: tuple[int, ...]


def random_thread(draw: random.Random) -> tuple[list[Letter], Expected]:
    """A thread of versions of one series: reordered, with replies that quote, tag, and bring diffs, parts missing."""
    letters: list[Letter] = []
    versions = draw.randint(1, 3)
    subjects: list[str] = []
    trailers: list[str] = []
    missing: list[int] = []
    for version in range(1, versions + 1):
        count = draw.randint(1, 5)
        tag = f" v{version}" if version > 1 else ""
        cover = f"cover{version}" if count > 1 and draw.random() < 0.7 else ""
        if cover:
            stat = f"Series.\n\n {NAME} | 2 +-\n 1 file changed, 1 insertion(+), 1 deletion(-)\n"
            letters.append(Letter(cover, f"[PATCH{tag} 0/{count}] a series", stat, day=version * 10))
        subjects, trailers, missing = [], [], []
        first = cover
        for number in range(1, count + 1):
            subject = f"core: change {number} of version {version}"
            counted = f" {number}/{count}" if count > 1 else ""
            full = f"[PATCH{tag}{counted}] {subject}"
            if version == versions and number > 1 and draw.random() < 0.05:
                missing.append(number)
                continue
            id = f"v{version}p{number}"
            text = diff(number * 7, f"int v{version}_{number};")
            letters.append(patch(id, full, text, first if first != id else "", version * 10 + number))
            first = first or id
            subjects.append(subject)
            trailers += _answers(draw, letters, id, full, version)
    shuffled = list(letters)
    draw.shuffle(shuffled)
    return shuffled, Expected(tuple(subjects), versions, tuple(sorted(trailers)), tuple(missing))


def _answers(draw: random.Random, letters: list[Letter], id: str, full: str, version: int) -> list[str]:
    """Replies to a patch, added to `letters`; gives the trailers that must be taken."""
    day = version * 10 + 9
    tags = []
    if draw.random() < 0.4:
        who = f"C{len(letters)} Person <c{len(letters)}@example.org>"
        letters.append(reply(f"{id}t", full, f"Fine.\n\nReviewed-by: {who}\n", id, who, day))
        tags.append(f"Reviewed-by: {who}")
    if draw.random() < 0.3:
        quote = "".join(f"> {line}\n" for line in diff(3, "int x;").splitlines())
        letters.append(reply(f"{id}q", full, f"{quote}\nWhy x?\n", id, day=day))
        letters.append(
            replace(reply(f"{id}qa", full, "Because.\n", f"{id}q", day=day), author="A Person <a@example.org>")
        )
    if draw.random() < 0.3:
        letters.append(reply(f"{id}d", full, f"What about\n\n{diff(36, 'int reply;')}", id, day=day))
    return tags
