# SPDX-License-Identifier: GPL-2.0-only
"""Owns make on a kernel tree: what is asked for, the sandbox that it runs in, ccache before the compilers.

Inside the toolchain the tree is always /src and the build folder always /build, so that ccache hits for
every snapshot and debug information names files the same way.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.build import buildlog
from harness.build.buildlog import BUILD, SRC
from harness.definition import Definition
from harness.host.process import DiskFull
from harness.host.toolchain import Bind, Toolchain
from harness.source.tree import Tree

FORMAT = 2
"""Version of a kernel entry's layout and of how it is built; a change makes every cached kernel stale."""

CCACHE = "/ccache"
CCACHE_SIZE = "5G"
COMPILERS = "compilers"
"""Folder beside ccache's own files with what stands before it in the path."""

BEFORE_CCACHE = f"""#!/bin/sh
# ccache in depend mode does not see that an assembler file takes in another file as it is (.incbin): two kernels whose
# compressed images are of one size would get the same piggy.o, and so boot the same kernel. Such files are compiled.
PATH=${{PATH#*{CCACHE}/{COMPILERS}:}}
for file do
	case $file in *.S) grep -qs '\\.incbin' "$file" && export CCACHE_DISABLE=1 ;; esac
done
exec "${{0##*/}}" "$@"
"""

CONFIG_SECONDS = 900.0
KCONFIGS = Path(__file__).resolve().parents[2] / "kconfigs"
COVERAGE = "coverage"
"""The fragment of a kernel that counts what it executes."""

GCOV_FLAGS = (
    "-fprofile-arcs -ftest-coverage -fprofile-update=prefer-atomic -fno-tree-loop-im -fno-early-inlining"
    " -frandom-seed=kharness"
)
"""The kernel's own, and: functions are counted before they are inlined, or the constants that they return leave no line
to be counted; and the object's stamp is not the time of day, or no two builds are equal."""

@dataclass(frozen=True)
class BuildRequest:
    """One kernel to build, as `definition` says. `user_fragments` override its own, in order.

    `jobs` is at most how many compilers run at once (never more than this machine has CPUs); `kconfigs` is the
    folder of the definition's fragments. `profile` is an object (kernel/fork.o) whose execution the kernel counts.
    With `incremental` it is built in a folder that stays (kept.py); the same kernel comes out.
    """

    tree: Tree
    definition: Definition
    user_fragments: tuple[Path, ...] = ()
    jobs: int = 2
    kconfigs: Path = KCONFIGS
    profile: str = ""
    incremental: bool = False

    @property
    def arch(self) -> str:
        return self.definition.arch

    @property
    def what(self) -> str:
        return f"build of {self.arch} {self.tree.version}" + (" with coverage" if self.profile else "")

    @property
    def fragments(self) -> tuple[Path, ...]:
        names = (*self.definition.kernel.fragments, *([COVERAGE] if self.profile else []))
        return tuple(self.kconfigs / f"{name}.config" for name in names)

    @property
    def make_vars(self) -> list[tuple[str, str]]:
        """What goes on make's command line beside the architecture; a part of the keys of cached kernels."""
        profiled = {f"GCOV_PROFILE_{Path(self.profile).name}": "y", "CFLAGS_GCOV": GCOV_FLAGS} if self.profile else {}
        return sorted((self.definition.kernel.make_vars | profiled).items())

    @property
    def recipe(self) -> dict[str, str]:
        """What of the definition decides what comes out; a part of the keys of cached kernels, names included."""
        how = self.definition.kernel
        return {
            "name": self.arch, "srcarch": how.srcarch, "cross_compile": self.definition.cross_compile,
            "image": how.image, "target": how.target,
        }  # fmt: skip


def key(*parts: object) -> str:
    """A content key over all of this."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Make:
    """make in one build folder. `grouped`: what it prints for one target stays together."""

    request: BuildRequest
    toolchain: Toolchain
    build: Path
    ccache: Path
    grouped: bool = False

    def __call__(
        self, *targets: str, what: str, deadline: float, on_line: Callable[[str], None] | None = None
    ) -> list[str]:
        """Runs make and returns its output. Raises what :func:`buildlog.judge` makes of a failure."""
        known = self.request.definition
        variables = {"O": BUILD, "ARCH": known.kernel.srcarch, "CROSS_COMPILE": known.cross_compile, "V": "0"}
        variables |= dict(self.request.make_vars)
        settings = [f"{name}={value}" for name, value in variables.items()]
        jobs = max(1, min(self.request.jobs, len(os.sched_getaffinity(0))))
        command = ["make", "--no-print-directory", "-C", SRC, f"-j{jobs}", *settings, *targets]
        if self.grouped:
            command.insert(1, "--output-sync=target")
        before_ccache(self.ccache / COMPILERS, ("gcc", f"{known.cross_compile}gcc"))
        binds = (
            Bind(self.request.tree.path, SRC),
            Bind(self.build, BUILD, writable=True),
            Bind(self.ccache, CCACHE, writable=True),
        )
        try:
            # One stream, so that an error stands where it was printed.
            done = self.toolchain.run(
                ["sh", "-c", 'exec "$@" 2>&1', "sh", *command],
                binds=binds, cwd=BUILD, env=environment(self.toolchain), what=what,
                deadline=deadline, on_line=on_line, check=False,
            )  # fmt: skip
        except DiskFull as error:
            raise DiskFull(self.build, detail=error.detail) from error
        lines = done.stdout.splitlines()
        if done.status != 0:
            raise buildlog.judge([*lines, *done.stderr.splitlines()], done.status, what)
        return lines


def before_ccache(folder: Path, compilers: Iterable[str]) -> None:
    """Writes the scripts that stand before ccache, by the compilers' names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in compilers:
        if not (folder / name).is_file() or (folder / name).read_text() != BEFORE_CCACHE:
            fresh = folder / f".{name}.{os.getpid()}"
            fresh.write_text(BEFORE_CCACHE)
            fresh.chmod(0o755)
            fresh.replace(folder / name)  # whole and executable at once: another build may be calling it


def environment(toolchain: Toolchain) -> Mapping[str, str]:
    """What makes a build reproducible, and ccache first in the path.

    The names are those of Documentation/kbuild/kbuild.rst and reproducible-builds.rst.
    """
    path = getattr(toolchain, "path", "/usr/sbin:/usr/bin:/sbin:/bin")
    return {
        "PATH": f"{CCACHE}/{COMPILERS}:/usr/lib/ccache:{path}",
        "LC_ALL": "C",
        "HOME": "/tmp",
        "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
        "KBUILD_BUILD_USER": "kharness",
        "KBUILD_BUILD_HOST": "kharness",
        "CCACHE_DIR": CCACHE,
        "CCACHE_MAXSIZE": CCACHE_SIZE,
        # Dependencies as kbuild has the compiler write them, instead of preprocessing each file a second time.
        "CCACHE_DEPEND": "1",
        # Not its mtime, which differs between two equal roots: Debian's version string holds the package's revision.
        "CCACHE_COMPILERCHECK": "%compiler% --version",
    }
