# SPDX-License-Identifier: GPL-2.0-only
"""Gcov: the counters that guests brought home, added up and laid over the source's lines, as gcov's own JSON."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from harness.core.definition import load
from harness.core.errors import HarnessError
from harness.core.records import Kernel
from harness.host.toolchain import Bind, Toolchain
from harness.kbuild import kbuild
from harness.kbuild.products import out_folder

SECONDS = 300.0

BYTES = {"LC_ALL": "C"}
"""The shell sorts names by their bytes, as we do."""

_NOTES, _IN, _OUT = "/run/profile.gcno", "/run/counters", "/run/merged"

# gcov-tool adds up two folders; gcov wants notes and counters side by side. $1: prefix of the tools, $2: the object.
_SCRIPT = f"""
set -e
mkdir /tmp/one /tmp/sum
for file in {_IN}/*.gcda; do
    cp "$file" "/tmp/one/$2.gcda"
    if [ -e "/tmp/sum/$2.gcda" ]; then
        "$1gcov-tool" merge -o /tmp/next /tmp/sum /tmp/one
        rm -r /tmp/sum
        mv /tmp/next /tmp/sum
    else
        cp "/tmp/one/$2.gcda" "/tmp/sum/$2.gcda"
    fi
done
cp {_NOTES} "/tmp/sum/$2.gcno"
cp "/tmp/sum/$2.gcda" {_OUT}/
cd /tmp/sum
"$1gcov" --json-format --branch-probabilities --stdout "$2.gcda"
"""

# The same of each file of counters alone, numbered as they are sorted by the shell.
_EACH = f"""
set -e
mkdir /tmp/one
cd /tmp/one
cp {_NOTES} "$2.gcno"
number=0
for file in {_IN}/*.gcda; do
    cp "$file" "$2.gcda"
    "$1gcov" --json-format --branch-probabilities "$2.gcda" > /dev/null
    mv *.gcov.json.gz "{_OUT}/$number.gz"
    number=$((number + 1))
done
"""


def measure(
    kernel: Kernel, profiled: str, counters: Sequence[Path], merged: Path, toolchain: Toolchain
) -> dict[str, Any]:
    """gcov's JSON of the `profiled` object of a kernel, from the sum of all `counters`, which is left in `merged`.

    The counters are the only files of their folder. Raises HarnessError when gcov refuses them: they are of another
    kernel, or gcov is of another toolchain.
    """
    notes = Path(kernel.path) / kbuild.notes(profiled)
    prefix = load(kernel.arch).cross_compile
    merged.mkdir(parents=True, exist_ok=True)
    name = PurePath(profiled).stem
    with out_folder(merged, f"{name}.gcda") as out:
        binds = (Bind(notes, _NOTES), Bind(counters[0].parent, _IN), Bind(out, _OUT, writable=True))
        done = toolchain.run(
            ["sh", "-c", _SCRIPT, "sh", prefix, name], what=f"gcov of {kernel.id}", binds=binds, deadline=SECONDS
        )
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise HarnessError(
            f"gcov of {kernel.id} gave no JSON: {error}", step="see what it says", detail=done.stderr[-2000:]
        ) from error
    if not found.get("files"):
        raise HarnessError(f"gcov of {kernel.id} found no lines", step="see what it says", detail=done.stderr[-2000:])
    return found


def each(
    kernel: Kernel, profiled: str, counters: Sequence[Path], folder: Path, toolchain: Toolchain
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each file of `counters` with gcov's JSON of it alone. `folder` takes the JSON meanwhile.

    The counters are the only files of their folder. Raises HarnessError when gcov refuses one.
    """
    counters = sorted(counters, key=lambda path: path.name.encode())
    names = [f"{number}.gz" for number in range(len(counters))]
    folder.mkdir(parents=True, exist_ok=True)
    notes, name = Path(kernel.path) / kbuild.notes(profiled), PurePath(profiled).stem
    with out_folder(folder, *names) as out:
        binds = (Bind(notes, _NOTES), Bind(counters[0].parent, _IN), Bind(out, _OUT, writable=True))
        argv = ["sh", "-c", _EACH, "sh", load(kernel.arch).cross_compile, name]
        toolchain.run(argv, what=f"gcov of each test on {kernel.id}", binds=binds, env=BYTES, deadline=SECONDS)
    for made, path in zip(names, counters, strict=True):
        try:
            yield path, json.loads(gzip.decompress((folder / made).read_bytes()))
        except (OSError, ValueError) as error:
            raise HarnessError(f"gcov of {path.name} gave no JSON: {error}", step="see what gcov says of it") from error
