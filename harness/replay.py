# SPDX-License-Identifier: GPL-2.0-only
"""Owns the replay file: all that it takes to do one failed test again on the same kernel."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.host.cache import write_atomically
from harness.plan import Allowed, BpfRequest, FaultPlan
from harness.records import SCHEMA, Kernel, Scenario, decode, encode


@dataclass(frozen=True)
class Replay:
    """One test to do again. A replay fails only if it shows one of `signatures` again.

    `suite` is where the test lies; `kconfig`, `cmdline`, `bpf` and `faults` are what the user added, `allow` is the
    allow-list as it was; `patches` are files that bring the kernel's source about; with `coverage` it counts its
    branches. `argv`: how the run was called.
    """

    schema: int
    kernel: Kernel
    test: str
    machine: str
    seed: int
    signatures: tuple[str, ...]
    scenario: Scenario
    argv: tuple[str, ...] = ()
    suite: str = ""
    kconfig: tuple[str, ...] = ()
    cmdline: str = ""
    patches: tuple[str, ...] = ()
    bpf: tuple[BpfRequest, ...] = ()
    faults: tuple[FaultPlan, ...] = ()
    allow: tuple[Allowed, ...] = ()
    coverage: bool = False


def write(path: Path, replay: Replay) -> Path:
    """Write a replay file, whole or not at all. Raises HarnessError when the disk refuses."""
    write_atomically(path, json.dumps(encode(replay), indent=1, ensure_ascii=True) + "\n")
    return path


def read(path: Path) -> Replay:
    """Read a replay file; UsageError, naming the file and the field, when it is not one."""
    step = "give a file from the replay folder of a run"
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the replay file {path}: {error.strerror}", step=step) from error
    except ValueError as error:
        raise UsageError(f"{path} is not a replay file: {error}", step=step) from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"{path} is a replay file of schema {schema!r}, this kharness reads {SCHEMA}",
            step="use the version that wrote it",
        )
    try:
        return decode(data, Replay)
    except UsageError as error:
        raise UsageError(f"{path}: {error.what}", step=step) from error


def one_line(path: Path) -> str:
    """The command that replays the file."""
    return shlex.join(["kharness", "replay", str(path)])


def file_name(text: str) -> str:
    """A test's id as the name of a file: at most 120 characters that no shell minds."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)[-120:]
