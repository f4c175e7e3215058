# SPDX-License-Identifier: GPL-2.0-only
"""Owns gcov: the counters that guests brought home, added up and laid over the source's lines, as gcov's own JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from harness.build.kbuild import NOTES
from harness.definition import load
from harness.errors import HarnessError
from harness.host.toolchain import Bind, Toolchain
from harness.plan import PROFILE
from harness.records import Kernel

SECONDS = 300.0

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


def measure(kernel: Kernel, counters: Sequence[Path], merged: Path, toolchain: Toolchain) -> dict[str, Any]:
    """What all `counters` together say of the profiled object of a kernel; their sum is left in the folder `merged`.

    The files lie in one folder, which holds no others. Raises HarnessError when gcov does not take them: they are not
    of this kernel, or it is not of this toolchain.
    """
    notes = Path(kernel.path) / NOTES
    prefix = load(kernel.arch).cross_compile
    merged.mkdir(parents=True, exist_ok=True)
    binds = (Bind(notes, _NOTES), Bind(counters[0].parent, _IN), Bind(merged, _OUT, writable=True))
    done = toolchain.run(
        ["sh", "-c", _SCRIPT, "sh", prefix, PurePath(PROFILE.object).stem],
        what=f"gcov of {kernel.id}", binds=binds, deadline=SECONDS,
    )  # fmt: skip
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise HarnessError(
            f"gcov of {kernel.id} gave no JSON: {error}", step="see what it says", detail=done.stderr[-2000:]
        ) from error
    if not found.get("files"):
        raise HarnessError(f"gcov of {kernel.id} found no lines", step="see what it says", detail=done.stderr[-2000:])
    return found
