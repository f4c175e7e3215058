# SPDX-License-Identifier: GPL-2.0-only
"""What a built kernel has, by its BTF: structures and their members, enumerators, functions."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import HarnessError
from harness.host.toolchain import Bind
from harness.kbuild.symbols import Tools

_INSIDE = "/run/vmlinux"
_TYPE = re.compile(r"^\[(\d+)\] (STRUCT|UNION|FUNC) '([^']+)'")
_MEMBER = re.compile(r"^\t'([^']+)' type_id=(\d+) bits_offset=(\d+)")
_ENUMERATOR = re.compile(r"^\t'([^']+)' val=(-?\d+)")


class Member(NamedTuple):
    """The offset of a member in its structure, in bits, and the number of its type."""

    type: int
    bits: int


class Types(NamedTuple):
    """The content of a BTF: members by structure, structures by the number of their type, enumerators, functions."""

    members: dict[str, dict[str, Member]]
    names: dict[int, str]
    enumerators: dict[str, int]
    functions: set[str]


class Btf:
    """The types of one vmlinux, read on first use by bpftool in `toolchain`.

    Raises HarnessError when vmlinux is gone or holds no BTF.
    """

    def __init__(self, vmlinux: Path, toolchain: Tools) -> None:
        self._vmlinux = vmlinux
        self._toolchain = toolchain

    def members(self, name: str) -> frozenset[str]:
        """The direct members of a structure or union; empty where there is none of this name."""
        return frozenset(self._types.get(name, ()))

    def offset(self, name: str, *path: str) -> int | None:
        """The offset of a member of members in a structure, in bytes; None where there is no such member."""
        bits = 0
        for part in path:
            member = self._types.get(name, {}).get(part)
            if member is None:
                return None
            bits += member.bits
            name = self._read.names.get(member.type, "")
        return bits // 8

    def has_function(self, name: str) -> bool:
        """Whether there is a function of this name that was not inlined everywhere."""
        return name in self._functions

    def has_enumerator(self, name: str) -> bool:
        """Whether any enum has this enumerator."""
        return name in self._enumerators

    def enumerator(self, name: str) -> int | None:
        """The value of an enumerator of any enum, or None where there is none of this name."""
        return self._enumerators.get(name)

    def enumerators(self, prefix: str) -> dict[str, int]:
        """The enumerators of any enum whose names begin so, with their values."""
        return {name: value for name, value in self._enumerators.items() if name.startswith(prefix)}

    @property
    def _types(self) -> dict[str, dict[str, Member]]:
        """Structures and unions with their members; those of one name are taken together."""
        return self._read.members

    @property
    def _enumerators(self) -> dict[str, int]:
        return self._read.enumerators

    @property
    def _functions(self) -> set[str]:
        return self._read.functions

    @cached_property
    def _read(self) -> Types:
        if not self._vmlinux.is_file():
            raise HarnessError(f"{self._vmlinux} is gone", step="run again: it will be built again")
        done = self._toolchain.run(
            ["bpftool", "btf", "dump", "file", _INSIDE],
            what="reading the kernel's BTF",
            binds=[Bind(self._vmlinux, _INSIDE)],
        )
        return parse(done.stdout)


def parse(text: str) -> Types:
    """Parse the raw output of ``bpftool btf dump``. Raises HarnessError where it has no types."""
    read = Types({}, {}, {}, set())
    members: dict[str, Member] | None = None
    enum = False
    for line in text.splitlines():
        if line.startswith("["):
            found = _TYPE.match(line)
            enum = line.partition("] ")[2].startswith("ENUM")
            members = None
            if found and found[2] == "FUNC":
                read.functions.add(found[3])
            elif found:
                members = read.members.setdefault(found[3], {})
                read.names[int(found[1])] = found[3]
        elif enum and (value := _ENUMERATOR.match(line)):
            read.enumerators[value[1]] = int(value[2])
        elif members is not None and (member := _MEMBER.match(line)):
            members[member[1]] = Member(int(member[2]), int(member[3]))
    if not read.members:
        raise HarnessError("the kernel has no BTF", step="see whether pahole is 1.26 or newer: 'kharness doctor'")
    return read
