# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the search over the difference of two .config files."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bisect.drive import Asked, Bisection
from harness.bisect.judge import Wanted
from harness.bisect.search import Find
from harness.bisect.state import Finding, Outcome, Run, State
from harness.bisect.steps import Impossible
from harness.bisect.symbols import OLD, ROUNDS, Symbols, Try, differing, mixed
from harness.core.errors import UsageError
from harness.core.plan import KernelRequest, SourceRequest
from harness.kbuild import kconfig
from harness.kbuild.kconfig import Refused

GOOD = "CONFIG_SAME=y\n# CONFIG_A is not set\nCONFIG_N=4\nCONFIG_ONLY_OLD=y\n"
BAD = "CONFIG_SAME=y\nCONFIG_A=y\nCONFIG_A_CHILD=y\nCONFIG_B=y\nCONFIG_N=8\nCONFIG_C=y\n"


def search(folder: Path, attempt: Try = lambda path: None, good: str = GOOD, bad: str = BAD) -> Symbols:
    (folder / "good").write_text(good)
    (folder / "bad").write_text(bad)
    request = KernelRequest(SourceRequest(version="7.2"), "x86_64")
    return Symbols(
        request, (folder / "good", folder / "bad"), ("good", "bad"), folder / "made", attempt, lambda line: None
    )


def values(path: str) -> dict[str, str]:
    return dict(kconfig.read(Path(path)).values())


def test_what_differs_in_kconfigs_order(tmp_path: Path) -> None:
    it = search(tmp_path)
    assert it.differing == ("A", "A_CHILD", "B", "N", "C", "ONLY_OLD")
    assert [point.title for point in it.history.points][3] == "CONFIG_N: 4 -> 8"
    assert values(it.kconfig(OLD)[0]) == {"SAME": "y", "A": "n", "N": "4", "ONLY_OLD": "y"}
    assert values(it.kconfig("k0003")[0]) == {
        "SAME": "y",
        "A": "y",
        "A_CHILD": "y",
        "B": "y",
        "N": "4",
        "ONLY_OLD": "y",
    }
    last = values(it.kconfig("k0006")[0])
    assert {name: last.get(name, "n") for name in ("A", "N", "C", "ONLY_OLD")} == {
        "A": "y",
        "N": "8",
        "C": "y",
        "ONLY_OLD": "n",
    }


def test_two_that_ask_for_the_same(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="good and bad ask for the same"):
        search(tmp_path, good="# CONFIG_A is not set\n", bad="")


def test_what_cannot_be_had_is_left_to_kconfig_but_not_at_the_ends(tmp_path: Path) -> None:
    asked: list[dict[str, str]] = []

    def attempt(path: Path) -> None:
        asked.append(values(str(path)))
        if asked[-1].get("N") == "4" and asked[-1].get("B") == "y":
            refused = Refused("CONFIG_N (wanted 4, got 8)")
            refused.got = {"N": "8"}
            raise refused

    it = search(tmp_path, attempt)
    assert values(it.kconfig("k0003")[0])["N"] == "8"
    assert [request["N"] for request in asked] == ["4", "8"]

    def never(path: Path) -> None:
        refused = Refused("no")
        refused.got = {"A": "n"}
        raise refused

    with pytest.raises(Refused):
        search(tmp_path, never).kconfig(OLD)


def test_what_kconfig_always_undoes_is_no_kernel(tmp_path: Path) -> None:
    """Two symbols that switch each other, so that no request comes out as it was asked: the point is not judged."""
    tried: list[str] = []

    def flips(path: Path) -> None:
        asked = values(str(path))
        if asked["A"] == "y" and "C" not in asked:
            tried.append(asked["B"])
            refused = Refused("CONFIG_B")
            refused.got = {"B": "y" if asked["B"] == "n" else "n"}
            raise refused

    both = "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_SAME=y\n"
    it = search(tmp_path, flips, good="CONFIG_SAME=y\n", bad=both)
    it.kconfig("k0003")
    with pytest.raises(Impossible, match="Kconfig undoes what this point asks for, however it is asked: CONFIG_B"):
        it.kconfig("k0002")
    assert len(tried) == ROUNDS

    def never(path: Path) -> None:
        tried.append("")
        refused = Refused("CONFIG_A")
        refused.got = {"A": "y"}  # what it asked for
        raise refused

    tried.clear()
    with pytest.raises(Impossible, match="CONFIG_A"):
        search(tmp_path, never, good="CONFIG_SAME=y\n", bad=both).kconfig("k0002")
    assert len(tried) == 1


@pytest.mark.parametrize("find", list(Find))
def test_the_symbol_is_found(tmp_path: Path, find: Find) -> None:
    it = search(tmp_path)

    def step(id: str, number: int, wanted: Wanted | None, select: str) -> Run:
        fails = (values(it.kconfig(id)[0]).get("N") == "8") == (find is Find.REGRESSION)
        found = (Finding("dmesg:warn:f", "WARN", "tests/x.py::test_x"),)
        return Run(Outcome.FAILS, "WARN", found, kernel=id) if fails else Run(Outcome.PASSES, kernel=id)

    state = State.open(tmp_path / "state", {})
    answer = Bisection(it, Asked(find=find), state, step, lambda line: None).run()
    state.close()
    ((id, chance),) = answer.candidates
    shown = it.candidate(id, chance)
    assert (shown.title, chance > 0.99) == ("CONFIG_N: 4 -> 8", True)
    assert shown.diff == "with those before it as in bad: CONFIG_A, CONFIG_A_CHILD, CONFIG_B"


def test_mixed_keeps_what_was_not_switched() -> None:
    was, now = kconfig.parse("CONFIG_A=y\n", "was"), kconfig.parse("CONFIG_B=y\n", "now")
    assert differing(was, now) == ("B", "A")
    assert mixed(was, now, ("B",)).render() == "CONFIG_A=y\nCONFIG_B=y\n"
    assert mixed(was, now, ("B", "A")).get("A") == "n"
