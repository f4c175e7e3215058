# SPDX-License-Identifier: GPL-2.0-only
"""Tests that what is declared on two sides is the same on both: structs, numbers and names of agent, module, BPF and host.

No compiler sees both sides: here the declarations are read as text.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import struct
from pathlib import Path

import pytest
from sched_ext import dsq
from sched_ext.dsq import dsq_context

from harness.core.wire import ByteOrder
from harness.faults import cause, endings, percpu, sweep, trials
from harness.faults.account import Account, Swept
from harness.faults.types import TYPES
from harness.guest import resident
from harness.oracles import ledger, live_objects
from harness.oracles.splat import rules
from tests.unit.fakes.context import FakeContext, observer
from tests.unit.guest.lines import constant

ROOT = Path(__file__).resolve().parents[3]
AGENT, BPF, MODULE = ROOT / "vm" / "agent", ROOT / "bpf_progs" / "observers", ROOT / "vm" / "module" / "last_words.c"
SUITE = ROOT / "bpf_progs" / "sched_ext"
OBJECTS = BPF / "objects.bpf.h"
SITES, LEDGER, ALIVE = BPF / "fault_sites.bpf.c", BPF / "ledger.bpf.c", BPF / "alive.bpf.c"

CODES = {
    "char": "s",
    "u32": "I",
    "uint32_t": "I",
    "s32": "i",
    "int": "i",
    "u64": "Q",
    "uint64_t": "Q",
    "s64": "q",
    "int64_t": "q",
    "int32_t": "i",
}

Field = tuple[str, str, int]
"""Name, code as of the struct module, how many."""


def bare(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)


def number(text: str, name: str) -> int:
    """A #define or an enumerator with a value."""
    found = set(re.findall(rf"(?:^#define {name}\s+|\b{name} = )\(?(-?\d+)\)?", bare(text), re.MULTILINE))
    assert len(found) == 1, f"{name} is {' and '.join(found) or 'not there'}"
    return int(found.pop())


def layout(text: str, name: str) -> list[Field]:
    """The fields of a struct, in order."""
    body = re.search(rf"^struct {name} {{\n(.*?)^}};", bare(text), re.MULTILINE | re.DOTALL)
    assert body, f"there is no struct {name}"
    fields: list[Field] = []
    for kind, names in re.findall(r"^\s*(\w+) ([\w ,\[\]]+);", body[1], re.MULTILINE):
        for one in names.split(","):
            found = re.fullmatch(r"\s*(\w+)(?:\[(\w+)\])?\s*", one)
            assert found and kind in CODES, f"{kind} {one}"
            size = found[2] or "1"
            fields.append((found[1], CODES[kind], int(size) if size.isdigit() else number(text, size)))
    assert body[1].count(";") == len(re.findall(r"^\s*(\w+) ([\w ,\[\]]+);", body[1], re.MULTILINE)), (
        "a field is not read"
    )
    return fields


def packed(fields: list[Field]) -> struct.Struct:
    """The layout as the host reads it; C pads nothing in it."""
    codes = "".join(code if count == 1 else f"{count}{code}" for _, code, count in fields)
    assert struct.calcsize(f"<{codes}") == struct.calcsize(f"@{codes}"), "C would put padding into it"
    return struct.Struct(f"<{codes}")


LAST_WORDS = ((SITES, "last_words"), (AGENT / "agent.h", "last_words"), (MODULE, "last_words"))
OBJECT = ((LEDGER, "object"), (AGENT / "ledger.c", "entry"))
LIVE = ((ALIVE, "object"), (AGENT / "alive.c", "entry"))


@pytest.mark.parametrize("places", [LAST_WORDS, OBJECT, LIVE], ids=["last_words", "object", "live"])
def test_a_struct_that_is_declared_several_times_is_the_same(places: tuple[tuple[Path, str], ...]) -> None:
    first, *others = [layout(path.read_text(), name) for path, name in places]
    assert len(first) >= 3
    for (path, _), other in zip(places[1:], others, strict=True):
        assert other == first, path.name


