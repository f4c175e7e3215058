# SPDX-License-Identifier: GPL-2.0-only
"""Owns what makes a bisection this one and no other: what was asked for, as plain values, and of which day it is."""

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
from harness.errors import UsageError
from harness.plan import Plan
from harness.records import encode

DAY = "day"
"""The note that says when a bisection began, as an ISO date."""

DECIDES: Mapping[str, Callable[[Plan], Any]] = {
    "machines": lambda plan: list(plan.machines),
    "suite": lambda plan: plan.suite,
    "full": lambda plan: plan.full,
    "cmdline": lambda plan: plan.cmdline,
    "bpf": lambda plan: {program.path: _program(Path(program.path)) for program in plan.bpf},
    "faults": lambda plan: [[entry.operation, encode(entry.fault)] for entry in plan.faults],
    # Not the place, nor what depends on today: a list that was moved, or read on another day, is the same.
    "allow": lambda plan: sorted(
        [entry.signature, list(entry.arch), entry.expires] for entry in plan.allow
    ),
    "toolchain": lambda plan: plan.toolchain,
    "coverage": lambda plan: plan.coverage,  # its kernels are built otherwise
    "search": lambda plan: plan.search,
    "sequence": lambda plan: [encode(move) for move in plan.sequence],
    "test_id": lambda plan: plan.test_id,
    "tree": lambda plan: plan.tree,
}
"""The fields of a plan that decide what a run says, each as plain values."""

ELSEWHERE: Mapping[str, str] = {
    "kernels": "the source and the ends; each architecture has a state of its own",
    "seed": "chosen by the ends, where the user chose none",
    "select": "of Asked",
    "kconfig": "of the files, by their contents",
}
"""Those that decide it too, and how they are told."""

INDIFFERENT: Mapping[str, str] = {
    "out": "where the state lies",
    "jobs": "how fast a kernel is built",
    "incremental": "in which folder a kernel is built",
    "guests": "how many guests run at once",
    "keep": "what is kept of a guest that failed",
    "dump": "what is written of a guest that died",
    "argv": "how the command was written",
    "cache_cap_gib": "what is remembered",
}
"""Those that do not, and what they are about: with another value the same command goes on."""


def identity(
    plan: Plan, asked: Asked, ends: Sequence[str], files: Sequence[str], fixups: Sequence[str]
) -> dict[str, Any]:
    """What was asked for. `files` count by their contents; `fixups` are those of them that mend builds."""
    contents = {path: content(Path(path)) for path in files}
    seed = plan.seed or int(hashlib.sha256(json.dumps([list(ends), contents]).encode()).hexdigest()[:7], 16) + 1
    told: dict[str, Any] = encode(asked)
    plain = {name: value(plan) for name, value in DECIDES.items()}
    return {
        **told, **plain, "source": encode(plan.kernels[0].source), "ends": list(ends), "files": contents,
        "fixups": list(fixups), "seed": seed,
    }  # fmt: skip


def of_its_day(plan: Plan, state: State) -> Plan:
    """The plan with its allow-list as on the day when the bisection began: no night divides its runs."""
    day = state.notes.get(DAY)
    if day is None:
        day = date.today().isoformat()
        state.note(DAY, day)
    return replace(plan, allow=tuple(replace(entry, expired=entry.expires < day) for entry in plan.allow))


def unchanged(told: Mapping[str, Any], plan: Plan) -> None:
    """Raises UsageError for a file that each run reads anew and that is no longer what it was: --fixup, --bpf."""
    now = {**{path: content(Path(path)) for path in told["fixups"]}, **DECIDES["bpf"](plan)}
    before = {**told["files"], **told["bpf"]}
    for path, digest in now.items():
        if digest != before[path]:
            raise UsageError(
                f"{path}, or what it includes, was changed since this bisection began",
                step="bring it back and give the same command, or begin anew",
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
