# SPDX-License-Identifier: GPL-2.0-only
"""The tests of symbols on a small program that a real compiler has made, read by the real tools."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.core.records import Frame
from harness.host.process import Done
from harness.host.toolchain import Bind
from harness.kbuild.symbols import Symbols

ONE = """
int sink;
static inline __attribute__((always_inline)) int inner(int x)
{
\tsink += x;
\treturn x * 3;
}
static __attribute__((noinline)) int twin(int x) { sink ^= x; return x + 1; }
__attribute__((noinline)) int outer(int x)
{
\tint y = x * 7;
\ty ^= inner(y);
\treturn twin(y) + 1;
}
int other(int);
__attribute__((cold, noinline)) void rare(void) { sink = -1; }
int main(int argc, char **argv) { if (argc > 9) rare(); return outer(argc) + other(argc); }
"""
TWO = """
extern int sink;
static __attribute__((noinline)) int twin(int x)
{
\tfor (int i = 0; i < x; i++)
\t\tsink += i * x;
\treturn sink - x * 5 + (x << 3);
}
static __attribute__((noinline)) int clone(int x) { sink -= x; return sink; }
__asm__(".set clone.isra.0, clone\\n");
int other(int x) { return twin(x) + clone(x); }
"""


class Local:
    """The host's own tools with a bind done by substitution; counts the runs."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def run(self, argv: Sequence[str], *, what: str, binds: Sequence[Bind] = (), input: str | None = None) -> Done:
        self.runs.append(argv[0])
        real = [re.sub(re.escape(b.inside), str(b.host), a) for b in binds for a in argv]
        done = subprocess.run(real, input=input, capture_output=True, text=True, check=True)
        return Done(tuple(real), done.returncode, done.stdout, done.stderr, 0.0)


class Rooted(Local):
    """The toolchain root's tools through bubblewrap, as in a real run."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def run(self, argv: Sequence[str], *, what: str, binds: Sequence[Bind] = (), input: str | None = None) -> Done:
        self.runs.append(argv[0])
        real = [
            "bwrap",
            "--die-with-parent",
            "--ro-bind",
            str(self.root),
            "/",
            "--dev",
            "/dev",
            "--proc",
            "/proc",
            "--tmpfs",
            "/run",
        ]
        for bind in binds:
            real += ["--bind" if bind.writable else "--ro-bind", str(bind.host), bind.inside or str(bind.host)]
        done = subprocess.run([*real, *argv], input=input, capture_output=True, text=True, check=True)
        return Done(tuple(real), done.returncode, done.stdout, done.stderr, 0.0)


def local_tools() -> Local | None:
    """A toolchain root named by KHARNESS_TEST_ROOT or left in the cache by a run, else the host's tools."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kharness"
    named = os.environ.get("KHARNESS_TEST_ROOT")
    tool = "usr/bin/llvm-symbolizer-19"
    found = [*cache.glob(f"toolchain/*/root/{tool}"), *cache.glob(f"*/{tool}")]
    roots = [Path(named)] if named else [p.parents[2] for p in found]
    if shutil.which("bwrap") and roots:
        return Rooted(roots[0])
    here = [shutil.which(t) for t in ("gcc", "nm", "llvm-symbolizer")]
    return Local() if all(here) else None


@pytest.fixture(scope="module")
def tools() -> Local:
    found = local_tools()
    if found is None:
        pytest.skip("neither a toolchain root nor gcc, nm and llvm-symbolizer on the host: run 'make toolchain'")
    return found


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory, tools: Local) -> Path:
    folder = tmp_path_factory.mktemp("symbols")
    (folder / "kernel").mkdir()
    (folder / "kernel" / "one.c").write_text(ONE)
    (folder / "kernel" / "two.c").write_text(TWO)
    script = (
        "cd /run/w && gcc -g -O2 -no-pie -fno-toplevel-reorder -ffile-prefix-map=/run/w/=/src/"
        " /run/w/kernel/one.c /run/w/kernel/two.c -o vmlinux"
    )
    tools.run(["sh", "-c", script], what="compile", binds=[Bind(folder, "/run/w", writable=True)])
    return folder / "vmlinux"


@pytest.fixture
def symbols(binary: Path, tools: Local) -> Symbols:
    tools.runs.clear()
    return Symbols(binary, tools)


def line_of(text: str, source: str = ONE) -> int:
    return next(i for i, line in enumerate(source.splitlines(), 1) if text in line)


def place(symbols: Symbols, function: str, index: int = 0) -> tuple[int, int]:
    return symbols.ranges([function])[function][index]


def test_inlined_callee_comes_first(symbols: Symbols) -> None:
    start, end = place(symbols, "outer")
    answers = [symbols(Frame("outer", offset=o)) for o in range(end - start)]
    (inlined,) = {(a[0].function, a[0].file) for a in answers if len(a) == 2}
    assert inlined == ("inner", "kernel/one.c")
    chosen = next(a for a in answers if len(a) == 2)
    assert chosen[0].inlined and not chosen[1].inlined
    assert (chosen[1].function, chosen[1].line) == ("outer", line_of("y ^= inner"))
    lines = {a[-1].line for a in answers}
    assert line_of("y = x * 7") in lines or line_of("y ^= inner") in lines


