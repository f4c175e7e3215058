# SPDX-License-Identifier: GPL-2.0-only
"""Owns the way from fragments to a final .config: the kernel's own conf decides, and what it left out is told."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.build import kconfig, steering
from harness.build.kconfig import Kconfig
from harness.build.make import CONFIG_SECONDS, FORMAT, BuildRequest, Make, key
from harness.errors import HarnessError
from harness.host.cache import Cache, remove
from harness.host.progress import Phase, Progress
from harness.host.toolchain import Toolchain


def configure(request: BuildRequest, toolchain: Toolchain, cache: Cache, progress: Progress) -> Kconfig:
    """The final .config: tinyconfig, our fragments, the user's, then olddefconfig; cached.

    Raises UsageError for a malformed or unknown line of a user's fragment and, as HarnessError when
    only our own are involved, for requested symbols that the final .config does not hold.
    Raises KernelFailure when the tree's own Kconfig files or configuration programs are broken.
    """
    return kconfig.parse(config_file(request, toolchain, cache, progress).read_text(), "config")


def config_file(request: BuildRequest, toolchain: Toolchain, cache: Cache, progress: Progress) -> Path:
    """The file that holds it; see :func:`configure`."""
    ours = [kconfig.read(path) for path in request.fragments]
    users = [kconfig.read(path) for path in request.user_fragments]
    wanted = kconfig.merge(ours, users)
    asked = [(entry.symbol, entry.value, entry.where_known) for entry in wanted.entries]
    # A user's unknown symbol must be refused also where the same values came out well without one.
    named = [(entry.symbol, entry.where_known) for fragment in users for entry in fragment.entries]
    name = key(
        FORMAT, steering.digest(request.tree, cache, progress), toolchain.id, request.recipe, sorted(asked), named,
        request.make_vars,
    )
    what = f"configuration of {request.arch} {request.tree.version}"

    def maker(staging: Path) -> None:
        with progress.phase(what, f"configure-{request.arch}") as phase:
            _configure(request, toolchain, cache, (wanted, users), staging, phase)

    entry, _ = cache.produce("config", name, maker, what=what, say=progress.say)
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
        make = Make(request, toolchain, build, cache.folder("ccache"))
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
