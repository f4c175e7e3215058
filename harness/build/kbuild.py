# SPDX-License-Identifier: GPL-2.0-only
"""Owns the kernel build: from a tree and its final .config to a cached kernel, through kbuild out of tree.

What is built is kept in the cache under its content. The build folder lies in the cache's staging folder and goes away
whatever happens, or is one that stays (kept.py), where an error is believed only if a build from nothing has it too.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.build import buildlog, kconfig, kept
from harness.build.configure import config_file
from harness.build.make import CONFIG_SECONDS, FORMAT, BuildRequest, Make, key
from harness.build.steps import Steps
from harness.errors import HarnessError, KernelFailure
from harness.host.cache import Cache, remove, write_atomically
from harness.host.process import DiskFull
from harness.host.progress import Phase, Progress
from harness.host.toolchain import Toolchain
from harness.records import Kernel, Role

BUILD_SECONDS = 6 * 3600.0
FIRST_GUESS = 1000
"""Objects of a first build, before any was counted here."""

NOTES = "profile.gcno"
"""What of the kernel's entry gcov needs: the blocks and lines of the profiled object."""

_KEPT = ("vmlinux", "System.map", "Module.symvers")
_EXTMOD = "scripts/package/install-extmod-build"
# modpost and objtool run where the module is built, which is here: so they stay the host's programs
# also in a cross build, for which the script would build them anew with CC.
_EXTMOD_COMMAND = f'CC="$(HOSTCC)" $(srctree)/{_EXTMOD} extmod'


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
    config = config_file(request, toolchain, cache, progress)
    sha256 = kconfig.read(config).sha256()
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


@dataclass(frozen=True)
class _One:
    """One kernel that is not in the cache. Both ways fill a staging folder and give what meta.json tells."""

    request: BuildRequest
    toolchain: Toolchain
    cache: Cache
    progress: Progress
    config: Path
    sha256: str

    def from_nothing(self, staging: Path) -> dict[str, object]:
        """In a build folder below `staging`, which is gone afterwards."""
        folder = staging / ".build"
        folder.mkdir()
        try:
            shutil.copyfile(self.config, folder / ".config")
            make = Make(self.request, self.toolchain, folder, self.cache.folder("ccache"))
            return self._made(make, staging, Steps(), f"build-{self.request.arch}", first=True)
        finally:
            remove(folder)

    def incremental(self, staging: Path) -> dict[str, object]:
        """In the folder that is kept, and from nothing if that fails; one left in doubt starts from nothing next."""
        request, say = self.request, self.progress.say
        with kept.opened(request, self.toolchain, self.sha256, self.cache, say) as place:
            place.begin(self.config)
            make = Make(place.request, self.toolchain, place.build, self.cache.folder("ccache"), grouped=True)
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
                    place.end()  # make came to its end, and the next tree may have less wrong
                raise
            place.end()
            return meta

    def _made(self, make: Make, staging: Path, steps: Steps, timed: str, *, first: bool) -> dict[str, object]:
        """Makes it in make's folder; `first` tells that all objects are to be made, `timed` is the phase's key."""
        guess = self.cache.folder("estimates") / f"objects-{self.request.arch}.json"
        what = self.request.what if first else f"{self.request.what} on what is kept"
        with self.progress.phase(what, timed) as phase:
            counter = _Counter(phase, _recall(guess) if first else 0, steps)
            meta = _compile(make, counter, self.sha256)
            _keep(make, staging, stays=make.grouped)
            if first:
                write_atomically(guess, json.dumps({"objects": len(counter.objects)}))
            else:
                phase.total(len(counter.objects))
        return meta | {"build_seconds": round(phase.elapsed, 2)}


def _empty(staging: Path) -> None:
    for path in staging.iterdir():
        remove(path) if path.is_dir() else path.unlink()


def _compile(make: Make, counter: _Counter, sha256: str) -> dict[str, object]:
    """Builds everything in the build folder and returns what meta.json tells of it."""
    request = make.request
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
    steps = counter.steps
    steps.begin()
    make(*targets, what=request.what, deadline=BUILD_SECONDS, on_line=counter)
    if modules:
        counter.phase.step(counter.phase.done, "files for external modules")
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
    (make.build / "objects").write_text("".join(name + "\n" for name in steps.objects))
    return {
        "release": (make.build / "include/config/kernel.release").read_text().strip(),
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

    `guess` is how many objects there will be; 0 if that cannot be told, as where only some are made anew.
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


def _keep(make: Make, staging: Path, *, stays: bool) -> None:
    """Takes the entry's files out of the build folder, as copies where that one `stays`.

    Raises HarnessError naming what is not there.
    """
    folder = make.build
    wanted = {make.request.definition.kernel.image: "image", ".config": "config", "objects": "objects"}
    wanted |= {name: name for name in _KEPT}
    if (folder / "extmod").is_dir():
        wanted["extmod"] = "extmod"
    else:
        wanted.pop("Module.symvers")
    if make.request.profile:
        wanted[str(Path(make.request.profile).with_suffix(".gcno"))] = NOTES
    for name, kept_as in wanted.items():
        # The image may be a link, and what it leads to goes away with the build folder.
        source = (folder / name).resolve()
        if not source.exists():
            raise HarnessError(
                f"{make.request.what} ended well but left no {name}",
                step=f"check image and target of {make.request.arch} in vm/, and PROFILE in harness/plan.py",
            )
        if stays and not source.is_dir():
            shutil.copy2(source, staging / kept_as)  # no link: the linker's helpers write into what is there
        else:
            shutil.move(source, staging / kept_as)  # extmod is made as a whole each time, and nothing is made of it
