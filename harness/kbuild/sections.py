# SPDX-License-Identifier: GPL-2.0-only
"""Whether two kernels are the same code: the sections of vmlinux that are loaded, compared."""

from __future__ import annotations

import hashlib
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from harness.core.errors import HarnessError

_NOT_CODE = (".BTF", ".notes")
"""Loaded, but not run by a CPU: pahole numbers types in the order of its threads, .notes has the build id."""


def loaded(vmlinux: Path) -> dict[str, str]:
    """SHA-256 of each section with SHF_ALLOC by name; of one without content (.bss) its size.

    Raises HarnessError when `vmlinux` is gone or no ELF file.
    """
    found: dict[str, str] = {}
    try:
        with vmlinux.open("rb") as stream:
            for section in ELFFile(stream).iter_sections():
                if not section["sh_flags"] & SH_FLAGS.SHF_ALLOC or section.name.startswith(_NOT_CODE):
                    continue
                empty = section["sh_type"] == "SHT_NOBITS"
                data = str(section["sh_size"]).encode() if empty else section.data()
                found[section.name] = hashlib.sha256(data).hexdigest()
    except (OSError, ELFError) as error:
        raise HarnessError(f"cannot read {vmlinux}: {error}", step="run again: it will be built again") from error
    return found


def differing(one: Path, other: Path) -> tuple[str, ...]:
    """The names of the loaded sections that differ between two vmlinux, sorted."""
    was, now = loaded(one), loaded(other)
    return tuple(sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name)))
