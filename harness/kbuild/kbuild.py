# SPDX-License-Identifier: GPL-2.0-only
"""The kernel build: from a tree and its final .config to a cached kernel, through kbuild out of tree.

What is built is kept in the cache under its content. The build folder lies in the cache's staging folder and goes away
whatever happens, or is one that stays (build_folders.py), where an error is believed only if a build from nothing has
it too.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HarnessError, KernelFailure
from harness.core.records import Kernel, Role
from harness.core.words import file_name
from harness.host import below
from harness.host.cache import Cache, write_atomically
from harness.host.process import DiskFull
from harness.host.progress import Phase, Progress
from harness.host.removal import remove
from harness.host.toolchain import Toolchain
from harness.kbuild import build_folders, buildlog, ccache, kconfig
from harness.kbuild.ccache import Ccache
from harness.kbuild.configure import config_file
from harness.kbuild.make import CONFIG_SECONDS, FORMAT, BuildRequest, Make, key
from harness.kbuild.products import built_by, release_of
from harness.kbuild.steps import Steps

BUILD_SECONDS = 6 * 3600.0
FIRST_GUESS = 1000
"""Objects of a first build, before any was counted here."""


_MOST = {"vmlinux": below.FILE_MOST, "image": 1 << 30, "config": kconfig.CONFIG_MOST}
TABLE_MOST = 256 << 20
"""Bytes of each other file of an entry, some of which are read into memory. Linux 7.2 has a System.map of 2 MB."""

EXTMOD_MOST, EXTMOD_FILES = 4 << 30, 200_000
"""Bytes and files of the folder for external modules; that of Linux 7.2 has 71 MB in 7600 files."""

_KEPT = ("vmlinux", "System.map", "Module.symvers")
_EXTMOD = "scripts/package/install-extmod-build"
# modpost and objtool run where the module is built, which is here: so they stay the host's programs
# also in a cross build, for which the script would build them again with CC.
_EXTMOD_COMMAND = f'CC="$(HOSTCC)" $(srctree)/{_EXTMOD} extmod'


def notes(profiled: str) -> str:
    """The file of the kernel's entry that gcov needs: the blocks and lines of a profiled object."""
    return file_name(str(Path(profiled).with_suffix(".gcno")))


def build(request: BuildRequest, toolchain: Toolchain, cache: Cache, progress: Progress, role: Role) -> Kernel:
    """The kernel, from the cache or built now (minutes).

    Its cache entry holds ``image``, ``vmlinux`` (DWARF and BTF), ``System.map``, ``config``,
    ``Module.symvers``, ``objects`` (one path a line), ``meta.json`` and, with CONFIG_MODULES, ``extmod/``
    to build external modules in (``make -C extmod M=...``); of a profiled one also :func:`notes`. Raises what
    :func:`configure` raises, KernelFailure("build") naming the first error's file and line, and HarnessError when the
    host failed.
    """
    config = config_file(request, toolchain, cache, progress)
    final = kconfig.read(config)
    sha256 = final.sha256()
    name = key(FORMAT, request.tree.tree, sha256, toolchain.id, request.recipe, request.make_vars)

    one = _One(request, toolchain, cache, progress, config, sha256)

    def maker(staging: Path) -> None:
        meta = one.incremental(staging) if request.incremental else one.from_nothing(staging)
        (staging / "meta.json").write_text(json.dumps(meta | {"format": FORMAT}, indent=1) + "\n")

    entry, cached = cache.produce("kernel", name, maker, what=request.what, say=progress.say)
    meta = json.loads((entry / "meta.json").read_text())
    return Kernel(
        id=f"{role}-{request.arch}-{name[:12]}",
        arch=request.arch,
        role=role,
        release=release_of(meta["release"], request.what),
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
        profiles=tuple(name for name in request.profiles if (entry / notes(name)).is_file()),
        compiler=final.values().get("CC_VERSION_TEXT", "").strip('"'),
        fragments=tuple(path.stem for path in request.all_fragments),
    )


