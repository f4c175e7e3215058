# SPDX-License-Identifier: GPL-2.0-only
"""The identity of a bisection: the request as plain values, and the day on which it began."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from harness.bisect.drive import Asked
from harness.bisect.state import State
from harness.core.errors import UsageError
from harness.core.options import Options, options_of
from harness.core.plan import Plan
from harness.core.records import encode

DAY = "day"
"""The note that says when a bisection began, as an ISO date."""

DECIDES: Mapping[str, Callable[[Plan], Any]] = {
    "machines": lambda plan: list(plan.machines),
    "suite": lambda plan: plan.suite,
    "bpf": lambda plan: {program.path: _program(Path(program.path)) for program in plan.bpf},
    "faults": lambda plan: [[entry.operation, encode(entry.fault)] for entry in plan.faults],
    # Without place and date: a list that was moved, or read on another day, is the same.
    "allow": lambda plan: sorted([entry.signature, list(entry.arch), entry.expires] for entry in plan.allow),
    "search": lambda plan: plan.search,
    "sequence": lambda plan: [encode(move) for move in plan.sequence],
    "test_id": lambda plan: plan.test_id,
    "tree": lambda plan: plan.tree,
}
"""The fields of a plan that affect a run's result, each as plain values; its options are in :data:`GIVEN`."""

GIVEN = tuple(name for name, (_, meta) in options_of(Options).items() if meta.identity and not meta.becomes)
"""The options that affect it as they were given, by their metadata."""

ELSEWHERE: Mapping[str, str] = {
    "kernels": "the source and the ends; each architecture has a state of its own",
    "seed": "chosen by the ends, where the user chose none",
    "options": "those of GIVEN; the others say where, how fast, or what is kept",
    "kconfig": "of the files, by their contents",
}
"""Further fields that affect it, and where they are recorded."""

INDIFFERENT: Mapping[str, str] = {
    "incremental": "in which folder a kernel is built",
    "argv": "how the command was written",
    "cache_cap_gib": "what is remembered",
    "added": "which lines coverage is asked of",
}
"""Fields that do not affect it, with the reason: with another value the same command continues."""


def identity(
    plan: Plan, asked: Asked, ends: Sequence[str], files: Sequence[str], fixups: Sequence[str]
) -> dict[str, Any]:
    """The request. `files` count by their contents; `fixups` are those of them that fix builds."""
    contents = {path: content(Path(path)) for path in files}
    seed = plan.seed or int(hashlib.sha256(json.dumps([list(ends), contents]).encode()).hexdigest()[:7], 16) + 1
    request: dict[str, Any] = encode(asked)
    plain = {name: value(plan) for name, value in DECIDES.items()}
    plain |= {name: getattr(plan.options, name) for name in GIVEN}
    return {
        **request,
        **plain,
        "source": encode(plan.kernels[0].source),
        "ends": list(ends),
        "files": contents,
        "fixups": list(fixups),
        "seed": seed,
    }


def of_its_day(plan: Plan, state: State) -> Plan:
    """The plan with its allow-list as on the day when the bisection began, so that all runs have the same."""
    day = state.notes.get(DAY)
    if day is None:
        day = date.today().isoformat()
        state.note(DAY, day)
    return replace(plan, allow=tuple(replace(entry, expired=entry.expires < day) for entry in plan.allow))


def unchanged(known: Mapping[str, Any], plan: Plan) -> None:
    """Raise UsageError for a changed file that each run reads again: --fixup, --bpf."""
    now = {**{path: content(Path(path)) for path in known["fixups"]}, **DECIDES["bpf"](plan)}
    before = {**known["files"], **known["bpf"]}
    for path, digest in now.items():
        if digest != before[path]:
            raise UsageError(
                f"{path}, or what it includes, was changed since this bisection began",
                step="bring it back and give the same command, or start again",
            )


def content(path: Path) -> str:
    """A hash of a file, or of those in a folder. Raises UsageError for one that cannot be read."""
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    return _hash(files)


def _program(path: Path) -> str:
    """A hash of a BPF program with the headers beside it, which it may include."""
    return _hash([path, *sorted(path.parent.glob("*.h"))])


def _hash(files: Sequence[Path]) -> str:
    try:
        digests = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}", step="make it readable") from error
    return hashlib.sha256(b"".join(digests)).hexdigest()
