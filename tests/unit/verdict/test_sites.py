# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the table of fault sites: one row a kernel and site, summed over tests and machines, and its remarks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from harness.core.errors import HarnessError
from harness.core.records import EventKind, FaultSite, FaultSummary, Frame, Outcome, TestResult, decode, encode
from harness.faults.optional import Declared
from harness.verdict import Results, TestRow, judge
from tests.unit.report.eventlog import CREATE, DESTROY, PSEUDO, Log, kernel, result

TREE, ARM = kernel(), kernel(arch="arm64")
SITE = FaultSite(
    "create",
    "failslab",
    ("kmalloc", "f"),
    64,
    0xCC0,
    10,
    5,
    "handled",
    (Frame("f", 1, 2, "a.c", 3),),
    {"handled": 5},
    {"-ENOMEM": 5},
)


def shown(test: str, *sites: FaultSite, of: object = TREE, machine: str = "default") -> TestResult:
    return result(TREE if of is TREE else ARM, test, faults=FaultSummary(1, 1, 1, sites), machine=machine)


def judged(*results: TestResult, optional: Sequence[Declared] = ()) -> Results:
    log = Log(TREE, ARM)
    log.results, log.optional = list(results), list(optional)
    return judge(log.events())


def own(results: Results) -> list[TestRow]:
    """The results of tests, without those of builds and boots."""
    return [test for test in results.tests if test.id not in PSEUDO]


def test_a_site_of_two_tests_and_machines_is_one_row() -> None:
    worse = replace(
        SITE,
        size=128,
        reached=3,
        injected=2,
        outcome="leaked",
        outcomes={"leaked": 1, "absorbed": 1},
        answers={"-ENOMEM": 1, "0": 1},
        optional="a pool",
        findings=("x", "y"),
    )
    (row,) = judged(
        shown(CREATE, SITE), shown(DESTROY, worse, machine="cpu8"), shown("c", replace(worse, findings=("y", "z")))
    ).sites
    assert (row.kernel, row.arch, row.machines) == (TREE.id, "x86_64", ("default", "cpu8"))
    assert (row.size, row.reached, row.injected) == (128, 16, 9)
    assert (row.outcome, row.outcomes) == ("leaked", {"handled": 5, "leaked": 2, "absorbed": 2})
    assert row.answers == {"-ENOMEM": 7, "0": 2}
    assert (row.optional, row.findings) == ("a pool", ("x", "y", "z"))


def test_what_differs_in_its_key_is_a_row_of_its_own() -> None:
    others = [
        replace(SITE, operation="attach"),
        replace(SITE, type="page"),
        replace(SITE, stack=("kmalloc", "g")),
        replace(SITE, size=1, gfp=1, frames=()),
    ]
    rows = judged(shown(CREATE, SITE, *others), shown(CREATE, SITE, of=ARM)).sites
    assert len(rows) == 5
    assert [row.arch for row in rows] == ["arm64", "x86_64", "x86_64", "x86_64", "x86_64"]


@pytest.mark.parametrize(("outcome", "injected", "outcomes"), [("absorbed", 5, {"absorbed": 5}), ("none", 5, {})])
def test_a_site_with_one_outcome_only_counts_too(outcome: str, injected: int, outcomes: dict[str, int]) -> None:
    site = replace(SITE, outcome=outcome, outcomes={}, injected=injected)
    (row,) = judged(shown(CREATE, site)).sites
    assert (row.outcome, row.outcomes) == (outcome, outcomes)
    (row,) = judged(shown(CREATE, site), shown(DESTROY, SITE)).sites
    assert row.outcome == ("absorbed" if outcomes else "handled")


