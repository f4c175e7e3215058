# SPDX-License-Identifier: GPL-2.0-only
"""The JSON Schema of results.json, made from the dataclasses that it is written from.

``python -m harness.report.schema`` writes docs/reference/results.schema.json (`make schema`); with ``--check`` it only
compares, and exits with status 1 where the file is stale.
"""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

import msgspec

from harness.core.checkout import CHECKOUT
from harness.verdict.rows import Results

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILE = CHECKOUT / "docs/reference/results.schema.json"


def schema() -> dict[str, Any]:
    """The schema. Fields that it does not name are allowed: a later version may add some."""
    made: dict[str, Any] = msgspec.json.schema(Results)
    for kind in made["$defs"].values():
        if "description" in kind:
            kind["description"] = inspect.cleandoc(kind["description"])
    return {"$schema": DIALECT, "title": "kharness: results.json", **made}


def render() -> str:
    """The text of FILE."""
    return json.dumps(schema(), indent=1, ensure_ascii=True) + "\n"


def main(check: bool) -> int:
    """Write FILE, or say whether it is stale; returns the exit status."""
    if not check:
        FILE.write_text(render())
        return 0
    if FILE.is_file() and FILE.read_text() == render():
        return 0
    name = FILE.relative_to(CHECKOUT)
    print(f"kharness: {name} is stale: a record of results.json was changed; make schema", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
