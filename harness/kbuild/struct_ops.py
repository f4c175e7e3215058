# SPDX-License-Identifier: GPL-2.0-only
"""BPF schedulers of the user's: compiled against the kernel under test, and what is in the object."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.core.errors import HarnessError, UsageError
from harness.core.plan import BpfRequest, Scheduler, StructOps
from harness.host import below
from harness.host.toolchain import Bind, Toolchain
from harness.kbuild.btf import Btf
from harness.kbuild.image import GUEST, OBSERVERS, GuestBuild
from harness.kbuild.products import out_folder

# Below /tmp, which is private: elsewhere bubblewrap would leave mount points behind in the shared root.
USER, KERNEL, OUT, TYPES = "/tmp/user", "/tmp/kernel", "/tmp/out", "/tmp/types"
INSIDE = "/tmp/object"


@dataclass(frozen=True)
class Object:
    """From the BTF of a compiled object: its struct_ops maps, each with its type, and its global variables."""

    ops: dict[str, str]
    variables: frozenset[str]


@dataclass(frozen=True)
class Compiler:
    """Compiles for one kernel: `tree` is its source, `btf` its types; `folder` is scratch and gets the objects.

    `headers` is the folder of the suite's BPF programs, for their headers.
    """

    tree: Path
    vmlinux: Path
    btf: Btf
    how: GuestBuild
    toolchain: Toolchain
    folder: Path
    kind: StructOps
    headers: Path | None = None

    def schedulers(self, requests: Sequence[BpfRequest]) -> tuple[Scheduler, ...]:
        """Compile all of them, each to NAME.bpf.o in `folder`.

        Raises UsageError for one that does not compile, has not exactly one struct_ops map of a scheduler, or is not
        what a replay asks for.
        """
        types = self.folder / "types"
        types.mkdir()
        self.toolchain.run(
            ["sh", "-c", f"bpftool btf dump file {INSIDE} format c > {TYPES}/vmlinux.h"],
            what="writing vmlinux.h",
            binds=[Bind(self.vmlinux, INSIDE), Bind(types, TYPES, writable=True)],
        )
        return tuple(self._one(request) for request in requests)

    def _one(self, request: BpfRequest) -> Scheduler:
        source, name = Path(request.path), request.name
        sha256 = self._compile(source, name)
        if request.sha256 and request.sha256 != sha256:
            raise UsageError(
                f"{source} or what it includes has changed since: its content is {sha256[:12]}, "
                f"{request.sha256[:12]} was tested",
                step="bring the old content back, or run the suite on the new one",
            )
        found = self._object(name)
        # Without a value each of them is 0.
        prefix = self.kind.constants
        unset = [variable for variable in sorted(found.variables) if prefix and variable.startswith(prefix)]
        wanted = {variable: self.btf.enumerator(variable.removeprefix("__")) for variable in unset}
        constants = {variable: value for variable, value in wanted.items() if value is not None}
        return Scheduler(name, request.path, sha256, the_ops(source, found, self.kind), constants)

    def _compile(self, source: Path, name: str) -> str:
        """Compiles it; returns the hash of the file and of what it includes from its own folder."""
        user = self.how.definition.userspace
        includes = [f"-I{KERNEL}/{folder}" for folder in self.kind.includes]
        argv = [
            "clang-19",
            "-g",
            "-O2",
            "-target",
            "bpf",
            "-mcpu=v3",
            f"-D__TARGET_ARCH_{user.bpf}",
            "-nostdlibinc",
            *includes,
            "-I/bpf",
            *(["-I/suite"] if self.headers else []),
            "-isystem",
            TYPES,
            "-isystem",
            f"{GUEST}/usr/include",
            "-isystem",
            f"{GUEST}/usr/include/{user.triplet}",
            f"-ffile-prefix-map={USER}/=",
            "-MMD",
            "-MF",
            f"{OUT}/{name}.d",
            "-c",
            f"{USER}/{source.name}",
            "-o",
            f"{OUT}/{name}.bpf.o",
        ]
        binds = [
            Bind(source.parent, USER),
            Bind(self.tree, KERNEL),
            Bind(OBSERVERS, "/bpf"),
            Bind(self.how.root, GUEST),
            *([Bind(self.headers, "/suite")] if self.headers else []),
            Bind(self.folder / "types", TYPES),
        ]
        with out_folder(self.folder, f"{name}.bpf.o", f"{name}.d") as out:
            binds.append(Bind(out, OUT, writable=True))
            done = self.toolchain.run(argv, binds=binds, what=f"compiling {source.name}", check=False)
            if done.status:
                raise refused(source, done.stderr)
        return content(source.parent, dependencies((self.folder / f"{name}.d").read_text()))

    def _object(self, name: str) -> Object:
        done = self.toolchain.run(
            ["bpftool", "btf", "dump", "file", INSIDE],
            what=f"reading the BTF of {name}.bpf.o",
            binds=[Bind(self.folder / f"{name}.bpf.o", INSIDE)],
            check=False,
        )
        return parse(done.stdout)


def refused(source: Path, stderr: str) -> UsageError | HarnessError:
    """The error for a failure of clang: its first error, with file names as the user knows them."""
    said = stderr.replace(f"{USER}/", f"{source.parent}/").replace(f"{KERNEL}/", "")
    errors = [line for line in said.splitlines() if re.search(r": (fatal )?error: ", line)]
    if not errors:
        return HarnessError(f"clang ended badly on {source} and named no error", detail=said)
    return UsageError(errors[0], step=f"{source.name} does not compile against this kernel", detail=said)


def dependencies(text: str) -> list[str]:
    """The user's own files in what clang -MMD wrote, relative to the program's folder."""
    words = re.split(r"(?<!\\)\s+", text.replace("\\\n", " "))
    names = {str(PurePosixPath(word.replace("\\ ", " "))) for word in words}
    return sorted(name.removeprefix(f"{USER}/") for name in names if name.startswith(f"{USER}/"))


def content(folder: Path, names: Sequence[str]) -> str:
    """One hash over these files of a folder."""
    digest = hashlib.sha256()
    for name in names:
        data = below.read_bytes(folder, name, links=True)  # the file that the compiler saw: it was shown no other
        digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
    return digest.hexdigest()


_TYPE = re.compile(r"^\[(\d+)\] (\w+) '([^']*)'(?:.*?\btype_id=(\d+))?")
_MEMBER = re.compile(r"^\ttype_id=(\d+) .*\(VAR '([^']+)'\)")


def parse(text: str) -> Object:
    """An object's struct_ops maps and variables, from ``bpftool btf dump`` in its raw form."""
    types: dict[str, tuple[str, str, str]] = {}
    section, maps = "", {}
    variables = set()
    for line in text.splitlines():
        if found := _TYPE.match(line):
            number, kind, name, of = found.groups()
            types[number] = (kind, name, of or "")
            section = name if kind == "DATASEC" else ""
        elif section and (member := _MEMBER.match(line)):
            if section.removeprefix("?") in (".struct_ops", ".struct_ops.link"):
                maps[member[2]] = member[1]
            elif section.startswith((".rodata", ".data", ".bss")):
                variables.add(member[2])
    return Object({name: _struct(types, number) for name, number in maps.items()}, frozenset(variables))


def _struct(types: dict[str, tuple[str, str, str]], number: str) -> str:
    """The name of the structure behind a variable and its qualifiers."""
    for _ in range(len(types)):
        kind, name, of = types.get(number, ("", "", ""))
        if not of or kind == "STRUCT":
            return name
        number = of
    return ""


def the_ops(source: Path, found: Object, wanted: StructOps) -> str:
    """The only struct_ops map of the wanted type. Raises UsageError where there is none, or several."""
    if len(found.ops) != 1:
        many = f"{len(found.ops)} struct_ops maps: {', '.join(sorted(found.ops))}"
        raise UsageError(f"{source} has {many if found.ops else 'no struct_ops map'}", step=wanted.step)
    ((name, kind),) = found.ops.items()
    if not kind.startswith(wanted.type):
        what = f"its struct_ops map {name} is a {kind or 'nothing known'}, no {wanted.type}"
        raise UsageError(f"{source}: {what}", step=wanted.step)
    return name
