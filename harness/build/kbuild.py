# SPDX-License-Identifier: GPL-2.0-only
"""Owns the kernel build: from a tree and Kconfig fragments to a cached kernel, through kbuild out of tree.

Inside the toolchain the tree is always /src and the build folder always /build, so that ccache hits for
every snapshot and debug information names files the same way. What is built is kept in the cache under
its content; the build folder lies in the cache's staging folder and goes away whatever happens.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.build import buildlog, kconfig
from harness.build.buildlog import BUILD, SRC
from harness.build.kconfig import Kconfig
from harness.definition import Definition
from harness.host.cache import Cache, remove, write_atomically
from harness.host.process import DiskFull
from harness.host.progress import Phase, Progress
from harness.host.toolchain import Bind, Toolchain
from harness.records import HarnessError, Kernel, Role
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
BUILD_SECONDS = 6 * 3600.0
KCONFIGS = Path(__file__).resolve().parents[2] / "kconfigs"
FIRST_GUESS = 1000
"""Objects of a first build, before any was counted here."""

COVERAGE = "coverage"
"""The fragment of a kernel that counts what it executes."""

GCOV_FLAGS = (
    "-fprofile-arcs -ftest-coverage -fprofile-update=prefer-atomic -fno-tree-loop-im -fno-early-inlining"
    " -frandom-seed=kharness"
)
"""The kernel's own, and: functions are counted before they are inlined, or the constants that they return leave no line
to be counted; and the object's stamp is not the time of day, or no two builds are equal."""

NOTES = "profile.gcno"
"""What of the kernel's entry gcov needs: the blocks and lines of the profiled object."""

_KEPT = ("vmlinux", "System.map", "Module.symvers")
_EXTMOD = "scripts/package/install-extmod-build"
# modpost and objtool run where the module is built, which is here: so they stay the host's programs
# also in a cross build, for which the script would build them anew with CC.
_EXTMOD_COMMAND = f'CC="$(HOSTCC)" $(srctree)/{_EXTMOD} extmod'


@dataclass(frozen=True)
class BuildRequest:
    """One kernel to build, as `definition` says. `user_fragments` override its own, in order.

    `jobs` is at most how many compilers run at once (never more than this machine has CPUs); `kconfigs` is the
    folder of the definition's fragments. `profile` is an object (kernel/fork.o) whose execution the kernel counts.
    """

    tree: Tree
    definition: Definition
    user_fragments: tuple[Path, ...] = ()
    jobs: int = 2
    kconfigs: Path = KCONFIGS
    profile: str = ""

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


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class _Make:
    """make in one build folder."""

    request: BuildRequest
    toolchain: Toolchain
    build: Path
    ccache: Path

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
                binds=binds, cwd=BUILD, env=_environment(self.toolchain), what=what,
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


def _environment(toolchain: Toolchain) -> Mapping[str, str]:
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


# --- configuration ----------------------------------------------------------------------


def configure(request: BuildRequest, toolchain: Toolchain, cache: Cache, progress: Progress) -> Kconfig:
    """The final .config: tinyconfig, our fragments, the user's, then olddefconfig; cached.

    Raises UsageError for a malformed or unknown line of a user's fragment and, as HarnessError when
    only our own are involved, for requested symbols that the final .config does not hold.
    Raises KernelFailure when the tree's own Kconfig files or configuration programs are broken.
    """
    return kconfig.parse(_config_file(request, toolchain, cache, progress).read_text(), "config")


def _config_file(request: BuildRequest, toolchain: Toolchain, cache: Cache, progress: Progress) -> Path:
    ours = [kconfig.read(path) for path in request.fragments]
    users = [kconfig.read(path) for path in request.user_fragments]
    wanted = kconfig.merge(ours, users)
    asked = [(entry.symbol, entry.value, entry.where_known) for entry in wanted.entries]
    # A user's unknown symbol must be refused also where the same values came out well without one.
    named = [(entry.symbol, entry.where_known) for fragment in users for entry in fragment.entries]
    key = _key(
        FORMAT, request.tree.tree, toolchain.id, request.recipe, sorted(asked), named, request.make_vars
    )
    what = f"configuration of {request.arch} {request.tree.version}"

    def maker(staging: Path) -> None:
        with progress.phase(what, f"configure-{request.arch}") as phase:
            _configure(request, toolchain, cache, (wanted, users), staging, phase)

    entry, _ = cache.produce("config", key, maker, what=what, say=progress.say)
    return entry / "config"


