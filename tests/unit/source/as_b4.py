# SPDX-License-Identifier: GPL-2.0-only
"""Threads of real lists, read by us and by the b4 command: are the same patches taken?

``python -m tests.unit.source.as_b4 PLACE...`` takes mailboxes (also packed with gzip), maildirs, folders with a mail in
each file, and git archives of lists as public-inbox keeps them, of which ``--mails`` names a part. The mails are
grouped into threads by the ids that they refer to. Each thread with a patch is given as a mailbox to ``b4 am`` and to
:func:`harness.source.series.gather`. Compared are the version, which mails are applied and in which order, the lines of
each diff, its trailers, and the parts that are missing. A difference must have its reason in REASONS; one that has none
makes the exit code 1. b4 runs in a process of its own, offline, with a home folder of its own.
"""

from __future__ import annotations

import argparse
import gzip
import mailbox
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email import policy
from email.parser import BytesHeaderParser
from pathlib import Path
from unittest import mock

from harness.core.errors import KharnessError
from harness.source import mails, series, threads

SECONDS = 120.0
"""For one process on one thread."""

B4 = "import sys, types; sys.modules['dkim'] = types.ModuleType('dkim'); from b4.command import cmd; cmd()"
"""The command; dkimpy is not installed here, and without it b4 does not start. It would look signatures up in the DNS."""

SETTINGS = "[b4]\n\tattestation-policy = off\n\ttrailer-order = *\n"

_PATCH = re.compile(rb"^Subject:[^\n]*(?:\n[ \t][^\n]*)*\[[^]]*PATCH|^(?:diff --git |--- a/|Index: )", re.M | re.I)
_ID = re.compile(r"<([^<>\s]+)>")
_NONE = re.compile(r": (?:no diff in it|only replies have a diff)")
_FLOWED = re.compile(rb"^Content-Type:[^\n]*(?:\n[ \t][^\n]*)*format=flowed", re.M | re.I)
_LACKS = re.compile(r"v(\d+) lacks (.+)")


# --- mails and threads ----------------------------------------------------------------------


@dataclass(frozen=True)
class Letter:
    """A mail: its message-id, the ids that it refers to, and its bytes without the line of a mailbox before it."""

    id: str
    above: tuple[str, ...]
    data: bytes

    @property
    def has_patch(self) -> bool:
        """Whether there may be a patch in it, by its subject or its lines."""
        return _PATCH.search(self.data) is not None


def letter(data: bytes) -> Letter:
    """A mail out of its bytes; one without an id has an empty one."""
    head = BytesHeaderParser(policy=policy.compat32).parsebytes(data)
    own = _ID.findall(str(head["Message-ID"]))
    above = [
        id for name in ("References", "In-Reply-To") for row in head.get_all(name, []) for id in _ID.findall(str(row))
    ]
    return Letter(own[0] if own else "", tuple(dict.fromkeys(above)), data)


def collected(place: Path, part: range) -> Iterator[bytes]:
    """The mails of a place, each without the From line of a mailbox."""
    if (place / "objects").is_dir():
        yield from _archive(place, part)
    elif (place / "cur").is_dir():
        files = sorted(file for name in ("cur", "new") for file in (place / name).iterdir())
        yield from (file.read_bytes() for file in files)
    elif place.is_dir():
        yield from (file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file())
    else:
        data = place.read_bytes()
        yield from _unboxed(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)


def _unboxed(data: bytes) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "box"
        file.write_bytes(data)
        for mail in mailbox.mbox(file):
            yield mail.as_bytes()


def _archive(place: Path, part: range) -> Iterator[bytes]:
    """The mails of an archive, each the file "m" of a commit; `part` counts the commits, the oldest is 0."""
    told = subprocess.run(
        ["git", f"--git-dir={place}", "log", "--reverse", "--format=%H"], check=True, capture_output=True, text=True
    ).stdout.split()
    wanted = "".join(f"{told[number]}:m\n" for number in part if number < len(told))
    found = subprocess.run(
        ["git", f"--git-dir={place}", "cat-file", "--batch"], check=True, capture_output=True, input=wanted.encode()
    ).stdout
    at = 0
    while at < len(found):
        line, _, _ = found[at : at + 200].partition(b"\n")
        at += len(line) + 1
        if not line.endswith(b" missing"):
            size = int(line.rpartition(b" ")[2])
            yield found[at : at + size]
            at += size + 1


