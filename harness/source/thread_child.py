# SPDX-License-Identifier: GPL-2.0-only
"""The process in which b4 reads a thread: ``thread_child ANSWER read MAILS VERSION REPLIES`` or ``ANSWER fetch ID``.

b4 is a library here. What it would do beside reading is off: signatures are not checked (so dkimpy, of which there is
no wheel, is not installed), no archive is asked for more trailers, no configuration is read.
"""

from __future__ import annotations

import json
import sys
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

from harness.core.records import encode
from harness.source.threads import Member, Thread

sys.modules.setdefault("dkim", types.ModuleType("dkim"))

import b4  # noqa: E402

BOX = "fetched.mbox"
UNKNOWN = "kharness.invalid"
"""The domain of the message-ids that mails get which have none, as those that were never sent."""

Lore = b4.LoreMessage


@dataclass
class Box:
    """The mails of a thread, as b4 knows them, with the numbers of their files."""

    lore: list[Lore]
    numbers: dict[str, int]
    sent: bool
    """Whether any of them has a message-id, so was sent."""

    @property
    def patches(self) -> list[Lore]:
        """Those that bring a diff, and are no replies."""
        return [one for one in self.lore if one.has_diff and not one.reply and not is_cover(one)]


def is_cover(one: Lore) -> bool:
    """Whether b4 takes a mail for a cover letter by its subject."""
    return one.counter == 0 and (not one.counters_inferred or one.has_diffstat)


def load(folder: Path) -> Box:
    """The mails in a folder, by their names. One of an id that was there already is passed over, as b4 does."""
    parser = BytesParser(policy=b4.emlpolicy, _class=EmailMessage)
    box = Box([], {}, False)
    for number, file in enumerate(sorted(folder.iterdir())):
        mail = parser.parsebytes(file.read_bytes())
        if b4.LoreMessage.get_clean_msgid(mail):
            box.sent = True
        else:
            del mail["Message-ID"]
            mail["Message-ID"] = f"<{number}@{UNKNOWN}>"
        if mail["Subject"] is None:
            mail["Subject"] = ""
        one = b4.LoreMessage(mail)
        if one.msgid not in box.numbers:
            box.numbers[one.msgid] = number
            box.lore.append(one)
    told = {one.msgid: one for one in box.patches if not (one.counters_inferred and one.revision_inferred)}
    box.lore = [_with_number(told, one) for one in box.lore]
    return box


def _with_number(told: Mapping[str, Lore], one: Lore) -> Lore:
    """A patch as the one with a number or a version that it replaces, though it does not say so: its author answers
    that with it, under the same subject, as "[PATCH v2b] x" does "[PATCH v2 2/2] x"."""
    known = told.get(one.in_reply_to or "")
    if known is None or one.reply or not one.has_diff or not (one.counters_inferred and one.revision_inferred):
        return one
    if (one.fromemail, one.subject) != (known.fromemail, known.subject):
        return one
    del one.msg["Subject"]
    one.msg["Subject"] = known.full_subject
    return b4.LoreMessage(one.msg)


def thread_of(box: Box) -> Callable[[Lore], str]:
    """A function that says in which thread a mail is: by the ids that it and the others refer to."""
    above: dict[str, str] = {}

    def root(name: str) -> str:
        while above.setdefault(name, name) != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    for one in box.lore:
        for other in one.references:
            above[root(one.msgid)] = root(other)
    return lambda one: root(one.msgid)


def answer(folder: Path, version: int, replies: bool) -> Thread:
    """The series in the mails of a folder; its `trouble` says why there is none."""
    box = load(folder)
    if not box.patches:
        return _nothing(box, replies)
    loose = _each_alone(box)
    if loose:
        return loose
    dropped = _beside(box)
    if dropped is None:
        return _several(box)
    library = b4.LoreMailbox()
    # What b4 makes of a patch hangs on those that it knows by then: whatever order they are in, the oldest comes first.
    for one in _by_date(box.lore):
        if one not in dropped:
            library.add_message(one.msg)
    versions = tuple(sorted(library.series))
    if version and version not in library.series:
        there = ", ".join(f"v{number}" for number in versions)
        return Thread(trouble=f"there is no v{version} of the series, but {there}", step="check --series-version")
    if len(versions) == 1:
        # b4 asks git for each patch's id, to find it in other versions; where there are none any id will do.
        for member in library.series[versions[0]].patches:
            if member is not None:
                member._git_patch_id = member.msgid
    series = library.get_series(revision=version or None, codereview_trailers=False)
    if series is None:
        return Thread(trouble="b4 finds no series in it", step="give the patches alone")
    return _read(box, series, versions, dropped, replies)


