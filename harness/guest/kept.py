# SPDX-License-Identifier: GPL-2.0-only
"""A kept guest: the state of one that a failed test left, in a folder of its own, to be restored by hand."""

from __future__ import annotations

import json
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from harness.core import definition, given
from harness.core.errors import UsageError
from harness.core.plan import SavedTarget
from harness.core.records import SCHEMA, decode, encode
from harness.guest.guest import Guest
from harness.guest.pristine import Pristine
from harness.host import below
from harness.host.cache import write_atomically
from harness.host.toolchain import Toolchain
from harness.machine.qemu import Launch

NAME = "kept.json"
MOST = 4096
"""The most CPUs, or GiB, that any machine has."""
FILES = ("state", "image", "initramfs")


@dataclass(frozen=True)
class KeptGuest:
    """kept.json: the `test` that failed and `why`, the target it ran on, the toolchain whose QEMU saved it."""

    schema: int
    test: str
    why: str
    target: SavedTarget
    toolchain: str
    tools: str


def save(guest: Guest, folder: Path, kept: KeptGuest) -> None:
    """Stop the guest, save it in a new `folder` and resume it.

    Image and initramfs are saved too, as the cache may not last as long.

    Raises MachineEnded or MachineLost when the guest cannot be saved, OSError for the files.
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
    finally:  # a guest that stays stopped would look like one that hangs
        guest.vm.resume()


def read(folder: Path) -> KeptGuest:
    """Read `folder`, which another user may have made: no link in it is followed.

    Raises UsageError for one that holds no kept guest.
    """
    step = "give a folder from OUT/kept of a 'kharness run --keep'"
    if below.inspect(folder, NAME) is None:
        raise UsageError(f"no kept guest in {folder}: No such file", step=step)
    _check_files(folder, NAME)
    data = given.value(folder / NAME, "the kept guest", step)
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"{folder / NAME} has schema {schema!r}, this kharness reads {SCHEMA}", step="use the version that wrote it"
        )
    _check_files(folder, *FILES)
    try:
        found = decode(data, KeptGuest)
        _check(found)
    except UsageError as error:
        raise UsageError(f"{folder / NAME}: {error.what}", step=error.step or step) from error
    return found


def _check(found: KeptGuest) -> None:
    """Raise UsageError for an impossible machine: the file may come from a stranger."""
    known, machine = definition.load(found.target.kernel.arch), found.target.machine
    shape = machine.spec
    cpus = 1 <= shape.nodes <= shape.possible_cpus <= MOST and shape.online_cpus >= 1
    if not (cpus and 1 <= shape.memory_mib <= MOST << 10):
        raise UsageError(f"no machine has {shape.possible_cpus} CPUs, {shape.nodes} nodes and {shape.memory_mib} MiB")
    if machine.accelerator not in known.qemu.cpu:
        raise UsageError(f"no accelerator {machine.accelerator!r}", step=f"one of: {', '.join(known.qemu.cpu)}")
    try:
        known.qemu.cmdline.format_map(found.target.facts)
    except KeyError as error:
        raise UsageError(f"it does not say what {error} was for its QEMU") from error


def _check_files(folder: Path, *names: str) -> None:
    """Raise UsageError where a file of a kept guest is missing, or is a link: QEMU would get what that leads to."""
    step = "give a folder from OUT/kept of a 'kharness run --keep'"
    for name in names:
        found = below.inspect(folder, name)
        if found is None:
            raise UsageError(f"{folder} is not whole: it has no {name}", step=step)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{folder} is no kept guest: its {name} is {below.kind(found)}", step=step)


def restore(folder: Path, kept: KeptGuest, toolchain: Toolchain) -> Guest:
    """The guest, not yet entered. Raises UsageError when the tools are no longer those that saved it."""
    if toolchain.id != kept.tools:
        raise UsageError(
            f"{folder} was saved by the QEMU of another toolchain ({kept.tools}, this is {toolchain.id})",
            step="run the test again with --keep",
        )
    _check_files(folder, *FILES)
    place, target = folder.resolve(), kept.target
    launch = Launch(
        definition.load(target.kernel.arch),
        target.machine.spec,
        target.machine.accelerator,
        place / "image",
        place / "initramfs",
        target.facts,
        target.cmdline,
    )
    return Guest(Pristine(launch, place / "state", None, 0.0, target.machine.scale, 0, (), "", True), toolchain)
