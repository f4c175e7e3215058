# SPDX-License-Identifier: GPL-2.0-only
"""The patches of a series that `b4 review` tracks, for a check that is given no more than its cover letter.

b4 names a file in the environment of its checks (TRACKING): JSON with the Message-IDs of the series' patches and the
git blob that holds the whole thread as a mailbox (b4 0.16, review/tracking.py and review_tui/_common.py).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

from harness.core import given
from harness.core.errors import UsageError
from harness.host.process import run
from harness.source.repository import Objects, find

TRACKING = "B4_TRACKING_FILE"

_BLOB = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_OUT = 'exec git cat-file blob "$1" >"$0"'


def write(tracking: Path, repository: Path, folder: Path) -> int:
    """Write the patches of the series into `folder`, one file a mail, named by their order; how many there are.

    0 where b4 keeps no thread. Raises UsageError for a file that is none of b4's, and for a thread without one of the
    patches.
    """
    series, wanted = _read(tracking)
    blob = str(series.get("thread-blob", ""))
    if not _BLOB.fullmatch(blob) or not wanted:
        return 0
    mails = folder / "thread"
    mails.mkdir()
    _split(repository, blob, mails)
    found = {message_id(path.read_bytes()): path for path in sorted(mails.iterdir())}
    for number, name in enumerate(wanted, 1):
        if name not in found:
            raise UsageError(f"b4's copy of the thread lacks {name}", step="update the series in b4 (its key u)")
        shutil.copyfile(found[name], folder / f"{number:04}.patch")
    shutil.rmtree(mails)
    return len(wanted)


def message_id(mail: bytes) -> str:
    """The Message-ID of a mail without its brackets; empty where it has none."""
    return str(BytesHeaderParser().parsebytes(mail).get("message-id", "")).strip("<> \n\t")


def _read(tracking: Path) -> tuple[Mapping[str, Any], list[str]]:
    """What b4 knows of the series, and the Message-IDs of its patches in their order."""
    step = f"unset {TRACKING}, or use b4 0.16"
    data = given.value(tracking, "b4's tracking file", step)
    try:
        series, patches = data["series"], data["patches"]
        wanted = [str(patch["header-info"]["msgid"]) for patch in patches]
    except (LookupError, TypeError) as error:
        raise UsageError(f"{tracking} is no tracking file of b4: {type(error).__name__}: {error}", step=step) from error
    return (series if isinstance(series, dict) else {}), wanted


def _split(repository: Path, blob: str, mails: Path) -> None:
    """The mails of the thread, one file each."""
    user = find(repository)
    if user is None:
        raise UsageError(f"{repository} is no git repository", step="start the check in the top folder of b4's")
    objects = Objects(user)  # its private git directory is there as long as it is
    box = mails.with_name("mbox")
    for command in (["sh", "-c", _OUT, str(box), blob], ["git", "mailsplit", "-b", "--mboxrd", f"-o{mails}", str(box)]):
        done = run(command, what="reading b4's copy of the thread", env=objects.env, check=False)
        if done.status:
            what = f"git cannot read b4's copy of the thread, {blob[:12]}"
            raise UsageError(what, step="update the series in b4 (its key u)", detail=done.stderr)
    box.unlink()
