# SPDX-License-Identifier: GPL-2.0-only
"""Which files of a tree can take part in a build: a proof that a change of any other leaves the kernel as it is.

A finished build names the objects that it compiled. What their sources can include, whatever the #if lines around it
say, is followed through the texts. A file outside of that which is no part of kbuild's own machinery (Makefiles,
Kconfig files, scripts, what builds tools) was not read, so a commit that touches only such files makes the same kernel.
Whenever that is not sure, a file counts as one that takes part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.host import below

DOCUMENTS = ("Documentation", "LICENSES")
"""Top folders of which kbuild reads Kconfig files and makefiles only (Documentation/Kconfig)."""

TEXTS = frozenset(
    {".mailmap", "MAINTAINERS", "CREDITS", "COPYING", "README", ".clang-format", ".editorconfig", ".cocciconfig"}
)
"""Files at the top that no makefile names."""

KERNELS_TOOLS = ("objtool", "lib", "include", "bpf", "build", "arch", "scripts")
"""Folders of tools/ that a kernel build makes its own programs from (the top Makefile: objtool, resolve_btfids)."""

MACHINERY = re.compile(r"(Makefile|Kconfig|Kbuild)([.-].*)?|.*\.(mk|lds|lds\.S|tbl|sh|pl|py|awk|include|config)")
"""Names of files that steer a build and are not compiled."""

FORCED = ("include/linux/kconfig.h", "include/linux/compiler_types.h", "include/linux/compiler-version.h")
"""Headers that the top Makefile includes into every file."""

OWN_PROGRAMS = ("scripts", "tools/objtool", "tools/bpf/resolve_btfids")
"""Folders whose programs run in the build; they include headers of the kernel."""

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include(?:_next)?[ \t]*(?:[<"]([^>"\n]+)[>"]|(\w.*))', re.MULTILINE)
_NAMED = re.compile(r'^[ \t]*#[ \t]*define\b.*?[<"]?([\w./-]+\.(?:h|c|S|inc))\b', re.MULTILINE)
_SOURCE = (".c", ".S")
_TEXT = (".c", ".S", ".h")

Read = Callable[[str], str]
"""A file's text by its path in the tree; empty where there is none."""


@dataclass(frozen=True)
class Inputs:
    """The .c, .S and .h files that take part in one build; `stems` are the objects' names without folders.

    `tools` are folders below tools/ that the run also compiles from, beside the kernel.
    """

    srcarch: str
    files: frozenset[str]
    stems: frozenset[str]
    tools: frozenset[str] = frozenset()

    def outside(self, path: str) -> str:
        """Why no makefile or configuration can make this file a part of such a kernel; empty where one may."""
        name = PurePosixPath(path)
        top = name.parts[0]
        if top == "arch" and len(name.parts) > 2 and name.parts[1] != self.srcarch:
            return "" if path in self.files or self._compiled(name) else f"not of {self.srcarch}"
        if top in DOCUMENTS and not re.match(r"Makefile|Kconfig|Kbuild", name.name):
            return "documentation"
        if len(name.parts) == 1 and path in TEXTS:
            return "documentation"
        return self._tool(name) if top == "tools" else ""

    def unread(self, path: str, appears: bool = False) -> str:
        """Why a change of this file changes nothing that is built, with the same makefiles and configuration; empty
        where it may.

        With `appears` the file is new or gone: then a search for another header may find it.
        """
        name = PurePosixPath(path)
        if why := self.outside(path):
            return why
        if self.steers(path) or path in self.files or self._compiled(name):
            return ""
        if appears and name.suffix != ".c":
            return ""
        return "not compiled" if name.suffix in _SOURCE else "included by nothing that is compiled"

    def steers(self, path: str) -> bool:
        """Whether a change of this file may change which files take part."""
        if self.outside(path):
            return False
        name = PurePosixPath(path)
        machinery = MACHINERY.fullmatch(name.name) is not None or name.suffix not in _TEXT
        return machinery or name.parts[0] in ("tools", "scripts", "usr", "certs")

    def _compiled(self, name: PurePosixPath) -> bool:
        """Whether an object has the name of this source, in any folder."""
        return name.suffix in _SOURCE and name.stem in self.stems

    def _tool(self, name: PurePosixPath) -> str:
        """As :meth:`outside`, below tools/."""
        second = name.parts[1] if len(name.parts) > 2 else ""
        if not second or second in KERNELS_TOOLS or second in self.tools:
            return ""
        if second == "testing":
            return "a selftest"
        return "" if str(name) in self.files else "a tool"


