# SPDX-License-Identifier: GPL-2.0-only
"""Which mails of a thread are the series, as b4 sees it: version, order, trailers, and what is left out.

b4 runs as a library in a Python process of its own (:mod:`harness.source.thread_child`): without git's configuration,
without a home folder, with a deadline, and without the network unless a thread is to be fetched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HarnessError, UsageError
from harness.core.records import decode
from harness.core.words import plural
from harness.host import process, python
from harness.source.repository import environment

SECONDS = 120.0
"""For b4 on one thread; one of 300 mails takes a second."""

FETCH_SECONDS = 120.0

CHILD = "harness.source.thread_child"


@dataclass(frozen=True)
class Member:
    """One mail that is applied: the number of its file, counted from 0, its n in [PATCH n/m] and its subject.

    `trailers` are those that replies gave it; `reply`: it is a diff out of a reply.
    """

    mail: int
    counter: int
    subject: str
    trailers: tuple[str, ...] = ()
    reply: bool = False


@dataclass(frozen=True)
class Thread:
    """What b4 read out of the mails of a thread.

    `members` are in the order in which they are applied. `versions` are all that the thread has, `version` the one that
    was taken; `missing` are numbers of [PATCH n/m] that it lacks. The rest is what was left out: `cover` the subject of
    a cover letter, `replies` how many, `diffs` the subjects of replies with a diff, `others` of further patches.
    `trouble` is why there is no series: then the rest does not count.
    """

    members: tuple[Member, ...] = ()
    version: int = 1
    versions: tuple[int, ...] = ()
    expected: int = 0
    missing: tuple[int, ...] = ()
    base_commit: str = ""
    cover: str = ""
    replies: int = 0
    diffs: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    partial: bool = False
    trouble: str = ""
    step: str = ""

    def line(self, mails: int) -> str:
        """What was taken and what was left out, in one line."""
        taken = sum(not member.reply for member in self.members)
        all_of = f" of {_versions(self.versions)}" if len(self.versions) > 1 else ""
        said = f"{plural(mails, 'mail')}: v{self.version}{all_of}, {plural(taken, 'patch')}"
        if self.partial:
            said += f" (what v{self.version} does not send again is of the version before)"
        trailers = sum(len(member.trailers) for member in self.members)
        said += f", {plural(trailers, 'trailer')} of replies" if trailers else ""
        applied = sum(member.reply for member in self.members)
        said += f", {plural(applied, 'diff')} of replies after them" if applied else ""
        return said + self._left()

    def _left(self) -> str:
        out = ["the cover letter"] if self.cover else []
        out += [f"{plural(self.replies, 'reply')}"] if self.replies else []
        if self.diffs:
            more = f" and {len(self.diffs) - 1} more" if len(self.diffs) > 1 else ""
            out.append(f"a diff in a reply, {self.diffs[0]!a}{more} (--replies applies it)")
        out += [f"the patch {subject!a}" for subject in self.others[:2]]
        out += [f"{len(self.others) - 2} more patches"] if len(self.others) > 2 else []
        return f"; left out: {', '.join(out)}" if out else ""


def _versions(numbers: tuple[int, ...]) -> str:
    return ", ".join(f"v{number}" for number in numbers)


def read(mails: Path, what: str, version: int, replies: bool) -> Thread:
    """The series in the mails of a folder, one a file: the newest, or `version`; with `replies` the diffs in them, too.

    Raises UsageError for a thread that holds none, several, or one with parts missing.
    """
    told = _child(mails.parent, "read", str(mails), str(version), str(int(replies)), seconds=SECONDS, what=what)
    found = decode(told, Thread)
    if found.trouble:
        raise UsageError(f"{what}: {found.trouble}", step=found.step)
    if found.missing:
        parts = ", ".join(f"{number}/{found.expected}" for number in found.missing[:5])
        others = [number for number in found.versions if number != found.version]
        step = "fetch the whole thread" + (f", or --series-version {others[-1]}" if others else "")
        raise UsageError(f"{what}: v{found.version} lacks {parts}", step=step)
    return found


def fetch(message_id: str, folder: Path) -> bytes:
    """The mailbox of the thread that a message-id or the address of a mail names, from where b4 finds it.

    Raises UsageError in one line where there is no network, or no such mail.
    """
    told = _child(folder, "fetch", message_id, seconds=FETCH_SECONDS, what=f"fetching {message_id}")
    if why := str(told.get("trouble", "")):
        raise UsageError(f"{message_id} cannot be fetched: {why}", step="save the thread as a mailbox, and give that")
    return (folder / str(told["box"])).read_bytes()


def _child(folder: Path, *words: str, seconds: float, what: str) -> dict[str, object]:
    """Runs b4's process, whose home is `folder`, and gives its answer."""
    answer = folder / "answer.json"
    homes = {name: str(folder) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    env = {name: value for name, value in python.environment(**homes).items() if not name.startswith("GIT_")}
    env |= {name: value for name, value in environment().items() if name.startswith("GIT_") or name == "LC_ALL"}
    argv = python.module(CHILD, str(answer), *words)
    done = process.run(argv, what=what, env=env, cwd=folder, check=False, deadline=seconds)
    if done.status or not answer.is_file():
        raise HarnessError(f"{what}: b4 failed ({process.how_ended(done.status)})", detail=done.stderr[-2000:])
    found: dict[str, object] = json.loads(answer.read_text())
    return found