def grouped(letters: Iterable[Letter]) -> list[list[Letter]]:
    """Threads: mails that refer to each other, or to one that is not there. Each id counts once."""
    above: dict[str, str] = {}

    def root(id: str) -> str:
        while above.setdefault(id, id) != id:
            above[id] = above[above[id]]
            id = above[id]
        return id

    known: dict[str, Letter] = {}
    for one in letters:
        if one.id and known.setdefault(one.id, one) is one:
            for other in one.above:
                above[root(one.id)] = root(other)
    found: dict[str, list[Letter]] = {}
    for one in known.values():
        found.setdefault(root(one.id), []).append(one)
    return list(found.values())


def boxed(thread: Sequence[Letter]) -> bytes:
    """A thread as a mailbox, as public archives give it."""
    quoted = (re.sub(rb"(?m)^(>*From )", rb">\1", one.data.replace(b"\r\n", b"\n")) for one in thread)
    return b"".join(b"From mboxrd@z Thu Jan  1 00:00:00 1970\n" + text.rstrip(b"\n") + b"\n\n" for text in quoted)


# --- what each of the two takes ------------------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """A patch that is applied: the id of its mail, the lines of its diff, and the trailers that replies gave it."""

    id: str
    subject: str
    diff: tuple[str, ...]
    trailers: frozenset[str]


@dataclass(frozen=True)
class Answer:
    """What was read out of a thread: `refusal` is why nothing was, `said` what b4 said, `others` the patches that we
    say we left out."""

    version: int = 1
    patches: tuple[Taken, ...] = ()
    missing: tuple[str, ...] = ()
    refusal: str = ""
    others: tuple[str, ...] = ()
    said: str = ""

    @property
    def ids(self) -> tuple[str, ...]:
        """The mails that are applied, in their order."""
        return tuple(one.id for one in self.patches)


def _lines(diff: bytes) -> tuple[str, ...]:
    """The lines of a diff, from its first header on, without what a mail ends with."""
    rows = [re.sub("^>From ", "From ", row.rstrip("\r")) for row in diff.decode("utf-8", "surrogateescape").split("\n")]
    starts = [at for at, row in enumerate(rows) if re.match(r"diff --git |--- \S|Index: ", row)]
    ends = [at for at, row in enumerate(rows) if row in ("-- ", "--")]
    rows = rows[starts[0] : ends[-1] if ends and ends[-1] > starts[-1] else None] if starts else []
    while rows and not rows[-1].strip():
        rows.pop()
    return tuple(rows)


def ours(box: Path, thread: Sequence[Letter], folder: Path) -> Answer:
    """What kharness takes, of the newest version. The trailers are what its message has more than its mail."""
    read: list[threads.Thread] = []

    def reader(*given: object) -> threads.Thread:
        read.append(real(*given))  # type: ignore[arg-type]
        return read[-1]

    real = threads.read
    with mock.patch.object(threads, "read", reader):
        try:
            given = series.gather([str(box)])
        except KharnessError as error:
            return Answer(refusal=error.what)
    one = read[0] if read else threads.Thread((threads.Member(0, 1, ""),))
    if len(one.members) != len(given.patches):
        return Answer(refusal=f"{len(one.members)} mails are applied, and git finds {len(given.patches)} diffs in them")
    patches = []
    for member, patch in zip(one.members, given.patches, strict=True):
        mail = folder / f"mail-{member.mail}"
        mail.write_bytes(thread[member.mail].data)
        info = mails.info(mail, mail.name)
        own = Counter(info.message.splitlines() if info else [])
        more = frozenset((Counter(patch.message.splitlines()) - own).elements()) - {""}
        patches.append(Taken(thread[member.mail].id, patch.name, _lines(patch.data), more))
    return Answer(one.version, tuple(patches), others=one.others)


def b4(box: Path, folder: Path) -> Answer:
    """What ``b4 am`` writes for a mailbox, and what it says of trailers of replies and of parts that are missing."""
    home, out, split = folder / "home", folder / "am", folder / "split"
    home.mkdir()
    split.mkdir()
    (home / ".gitconfig").write_text(SETTINGS)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(folder),
    }
    argv = [
        sys.executable,
        "-P",
        "-c",
        B4,
        "--no-stdin",
        "--offline-mode",
        "am",
        "--no-cache",
        "-m",
        str(box),
        "-o",
        str(out),
    ]
    done = subprocess.run(
        argv,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
    )
    said = done.stdout + done.stderr
    made = sorted(out.glob("*.mbx")) if out.is_dir() else []
    if done.returncode or not made:
        return Answer(refusal=said.strip().rpartition("\n")[2] or f"status {done.returncode}", said=said)
    files = mails.split(made[0].read_bytes(), split, made[0].name)
    patches = []
    for file, added in zip(files, _added(said), strict=True):
        info = mails.info(file, file.name) or mails.Mail("", "", b"")
        rows = info.message.splitlines()
        whole = frozenset(part for trailer in added for part in _whole(trailer, rows))
        patches.append(Taken(letter(file.read_bytes()).id, info.subject, _lines(info.diff), whole))
    version = re.match(r"v(\d+)_", made[0].name)
    missing = tuple(re.findall(r"ERROR: missing \[(\d+/\d+)\]", said))
    return Answer(int(version[1]) if version else 1, tuple(patches), missing, said=said)


