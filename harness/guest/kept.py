# SPDX-License-Identifier: GPL-2.0-only
"""Owns a kept guest: the state of one that a failed test left, in a folder of its own, to be restored by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness import definition
from harness.errors import UsageError
from harness.guest.guest import Guest
from harness.guest.pristine import Pristine
from harness.host.cache import write_atomically
from harness.host.toolchain import Toolchain
from harness.machine.qemu import Launch
from harness.plan import Target
from harness.records import SCHEMA, decode, encode

NAME = "kept.json"


@dataclass(frozen=True)
class KeptGuest:
    """kept.json: the `test` that failed and `why`, the target it ran on, the toolchain whose QEMU saved it."""

    schema: int
    test: str
    why: str
    target: Target
    toolchain: str
    tools: str


def save(guest: Guest, folder: Path, kept: KeptGuest) -> None:
    """Stops the guest, saves it in a new `folder` and lets it go on.

    Image and initramfs go with it, for the cache may not last as long.

    Raises MachineEnded or MachineLost when there is nothing to save or no place for it, OSError for the files.
    """
    folder.mkdir(parents=True)
    try:
        guest.vm.save(folder / "state")
        for name in ("image", "initramfs"):
            shutil.copyfile(getattr(guest.pristine.launch, name), folder / name)
        write_atomically(folder / NAME, json.dumps(encode(kept), indent=1, ensure_ascii=True) + "\n")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:  # a guest that was left standing would be taken for one that hangs
        guest.vm.resume()


def read(folder: Path) -> KeptGuest:
    """What `folder` holds. Raises UsageError for one that holds no kept guest."""
    step = "give a folder from OUT/kept of a 'kharness run --keep'"
    try:
        data = json.loads((folder / NAME).read_bytes())
    except OSError as error:
        raise UsageError(f"no kept guest in {folder}: {error.strerror}", step=step) from error
    except ValueError as error:
        raise UsageError(f"{folder / NAME} is not JSON: {error}", step=step) from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"{folder / NAME} has schema {schema!r}, this kharness reads {SCHEMA}", step="use the version that wrote it"
        )
    for name in ("state", "image", "initramfs"):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} is not whole: it has no {name}", step=step)
    return decode(data, KeptGuest)


def restore(folder: Path, kept: KeptGuest, toolchain: Toolchain) -> Guest:
    """The guest, not yet entered. Raises UsageError when the tools are no longer those that saved it."""
    if toolchain.id != kept.tools:
        raise UsageError(
            f"{folder} was saved by the QEMU of another toolchain ({kept.tools}, this is {toolchain.id})",
            step="run the test again with --keep",
        )
    target = kept.target
    launch = Launch(
        definition.load(target.kernel.arch), target.machine.spec, target.machine.accelerator,
        (folder / "image").resolve(), (folder / "initramfs").resolve(), target.facts, target.cmdline,
    )  # fmt: skip
    state = (folder / "state").resolve()
    return Guest(Pristine(launch, state, 0.0, target.machine.scale, 0, (), "", True), toolchain)
