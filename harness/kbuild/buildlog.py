# SPDX-License-Identifier: GPL-2.0-only
"""The reading of kbuild's output: progress, errors with file and line, trouble of the host.

Pure functions over lines; stdout and stderr are expected as one stream in the order printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.core.errors import HarnessError, KernelFailure, KharnessError, UsageError

SRC = "/src"
"""Where the kernel tree is bound inside the toolchain."""
BUILD = "/build"
"""Where the build folder is bound inside the toolchain."""

_TAIL = 30

_LINE, _END = 4096, 1024
"""Characters of a line that are read, and how many of them are its last ones; no error is as long."""


@dataclass(frozen=True)
class Step:
    """One line of kbuild's short output, "  CC      kernel/fork.o"."""

    verb: str
    target: str

    @property
    def is_object(self) -> bool:
        """Whether an object of the kernel was compiled or assembled (host programs do not count)."""
        return self.verb in ("CC", "AS", "CC [M]", "AS [M]") and self.target.endswith(".o")


@dataclass(frozen=True)
class BuildError:
    """One error. `kind`: compile, link, modpost, objtool, btf, kconfig or make.

    `file` is relative to the tree, empty when the tool names none; `line` is 0 when unknown.
    """

    kind: str
    text: str
    file: str = ""
    line: int = 0

    def describe(self) -> str:
        if not self.file:
            return self.text
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.text}"


_STEP = re.compile(r"  ([A-Z][A-Z0-9_]*(?: \[[A-Z]\])?) +(\S.*)")
_EXCERPT = re.compile(r"\s*\d* \|")  # the source lines that gcc and clang quote below an error

_COMPILE = re.compile(
    r"(?P<file>[^\s:][^:]*):(?P<line>\d+):(?:\d+:)? (?:fatal error|error|Error|Fatal error): (?P<text>.+)"
)
_LINK_LINE = re.compile(
    r"(?:\S*ld(?:\.bfd)?: )?(?P<file>[^\s:]+):(?P<line>\d+): ?(?:\(\.\S+\): )?"
    r"(?P<text>(?:undefined reference to|multiple definition of) .+)"
)
_LINK_OBJECT = re.compile(
    r"(?:\S*ld(?:\.bfd)?: )?(?P<file>[^\s:]+):(?:\(\.\S+\):)? ?"
    r"(?P<text>(?:undefined reference to|multiple definition of) .+)"
)
_LINK_OTHER = re.compile(r"(?:\S*/)?(?:[\w-]+-)?ld(?:\.bfd|\.lld)?: (?!warning)(?P<text>.+)")
_LLD_PLACE = re.compile(r">>> referenced by (?P<file>[^\s:]+):(?P<line>\d+)")
_IN_FUNCTION = re.compile(r"in function [`']")
_MODPOST = re.compile(r"(?:ERROR|FATAL): modpost: (?P<text>.+)")
_OBJTOOL = re.compile(r"(?:(?P<file>\S+): )?(?P<level>error|warning): objtool: (?P<text>.+)")
_BTF = re.compile(
    r"(?P<text>FAILED:? .+|ERROR: resolve_btfids: .+|(?:WARN: resolve_btfids: )?unresolved symbol .+"
    r"|Failed to generate BTF for .+|Error while encoding BTF\..*|btf_encoder__.+)"
)
_KCONFIG = re.compile(r"(?P<file>\S*Kconfig\S*?):(?P<line>\d+): (?P<text>.+)")
_RECURSION = re.compile(r"error: (?P<text>recursive dependency detected!)")
_MAKE_STOP = re.compile(r"(?P<file>[^\s:]+):(?P<line>\d+): \*\*\* (?P<text>.+?)\.?  Stop\.")
_MAKE_NO_RULE = re.compile(r"make(?:\[\d+\])?: \*\*\* (?P<text>No rule to make target .+?)\.(?:  Stop\.)?")
_MAKE_FAILED = re.compile(r"make(?:\[\d+\])?: \*\*\* \[(?:\S+:\d+: )?(?P<target>\S+)\] Error (?P<status>\d+)")

_ENDED = "its command ended with"

