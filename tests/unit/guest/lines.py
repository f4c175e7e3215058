# SPDX-License-Identifier: GPL-2.0-only
"""The agent's side of its protocol as tests have it: parse_steps() of vm/agent/sweep.c and parse_op() of json.c."""

from __future__ import annotations

import re
from pathlib import Path

from harness.core.records import Operation

VM = Path(__file__).resolve().parents[3] / "vm"


def constant(file: str, name: str) -> int:
    """A #define of a C file below vm/."""
    found = re.findall(rf"^#define {name} \(?(-?\d+)\)?\s*$", (VM / file).read_text(), re.MULTILINE)
    assert len(found) == 1, f"{file} has {len(found)} numbers {name}"
    return int(found[0])


MAX_STEPS = constant("agent/sweep.c", "MAX_STEPS")
MAX_ARGS = constant("agent/agent.h", "MAX_ARGS")


def verbs() -> set[str]:
    """What the agent can do (VERB of vm/agent/agent.h)."""
    texts = [path.read_text() for path in (VM / "agent").glob("*.c")]
    return {name for text in texts for name in re.findall(r'^VERB\("([\w-]+)", do_\w+\);', text, re.MULTILINE)}


def decoded(value: str) -> str:
    """percent_decode(): what is no two hex digits stays."""
    return re.sub(r"%([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), value)


def parse_op(line: str) -> Operation:
    """One operation "VERB<TAB>key=value..."; strtok_r() passes over empty fields."""
    verb, *fields = [field for field in line.split("\t") if field]
    assert len(fields) <= MAX_ARGS and all("=" in field for field in fields), line
    pairs = [field.partition("=") for field in fields]
    return Operation(verb, {key: decoded(value) for key, _, value in reversed(pairs)})


def parse_steps(value: str) -> tuple[Operation, ...]:
    """The operations in one decoded argument, one a line."""
    lines = [line for line in value.split("\n") if line]
    assert len(lines) <= MAX_STEPS, f"the agent takes {MAX_STEPS}, not {len(lines)}"
    return tuple(parse_op(line) for line in lines)


def plain(operation: Operation) -> Operation:
    """An operation as the agent has it: all values are text, a truth is 1 or 0."""
    args = {key: str(int(value)) if isinstance(value, bool) else str(value) for key, value in operation.args.items()}
    return Operation(operation.verb, args)
