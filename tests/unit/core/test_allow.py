# SPDX-License-Identifier: GPL-2.0-only
"""The tests of the allow-list: what an entry fits, what is wrong in a file, what becomes of it in the verdict."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.core import allow
from harness.core.checkout import CHECKOUT
from harness.core.errors import Exit, HarnessError, UsageError
from harness.core.plan import Allowed
from harness.core.records import Canary, FaultSite, FaultSummary, Finding, Outcome, Verdict, decode, encode
from harness.report import html, terminal
from harness.suite import loader
from harness.verdict import Results, judge
from tests.unit.report.eventlog import CREATE, DESTROY, LEAK, MACHINE, SPLAT, Log, kernel, result

DAY = datetime.date(2026, 11, 25)
TREE, ARM = kernel(), kernel(arch="arm64")
PAIR = "dmesg:warn:init_dsq<scx_bpf_create_dsq"
GOOD = "signature: 'dmesg:warn:f'\n  reason: r\n  expires: 2026-12-31"


def listed(folder: Path, text: str, name: str = "allow.yaml") -> tuple[Allowed, ...]:
    file = folder / name
    file.write_text(text)
    return allow.read(file, DAY)


def entry(signature: str, reason: str = "known", expires: str = "2026-12-31", **more: Any) -> Allowed:
    return Allowed(signature, reason, expires, expired=expires < "2026-11-25", place=f"{reason}.yaml:1", **more)


# --- what an entry fits -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "signature", "does"),
    [
        (PAIR, PAIR, True),
        (PAIR, PAIR + "<more", False),
        ("dmesg:warn:init_dsq*", PAIR, True),
        ("dmesg:warn:*<scx_bpf_create_dsq", PAIR, True),
        ("dmesg:warn:init_ds?<*", PAIR, True),
        ("dmesg:warn:init", PAIR, False),
        ("dmesg:oops:f:[#1]", "dmesg:oops:f:[#1]", True),
        ("dmesg:oops:f:[#1]*", "dmesg:oops:f:[#1] SMP", True),
        ("dmesg:oops:f:[#1]*", "dmesg:oops:f:1", False),
        ("dmesg:warn:.*", "dmesg:warn:.f", True),
        ("dmesg:warn:.*", "dmesg:warn:f", False),
        ("dmesg:warn:f*", "dmesg:warn:f\nx", True),
    ],
)
def test_signatures_are_exact_or_globs(pattern: str, signature: str, does: bool) -> None:
    assert allow.fits(entry(pattern), signature, "x86_64") is does


def test_an_entry_may_be_about_some_architectures() -> None:
    one = entry(PAIR, arch=("arm64", "riscv64"))
    assert [allow.fits(one, PAIR, arch) for arch in ("arm64", "riscv64", "x86_64")] == [True, True, False]


def test_what_fits_does_not_count_and_says_why() -> None:
    provoked = replace(LEAK, expected=True)
    planted = replace(LEAK, allowed_by="planted as a canary")
    found = allow.applied([LEAK, SPLAT, provoked, planted], [entry("kmemleak:percpu leak:*", "late")], "x86_64")
    assert [one.allowed_by for one in found] == ["late", None, None, "planted as a canary"]
    assert [one.counts for one in found] == [False, True, False, False]


def test_the_first_entry_is_named_and_an_expired_one_allows_nothing() -> None:
    old, first, second = (
        entry(LEAK.signature, "old", "2026-11-24"),
        entry(LEAK.signature, "a"),
        entry("kmemleak:percpu leak:*", "b"),
    )
    assert [f.allowed_by for f in allow.applied([LEAK], [old, first, second], "x86_64")] == ["a"]
    assert allow.applied([LEAK], [old], "x86_64") == [LEAK]


# --- files --------------------------------------------------------------------------------


def test_entries_of_a_file(tmp_path: Path) -> None:
    text = (
        '# known\n- signature: "dmesg:warn:f:DSQ # is not empty" # a comment\n  arch: arm64\n  reason: >\n    two\n    lines\n'
        f"  expires: 2026-11-25\n- signature: {PAIR}*\n  arch: [x86_64, arm64]\n  reason: r\n  expires: 2026-11-24\n"
    )
    file = tmp_path / "allow.yaml"
    assert listed(tmp_path, text) == (
        Allowed("dmesg:warn:f:DSQ # is not empty", "two lines", "2026-11-25", ("arm64",), f"{file}:2", expired=False),
        Allowed(f"{PAIR}*", "r", "2026-11-24", ("x86_64", "arm64"), f"{file}:8", expired=True),
    )


@pytest.mark.parametrize("text", ["", "[]", "# nothing is allowed\n", "---\n[]\n"])
def test_an_empty_list_allows_nothing(tmp_path: Path, text: str) -> None:
    assert listed(tmp_path, text) == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"- {GOOD}\n  sgnature: x", "allow.yaml:4: unknown key 'sgnature'; near it: signature"),
        (f"- {GOOD}\n  reason: s", "allow.yaml:4: reason is there twice"),
        (f"- {GOOD}\n- {GOOD}", "allow.yaml:4: this signature is there twice, as in "),
        (f"- {GOOD}\n  arch: arm64\n- {GOOD}\n  arch: [x86_64, arm64]", "allow.yaml:5: this signature is there twice"),
        ("- signature: 'dmesg:warn:f'\n  reason: r", "allow.yaml:1: an entry without expires"),
        ("- signature: 'dmesg:warn:f'\n  expires: 2026-12-31", "allow.yaml:1: an entry without reason"),
        ("\n- reason: r\n  expires: 2026-12-31", "allow.yaml:2: an entry without signature"),
        (f"- {GOOD}".replace("reason: r", "reason: ''"), "allow.yaml:1: an entry without reason"),
        (f"- {GOOD}".replace("2026-12-31", "2026-02-30"), "allow.yaml:3: expires: '2026-02-30' is no date"),
        (f"- {GOOD}".replace("2026-12-31", "20261231"), "allow.yaml:3: expires: '20261231' is no date"),
        (f"- {GOOD}".replace("2026-12-31", "never"), "allow.yaml:3: expires: 'never' is no date"),
        (f"- {GOOD}".replace("'dmesg:warn:f'", "'*'"), "allow.yaml:1: signature: '*' does not name oracle and kind"),
        (f"- {GOOD}".replace("'dmesg:warn:f'", "'dmesg:*'"), "allow.yaml:1: signature: 'dmesg:*' does not name oracle"),
        (
            f"- {GOOD}".replace("'dmesg:warn:f'", "dmesg:warn:f DSQ # is not empty"),
            "allow.yaml:1: signature: what follows ' #'",
        ),
        (f"- {GOOD}".replace("'dmesg:warn:f'", "dmesg:warn:f: x"), "allow.yaml: not YAML: "),
        (f"- {GOOD}".replace("'dmesg:warn:f'", "[a]"), "allow.yaml:1: signature: Expected str, got array"),
        (f"- {GOOD}\n  arch: [pdp11]", "pdp11"),
        ("- just words", "allow.yaml:1: no entry"),
        (GOOD.replace("\n  ", "\n"), "allow.yaml: a list of entries"),
        ("words", "allow.yaml: a list of entries"),
    ],
)
def test_a_mistake_is_one_line_with_file_line_and_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        listed(tmp_path, text)
    assert says in raised.value.what
    assert raised.value.step and "\n" not in raised.value.line()
    assert raised.value.exit == Exit.USAGE


def test_two_architectures_may_have_one_signature(tmp_path: Path) -> None:
    assert len(listed(tmp_path, f"- {GOOD}\n  arch: arm64\n- {GOOD}\n  arch: x86_64")) == 2


def test_a_suite_has_its_own_list_and_more_are_given(tmp_path: Path) -> None:
    (tmp_path / "suite/deep").mkdir(parents=True)
    listed(tmp_path, f"- {GOOD}")
    listed(tmp_path / "suite", "- " + GOOD.replace("reason: r", "reason: nearest"))
    listed(tmp_path, "- " + GOOD.replace("reason: r", "reason: given"), "mine.yaml")
    test = tmp_path / "suite/deep/test_x.py"
    test.touch()
    got = allow.gather(str(test), [str(tmp_path / "mine.yaml")], DAY)
    assert [one.reason for one in got] == ["nearest", "given"]
    with pytest.raises(UsageError, match=r"cannot read the allow-list .*none\.yaml"):
        allow.gather(str(test), [str(tmp_path / "none.yaml")], DAY)


def test_the_checkout_has_a_list_that_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # from wherever it is called
    assert (CHECKOUT / loader.default() / "allow.yaml").is_file()
    today = datetime.date.today()
    assert not any(one.expired for one in allow.gather(loader.default(), (), today)), "an entry has expired"


def test_entries_survive_the_event_log() -> None:
    one = entry(PAIR, arch=("arm64",))
    assert decode(json.loads(json.dumps(encode(one))), Allowed) == one


# --- the verdict --------------------------------------------------------------------------


def judged(log: Log, *entries: Allowed, **plan: Any) -> Results:
    log.plan = {**log.plan, "allow": encode(entries), **plan}
    return judge(log.events())


def spared(*findings: Finding, reason: str = "known", **more: Any) -> Log:
    shown = tuple(replace(finding, allowed_by=reason) for finding in findings)
    return Log(TREE).put(result(TREE, CREATE, findings=shown, **more))


def test_what_is_allowed_passes_and_is_told() -> None:
    results = judged(spared(LEAK, LEAK), entry("kmemleak:percpu leak:*"))
    assert results.verdict is Verdict.PASS
    (row,) = results.allowed
    assert (row.findings, row.expired, row.place) == (2, False, "known.yaml:1")
    assert results.remarks == ()
    line = "allowed   2 findings until 2026-12-31: known (known.yaml:1)"
    assert line in terminal.render(results)
    assert '<h2 id="allowed">Allow-list</h2>' in html.render(results)
    assert encode(results)["allowed"][0]["signature"] == "kmemleak:percpu leak:*"


def test_an_expired_entry_is_told_with_what_counts_again() -> None:
    log = Log(TREE).put(result(TREE, CREATE, Outcome.FAIL, findings=(LEAK,)))
    results = judged(log, entry(LEAK.signature, expires="2026-11-24"))
    assert results.verdict is Verdict.FAIL
    (note,) = results.remarks
    assert note == "known.yaml:1: expired on 2026-11-24 and allows no longer: known; 1 finding that it fits counts now"
    twice = judged(
        Log(TREE).put(result(TREE, CREATE, Outcome.FAIL, findings=(LEAK, LEAK))),
        entry(LEAK.signature, expires="2026-11-24"),
    )
    assert twice.remarks[0].endswith("; 2 findings that it fits count now")
    assert "expired on 2026-11-24" in terminal.render(results)
    assert "expired: allows no longer" in html.render(results)
    unused = judged(Log(TREE), entry(LEAK.signature, expires="2026-11-24"))
    assert unused.verdict is Verdict.PASS
    assert unused.remarks == ("known.yaml:1: expired on 2026-11-24 and allows no longer: known",)


def test_what_fits_nothing_is_a_note_and_no_failure() -> None:
    results = judged(spared(LEAK), entry(LEAK.signature), entry("dmesg:warn:never*", "typo"))
    assert results.verdict is Verdict.PASS
    assert results.remarks == ("typo.yaml:1: no finding of this run fits dmesg:warn:never*, allowed for: typo",)
    assert "fits no finding of this run" in html.render(results)
    assert "dmesg:warn:never*" in terminal.render(results)


@pytest.mark.parametrize(
    ("log", "one", "plan"),
    [
        (Log(TREE), entry(PAIR, arch=("arm64",)), {}),
        (Log(TREE), entry(PAIR), {"test_id": CREATE}),
        (Log(TREE).fall(TREE), entry(PAIR), {}),
    ],
    ids=["no test on its architecture", "a replay", "no test at all"],
)
def test_what_could_not_fit_is_not_missed(log: Log, one: Allowed, plan: dict[str, Any]) -> None:
    assert judged(log, one, **plan).remarks == ()


def test_the_second_entry_for_a_finding_is_used_too_and_a_planted_leak_uses_none() -> None:
    both = judged(spared(LEAK, reason="a"), entry(LEAK.signature, "a"), entry("kmemleak:percpu leak:*", "b"))
    assert [row.findings for row in both.allowed] == [1, 1]
    planted = judged(spared(LEAK, reason="planted as a canary"), entry(LEAK.signature))
    assert [row.findings for row in planted.allowed] == [0]


def test_a_canary_is_missed_whatever_is_allowed() -> None:
    log = Log(TREE)
    log.canaries[0] = Canary("dmesg", TREE.id, False, "saw nothing", MACHINE)
    assert judged(log, entry("dmesg:warn:*"), entry("kmemleak:percpu leak:*")).verdict is Verdict.INCONCLUSIVE


def test_a_fault_site_is_known_only_if_all_that_it_showed_is() -> None:
    def site(*signatures: str) -> FaultSummary:
        return FaultSummary(9, 9, 8, (FaultSite("create", "page", ("f",), outcome="leaked", findings=signatures),))

    assert judged(spared(LEAK, faults=site(LEAK.signature)), entry(LEAK.signature)).verdict is Verdict.PASS
    assert judged(spared(LEAK, faults=site(LEAK.signature, "other")), entry(LEAK.signature)).verdict is Verdict.FAIL
    assert judged(spared(LEAK, faults=site()), entry(LEAK.signature)).verdict is Verdict.FAIL
    counting = spared(LEAK, faults=site(LEAK.signature))
    counting.put(replace(counting.results[-1], findings=(*counting.results[-1].findings, LEAK)))
    assert judged(counting, entry(LEAK.signature)).verdict is Verdict.FAIL


def test_each_architecture_is_judged_by_its_own_entries() -> None:
    log = Log(TREE, ARM)
    log.put(*(result(of, DESTROY, findings=(replace(LEAK, allowed_by="known"),)) for of in (TREE, ARM)))
    rows = judged(log, entry(LEAK.signature, arch=("arm64",))).allowed
    assert [row.findings for row in rows] == [1]


def test_a_damaged_list_in_the_log_is_not_judged() -> None:
    log = Log(TREE)
    log.plan = {"allow": [{"signature": 7}]}
    with pytest.raises(HarnessError, match="damaged allow-list"):
        judge(log.events())
