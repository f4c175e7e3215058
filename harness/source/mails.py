# SPDX-License-Identifier: GPL-2.0-only
"""Mails as git reads them: a mailbox split into its mails, and of each its subject, its message and its diff."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UsageError
from harness.host.process import run
from harness.source.repository import environment

MOST = 10_000
"""Mails of one mailbox that are read; the longest threads of kernel lists have some 1,000."""

SECONDS = 120.0
"""For git on one mailbox, or on one mail."""

_HEADER = re.compile(rb"(?:>?From \S+ |[A-Za-z][A-Za-z0-9-]*:[ \t]*\S)")
_NEEDED = (b"from:", b"subject:", b"message-id:")
_MAILINFO = 'exec git mailinfo --encoding=UTF-8 --scissors --quoted-cr=strip "$1" "$2" <"$0"'


@dataclass(frozen=True)
class Mail:
    """A mail as git mailinfo gives it: `subject` without what is in brackets, `message` without headers, `diff`."""

    subject: str
    message: str
    diff: bytes


def is_mail(data: bytes) -> bool:
    """Whether a text begins as a mail or a mailbox does: with a From line, or with a block of headers."""
    head = data[: 1 << 16].split(b"\n\n", 1)[0].split(b"\r\n\r\n", 1)[0]
    if not _HEADER.match(head):
        return False
    if data.startswith(b"From "):
        return True
    named = [row for row in head.splitlines() if row[:1] not in (b" ", b"\t")]
    return all(map(_HEADER.match, named)) and any(row.lower().startswith(_NEEDED) for row in named)


def split(data: bytes, folder: Path, what: str) -> list[Path]:
    """The mails of a mailbox as files in `folder`, in their order. Raises UsageError for one that is none."""
    box = folder / "box"
    box.write_bytes(data)
    into = folder / "mails"
    into.mkdir()
    escaped = ["--mboxrd"] if data.startswith(b"From mboxrd@z ") else []
    argv = ["git", "mailsplit", "-b", "-d6", *escaped, f"-o{into}", "--", str(box)]
    done = run(argv, what=f"reading {what}", env=environment(), check=False, deadline=SECONDS)
    if done.status:
        raise UsageError(f"{what} is no mailbox that git can read", step="give a diff", detail=done.stderr)
    files = sorted(into.iterdir())
    if len(files) > MOST:
        raise UsageError(f"{what} has {len(files)} mails, more than the {MOST} that are read", step="save one thread")
    return files


def info(mail: Path, what: str) -> Mail | None:
    """What git reads out of one mail; None where it finds none."""
    text, diff = Path(f"{mail}.text"), Path(f"{mail}.diff")
    argv = ["sh", "-c", _MAILINFO, str(mail), str(text), str(diff)]
    told = run(argv, what=f"reading {what}", env=environment(), check=False, deadline=SECONDS)
    if told.status:
        return None
    subject = re.search(r"^Subject: (.+)$", told.stdout, re.MULTILINE)
    message = text.read_text(errors="replace") if text.is_file() else ""
    return Mail(subject[1] if subject else "", message.strip("\n"), diff.read_bytes() if diff.is_file() else b"")


def subject_of(data: bytes) -> str:
    """The subject of a mail; empty for what is none, and for a mailbox of several."""
    if not is_mail(data) or len(re.findall(rb"^From \S+ .*\d\d:\d\d:\d\d", data, re.MULTILINE)) > 1:
        return ""
    found = re.search(rb"^Subject:[ \t]*(.*(?:\n[ \t].*)*)", data.partition(b"\n\n")[0], re.MULTILINE | re.IGNORECASE)
    return re.sub(r"\s+", " ", found[1].decode(errors="replace")).strip() if found else ""


def are_a_thread(subjects: Sequence[str]) -> bool:
    """Whether mails of these subjects must be told apart as those of a thread: replies, or two of one [n/m]."""
    if not all(subjects):
        return False
    numbers = [found[1] for found in (re.match(r"\[[^]]*?(\d+/\d+)\]", subject) for subject in subjects) if found]
    return len(set(numbers)) < len(numbers) or any(re.match(r"(?i)re:", subject) for subject in subjects)


def with_trailers(message: str, trailers: Sequence[str]) -> str:
    """A message with trailers that replies gave, below its own."""
    if not trailers:
        return message
    last = message.rpartition("\n")[2]
    gap = "\n" if re.match(r"[A-Za-z][A-Za-z-]+: \S", last) else "\n\n"
    return message + gap + "\n".join(trailers)
