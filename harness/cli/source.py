# SPDX-License-Identifier: GPL-2.0-only
"""`kharness source import`: a history of releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.flags import takes
from harness.core.options import IMPORT, Options
from harness.core.plan import CACHE_CAP_GIB, DEFAULT_RELEASES
from harness.core.printable import one_line


@takes(IMPORT, Options)
def import_releases(
    items: Annotated[
        list[str], typer.Argument(metavar="VERSION|TARBALL|FOLDER...", help="Releases: Debian's, or what lies here.")
    ],
    into: Annotated[str, typer.Option(help="The bare repository to make, or to add to.")] = DEFAULT_RELEASES,
    **flags: Any,
) -> None:
    """Make a git repository of kernel releases, one commit each: a history for 'kharness bisect'."""
    from harness.host.cache import Cache
    from harness.host.progress import Progress
    from harness.source import releases

    cache = Cache.default(CACHE_CAP_GIB << 30)
    progress = Progress(cache.folder("durations"))
    made = releases.gather(items, Path(into), cache, progress, flags["toolchain"])
    for version, commit in made:
        print(one_line(f"v{version} {commit[:12]}"))
    if len(made) > 1:
        print(one_line(f"next: kharness bisect --tree {into} --good v{made[0][0]} --bad v{made[-1][0]}"))
