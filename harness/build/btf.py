# SPDX-License-Identifier: GPL-2.0-only
"""Owns what a built kernel has, by its BTF: structures and their members, enumerators, functions."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

from harness.build.symbols import Tools
from harness.host.toolchain import Bind
from harness.records import HarnessError

_INSIDE = "/run/vmlinux"
_TYPE = re.compile(r"^\[\d+\] (STRUCT|UNION|FUNC) '([^']+)'")
_MEMBER = re.compile(r"^\t'([^']+)' ")
_ENUMERATOR = re.compile(r"^\t'([^']+)' val=(-?\d+)")


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

    @cached_property
    def _types(self) -> dict[str, set[str]]:
        """Structures and unions with their members; those of one name are taken together."""
        return self._read[0]

    @cached_property
    def _enumerators(self) -> dict[str, int]:
        return self._read[1]

    @cached_property
    def _functions(self) -> set[str]:
        return self._read[2]

    @cached_property
    def _read(self) -> tuple[dict[str, set[str]], dict[str, int], set[str]]:
        if not self._vmlinux.is_file():
            raise HarnessError(f"{self._vmlinux} is gone", step="run again: it will be built anew")
        done = self._toolchain.run(
            ["bpftool", "btf", "dump", "file", _INSIDE], what="reading the kernel's BTF",
            binds=[Bind(self._vmlinux, _INSIDE)],
        )  # fmt: skip
        return parse(done.stdout)


def parse(text: str) -> tuple[dict[str, set[str]], dict[str, int], set[str]]:
    """Members by structure, enumerators with their values, and functions, from ``bpftool btf dump`` in its raw form."""
    types: dict[str, set[str]] = {}
    enumerators: dict[str, int] = {}
    functions: set[str] = set()
    members: set[str] | None = None
    enum = False
    for line in text.splitlines():
        if line.startswith("["):
            found = _TYPE.match(line)
            enum = line.partition("] ")[2].startswith("ENUM")
            members = types.setdefault(found[2], set()) if found and found[1] in ("STRUCT", "UNION") else None
            if found and found[1] == "FUNC":
                functions.add(found[2])
        elif enum and (value := _ENUMERATOR.match(line)):
            enumerators[value[1]] = int(value[2])
        elif members is not None and (member := _MEMBER.match(line)):
            members.add(member[1])
    if not types:
        raise HarnessError("the kernel has no BTF", step="see whether pahole is 1.26 or newer: 'kharness doctor'")
    return types, enumerators, functions