def _whole(trailer: str, rows: Sequence[str]) -> Sequence[str]:
    """A trailer as it stands in the message: what is behind a #, or in brackets below it, is said only there."""
    at = next((at for at in reversed(range(len(rows))) if rows[at].startswith(trailer)), None)
    if at is None:
        return [trailer]
    return rows[at : at + 1 + bool(rows[at + 1 : at + 2] and re.fullmatch(r"\s*\[[^]]+]\s*", rows[at + 1]))]


def _added(said: str) -> list[list[str]]:
    """The trailers that b4 says it adds to each patch."""
    out: list[list[str]] = []
    for row in said.splitlines():
        if row.startswith("  ["):
            out.append([])
        elif row.startswith("    + "):
            out[-1].append(row.removeprefix("    + "))
    return out


# --- the comparison -------------------------------------------------------------------------

SAME = "same"
NO_PATCH = "neither finds a patch"

Reason = Callable[[Answer, Answer, Sequence[Letter]], bool]


def _beside(one: Answer, other: Answer, thread: Sequence[Letter]) -> bool:
    """b4 puts two patches of one number after each other, and then counts wrong. What only b4 takes must be named by us
    as left out, and what both take must be the same."""
    theirs = {patch.id: patch for patch in other.patches}
    common = [patch for patch in one.patches if patch.id in theirs]
    subjects = " ".join(one.others)
    return (
        "duplicate messages found" in other.said
        and bool(one.others)
        and all(patch.diff == theirs[patch.id].diff for patch in common)
        and all(patch.subject in subjects for patch in other.patches if patch.id not in one.ids)
    )


def _lacks(one: Answer, other: Answer, thread: Sequence[Letter]) -> bool:
    """b4 writes what there is; the same parts must be missing."""
    told = _LACKS.search(one.refusal)
    return told is not None and int(told[1]) == other.version and tuple(told[2].split(", ")) == other.missing[:5]


def _flowed_ids(thread: Sequence[Letter]) -> set[str]:
    return {mail.id for mail in thread if _FLOWED.search(mail.data)}


def _flowed(one: Answer, other: Answer, thread: Sequence[Letter]) -> bool:
    """git takes the blank off that such a mail has more; b4 leaves it, and its patch does not apply."""
    flowed = _flowed_ids(thread)
    return one.ids == other.ids and all(
        a.trailers == b.trailers
        and (a.diff == b.diff or (a.id in flowed and a.diff == tuple(row.removeprefix(" ") for row in b.diff)))
        for a, b in zip(one.patches, other.patches, strict=True)
    )


def _several(one: Answer, other: Answer, thread: Sequence[Letter]) -> bool:
    """b4 puts patches of one number after each other, or takes them for versions of one; we name them and ask."""
    guessed = "duplicate messages found" in other.said or "Assuming new revision" in other.said
    return "holds several series" in one.refusal and guessed


def _stray(one: Answer, other: Answer, thread: Sequence[Letter]) -> bool:
    """b4 takes the mail that came last for the newest version; we must have left it out, or it replaces its part."""
    subjects = " ".join(one.others)
    return bool(one.ids and other.ids) and all(patch.subject in subjects for patch in other.patches)


def _damaged(one: Answer, other: Answer, thread: Sequence[Letter]) -> bool:
    """b4 does not look at a diff; git must not take it either. In a mail in format=flowed the blanks of b4's are too
    many, and git joins lines that end in one."""
    flowed = any(patch.id in _flowed_ids(thread) for patch in other.patches)
    return "is damaged" in one.refusal and (flowed or not all(_whole_diff(patch.diff) for patch in other.patches))


def _html(one: Answer, other: Answer, thread: Sequence[Letter]) -> bool:
    """git puts the HTML copy of a text behind it, which it then passes over where it applies the diff."""
    for a, b in zip(one.patches, other.patches, strict=False):
        rest = a.diff[len(b.diff) :]
        shown = a.diff[: len(b.diff) - 1] == b.diff[:-1] and "<div" in "".join((a.diff or ("",))[len(b.diff) - 1 :])
        if a.diff != b.diff and not (shown and not any(re.match(r"diff --git |--- |@@ ", row) for row in rest)):
            return False
    return one.ids == other.ids and bool(one.ids)