@pytest.mark.parametrize(
    ("path", "name", "old", "new"),
    [
        (
            SITES,
            "last_words",
            "u64 stack[LAST_WORDS_DEPTH];\n};\n\nstruct last_words last_words",
            "u64 stack[MAX_DEPTH];\n};\n\nstruct last_words last_words",
        ),
        (MODULE, "last_words", "#define LAST_WORDS_DEPTH 16", "#define LAST_WORDS_DEPTH 32"),
        (MODULE, "last_words", "char what[64]", "char what[32]"),
        (AGENT / "agent.h", "last_words", "uint64_t nth, site", "uint64_t site, nth"),
        (AGENT / "agent.h", "last_words", "uint32_t type, depth", "uint64_t type, depth"),
        (LEDGER, "object", "\tu32 unused;\n", ""),
        (LEDGER, "object", "#define MAX_DEPTH 28", "#define MAX_DEPTH 32"),
        (AGENT / "ledger.c", "entry", "kind, size, depth", "size, kind, depth"),
        (ALIVE, "object", "u64 call_site;", "u32 call_site;"),
        (AGENT / "alive.c", "entry", "kind, size", "size, kind"),
    ],
)
def test_a_change_on_one_side_is_seen(path: Path, name: str, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    assert layout(text.replace(old, new), name) != layout(text, name)


def test_the_host_reads_what_a_hanging_guest_was_at_as_it_is_written() -> None:
    assert packed(layout(SITES.read_text(), "last_words")).format == "<" + cause.LAST_WORDS
    assert packed(layout(SITES.read_text(), "last_words")).size == cause.LAST_WORDS_BYTES


def test_the_host_reads_objects_of_the_ledger_as_they_are_written() -> None:
    fields = layout(LEDGER.read_text(), "object")
    assert [name for name, _, _ in fields] == ["run", "kind", "size", "depth", "unused", "stack"]
    assert packed(fields[:-1]).format == "<" + trials.OBJECT, "what precedes the stack"
    assert packed(fields[:-1]).size == trials.STACK
    assert fields[-1][1] == "Q"


def test_the_host_reads_sites_of_the_observer_as_they_are_written() -> None:
    """By its own reader: each field has another number."""
    fields = layout(SITES.read_text(), "site")
    shown = {"reached": 11, "injected": 12, "type": 2, "size": 14, "gfp": 0x40, "depth": 3}
    stack = [0x20, 0x40, 0x50] + [0] * 29
    values = [shown[name] for name, _, _ in fields[:-1]]
    assert fields[-1] == ("stack", "Q", len(stack))
    entry = struct.pack("<Q", 1), packed(fields).pack(*values, *stack)
    account = Account(FakeContext().as_context, observer(entry), Swept("x", "", endings.Allowed(), ("create_dsq",)))
    (site,) = account.observed({}).sites
    assert (site.reached, site.injected, site.type, site.size, site.gfp) == (11, 12, "page", 14, 0x40)
    assert site.stack[-1] == "scx_bpf_create_dsq" and site.flags == "__GFP_IO"


def test_the_context_of_a_call_is_as_the_program_reads_it() -> None:
    fields = layout((SUITE / "calls.bpf.h").read_text(), "api_args")
    values = packed(fields).unpack(dsq_context(0xF000000000000001, -1).bytes(ByteOrder.LITTLE))
    assert dict(zip((name for name, _, _ in fields[:2]), values[:2], strict=True)) == {
        "dsq_id": 0xF000000000000001,
        "node": -1,
    }


def test_numbers_that_both_sides_have() -> None:
    run, steps = (AGENT / "run.c").read_text(), (AGENT / "steps.c").read_text()
    flags = {name: number(run, name) for name in ("LEFT_PERCPU", "LEFT_SLAB", "NOT_DONE")}
    assert flags == {name: getattr(endings, name) for name in flags}
    assert all(a & b == 0 for a, b in itertools.combinations(flags.values(), 2)), "flags are bits of their own"
    assert constant("agent/steps.c", "ENDED_BASE") == endings.ENDED_BASE
    assert number(steps, "ENDED_BASE") == endings.ENDED_BASE
    kinds = {number(OBJECTS.read_text(), f"KIND_{kind}"): f"{kind.lower()} leak" for kind in ("PERCPU", "SLAB")}
    assert kinds == ledger.KINDS
    assert number(OBJECTS.read_text(), "MAX_RANGES") == resident.MAX_RANGES
    for path, name in ((OBJECTS, "KIND_PERCPU"), (ALIVE, "KIND_OLD")):
        assert number((AGENT / "alive.c").read_text(), name) == number(path.read_text(), name)
    assert not number(ALIVE.read_text(), "KIND_OLD") & sum(kinds)
    types = {number(SITES.read_text(), f"SITE_{kind}"): name for kind, name in (("SLAB", "failslab"), ("PAGE", "page"))}
    assert types == {one.site: one.name for one in TYPES if one.site}
    assert number((BPF / f"{percpu.PROGRAM}.bpf.c").read_text(), "MAX_CALLERS") == percpu.MAX_CALLERS
    assert number((SUITE / "dsq_api.bpf.c").read_text(), "MAX_LISTED") == dsq.MAX_LISTED


def test_every_program_of_the_ledger_is_attached_and_the_agent_has_room_for_them() -> None:
    programs = re.findall(r"^int BPF_PROG\((\w+)", LEDGER.read_text(), re.MULTILINE)
    assert sorted(programs) == sorted(sweep.LEDGER_DEEP)
    assert constant("agent/bpf.c", "MAX_LINKS") >= len(programs)


def test_every_program_of_the_resident_ledger_is_attached_each_with_its_twin() -> None:
    programs = re.findall(r"^int BPF_PROG\((\w+)", ALIVE.read_text(), re.MULTILINE)
    assert programs == list(resident.PROGRAMS)
    assert constant("agent/bpf.c", "MAX_LINKS") >= len(programs)
    sections = dict(
        zip(programs, re.findall(r'^SEC\("((?:tp|fentry)\S*)"\)', ALIVE.read_text(), re.MULTILINE), strict=True)
    )
    for name, section in sections.items():
        twins = [other for other in programs if sections[other] == section]
        first = name.removesuffix(live_objects.TWICE)
        assert twins == ([name] if name.startswith("percpu") else [first, first + live_objects.TWICE])


def test_what_the_host_reads_of_the_resident_ledger_is_in_the_agent_s_answer() -> None:
    agent, program = (AGENT / "alive.c").read_text(), ALIVE.read_text()
    counts = set(re.findall(r'"(\w+)"', agent[agent.index("counts[] = {") :].split("};", 1)[0]))
    there = set(re.findall(r"^(?:u64|s64) (\w+);", bare(program + OBJECTS.read_text()), re.MULTILINE))
    assert counts <= there, "all of them have 8 bytes"
    sent = counts | {name for pair in re.findall(r'reply_int\(r, "(\w+)"|,\\"(\w+)\\":[\[{]', agent) for name in pair}
    readers = [
        ROOT / "harness" / name for name in ("oracles/live_objects.py", "oracles/objects.py", "guest/resident.py")
    ]
    read = {name for path in readers for name in re.findall(r'\banswer\["(\w+)"\]', path.read_text())}
    assert {"places", "missed", "omitted", "percpu_older", "attached"} <= read <= sent
    assert set(re.findall(r'\bvar="(\w+)"', readers[2].read_text())) == {"starts", "ends", "nr_ranges"}


def test_the_ledgers_keys_are_no_addresses() -> None:
    """kmemleak scans maps: a key that is an object's address would hide its leak."""
    for path in (LEDGER, ALIVE):
        keys = re.findall(r"\bu64 key = ([^;]+);", path.read_text())
        assert len(keys) >= 2 and all(key.startswith("object_key(") for key in keys)


def test_what_the_host_reads_of_a_sweep_s_answer_is_in_it() -> None:
    sources = [(AGENT / name).read_text() for name in ("sweep.c", "nth.c", "run.c", "ledger.c")]
    sent = {
        name for text in sources for name in re.findall(r'reply_int\(r, "(\w+)"|\\"(\w+)\\":\[', text) for name in name
    }
    readers = [(ROOT / "harness" / "faults" / name).read_text() for name in ("sweep.py", "account.py")]
    read = {name for text in readers for name in re.findall(r"\b(?:got|left)\[[\"'](\w+)[\"']\]", text)}
    assert {"unready", "stuck", "outcomes", "loud", "left", "count", "ids"} <= read
    assert read - {"ok", "errno"} <= sent, "those two are in every answer"


SIZES = {"u64": 8, "s64": 8, "u32": 4, "s32": 4}


@pytest.mark.parametrize(("opener", "path"), [("open_observer", SITES), ("open_ledger", LEDGER)])
def test_the_variables_that_the_agent_maps_are_there_in_that_size(opener: str, path: Path) -> None:
    text = (AGENT / "nth.c").read_text()
    body = text[text.index(f"static bool {opener}") :].split("\n}\n", 1)[0]
    wanted = {name: int(size) for name, size in re.findall(r'find_number\([^"]+"(\w+)", \(?[^,]+, (\d+)\)', body)}
    there = {
        name: SIZES[kind]
        for kind, name in re.findall(r"^(u64|s64|u32|s32) (\w+);", bare(path.read_text()), re.MULTILINE)
    }
    assert len(wanted) >= 3
    assert wanted.items() <= there.items()


def test_the_variables_that_the_host_sets_and_reads_are_there() -> None:
    def variables(path: Path) -> set[str]:
        text = path.read_text() + (OBJECTS.read_text() if '"objects.bpf.h"' in path.read_text() else "")
        return set(re.findall(r"^(?:u64|s64|u32|s32) (\w+)(?:\[\w+\])?;", bare(text), re.MULTILINE))

    suite = ROOT / "harness" / "faults"
    uses = {
        LEDGER: (suite / "trials.py", r"_ledger\.set\(\"(\w+)\""),
        BPF / "fail_percpu.bpf.c": (suite / "percpu.py", r"shim\.(?:set|get)\(\"(\w+)\""),
        SITES: (suite / "sweep.py", r"observer\.(?:set|get)\(\"(\w+)\""),
        ALIVE: (ROOT / "harness" / "guest" / "resident.py", r"\bvar=\"(\w+)\""),
    }
    for program, (user, pattern) in uses.items():
        used = set(re.findall(pattern, user.read_text()))
        assert used and used <= variables(program), program.name
    assert set(re.findall(r"_ledger\.(?:set|get)\(\"(\w+)\"", (suite / "sweep.py").read_text())) <= variables(LEDGER)


def test_an_ending_s_numbers_come_in_the_order_that_the_host_reads() -> None:
    text = (AGENT / "nth.c").read_text()
    body = text[text.index("void nth_reply") :].split("\n}\n", 1)[0]
    outcomes, loud = body.split("loud", 1)
    sent = re.findall(r"endings\[i\]\.(\w+)", outcomes)
    names = {"answer": "ret", "nth": "n"}
    assert sent == [names.get(field.name, field.name) for field in dataclasses.fields(endings.Ending)]
    assert re.findall(r"louds\[i\]\.(?:ending\.)?(\w+)", loud) == ["site", "n", "first", "last"]


def test_the_poison_is_what_the_oracle_knows() -> None:
    text = (ROOT / "vm" / "module" / "quarantine.h").read_text()
    found = re.search(r"^#define POISON 0x([0-9a-f]{2})$", text, re.MULTILINE)
    assert found, "the quarantine has no poison"
    pointer = found[1] * 8
    assert rules.POISON.search(f"address 0x{pointer}: 0000 [#1]") and rules.POISON.search(f"address {pointer}")


def test_no_address_is_made_of_poison() -> None:
    """Bits 63 to 47 of one are equal (x86_64, riscv64), 63 to 56 with five levels; of one of arm64's kernel 55 to 48 are ones."""
    found = re.search(
        r"^#define POISON 0x([0-9a-f]{2})$", (ROOT / "vm" / "module" / "quarantine.h").read_text(), re.MULTILINE
    )
    assert found
    pointer = int(found[1] * 8, 16)
    for bits in (17, 8):
        assert pointer >> 64 - bits not in (0, (1 << bits) - 1)
    assert pointer >> 55 & 1 and pointer >> 48 & 0xFF != 0xFF and pointer >> 52 & 0xF != 0xF