def _nothing(box: Box, replies: bool) -> Thread:
    diffs = tuple(one for one in box.lore if one.has_diff and one.reply)
    if not diffs:
        return Thread(trouble="no diff in it", step="give a patch, a mailbox, or a folder of them")
    if not replies:
        count = f"only replies have a diff, as {diffs[0].full_subject!a}"
        return Thread(trouble=count, step="--replies applies it")
    members = tuple(Member(box.numbers[one.msgid], 0, one.subject, reply=True) for one in _by_date(diffs))
    return Thread(members, replies=len(box.lore) - len(diffs))


def _each_alone(box: Box) -> Thread | None:
    """The patches one after the other, where a mailbox is no series: not sent and not numbered, or a mail of each of
    several threads, as a mail program saves those that were marked. None where it is one thread."""
    patches = box.patches
    numbered = [one for one in patches if not one.counters_inferred]
    if numbered or any(not one.revision_inferred for one in patches):
        return None
    threads = {thread_of(box)(one) for one in patches}
    subjects = {one.subject for one in patches}
    if box.sent and not len(threads) == len(subjects) == len(patches) > 1:
        return None
    members = tuple(_member(box, one, ()) for one in patches)
    return Thread(members, 1, (1,), len(members), replies=sum(one.reply for one in box.lore))


def _beside(box: Box) -> list[Lore] | None:
    """Patches that b4 would take into a series of which they are no part, or for a version of it: without a number in a
    numbered one whose first it is not, of another author beside a single one, answers, or those that were replaced
    since. None where there are several series."""
    out: list[Lore] = []
    first: dict[tuple[int, int], Lore] = {}
    thread = thread_of(box)
    numbered = {one.revision for one in box.patches if not one.counters_inferred}
    begun, strays = _begun(box), _strays(box)
    for one in _by_date(box.patches):
        if one.msgid in strays or (one.counters_inferred and one.revision in numbered and one.msgid not in begun):
            out.append(one)
            continue
        known = first.setdefault((one.revision, one.counter), one)
        if known is one:
            continue
        if _next_version(one, known) and thread(one) == thread(known):
            continue
        if one.subject == known.subject or (one.in_reply_to == known.msgid and one.fromemail == known.fromemail):
            out.append(known)
            first[one.revision, one.counter] = one
        elif thread(one) == thread(known) and one.counters_inferred:
            out.append(one)
        else:
            return None
    return out


def _next_version(one: Lore, known: Lore) -> bool:
    """Whether b4 takes a patch for the next version of an older one, though it does not say so."""
    said = one.lsubject.patch and not one.lsubject.resend
    return one.counters_inferred and said and one.fromemail == known.fromemail and known.date < one.date


def _begun(box: Box) -> set[str]:
    """Patches without a number that are the first of a numbered series all the same: the author's others answer it."""
    numbered = [one for one in box.patches if not one.counters_inferred]
    led = {one.revision for one in numbered if one.counter == 1}
    rest = {(one.in_reply_to, one.revision, one.fromemail) for one in numbered if one.revision not in led}
    return {one.msgid for one in box.patches if (one.msgid, one.revision, one.fromemail) in rest}


def _strays(box: Box) -> set[str]:
    """Patches with neither a number nor a version that answer one with either: what somebody made of a series. b4 takes
    a late one for the newest version."""
    told = {one.msgid for one in box.patches if not (one.counters_inferred and one.revision_inferred)}
    versions = {one.revision for one in box.patches if one.msgid in told}
    told |= {one.msgid for one in box.lore if not one.reply and is_cover(one) and one.revision in versions}
    # What numbered patches answer, and is not there, is their cover letter.
    told |= {one.in_reply_to for one in box.patches if not one.counters_inferred and one.in_reply_to} - set(box.numbers)
    return {one.msgid for one in box.patches if one.msgid not in told and not told.isdisjoint(one.references)}