def _whole_diff(rows: Sequence[str]) -> bool:
    text = ("\n".join(rows) + "\n").encode("utf-8", "surrogateescape")
    argv = ["git", "apply", "--numstat", "--unsafe-paths", "-"]
    return subprocess.run(argv, cwd="/", input=text, capture_output=True).returncode == 0


REASONS: Mapping[str, Reason] = {
    "refused: parts of the series are missing": _lacks,
    "left out: what is no part of the series, or was sent again": _beside,
    "read: the blanks of a mail in format=flowed": _flowed,
    "refused: several patches of one number, of which none can be told to be newer": _several,
    "left out, or a part: a late mail that b4 takes alone, for the newest version": _stray,
    "refused: a diff is damaged, and b4's is no better": _damaged,
    "read: with the HTML copy of a text, which git apply passes over": _html,
}
"""What differs on purpose, and how it is told; the first that holds is it."""


def compared(one: Answer, other: Answer, thread: Sequence[Letter]) -> str:
    """SAME, NO_PATCH, a reason, or what differs, which begins with "different: "."""
    if _NONE.search(one.refusal) and other.refusal == "No patches found.":
        return NO_PATCH
    if not one.refusal and not other.refusal and not (wrong := _differences(one, other)):
        return SAME
    for name, holds in REASONS.items():
        if holds(one, other, thread):
            return name
    if one.refusal or other.refusal:
        return f"different: kharness: {one.refusal or 'reads it'}; b4: {other.refusal or 'reads it'}"
    return "different: " + "; ".join(wrong)


def _differences(one: Answer, other: Answer) -> list[str]:
    out = []
    if one.version != other.version:
        out.append(f"version {one.version}, b4 {other.version}")
    if other.missing:
        out.append(f"b4 lacks {', '.join(other.missing)}")
    if one.ids != other.ids:
        return [*out, f"mails {list(one.ids)}, b4 {list(other.ids)}"]
    for a, b in zip(one.patches, other.patches, strict=True):
        if a.diff != b.diff:
            row = next((pair for pair in zip(a.diff, b.diff, strict=False) if pair[0] != pair[1]), ("", "more lines"))
            out.append(f"diff of {a.id}: {row}")
        if a.trailers != b.trailers:
            out.append(f"trailers of {a.id}: {sorted(a.trailers - b.trailers)}, b4 {sorted(b.trailers - a.trailers)}")
    return out


def compare(thread: Sequence[Letter], order: random.Random | None = None) -> str:
    """What comes out for one thread. With `order` we get its mails in another order than b4."""
    mixed = order.sample(thread, len(thread)) if order else thread
    with tempfile.TemporaryDirectory(prefix="as-b4-") as name:
        box, given = Path(name) / "t.mbox", Path(name) / "given.mbox"
        box.write_bytes(boxed(thread))
        given.write_bytes(boxed(mixed))
        return compared(ours(given, mixed, Path(name)), b4(box, Path(name)), thread)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares, and prints each difference and the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.unit.source.as_b4", description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, metavar="PLACE")
    parser.add_argument(
        "--mails", default="0-1000000000", help="of an archive: FIRST-LAST, counted from 0, the oldest first"
    )
    parser.add_argument(
        "--most", type=int, default=1000000000, help="threads with a patch of each place, the first ones"
    )
    parser.add_argument("--least", type=int, default=1, help="mails of a thread")
    parser.add_argument("--name", action="store_true", help="name the threads that differ on purpose, too")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="give us the mails of each thread in another order")
    flags = parser.parse_args(arguments)
    order = None if flags.shuffle is None else random.Random(flags.shuffle)
    first, _, last = flags.mails.partition("-")
    counts: Counter[str] = Counter()
    letters, several = 0, 0
    for place in flags.places:
        given = grouped(map(letter, collected(place, range(int(first), int(last) + 1))))
        threads_here = [one for one in given if len(one) >= flags.least and any(mail.has_patch for mail in one)]
        for thread in threads_here[: flags.most]:
            found = compare(thread, order)
            counts["different" if found.startswith("different") else found] += 1
            if found != NO_PATCH:
                letters += len(thread)
                several += len(thread) > 1
            if found.startswith("different") or (flags.name and found not in (SAME, NO_PATCH)):
                print(f"{place.name}: {thread[0].id}, {len(thread)} mails: {found}", flush=True)
    none = counts.pop(NO_PATCH, 0)
    print(f"{letters} mails, {counts.total()} threads, {several} of them of several mails; {none} more without a patch")
    for name, count in counts.most_common():
        print(f"{count:6} {name}")
    return int(counts["different"] > 0)


if __name__ == "__main__":
    sys.exit(main())
