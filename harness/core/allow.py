# SPDX-License-Identifier: GPL-2.0-only
"""The allow-list: findings that are known and do not count for a while, read from YAML and applied to findings.

A list of entries, of which signature, reason and expires are needed:

    - signature: "dmesg:warn:copy_process<kernel_clone*"   # as the report prints it; * and ? are wildcards
      arch: arm64                                            # or a list; without it on all
      reason: known upstream, to be fixed with the next -rc
      expires: 2027-01-31                                    # the last day
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from harness.core.checkout import CHECKOUT
from harness.core.definition import load
from harness.core.errors import UsageError
from harness.core.given import convert_some, keyed, listed
from harness.core.plan import Allowed
from harness.core.records import Finding

FILE = "allow.yaml"
"""The list of a suite: in its folder or the nearest one above."""

KEYS: dict[str, Any] = {"signature": str, "arch": tuple[str, ...], "reason": str, "expires": str}
NEEDED = ("signature", "reason", "expires")
STEP = f"an entry has the keys {', '.join(KEYS)}; {', '.join(NEEDED)} are needed"

_NAMED = re.compile(r"[a-z_ ]+:[^:*?]+:")


# --- applied to findings --------------------------------------------------------------------


def fits(entry: Allowed, signature: str, arch: str) -> bool:
    """Whether the entry, expired or not, covers a finding of this signature on this architecture."""
    return (not entry.arch or arch in entry.arch) and matches(entry.signature, signature)


def matches(wanted: str, signature: str) -> bool:
    """Whether a signature matches the pattern of an entry.

    Only ``*`` and ``?`` are wildcards: signatures have brackets of their own.
    """
    pattern = re.escape(wanted).replace(r"\*", ".*").replace(r"\?", ".")
    return wanted == signature or re.fullmatch(pattern, signature, re.DOTALL) is not None


def applied(found: Iterable[Finding], listed: Sequence[Allowed], arch: str) -> list[Finding]:
    """Put into `allowed_by` of each finding that counts the reason of the first entry that covers it."""
    live = [entry for entry in listed if not entry.expired]

    def marked(finding: Finding) -> Finding:
        why = next((entry.reason for entry in live if fits(entry, finding.signature, arch)), None)
        return replace(finding, allowed_by=why) if why is not None and finding.counts else finding

    return [marked(finding) for finding in found]


# --- files ----------------------------------------------------------------------------------


def gather(suite: str, files: Sequence[str], today: datetime.date) -> tuple[Allowed, ...]:
    """The entries for a run of this suite: its own list, then those files.

    Raises UsageError as :func:`read` does.
    """
    here = (CHECKOUT / suite).resolve()
    own = [folder / FILE for folder in (here, *here.parents) if (folder / FILE).is_file()][:1]
    given = [Path(file).expanduser() for file in files]
    return tuple(entry for path in (*own, *given) for entry in read(path, today))


def read(path: Path, today: datetime.date) -> tuple[Allowed, ...]:
    """The entries of a file; those whose last day is before `today` are marked as expired.

    Raises UsageError, naming file, line and key, when it cannot be read or is no allow-list.
    """
    found: list[Allowed] = []
    for node in listed(path, "the allow-list", "- signature: ...", STEP):
        entry = _entry(node, path, today)
        for other in found:
            if other.signature == entry.signature and (
                not (other.arch and entry.arch) or {*other.arch} & {*entry.arch}
            ):
                raise UsageError(f"{entry.place}: this signature is there twice, as in {other.place}", step="keep one")
        found.append(entry)
    return tuple(found)


def _entry(node: yaml.Node, path: Path, today: datetime.date) -> Allowed:
    found, line = keyed(node, path, _value, list(KEYS), NEEDED, STEP)
    # Relative, as the report shows it.
    shown = path.resolve().relative_to(CHECKOUT) if path.resolve().is_relative_to(CHECKOUT) else path
    found["reason"] = " ".join(found["reason"].split())
    expired = datetime.date.fromisoformat(found["expires"]) < today
    return Allowed(**found, place=f"{shown}:{line}", expired=expired)


def _value(node: yaml.Node, name: str, where: str) -> Any:
    value = convert_some(node, KEYS[name], f"{where}: {name}", STEP)
    if name == "expires" and not _is_date(value):
        raise UsageError(f"{where}: expires: {value!r} is no date", step="write the last day as 2027-01-31")
    if name == "signature":
        _check_signature(node, value, where)
    if name == "arch":
        for arch in value:
            load(arch)
    return value


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _check_signature(node: yaml.Node, value: str, where: str) -> None:
    """Raise UsageError for a signature that would allow all findings of an oracle, or that YAML has cut off."""
    if value and not _NAMED.match(value):
        raise UsageError(
            f"{where}: signature: {value!r} does not name oracle and kind",
            step="copy it from the report; * is for what follows, as in dmesg:warn:copy_process*",
        )
    end = node.end_mark
    rest = (end.buffer or "")[end.pointer :].partition("\n")[0]
    # Signatures have # for numbers.
    if isinstance(node, yaml.ScalarNode) and node.style is None and rest.lstrip().startswith("#"):
        raise UsageError(f"{where}: signature: what follows ' #' is a comment to YAML", step="put it in quotes")