def _several(box: Box) -> Thread:
    firsts = list(dict.fromkeys(one.full_subject for one in box.patches if one.counter == 1))
    if len(firsts) < 2:
        counts = Counter((one.revision, one.counter) for one in box.patches)
        firsts = [one.full_subject for one in box.patches if counts[one.revision, one.counter] > 1]
    names = ", ".join(ascii(name[:80]) for name in firsts[:3])
    more = f" and {len(firsts) - 3} more" if len(firsts) > 3 else ""
    return Thread(trouble=f"holds several series: {names}{more}", step="save the thread of one of them")


def _by_date(mails: Sequence[Lore]) -> list[Lore]:
    return sorted(mails, key=lambda one: one.date)


def _member(box: Box, one: Lore, trailers: Sequence[b4.LoreTrailer]) -> Member:
    own = b4.LoreMessage.find_trailers(one.body)[0]
    fresh: list[b4.LoreTrailer] = []
    for trailer in trailers:
        if trailer not in own and trailer not in fresh:
            fresh.append(trailer)
    said = tuple(trailer.as_string() for trailer in fresh)
    return Member(box.numbers[one.msgid], one.counter, one.subject, said)


def _read(box: Box, series: b4.LoreSeries, versions: tuple[int, ...], dropped: list[Lore], replies: bool) -> Thread:
    cover = series.patches[0]
    shared = cover.followup_trailers if cover is not None else []
    members = [_member(box, one, [*one.followup_trailers, *shared]) for one in series.patches[1:] if one is not None]
    taken = {series_mail.msgid for series_mail in series.patches if series_mail is not None}
    answers = [one for one in box.lore if one.reply and one.has_diff]
    # What was sent on top of the version before, as [PATCH 3/2], is lost where b4 takes over the rest of that.
    beyond = [one for one in box.patches if series.partial_reroll and one.counter > series.expected]
    mine = [one for one in _by_date(answers) if _answers(box, one, taken)] if replies else []
    members += [Member(box.numbers[one.msgid], 0, one.subject, reply=True) for one in mine]
    return Thread(
        members=tuple(members),
        version=series.revision,
        versions=versions,
        expected=series.expected,
        missing=tuple(number for number, one in enumerate(series.patches) if number and one is None),
        base_commit=series.base_commit or "",
        cover=cover.subject if cover is not None else "",
        replies=sum(one.reply for one in box.lore) - len(mine),
        diffs=tuple(one.full_subject for one in answers if one not in mine),
        others=tuple(one.full_subject for one in [*dropped, *beyond]),
        partial=series.partial_reroll,
    )


def _answers(box: Box, one: Lore, taken: set[str]) -> bool:
    """Whether a reply is one to a mail that is taken, before any other patch of the thread."""
    known = {other.msgid: other for other in box.lore}
    seen: set[str] = set()
    above = one.in_reply_to
    while above and above not in seen:
        if above in taken:
            return True
        seen.add(above)
        parent = known.get(above)
        if parent is None or not parent.reply:
            return False
        above = parent.in_reply_to
    return False


def fetch(message_id: str) -> dict[str, str]:
    """The thread of a mail, as a mailbox in the current folder; why not, in ``trouble``."""
    import liblore

    wanted = b4.parse_msgid(message_id)
    try:
        found = b4.get_lore_node().get_mbox_by_msgid(wanted, nocache=True)
    except (liblore.LibloreError, LookupError, OSError) as error:
        said = str(error).partition("\n")[0].partition(": HTTP")[0]  # what follows is urllib3's, of many lines
        return {"trouble": said[:300] or type(error).__name__}
    if not found:
        return {"trouble": "no such mail is known there"}
    Path(BOX).write_bytes(found)
    return {"box": BOX}


def main(arguments: Sequence[str]) -> None:
    """Answers into the file that comes first."""
    place, verb, *rest = arguments
    b4.can_network = verb == "fetch"
    b4.MAIN_CONFIG = {**b4.DEFAULT_CONFIG, "attestation-policy": "off"}
    if verb == "fetch":
        told: object = fetch(rest[0])
    else:
        told = encode(answer(Path(rest[0]), int(rest[1]), rest[2] == "1"))
    Path(place).write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])
