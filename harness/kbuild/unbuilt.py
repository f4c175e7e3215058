# SPDX-License-Identifier: GPL-2.0-only
"""Why a patch changes nothing that is built: the Kconfig symbols that leave its files and lines out.

Read from the Makefiles (Documentation/kbuild/makefiles.rst) and from the #if lines around what is touched. It
explains, after the build has shown that nothing changed; it decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.core.records import Kernel
from harness.host.below import text_of as _text
from harness.kbuild import kconfig
from harness.kbuild.kconfig import Kconfig
from harness.kbuild.sections import differing
from harness.source.changed import changed

ELSEWHERE = ("Documentation", "LICENSES", "samples", "scripts", "tools", "usr", ".mailmap", "MAINTAINERS", "CREDITS")
"""Top folders and files that no kernel image is made of."""

_RULE = re.compile(r"^\s*([\w./-]+?)-(?:\$\((CONFIG_\w+)\)|[ym]|objs)\s*[:+]?=\s*(.*)$")
_OPEN = re.compile(r"^\s*(?:ifdef\s+(CONFIG_\w+)|ifeq\s*\(\$\((CONFIG_\w+)\),\s*[ym]\)|(if\w+)\b)")
_IF = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif|else|endif)\b(.*)")
_SYMBOL = re.compile(r"\bCONFIG_(\w+?)(?:_MODULE)?\b")
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


@dataclass(frozen=True)
class Unbuilt:
    """Why one file of a patch changes nothing: a sentence, and the symbols (without CONFIG_) that are not set."""

    file: str
    why: str
    symbols: tuple[str, ...] = ()

    def line(self) -> str:
        return f"{self.file} {self.why}"


@dataclass(frozen=True)
class Built:
    """The relevant parts of one finished build: `objects` are paths in the build folder."""

    tree: Path
    srcarch: str
    config: Kconfig
    objects: frozenset[str]

    def off(self, symbols: Sequence[str]) -> tuple[str, ...]:
        """Those of `symbols` that the final .config does not have."""
        return tuple(dict.fromkeys(name for name in symbols if self.config.get(name) not in ("y", "m")))


def unchanged(base: Kernel, patched: Kernel, trees: tuple[Path, Path], srcarch: str) -> tuple[Unbuilt, ...] | None:
    """Why two kernels are the same code although their `trees` (base, patched) differ; None when they are not.

    Raises HarnessError when a vmlinux cannot be read.
    """
    if differing(Path(base.vmlinux), Path(patched.vmlinux)):
        return None
    objects = frozenset((Path(patched.path) / "objects").read_text().split())
    built = Built(trees[1], srcarch, kconfig.read(Path(patched.config)), objects)
    return tuple(explain(built, file, lines) for file, lines in changed(*trees).items())


def explain(built: Built, file: str, lines: Sequence[int]) -> Unbuilt:
    """Why the change of `file` at `lines` (counted from 1, in the patched tree) is not in the kernel."""
    path = PurePosixPath(file)
    if path.parts[0] in ELSEWHERE:
        return Unbuilt(file, "is not part of a kernel image")
    if path.parts[0] == "arch" and len(path.parts) > 2 and path.parts[1] != built.srcarch:
        return Unbuilt(file, f"is not part of a {built.srcarch} kernel")
    if path.suffix not in (".c", ".S", ".h"):
        return Unbuilt(file, "does not change what is compiled")
    around = built.off([name for line in lines for name in conditions(_text(built.tree, file), line)])
    if path.suffix != ".h" and str(path.with_suffix(".o")) not in built.objects:
        missing = built.off(list(gates(built.tree, file)))
        if missing:
            return Unbuilt(file, f"is built only with {named(missing)}", missing)
        by = _included(built, path)
        if by is None:
            return Unbuilt(file, "is not built, and no Makefile rule says why")
        around = (*by, *around)
    if around:
        return Unbuilt(file, f"is compiled at these lines only with {named(around)}", around)
    return Unbuilt(file, "is compiled, and the code comes out the same")


def named(symbols: Sequence[str]) -> str:
    """Symbols as a sentence has them: CONFIG_A and CONFIG_B."""
    return " and ".join(f"CONFIG_{name}" for name in symbols)


# --- the C side -----------------------------------------------------------------------------


def conditions(text: str, line: int) -> tuple[str, ...]:
    """The Kconfig symbols that the #if lines around a line ask for to be set, outermost first.

    A branch that is compiled when the symbol is off (#ifndef, #else) asks for nothing.
    """
    stack: list[tuple[str, ...]] = []
    for number, row in enumerate(text.splitlines(), 1):
        if number >= line:
            break
        found = _IF.match(row)
        if found is None:
            continue
        word, rest = found[1], found[2].partition("/*")[0]
        if word == "endif":
            del stack[-1:]
            continue
        if word in ("else", "elif"):
            del stack[-1:]
        wanted = word in ("if", "ifdef", "elif") and "!" not in rest.replace("!=", "") and "||" not in rest
        stack.append(tuple(_SYMBOL.findall(rest)) if wanted else ())
    return tuple(name for names in stack for name in names)


def _included(built: Built, path: PurePosixPath) -> tuple[str, ...] | None:
    """For a .c file that another one includes (as kernel/sched/build_policy.c does): the unset symbols on the way.

    None where no file near it includes it; empty where one that is built does, unconditionally.
    """
    best: tuple[str, ...] | None = None
    for folder in (path.parent, path.parent.parent):
        for file in sorted((built.tree / folder).glob("*.[chS]")):
            text = _text(built.tree, str(file.relative_to(built.tree)))
            for number, row in enumerate(text.splitlines(), 1):
                found = _INCLUDE.match(row)
                if found is None or not (file.parent / found[1]) == built.tree / path:
                    continue
                name = PurePosixPath(file.relative_to(built.tree))
                above = () if str(name.with_suffix(".o")) in built.objects else gates(built.tree, str(name))
                off = built.off([*above, *conditions(text, number)])
                if best is None or len(off) < len(best):
                    best = off
    return best


# --- the Makefile side ----------------------------------------------------------------------


def gates(tree: Path, file: str) -> tuple[str, ...]:
    """The Kconfig symbols that the Makefiles from `file` up to the top ask for, innermost first."""
    folder, goal = PurePosixPath(file).parent, PurePosixPath(file).with_suffix(".o").name
    symbols: list[str] = []
    while True:
        found = None
        for name in ("Kbuild", "Makefile"):
            found = _gates_of(_text(tree, str(folder / name)), goal)
            if found is not None:
                break
        symbols += found or ()
        if not folder.parts:
            return tuple(dict.fromkeys(symbols))
        # A folder whose Makefile does not know it may be named from further up: obj-y += foo/bar/
        goal = f"{folder.name}/" if found is not None or goal.endswith(".o") else f"{folder.name}/{goal}"
        folder = folder.parent


def _gates_of(text: str, goal: str) -> list[str] | None:
    """The symbols under which one Makefile builds `goal`; None where it does not name it."""
    rules = list(_rules(text))
    symbols: list[str] = []
    wanted, known = goal, {goal}
    while True:
        rule = next((rule for rule in rules if wanted in rule[2]), None)
        if rule is None:
            return symbols if wanted != goal else None
        target, asked, _ = rule
        symbols += asked
        wanted = f"{target}.o"  # a composite object: NAME-y := part.o
        if target in ("obj", "lib", "core", "drivers", "net", "libs", "virt") or wanted in known:
            return symbols
        known.add(wanted)


def _rules(text: str) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Each ``target-$(CONFIG_X) += words`` with all symbols around it: (target, symbols, words)."""
    around: list[tuple[str, ...]] = []
    for row in re.sub(r"\\\n", " ", text).splitlines():
        row = row.partition("#")[0]
        opened = _OPEN.match(row)
        if opened:
            around.append(tuple(name.removeprefix("CONFIG_") for name in (opened[1] or opened[2],) if name))
        elif re.match(r"\s*endif\b", row):
            del around[-1:]
        elif re.match(r"\s*else\b", row):
            around[-1:] = [()]
        rule = _RULE.match(row)
        if rule:
            own = (rule[2].removeprefix("CONFIG_"),) if rule[2] else ()
            yield rule[1], (*own, *(name for names in around for name in names)), tuple(rule[3].split())
