# SPDX-License-Identifier: GPL-2.0-only
"""Owns BPF schedulers of the user's: compiled against the kernel under test, and what is in the object."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.build.btf import Btf
from harness.build.image import BPF_FOLDER, GUEST, GuestBuild
from harness.errors import HarnessError, UsageError
from harness.host.toolchain import Bind, Toolchain
from harness.plan import BpfRequest, Scheduler

# Below /tmp, which is private: bubblewrap would leave other mount points behind in the shared root.
USER, KERNEL, OUT, TYPES = "/tmp/user", "/tmp/kernel", "/tmp/out", "/tmp/types"
INSIDE = "/tmp/object"
OPS = "sched_ext_ops"
CONSTANT = "__SCX_"
"""How tools/sched_ext/include/scx/enums.autogen.bpf.h names the variables that hold the kernel's enumerators."""


@dataclass(frozen=True)
class Object:
    """What the BTF of a compiled object tells: its struct_ops maps, each with its type, and its global variables."""

    ops: dict[str, str]
    variables: frozenset[str]


@dataclass(frozen=True)
class Compiler:
    """Compiles for one kernel: `tree` is its source, `btf` its types; `folder` is scratch and takes the objects."""

    tree: Path
    vmlinux: Path
    btf: Btf
    how: GuestBuild
    toolchain: Toolchain
    folder: Path

    def schedulers(self, requests: Sequence[BpfRequest]) -> tuple[Scheduler, ...]:
        """All of them, each to NAME.bpf.o in `folder`.

        Raises UsageError for one that does not compile, has not exactly one struct_ops map of a scheduler, or is not
        what a replay asks for.
        """
        types = self.folder / "types"
        types.mkdir()
        self.toolchain.run(
            ["sh", "-c", f"bpftool btf dump file {INSIDE} format c > {TYPES}/vmlinux.h"], what="writing vmlinux.h",
            binds=[Bind(self.vmlinux, INSIDE), Bind(types, TYPES, writable=True)],
        )  # fmt: skip
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
        # What the loader of tools/sched_ext does (SCX_ENUM_INIT): without it each of them is 0.
        held = [variable for variable in sorted(found.variables) if variable.startswith(CONSTANT)]
        wanted = {variable: self.btf.enumerator(variable.removeprefix("__")) for variable in held}
        constants = {variable: value for variable, value in wanted.items() if value is not None}
        return Scheduler(name, request.path, sha256, the_ops(source, found), constants)

    def _compile(self, source: Path, name: str) -> str:
        """Compiles it; returns the hash of the file and of what it includes from its own folder."""
        user = self.how.definition.userspace
        scx = f"{KERNEL}/tools/sched_ext/include"
        argv = [
            "clang-19", "-g", "-O2", "-target", "bpf", "-mcpu=v3", f"-D__TARGET_ARCH_{user.bpf}", "-nostdlibinc",
            f"-I{scx}", f"-I{scx}/bpf-compat", "-I/bpf", "-isystem", TYPES,
            "-isystem", f"{GUEST}/usr/include", "-isystem", f"{GUEST}/usr/include/{user.triplet}",
            f"-ffile-prefix-map={USER}/=", "-MMD", "-MF", f"{OUT}/{name}.d", "-c", f"{USER}/{source.name}",
            "-o", f"{OUT}/{name}.bpf.o",
        ]  # fmt: skip
        binds = [
            Bind(source.parent, USER), Bind(self.tree, KERNEL), Bind(BPF_FOLDER, "/bpf"), Bind(self.how.root, GUEST),
            Bind(self.folder / "types", TYPES), Bind(self.folder, OUT, writable=True),
        ]  # fmt: skip
        done = self.toolchain.run(argv, binds=binds, what=f"compiling {source.name}", check=False)
        if done.status:
            raise refused(source, done.stderr)
        return content(source.parent, dependencies((self.folder / f"{name}.d").read_text()))

    def _object(self, name: str) -> Object:
        done = self.toolchain.run(
            ["bpftool", "btf", "dump", "file", INSIDE], what=f"reading the BTF of {name}.bpf.o",
            binds=[Bind(self.folder / f"{name}.bpf.o", INSIDE)], check=False,
        )  # fmt: skip
        return parse(done.stdout)


def refused(source: Path, stderr: str) -> UsageError | HarnessError:
    """What clang's failure means: its first error, with the names of files as the user knows them."""
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
        digest.update(name.encode() + b"\0" + hashlib.sha256((folder / name).read_bytes()).digest())
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


def the_ops(source: Path, found: Object) -> str:
    """The one struct_ops map of a scheduler. Raises UsageError where there is none, or several."""
    step = "one SCX_OPS_DEFINE() or SEC(\".struct_ops.link\") struct sched_ext_ops a file"
    if len(found.ops) != 1:
        many = f"{len(found.ops)} struct_ops maps: {', '.join(sorted(found.ops))}"
        raise UsageError(f"{source} has {many if found.ops else 'no struct_ops map'}", step=step)
    ((name, kind),) = found.ops.items()
    if not kind.startswith(OPS):
        raise UsageError(f"{source}: its struct_ops map {name} is a {kind or 'nothing known'}, no scheduler", step=step)
    return name