@dataclass(frozen=True)
class _One:
    """One kernel that is not in the cache. Both ways fill a staging folder and return the content of meta.json."""

    request: BuildRequest
    toolchain: Toolchain
    cache: Cache
    progress: Progress
    config: Path
    sha256: str

    def from_nothing(self, staging: Path) -> dict[str, object]:
        """Build in a folder below `staging`, which is removed afterwards."""
        folder = staging / ".build"
        folder.mkdir()
        try:
            shutil.copyfile(self.config, folder / ".config")
            make = Make(self.request, self.toolchain, folder, self._ccache(), self.progress.say)
            return self._made(make, staging, Steps(), f"build-{self.request.arch}", first=True)
        finally:
            remove(folder)

    def incremental(self, staging: Path) -> dict[str, object]:
        """Build in the folder that is kept, and from nothing if that fails; so does the next build in it then."""
        request, say = self.request, self.progress.say
        with build_folders.opened(request, self.toolchain, self.sha256, self.cache, say) as place:
            place.begin(self.config)
            make = Make(place.request, self.toolchain, place.build, self._ccache(), say, grouped=True)
            timed = f"build-{request.arch}" + ("" if place.why else "-step")
            if place.why:
                say(f"{request.what}: the folder that is kept starts from nothing: {place.why}")
            try:
                meta = self._made(make, staging, place.steps, timed, first=bool(place.why))
            except DiskFull:
                raise
            except (KernelFailure, HarnessError) as error:
                trees = isinstance(error, KernelFailure)
                if not place.why:
                    say(f"{request.what}: failed in the folder that is kept; once more from nothing: {error.what}")
                    try:
                        _empty(staging)
                        return self.from_nothing(staging)  # the folder was wrong and stays marked
                    except KernelFailure:
                        if trees:
                            place.end()
                        raise
                if trees:
                    place.end()  # make ended, and the next tree may have fewer errors
                raise
            place.end()
            return meta

    def _ccache(self) -> Ccache:
        return ccache.of(self.request.tree, self.request.compilers, self.cache)

    def _made(self, make: Make, staging: Path, steps: Steps, timed: str, *, first: bool) -> dict[str, object]:
        """Build it in make's folder; `first`: all objects are to be made; `timed` is the phase's key."""
        guess = self.cache.folder("estimates") / f"objects-{self.request.arch}.json"
        what = self.request.what if first else f"{self.request.what} on what is kept"
        with self.progress.phase(what, timed) as phase:
            counter = _Counter(phase, _recall(guess) if first else 0, steps)
            meta = _compile(make, counter, self.sha256)
            _keep(make, staging, stays=make.grouped)
            (staging / "objects").write_text("".join(name + "\n" for name in steps.objects))
            if first:
                write_atomically(guess, json.dumps({"objects": len(counter.objects)}))
            else:
                phase.total(len(counter.objects))
        return meta | {"build_seconds": round(phase.elapsed, 2)}


def _empty(staging: Path) -> None:
    for path in staging.iterdir():
        remove(path)


def _compile(make: Make, counter: _Counter, sha256: str) -> dict[str, object]:
    """Build everything in the build folder and return the content of meta.json."""
    request = make.request
    modules = _config(make).get("MODULES") == "y"
    targets = [request.definition.kernel.target, "vmlinux"]
    if modules:
        if not below.is_file(request.tree.path, _EXTMOD, links=True):
            raise HarnessError(
                f"{request.tree.origin} has no {_EXTMOD}, which prepares the build of our kernel module",
                step="use a kernel of 6.4 or newer",
            )
        # modules also writes the Module.symvers that external modules need.
        targets += ["modules", "modules_prepare"]
    steps = counter.steps
    steps.begin()
    make(*targets, what=request.what, deadline=BUILD_SECONDS, on_line=counter)
    if modules:
        counter.phase.step(counter.phase.done, "files for external modules")
        make(
            "run-command",
            f"KBUILD_RUN_COMMAND={_EXTMOD_COMMAND}",
            what=f"{request.what}: {_EXTMOD}",
            deadline=CONFIG_SECONDS,
        )
    after = _config(make).sha256()
    if after != sha256:
        raise HarnessError(
            f"{request.what}: the .config changed while it was built ({sha256[:12]} to {after[:12]})",
            step="another kernel than the one asked for came out; report this",
        )
    return {
        "release": _release(make),
        "arch": request.arch,
        "tree": request.tree.tree,
        "toolchain": make.toolchain.id,
        "config_sha256": sha256,
        "make_vars": dict(request.make_vars),
        "objects": len(steps.objects),
        "warnings": steps.warnings,
    }


