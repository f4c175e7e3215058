# SPDX-License-Identifier: GPL-2.0-only
"""The way from fragments to a final .config: the kernel's own conf decides, and what it left out is reported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import HarnessError
from harness.host import below
from harness.host.cache import Cache
from harness.host.progress import Phase, Progress
from harness.host.removal import remove
from harness.host.toolchain import Toolchain
from harness.kbuild import ccache, kconfig, steering
from harness.kbuild.kconfig import Kconfig
from harness.kbuild.make import CONFIG_SECONDS, FORMAT, BuildRequest, Make, key
from harness.kbuild.products import built_by


def configure(request: BuildRequest, toolchain: Toolchain, cache: Cache, progress: Progress) -> Kconfig:
    """The final .config, cached: tinyconfig, then our fragments, the suite's and the user's, each over the former, then
    olddefconfig.

    Raises UsageError for a malformed or unknown line of a user's fragment and, as HarnessError when
    only our own are involved, for requested symbols that the final .config does not hold.
    Raises KernelFailure when the tree's own Kconfig files or configuration programs are broken.
    """
    return kconfig.parse(config_file(request, toolchain, cache, progress).read_text(), "config")


def config_file(request: BuildRequest, toolchain: Toolchain, cache: Cache, progress: Progress) -> Path:
    """The file that holds it; see :func:`configure`."""
    ours, suites, users = (
        [kconfig.read(path) for path in paths]
        for paths in (request.fragments, request.suite_fragments, request.user_fragments)
    )
    wanted = kconfig.merge([kconfig.merge(suites).over(kconfig.merge(ours))], users)
    asked = [(entry.symbol, entry.value, entry.where_known) for entry in wanted.entries]
    # A user's unknown symbol must be refused even if the same values are cached from a request without it.
    named = [(entry.symbol, entry.where_known) for fragment in users for entry in fragment.entries]
    name = key(
        FORMAT,
        steering.digest(request.tree, cache, progress),
        toolchain.id,
        request.recipe,
        sorted(asked),
        named,
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
        make = Make(request, toolchain, build, ccache.of(request.tree, request.compilers, cache), phase.say)
        what = f"configuration of {request.arch} {request.tree.version}"
        for target in ("tinyconfig", "olddefconfig"):
            phase.step(note=target)
            make(target, what=what, deadline=CONFIG_SECONDS)
            with built_by(what):
                found = kconfig.left_by_build(build)
                if target == "tinyconfig":
                    below.write(build, ".config", wanted.over(found).render().encode())
                else:
                    below.take(build, ".config", staging / "config", most=kconfig.CONFIG_MOST)
    finally:
        remove(build)
    final = kconfig.read(staging / "config")
    _check(request, wanted, final)


def _check(request: BuildRequest, wanted: Kconfig, final: Kconfig) -> None:
    """Refuse a final .config that is not what was requested, or whose BTF would be wrong."""
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