def test_batch_is_one_run_and_is_kept(symbols: Symbols, tools: Local) -> None:
    frames = [Frame("outer", offset=o) for o in range(8)] + [Frame("main", offset=1)]
    symbols.prefetch(frames)
    assert tools.runs == ["nm", "sh"]
    for frame in frames:
        symbols(frame)
    assert tools.runs == ["nm", "sh"]


def test_twins_are_told_apart_by_size(symbols: Symbols) -> None:
    (one, end_one), (two, end_two) = symbols.ranges(["twin"])["twin"]
    assert end_one - one != end_two - two
    for start, end in ((one, end_one), (two, end_two)):
        assert symbols.address(Frame("twin", offset=1, size=end - start)) == start + 1
    assert symbols.address(Frame("twin", offset=1)) is None, "ambiguous"
    assert symbols.address(Frame("twin", offset=1, size=0x7777)) is None
    both = {symbols(Frame("twin", offset=0, size=e - s))[-1].file for s, e in ((one, end_one), (two, end_two))}
    assert both == {"kernel/one.c", "kernel/two.c"}


def test_the_size_a_splat_prints_reaches_to_the_next_symbol(symbols: Symbols) -> None:
    start, _ = place(symbols, "outer")
    following = min(
        s for f in ("twin", "other", "main", "rare", "clone") for s, _ in symbols.ranges([f])[f] if s > start
    )
    frame = Frame("outer", offset=2, size=following - start)
    assert symbols.address(frame) == start + 2
    got = symbols(frame)[-1]
    assert (got.offset, got.size, got.function) == (2, following - start, "outer")


def test_what_is_not_known_comes_back_as_it_is(symbols: Symbols) -> None:
    for frame in (
        Frame("no_such_function", offset=1, size=2),
        Frame("outer", offset=1, size=2, module="kharness"),
        Frame("outer"),
        Frame("outer", offset=0x99999, size=None),
    ):
        assert tuple(symbols(frame)) == (frame,)


def test_ranges(symbols: Symbols) -> None:
    ranges = symbols.ranges(["outer", "clone", "inner", "twin"])
    assert len(ranges["outer"]) == 1 and len(ranges["twin"]) == 2
    assert ranges["inner"] == ()
    assert len(ranges["clone"]) == 1, "the clone is an alias of the same text"
    assert all(start < end for several in ranges.values() for start, end in several)


def test_spans_take_what_lies_between_two_near_functions(symbols: Symbols) -> None:
    """One span a cluster, in order; each function in exactly one."""
    names = ["outer", "twin", "main"]
    every = sorted(span for name in names for span in symbols.ranges([name])[name])
    (whole,) = symbols.spans(names, 1 << 20)
    assert whole == (every[0][0], max(end for _, end in every))
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(every)]
    assert symbols.spans(reversed(names), max(gaps)) == (whole,)
    several = symbols.spans(names, min(gaps) - 1)
    assert several == tuple(every), "nothing near enough: each by itself"
    assert symbols.spans(["no_such_function"], 1) == ()


def test_all_functions_lie_between_two_addresses(symbols: Symbols) -> None:
    start, end = symbols.extent()
    spans = symbols.text().values()
    assert start == min(first for first, _ in spans)
    assert end >= max(last for _, last in spans)


def test_every_function_by_the_name_that_the_source_gives_it(symbols: Symbols) -> None:
    text = symbols.text()
    assert {"main", "outer", "other", "twin", "clone"} <= text.keys()
    assert "inner" not in text and "clone.isra.0" not in text
    assert text["outer"] == symbols.ranges(["outer"])["outer"][0]
    assert text["twin"] == symbols.ranges(["twin"])["twin"][0], "of namesakes the first"


def test_chain_of_raw_addresses(symbols: Symbols) -> None:
    twin, _ = place(symbols, "twin")
    outer, _ = place(symbols, "outer")
    frames = symbols.chain([twin, outer + 9, 0xFFFF0000_00001234])
    assert frames[0].function == "twin" and frames[0].offset == 0
    assert frames[-2].function == "outer" and frames[-2].offset == 9
    assert frames[-1] == Frame("0xffff000000001234", reliable=False)


def test_return_addresses_of_a_chain_belong_to_the_call(symbols: Symbols) -> None:
    """One past the last instruction is still the function whose last call it was."""
    twin, _ = place(symbols, "twin")
    outer, end = place(symbols, "outer")
    assert symbols.chain([twin, end])[-1].function == "outer"
    assert symbols.chain([twin, end])[-1].offset == end - outer
    assert symbols.chain([end])[-1].function != "outer"
    for offset in range(1, end - outer):
        called = symbols(Frame("outer", offset=offset - 1))[-1]
        assert symbols.chain([twin, outer + offset])[-1].line == called.line


def test_missing_vmlinux_is_one_clear_line(tools: Local, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="is gone") as caught:
        Symbols(tmp_path / "vmlinux", tools).ranges(["x"])
    assert caught.value.step


def test_the_address_of_a_variable(symbols: Symbols, binary: Path) -> None:
    listed = subprocess.run(["nm", str(binary)], capture_output=True, text=True, check=True).stdout
    found = re.search(r"^([0-9a-f]+) [bBdD] sink$", listed, re.MULTILINE)
    assert found and symbols.data("sink") == int(found[1], 16)
    with pytest.raises(HarnessError, match="no variables outer"):
        symbols.data("outer")  # a function is none