def _recall(guess: Path) -> int:
    try:
        return max(1, int(json.loads(guess.read_text())["objects"]))
    except (OSError, ValueError, KeyError, TypeError):
        return FIRST_GUESS  # only an estimate: a damaged one is as good as none


class _Counter:
    """Turns make's lines into the phase's steps: objects are counted, everything else is a note.

    `guess` is how many objects there will be; 0 if unknown, as where only some are made again.
    """

    def __init__(self, phase: Phase, guess: int, steps: Steps) -> None:
        self.phase = phase
        self.guess = guess
        self.steps = steps
        self.objects: list[str] = []
        if guess:
            phase.total(guess)

    def __call__(self, line: str) -> None:
        self.steps.line(line)
        step = buildlog.step(line)
        if step is None:
            return
        if step.is_object:
            self.objects.append(step.target)
            if self.guess and len(self.objects) > self.guess:
                self.guess = len(self.objects)
                self.phase.total(self.guess)
        self.phase.step(len(self.objects), f"{step.verb} {step.target}")


def _config(make: Make) -> kconfig.Kconfig:
    """The .config in the build folder. Raises KernelFailure for one that is no file there, or no configuration."""
    with built_by(make.request.what):
        return kconfig.left_by_build(make.build)


def _release(make: Make) -> str:
    """The kernel's release. Raises KernelFailure where it is not a valid one, HarnessError where there is none."""
    name = "include/config/kernel.release"
    with built_by(make.request.what):
        if below.inspect(make.build, name) is None:
            raise HarnessError(f"{make.request.what} ended well but left no {name}", step="report this")
        return release_of(below.read_text(make.build, name, most=4096).strip(), make.request.what)


def _keep(make: Make, staging: Path, *, stays: bool) -> None:
    """Copy the entry's files out of the build folder, which is not trusted: the tree's programs wrote it.

    In a temporary build folder each is removed, to save disk space. Raises KernelFailure for what is neither a file
    nor, for the image, a link to one within the folder, HarnessError naming a missing file.
    """
    folder = make.build
    wanted = {make.request.definition.kernel.image: "image", ".config": "config"} | {name: name for name in _KEPT}
    for number, profiled in enumerate(make.request.profiles):
        left = str(Path(profiled).with_suffix(".gcno"))
        if not number or below.inspect(folder, left) is not None:
            wanted[left] = notes(profiled)
    with built_by(make.request.what):
        if below.inspect(folder, "extmod") is None:
            wanted.pop("Module.symvers")
        else:
            below.take_folder(folder, "extmod", staging / "extmod", most=EXTMOD_MOST, count=EXTMOD_FILES)
            remove(folder / "extmod")  # it is made as a whole each time, and nothing is built from it
        for name, kept_as in wanted.items():
            image = kept_as == "image"
            if below.inspect(folder, name, links=image) is None:
                raise HarnessError(
                    f"{make.request.what} ended well but left no {name}",
                    step=f"check image and target of {make.request.arch} in vm/, and `code` in the suite's suite.py",
                )
            below.take(folder, name, staging / kept_as, links=image, most=_MOST.get(kept_as, TABLE_MOST))
            if not stays and not image:
                below.unlink(folder, name)
