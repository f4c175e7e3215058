# SPDX-License-Identifier: GPL-2.0-only
"""Make on a kernel tree: the request, the sandbox that it runs in, ccache before the compilers.

Inside the toolchain the tree is always /src and the build folder always /build, so that ccache hits for
every snapshot and debug information names files the same way.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.definition import Definition
from harness.host.process import DiskFull
from harness.host.toolchain import Bind, Toolchain
from harness.kbuild import buildlog
from harness.kbuild.buildlog import BUILD, SRC
from harness.kbuild.ccache import COMPILERS, Ccache
from harness.source.tree import Tree

FORMAT = 2
"""Version of a kernel entry's layout and of how it is built; a change makes every cached kernel stale."""

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
    folder of the definition's fragments. `profiles` are objects (kernel/fork.o) whose execution the kernel counts: the
    first must be built, of the others those that are.
    With `incremental` it is built in a folder that stays (build_folders.py); the same kernel comes out. `own`: the tree
    was patched by ourselves alone, and so it may share the folder of its origin.
    `suite_fragments` are what the suite under test needs; they override the definition's.
    """

    tree: Tree
    definition: Definition
    user_fragments: tuple[Path, ...] = ()
    jobs: int = 2
    kconfigs: Path = KCONFIGS
    profiles: tuple[str, ...] = ()
    incremental: bool = False
    own: bool = False
    suite_fragments: tuple[Path, ...] = ()

    @property
    def arch(self) -> str:
        return self.definition.arch

    @property
    def what(self) -> str:
        return f"build of {self.arch} {self.tree.version}" + (" with coverage" if self.profiles else "")

    @property
    def fragments(self) -> tuple[Path, ...]:
        """The engine's own, without the suite's."""
        names = (*self.definition.kernel.fragments, *([COVERAGE] if self.profiles else []))
        return tuple(self.kconfigs / f"{name}.config" for name in names)

    @property
    def all_fragments(self) -> tuple[Path, ...]:
        """Every fragment, each over the former: the definition's, the suite's, the user's."""
        return (*self.fragments, *self.suite_fragments, *self.user_fragments)

    @property
    def compilers(self) -> tuple[str, str]:
        """The names under which kbuild calls them: the host programs' one and the kernel's."""
        return "gcc", f"{self.definition.cross_compile}gcc"

    @property
    def make_vars(self) -> list[tuple[str, str]]:
        """What goes on make's command line beside the architecture; a part of the keys of cached kernels."""
        names = [f"GCOV_PROFILE_{Path(name).name}" for name in self.profiles]
        flags = f"{GCOV_FLAGS} {self.definition.kernel.gcov_flags}".rstrip()
        profiled = dict.fromkeys(names, "y") | {"CFLAGS_GCOV": flags} if names else {}
        return sorted((self.definition.kernel.make_vars | profiled).items())

    @property
    def recipe(self) -> dict[str, str]:
        """The fields of the definition that affect the kernel; part of the keys of cached kernels, names included."""
        how = self.definition.kernel
        return {
            "name": self.arch,
            "srcarch": how.srcarch,
            "cross_compile": self.definition.cross_compile,
            "image": how.image,
            "target": how.target,
        }


def key(*parts: object) -> str:
    """A content key over all of this."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Make:
    """make in one build folder. `say` gets the line that reports a second try; `grouped`: make's output for one target
    stays together."""

    request: BuildRequest
    toolchain: Toolchain
    build: Path
    ccache: Ccache
    say: Callable[[str], None]
    grouped: bool = False

    def __call__(
        self, *targets: str, what: str, deadline: float, on_line: Callable[[str], None] | None = None
    ) -> list[str]:
        """Run make and return its output. Raises the error that :func:`buildlog.judge` derives from a failure.

        A failure without a tool's message may be the host's, such as a killed process: make continues once from where
        it stopped, and only a second failure is the tree's.
        """
        lines, status = self._once(targets, what, deadline, on_line)
        if status != 0 and buildlog.wordless(lines, status):
            self.say(f"{what}: {buildlog.errors(lines)[0].describe()} and no tool says why; it goes on once more")
            again, status = self._once(targets, what, deadline, on_line)
            lines += again
            if status != 0:
                raise buildlog.judge(again, status, what)
        if status != 0:
            raise buildlog.judge(lines, status, what)
        return lines

    def _once(
        self, targets: Sequence[str], what: str, deadline: float, on_line: Callable[[str], None] | None
    ) -> tuple[list[str], int]:
        """What make printed, stderr after stdout, and its exit status."""
        known = self.request.definition
        variables = {"O": BUILD, "ARCH": known.kernel.srcarch, "CROSS_COMPILE": known.cross_compile, "V": "0"}
        variables |= dict(self.request.make_vars)
        settings = [f"{name}={value}" for name, value in variables.items()]
        jobs = max(1, min(self.request.jobs, len(os.sched_getaffinity(0))))
        command = ["make", "--no-print-directory", "-C", SRC, f"-j{jobs}", *settings, *targets]
        if self.grouped:
            command.insert(1, "--output-sync=target")
        binds = (Bind(self.request.tree.path, SRC), Bind(self.build, BUILD, writable=True), *self.ccache.binds)
        try:
            # One stream, so that errors stay in order.
            done = self.toolchain.run(
                ["sh", "-c", 'exec "$@" 2>&1', "sh", *command],
                binds=binds,
                cwd=BUILD,
                env=environment(self.toolchain) | self.ccache.settings,
                what=what,
                deadline=deadline,
                on_line=on_line,
                check=False,
            )
        except DiskFull as error:
            raise DiskFull(self.build, detail=error.detail) from error
        return [*done.stdout.splitlines(), *done.stderr.splitlines()], done.status


def environment(toolchain: Toolchain) -> dict[str, str]:
    """Variables that make a build reproducible and put ccache first in the path.

    The names are those of Documentation/kbuild/kbuild.rst and reproducible-builds.rst.
    """
    path = getattr(toolchain, "path", "/usr/sbin:/usr/bin:/sbin:/bin")
    return {
        "PATH": f"{COMPILERS}:/usr/lib/ccache:{path}",
        "LC_ALL": "C",
        "HOME": "/tmp",
        "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
        "KBUILD_BUILD_USER": "kharness",
        "KBUILD_BUILD_HOST": "kharness",
    }