def test_the_tests_keep_their_sites_and_results_json_has_both() -> None:
    results = judged(shown(CREATE, SITE))
    assert own(results)[0].faults.sites == (SITE,)
    data = json.loads(json.dumps(encode(results)))
    (test,) = (test for test in data["tests"] if test["id"] == CREATE)
    assert data["sites"][0] | {"kernel": "", "arch": ""} == {
        **test["faults"]["sites"][0],
        "kernel": "",
        "arch": "",
        "machines": ["default"],
    }
    assert decode(data, Results) == results
    del data["sites"], data["remarks"]
    assert decode(data, Results).sites == (), "a file of an earlier version is read"


# --- remarks ------------------------------------------------------------------------------

FITS, NEVER = Declared(("f",), "it fits", place="o:1"), Declared(("g",), "it does not", place="o:2")


def test_what_was_declared_and_fits_nothing_is_remarked_and_does_not_count() -> None:
    results = judged(
        shown(CREATE, SITE), shown(DESTROY, SITE), shown(CREATE, SITE, of=ARM), shown(DESTROY, SITE, of=ARM)
    )
    noted = judged(
        shown(CREATE, SITE),
        shown(DESTROY, SITE),
        shown(CREATE, SITE, of=ARM),
        shown(DESTROY, SITE, of=ARM),
        optional=(FITS, NEVER),
    )
    assert noted.remarks == ("o:2: no site of this run fits what is declared optional there: it does not",)
    assert noted.verdict == results.verdict and noted.why == results.why
    assert results.remarks == ()


def test_one_kernel_that_has_the_site_is_enough() -> None:
    with_g = replace(SITE, stack=("kmalloc", "g"))
    assert judged(shown(CREATE, SITE), shown(CREATE, with_g, of=ARM), optional=(FITS, NEVER)).remarks == ()


def test_no_remark_for_kernels_and_operations_it_is_not_about() -> None:
    elsewhere = (
        replace(NEVER, arch=("riscv64",)),
        replace(NEVER, since="9.0", place="o:3"),
        replace(NEVER, operation=("detach",), place="o:4"),
        replace(NEVER, type="page", place="o:5"),
    )
    assert judged(shown(CREATE, SITE), optional=elsewhere).remarks == ()
    assert judged(shown(CREATE), optional=(NEVER,)).remarks == ()


def test_a_damaged_declaration_is_named() -> None:
    log = Log(TREE)
    log.optional = [FITS]
    events = log.events()
    for number, event in enumerate(events):
        if event.kind is EventKind.SESSION_START:
            events[number] = replace(event, data={**event.data, "optional": [{"through": 3}]})
    with pytest.raises(HarnessError, match="damaged session-start event"):
        judge(events)


# --- what a site means for its test -------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "optional", "ends"),
    [
        ("handled", "", Outcome.PASS),
        ("none", "", Outcome.PASS),
        ("absorbed", "a pool", Outcome.PASS),
        ("absorbed", "", Outcome.INCONCLUSIVE),
        *((word, "a pool", Outcome.FAIL) for word in ("leaked", "splat", "wrong errno", "hang", "crash")),
        ("of a later version", "", Outcome.FAIL),
    ],
)
def test_only_what_is_handled_or_declared_passes(outcome: str, optional: str, ends: Outcome) -> None:
    site = replace(SITE, outcome=outcome, outcomes={outcome: 5}, optional=optional, type="page")
    (test,) = own(judged(shown(CREATE, SITE, site)))
    assert test.outcome is ends
    if ends is not Outcome.PASS:
        assert outcome in test.why and "the fault at kmalloc < f during create" in test.why


def test_the_worst_site_has_the_word_and_lost_evidence_too() -> None:
    absorbed = replace(SITE, outcome="absorbed", outcomes={"absorbed": 5})
    hung = replace(SITE, outcome="hang", outcomes={"hang": 1}, type="page")
    (test,) = own(judged(shown(CREATE, absorbed, hung)))
    assert test.why == "hang: the fault at kmalloc < f during create (and 1 more)"
    (test,) = own(judged(replace(shown(CREATE, SITE), evidence=())))
    assert (test.outcome, test.why) == (Outcome.INCONCLUSIVE, "no oracle watched it")