def _configure(
    request: BuildRequest,
    toolchain: Toolchain,
    cache: Cache,
    asked: tuple[Kconfig, Sequence[Kconfig]],
    staging: Path,
    phase: Phase,
) -> None:
    wanted, users = asked
    tree, srcarch = request.tree.path, request.definition.kernel.srcarch
    phase.step(note="reading Kconfig files")
    kconfig.refuse_unknown(users, tree, srcarch)
    wanted = wanted.only_known(kconfig.known_symbols(tree, srcarch))
    build = staging / ".build"
    build.mkdir()
    try:
        make = _Make(request, toolchain, build, cache.folder("ccache"))
        file = build / ".config"
        what = f"configuration of {request.arch} {request.tree.version}"
        for target in ("tinyconfig", "olddefconfig"):
            phase.step(note=target)
            make(target, what=what, deadline=CONFIG_SECONDS)
            if target == "tinyconfig":
                file.write_text(wanted.over(kconfig.read(file)).render())
        shutil.move(file, staging / "config")
    finally:
        remove(build)
    final = kconfig.read(staging / "config")
    _check(request, wanted, final)


def _check(request: BuildRequest, wanted: Kconfig, final: Kconfig) -> None:
    """Refuses a final .config that is not what was asked for, or whose BTF would be wrong."""
    pahole = final.get("PAHOLE_VERSION")
    old = f"pahole in the toolchain is {_dotted(pahole)}; 1.26 or newer is needed, see 'kharness doctor'"
    mismatches = wanted.missing(final)
    if mismatches:
        no_btf = any(m.symbol.startswith("DEBUG_INFO_BTF") for m in mismatches)
        raise kconfig.refusal(
            mismatches,
            request.tree.path,
            request.definition.kernel.srcarch,
            from_user=bool(request.user_fragments),
            why=old if no_btf and pahole.isdigit() and int(pahole) < 126 else "",
        )
    # Since 7.0 kfuncs have implicit arguments, whose prototypes an older pahole gets wrong: every BPF
    # scheduler would be refused at load.
    major = re.match(r"\d+", request.tree.version)
    needs = final.get("DEBUG_INFO_BTF") == "y" and major is not None and int(major[0]) >= 7
    if needs and pahole.isdigit() and int(pahole) < 126:
        raise HarnessError(f"BTF of {request.tree.version} would be wrong", step=old)


def _dotted(version: str) -> str:
    """scripts/pahole-version.sh prints 1.30 as 130, and 0 where there is none."""
    return f"{version[0]}.{version[1:]}" if version.isdigit() and len(version) > 1 else "missing"


# --- build --------------------------------------------------------------------------------