_FULL = "the disk is full"
_FULL_STEP = "free space, or run 'kharness cache prune'"
_MEMORY = "the host ran out of memory"
_MEMORY_STEP = "build with fewer --jobs, or give the machine more memory"
_HOST: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"No space left on device|Disk quota exceeded"), _FULL, _FULL_STEP),
    (
        re.compile(
            r"Killed signal terminated program|terminated with signal 9 \[Killed\]"
            r"|virtual memory exhausted|out of memory allocating"
            r"|(?:ld|as|cc1|pahole|make\S*): .*(?:memory exhausted|Cannot allocate memory)"
            r"|^make(?:\[\d+\])?: \*\*\* .*\bKilled$|^Killed$"
        ),
        _MEMORY,
        _MEMORY_STEP,
    ),
    (
        re.compile(r"(?:File size|CPU time) limit exceeded"),
        "a limit of this shell or of the sandbox stopped a tool",
        "see 'ulimit -f' and 'ulimit -t'; the sandbox allows 16 GiB a file",
    ),
    (re.compile(r"internal compiler error|PLEASE submit a bug report"), "the compiler crashed", "try it again"),
    (
        re.compile(r": (?:I/O error|Input/output error|Read-only file system)$"),
        "the host's disk failed to read or write",
        "look at the host's own kernel log",
    ),
    (
        re.compile(r"pahole version \S+ is too old|pahole \(\S+\) is not available"),
        "pahole in the toolchain is missing or too old",
        "use the default toolchain, or install pahole 1.26 or newer",
    ),
    (
        re.compile(
            r"(?:\b(?:flex|bison|bc|perl|python3|pahole|rsync|cpio|lz4|gzip|xz|zstd|openssl)|gcc|ld): "
            r"(?:not found|command not found|No such file or directory)$"
            r"|fatal error: (?:libelf|gelf|elf|zlib|dwarf|openssl/\w+)\.h: No such file"
        ),
        "a tool or header that the kernel build needs is missing",
        "run 'kharness doctor'",
    ),
    (
        re.compile(r"^make(?:\[\d+\])?: \*\*\* .*\b(?:Interrupt|Terminated|Hangup)$"),
        "it was interrupted",
        "start it again; what was compiled is remembered",
    ),
)


def _cut(line: str) -> str:
    """A line without blanks at its end, and without its middle where it is too long."""
    line = line.rstrip()
    if len(line) <= _LINE:
        return line
    return f"{line[: _LINE - _END]} [{len(line) - _LINE} characters are left out here] {line[-_END:]}"


def step(line: str) -> Step | None:
    """What kbuild says it is doing in this line, or None for any other line."""
    match = _STEP.fullmatch(line.rstrip())
    return Step(match[1], match[2]) if match else None


def relative(path: str) -> str:
    """A path as the tools print it inside the toolchain, made relative to the kernel tree."""
    for prefix in (SRC + "/", BUILD + "/", "./"):
        path = path.removeprefix(prefix)
    return path


def errors(lines: Iterable[str]) -> list[BuildError]:
    """Every error in the output, in order, each once.

    Warnings of objtool and resolve_btfids, and make's own "Error 1", are given only when nothing
    says more: they are not why a build fails unless nothing else is.
    """
    firm: dict[BuildError, None] = {}
    weak: dict[BuildError, None] = {}
    pending_lld: BuildError | None = None
    for raw in lines:
        line = _cut(raw)
        if pending_lld is not None and (place := _LLD_PLACE.match(line)):
            firm.pop(pending_lld)
            firm[BuildError("link", pending_lld.text, relative(place["file"]), int(place["line"]))] = None
        pending_lld = None
        error, is_firm = _one(line)
        if error is None:
            continue
        (firm if is_firm else weak)[error] = None
        if error.kind == "link" and not error.file:
            pending_lld = error
    return _without_vague(list(firm) or list(weak))


def wordless(lines: Sequence[str], status: int) -> bool:
    """Whether make, which ended with `status`, failed, and no tool said why: only make itself reports the status of a
    command, as when a process was killed."""
    found = errors(lines) if 0 < status <= 128 and host_trouble(lines) is None else []
    return bool(found) and all(_ENDED in error.text for error in found)


def _without_vague(found: list[BuildError]) -> list[BuildError]:
    # conf prints "syntax error" first and then the cause, at the same place.
    explained = {(e.file, e.line) for e in found if e.text != "syntax error"}
    return [e for e in found if e.text != "syntax error" or (e.file, e.line) not in explained]


def _place(kind: str, match: re.Match[str]) -> BuildError:
    file = relative(match["file"])
    if file.startswith("/tmp/") or file == "{standard input}":  # the compiler's own assembler file
        return BuildError(kind, match["text"])
    return BuildError(kind, match["text"], file, int(match["line"]))


