# SPDX-License-Identifier: GPL-2.0-only
"""The replay file: all that is needed to repeat one failed test on the same kernel."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.core import given
from harness.core.errors import UsageError
from harness.core.options import Options, options_of
from harness.core.plan import Allowed, BpfRequest, FaultPlan
from harness.core.records import SCHEMA, Kernel, Scenario, decode, encode
from harness.host.cache import write_atomically
from harness.suite import loader


@dataclass(frozen=True)
class Replay:
    """One test to repeat. A replay fails only if it shows one of `signatures` again.

    `suite` is the path of the test; `kconfig`, `bpf` and `faults` are what the user added, `allow` is the allow-list as
    it was; `patches` are applied to get the kernel's source. `argv`: how the run was called. Of the `options` the file
    has those of :data:`KEPT`, each as a key of its own; the others have their defaults when it is read.
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
    patches: tuple[str, ...] = ()
    bpf: tuple[BpfRequest, ...] = ()
    faults: tuple[FaultPlan, ...] = ()
    allow: tuple[Allowed, ...] = ()
    options: Options = field(default_factory=Options)


KEPT = tuple(name for name, (_, meta) in options_of(Options).items() if meta.replay and not meta.becomes)
"""The options that a replay file has as they were given; others became fields of :class:`Replay`."""


def write(path: Path, replay: Replay) -> Path:
    """Write a replay file, whole or not at all. Raises HarnessError when the disk refuses."""
    data: dict[str, Any] = encode(replay)
    options: dict[str, Any] = data.pop("options")
    data |= {name: options[name] for name in KEPT}
    write_atomically(path, json.dumps(data, indent=1, ensure_ascii=True) + "\n")
    return path


def read(path: Path) -> Replay:
    """Read a replay file; UsageError, naming the file and the field, when it is not one."""
    step = "give a file from the replay folder of a run"
    data = given.value(path, "the replay file", step)
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"{path} is a replay file of schema {schema!r}, this kharness reads {SCHEMA}",
            step="use the version that wrote it",
        )
    try:
        options = decode({name: data[name] for name in KEPT if name in data}, Options)
        found = replace(decode({**data, "options": {}}, Replay), options=options)
    except UsageError as error:
        raise UsageError(f"{path}: {error.what}", step=step) from error
    if "\\u0000" in json.dumps(data):  # no file name has one
        raise UsageError(f"{path}: a NUL in it", step=step)
    return found


def one_line(path: Path | str, argv: Sequence[str] = ()) -> str:
    """The command that replays the file of a run that was called with `argv`; it names a user's suite again."""
    words = list(argv)
    typed = [word.removeprefix("--suite=") for word in words if word.startswith("--suite=")]
    typed += [word for flag, word in itertools.pairwise(words) if flag == "--suite"]
    suite = ["--suite", typed[-1]] if typed and loader.foreign(typed[-1]) else []
    return shlex.join(["kharness", "replay", *suite, str(path)])