def build(
    request: BuildRequest, toolchain: Toolchain, cache: Cache, progress: Progress, role: Role
) -> Kernel:
    """The kernel, from the cache or built now (minutes).

    Its cache entry holds ``image``, ``vmlinux`` (DWARF and BTF), ``System.map``, ``config``,
    ``Module.symvers``, ``objects`` (one path a line), ``meta.json`` and, with CONFIG_MODULES, ``extmod/``
    to build external modules in (``make -C extmod M=...``); of a profiled one also NOTES. Raises what
    :func:`configure` raises, KernelFailure("build") naming the first error's file and line, and HarnessError when the
    host failed.
    """
    config = _config_file(request, toolchain, cache, progress)
    sha256 = kconfig.read(config).sha256()
    key = _key(FORMAT, request.tree.tree, sha256, toolchain.id, request.recipe, request.make_vars)

    def maker(staging: Path) -> None:
        folder = staging / ".build"
        folder.mkdir()
        try:
            shutil.copyfile(config, folder / ".config")
            make = _Make(request, toolchain, folder, cache.folder("ccache"))
            with progress.phase(request.what, f"build-{request.arch}") as phase:
                meta = _compile(make, cache, phase, sha256)
                _keep(make, staging)
            meta |= {"format": FORMAT, "build_seconds": round(phase.elapsed, 2)}
            (staging / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        finally:
            remove(folder)

    entry, cached = cache.produce("kernel", key, maker, what=request.what, say=progress.say)
    meta = json.loads((entry / "meta.json").read_text())
    return Kernel(
        id=f"{role}-{request.arch}-{key[:12]}",
        arch=request.arch,
        role=role,
        release=meta["release"],
        source=request.tree.origin,
        commit=request.tree.commit,
        tree=request.tree.tree,
        dirty=request.tree.dirty,
        patches=request.tree.patches,
        config=str(entry / "config"),
        config_sha256=sha256,
        toolchain=toolchain.id,
        image=str(entry / "image"),
        vmlinux=str(entry / "vmlinux"),
        path=str(entry),
        build_seconds=float(meta["build_seconds"]),
        cached=cached,
    )


def _compile(make: _Make, cache: Cache, phase: Phase, sha256: str) -> dict[str, object]:
    """Builds everything in the build folder and returns what meta.json tells of it."""
    request = make.request
    guess = cache.folder("estimates") / f"objects-{request.arch}.json"
    counter = _Counter(phase, _recall(guess))
    modules = kconfig.read(make.build / ".config").get("MODULES") == "y"
    targets = [request.definition.kernel.target, "vmlinux"]
    if modules:
        if not (request.tree.path / _EXTMOD).is_file():
            raise HarnessError(
                f"{request.tree.origin} has no {_EXTMOD}, which prepares the build of our kernel module",
                step="use a kernel of 6.4 or newer",
            )
        # modules also writes the Module.symvers that external modules need.
        targets += ["modules", "modules_prepare"]
    lines = make(*targets, what=request.what, deadline=BUILD_SECONDS, on_line=counter)
    if modules:
        phase.step(phase.done, "files for external modules")
        make(
            "run-command", f"KBUILD_RUN_COMMAND={_EXTMOD_COMMAND}",
            what=f"{request.what}: {_EXTMOD}", deadline=CONFIG_SECONDS,
        )  # fmt: skip
    after = kconfig.read(make.build / ".config").sha256()
    if after != sha256:
        raise HarnessError(
            f"{request.what}: the .config changed while it was built ({sha256[:12]} to {after[:12]})",
            step="another kernel than the one asked for came out; report this",
        )
    write_atomically(guess, json.dumps({"objects": len(counter.objects)}))
    (make.build / "objects").write_text("".join(name + "\n" for name in sorted(set(counter.objects))))
    return {
        "release": (make.build / "include/config/kernel.release").read_text().strip(),
        "arch": request.arch,
        "tree": request.tree.tree,
        "toolchain": make.toolchain.id,
        "config_sha256": sha256,
        "make_vars": dict(request.make_vars),
        "objects": len(counter.objects),
        "warnings": buildlog.warnings(lines),
    }


def _recall(guess: Path) -> int:
    try:
        return max(1, int(json.loads(guess.read_text())["objects"]))
    except (OSError, ValueError, KeyError, TypeError):
        return FIRST_GUESS  # only an estimate: a damaged one is as good as none


class _Counter:
    """Turns make's lines into the phase's steps: objects are counted, everything else is a note."""

    def __init__(self, phase: Phase, guess: int) -> None:
        self.phase = phase
        self.guess = guess
        self.objects: list[str] = []
        phase.total(guess)

    def __call__(self, line: str) -> None:
        step = buildlog.step(line)
        if step is None:
            return
        if step.is_object:
            self.objects.append(step.target)
            if len(self.objects) > self.guess:
                self.guess = len(self.objects)
                self.phase.total(self.guess)
        self.phase.step(len(self.objects), f"{step.verb} {step.target}")


def _keep(make: _Make, staging: Path) -> None:
    """Moves the entry's files out of the build folder. Raises HarnessError naming what is not there."""
    folder = make.build
    wanted = {make.request.definition.kernel.image: "image", ".config": "config", "objects": "objects"}
    wanted |= {name: name for name in _KEPT}
    if (folder / "extmod").is_dir():
        wanted["extmod"] = "extmod"
    else:
        wanted.pop("Module.symvers")
    if make.request.profile:
        wanted[str(Path(make.request.profile).with_suffix(".gcno"))] = NOTES
    for name, kept in wanted.items():
        # The image may be a link, and what it leads to goes away with the build folder.
        source = (folder / name).resolve()
        if not source.exists():
            raise HarnessError(
                f"{make.request.what} ended well but left no {name}",
                step=f"check image and target of {make.request.arch} in vm/, and PROFILE in harness/plan.py",
            )
        shutil.move(source, staging / kept)