def of_build(
    tree: Path,
    srcarch: str,
    objects: Iterable[str],
    seeds: Iterable[str],
    *,
    tools: frozenset[str] = frozenset(),
    versions: Callable[[str], Iterable[str]] = lambda path: (),
) -> Inputs:
    """The inputs of a finished build of `tree` that compiled `objects` (paths in the build folder).

    `seeds` are texts from outside the tree that include its headers (our module). `versions` gives further texts that a
    file has in other commits: what any of them includes counts, so that the answer holds for all of them.
    """
    index = _Index(tree, srcarch)
    wanted = list(objects)
    stems = frozenset(PurePosixPath(name).stem for name in wanted)
    start = [name for stem in stems for name in index.sources(stem)]
    start += [*FORCED, *index.machinery()]
    files: set[str] = set()
    todo = [name for name in start if name in index.known]
    for text in seeds:
        todo += index.included("", text)
    while todo:
        name = todo.pop()
        if name in files:
            continue
        files.add(name)
        if name.endswith((".c", ".S", ".h", ".inc")):
            for text in (index.text(name), *versions(name)):
                todo += index.included(name, text)
    return Inputs(srcarch, frozenset(files), stems, tools)


class _Index:
    """The files of a tree by the end of their paths."""

    def __init__(self, tree: Path, srcarch: str) -> None:
        self.tree = tree
        self.srcarch = srcarch
        self.known: set[str] = set()
        self.by_name: dict[str, list[str]] = {}
        self.by_stem: dict[str, list[str]] = {}
        for path in _files(tree):
            self.known.add(path)
            name = PurePosixPath(path)
            self.by_name.setdefault(name.name, []).append(path)
            if name.suffix in _SOURCE and self._near(path):
                self.by_stem.setdefault(name.stem, []).append(path)

    def _near(self, path: str) -> bool:
        """Whether an ambiguous name may mean this file: not one of another architecture or of a tool."""
        parts = path.split("/")
        return parts[0] not in ("tools", "Documentation", "samples") and not (
            parts[0] == "arch" and parts[1] != self.srcarch
        )

    def text(self, path: str) -> str:
        """A file's text."""
        return below.text_of(self.tree, path)

    def sources(self, stem: str) -> Sequence[str]:
        """The sources that an object of this name may come from."""
        return self.by_stem.get(stem, ())

    def machinery(self) -> Iterator[str]:
        """Sources without an object of the kernel: those of the build's own programs, linker scripts, and those from
        which offsets are computed."""
        for path in self.known:
            own = any(path.startswith(f"{folder}/") for folder in OWN_PROGRAMS)
            arch = path.startswith(f"arch/{self.srcarch}/") and (
                path.endswith(".S") or "/tools/" in path or "/boot/" in path or "offsets" in path
            )
            if (own or arch or path in ("kernel/bounds.c",)) and path.endswith(_TEXT):
                yield path
            elif path.endswith(("asm-offsets.c", "rq-offsets.c", ".lds.S", ".lds.h")) and self._near(path):
                yield path

    def included(self, name: str, text: str) -> Iterator[str]:
        """Every file that a text may include, on any include path."""
        computed = False
        for found in _INCLUDE.finditer(text):
            if found[1] is None:
                computed = True
                continue
            yield from self._meant(name, found[1])
        if computed:  # the name is put together by macros: all names that they hold
            for found in _NAMED.finditer(text):
                yield from self._meant(name, found[1])
            folder = str(PurePosixPath(name).parent)
            yield from (
                path for path in self.known if path.rpartition("/")[0] == folder and path.endswith((".h", ".inc"))
            )

    def _meant(self, name: str, wanted: str) -> Iterator[str]:
        exact = os.path.normpath(os.path.join(os.path.dirname(name), wanted))
        if exact in self.known:
            yield exact
        tail = re.sub(r"^(\.\.?/)+", "", wanted)
        ends = (tail, tail.replace("asm/", "asm-generic/", 1)) if tail.startswith("asm/") else (tail,)
        for end in ends:
            for path in self.by_name.get(PurePosixPath(end).name, ()):
                if (path == end or path.endswith(f"/{end}")) and self._near(path):
                    yield path


def _files(tree: Path) -> Iterator[str]:
    """All files of a tree, relative to it."""
    top = os.fspath(tree)
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name != ".git"]
        inside = os.path.relpath(folder, top)
        yield from (name if inside == "." else f"{inside}/{name}" for name in names)