def _one(line: str) -> tuple[BuildError | None, bool]:
    """The error of one line, and whether it is one by itself."""
    if _EXCERPT.match(line) or step(line):
        return None, False
    if match := _MAKE_STOP.fullmatch(line):
        return _place("make", match), True
    if match := _KCONFIG.fullmatch(line):
        text = match["text"].removeprefix("error: ")
        return BuildError("kconfig", text, relative(match["file"]), int(match["line"])), True
    if match := _COMPILE.fullmatch(line):
        return _place("compile", match), True
    if match := _RECURSION.fullmatch(line):
        return BuildError("kconfig", match["text"]), True
    if match := _MODPOST.fullmatch(line):
        return BuildError("modpost", match["text"]), True
    if match := _OBJTOOL.fullmatch(line):
        found = BuildError("objtool", "objtool: " + match["text"], relative(match["file"] or ""))
        return found, match["level"] == "error"
    return _link_or_make(line)


def _link_or_make(line: str) -> tuple[BuildError | None, bool]:
    if match := _LINK_LINE.fullmatch(line):
        return _place("link", match), True
    if match := _LINK_OBJECT.fullmatch(line):
        return BuildError("link", match["text"], relative(match["file"])), True
    if match := _LINK_OTHER.fullmatch(line):
        if _IN_FUNCTION.search(line):  # only says where the next line's error is
            return None, False
        return BuildError("link", match["text"].removeprefix("error: ")), True
    if match := _BTF.fullmatch(line):
        return BuildError("btf", match["text"]), match["text"].startswith(("FAILED", "ERROR"))
    if match := _MAKE_NO_RULE.fullmatch(line):
        return BuildError("make", match["text"]), True
    if match := _MAKE_FAILED.fullmatch(line):
        return BuildError("make", f"{relative(match['target'])}: {_ENDED} {match['status']}"), False
    return None, False


def warnings(lines: Iterable[str]) -> list[str]:
    """Compiler and objtool warnings as "file:line: text", relative to the tree, each once."""
    found: dict[str, None] = {}
    for line in map(_cut, lines):
        match = re.fullmatch(r"([^\s:][^:]*)(:\d+)?(?::\d+)?: warning: (.+)", line)
        if match and not _EXCERPT.match(line):
            found[f"{relative(match[1])}{match[2] or ''}: {match[3]}"] = None
    return list(found)


def host_trouble(lines: Iterable[str]) -> tuple[str, str, str] | None:
    """(what happened, next step, the line that says so) when the host failed, not the kernel."""
    for raw in lines:
        line = _cut(raw)
        if _EXCERPT.match(line) or step(line):
            continue
        for pattern, what, todo in _HOST:
            if pattern.search(line):
                return what, todo, line.strip()
    return None


def relevant(lines: Sequence[str], count: int = _TAIL) -> str:
    """The last `count` lines that are not progress, as one text."""
    other = [line for line in map(_cut, lines) if line and not step(line)]
    return "\n".join([line for line in other if "ing directory '" not in line][-count:])


def judge(lines: Sequence[str], status: int, what: str) -> KharnessError:
    """The error that a failed make amounts to; `what` names the work ("build of x86_64").

    KernelFailure("build") only when the tree itself is at fault: a full disk, a killed compiler, a
    missing tool or an interrupted make is a HarnessError. `status` is the exit status; negative
    or above 128 means that make itself was killed.
    """
    tail = relevant(lines)
    if trouble := host_trouble(lines):
        cause, todo, line = trouble
        return HarnessError(f"{what} stopped: {cause} ({line})", step=todo, detail=tail)
    if any("The source tree is not clean" in line for line in lines):
        return UsageError(
            f"{what} refused: the source tree holds files of an in-tree build",
            step="run 'make mrproper' in it, or ignore those files in git",
            detail=tail,
        )
    if status < 0 or status > 128:
        number = -status if status < 0 else status - 128
        return HarnessError(f"{what} was killed by signal {number}", step="start it again", detail=tail)
    found = errors(lines)
    if not found:
        return HarnessError(
            f"{what} failed with status {status}, and no line of its output says why",
            step="read the last lines of the output",
            detail=tail,
        )
    more = f" (first of {len(found)} errors)" if len(found) > 1 else ""
    listed = "\n".join(error.describe() for error in found)
    return KernelFailure("build", found[0].describe() + more, detail=f"{listed}\n\n{tail}")
