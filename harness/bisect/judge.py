# SPDX-License-Identifier: GPL-2.0-only
"""The result of one run on the failure that is looked for. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.bisect.state import Finding, Outcome
from harness.core import allow
from harness.core.errors import Exit, UsageError
from harness.core.records import Outcome as Ended
from harness.core.records import Verdict
from harness.report.text import distinct, place
from harness.verdict import BOOT, BUILD, Results
from harness.verdict.compare import signatures
from harness.verdict.rows import BATCH, PSEUDO, SELFTESTS_BUILD

UNTESTABLE = 125
"""The exit status of `git bisect run` for a commit that cannot be judged."""

NARROW = 4
"""Most failing tests to be run alone."""


@dataclass(frozen=True)
class Wanted:
    """The failure that is looked for, and the tests that had it at the failing end.

    `asked` is the user's own pattern of a signature: then all that match it are this failure.
    """

    signature: str
    title: str
    tests: tuple[str, ...]
    asked: str = ""

    def is_in(self, found: Sequence[Finding]) -> bool:
        """Whether one of these findings is this failure."""
        return bool(fitting(found, self.asked or self.signature))


def findings(results: Results) -> tuple[Finding, ...]:
    """The findings, the most informative first, each signature once for each test; else the test's own message."""
    found: dict[tuple[str, str], Finding] = {}
    order = [finding.signature for _, finding, _ in distinct(results)]
    for test in results.under_test():
        if test.outcome is not Ended.FAIL:
            continue
        own = [finding for finding in test.findings if finding.counts]
        for finding in own:
            one = Finding(finding.signature, finding.title, test.id, place(finding))
            found.setdefault((finding.signature, test.id), one)
        if not own:
            words = f"{test.id}: {min(signatures(test))}"
            found.setdefault((words, test.id), Finding(words, test.describe(), test.id))
    rank = {signature: number for number, signature in enumerate(order)}
    return tuple(sorted(found.values(), key=lambda item: rank.get(item.signature, len(rank))))


def fitting(found: Sequence[Finding], asked: str) -> list[Finding]:
    """The findings of a requested signature, where only ``*`` and ``?`` are wildcards; all without one."""
    return [item for item in found if not asked or allow.matches(asked, item.signature)]


def choose(found: Sequence[Finding], asked: str = "") -> Wanted:
    """The failure to look for, among those of the failing end: `asked` (a signature, with * and ?), or the first.

    Raises UsageError where none matches.
    """
    fits = fitting(found, asked)
    if not fits:
        there = "; ".join(dict.fromkeys(item.signature for item in found))
        raise UsageError(f"the failing end has no finding of signature {asked!r}", step=f"it has: {there[:600]}")
    first = fits[0]
    same = fits if asked else [item for item in found if item.signature == first.signature]
    return Wanted(first.signature, first.title, tuple(dict.fromkeys(item.test for item in same)), asked)


def outcome(results: Results, wanted: Wanted | None) -> tuple[Outcome, str]:
    """How a run ended, and why in one line. Without `wanted` any failure counts."""
    found = findings(results)
    why = results.why[0] if results.why else ""
    if wanted is None and found:
        return Outcome.FAILS, found[0].title
    if wanted is not None and wanted.is_in(found):
        return Outcome.FAILS, wanted.title
    for test, kind in ((BUILD, Outcome.BUILD), (SELFTESTS_BUILD, Outcome.BUILD), (BOOT, Outcome.BOOT)):
        broken = next((item for item in found if item.test == test), None)
        if broken is not None:
            return kind, broken.title
    if wanted is not None:
        return _without(results, wanted, found, why)
    return (Outcome.PASSES if results.verdict is Verdict.PASS else Outcome.UNCLEAR), why


def _without(results: Results, wanted: Wanted, found: Sequence[Finding], why: str) -> tuple[Outcome, str]:
    """As :func:`outcome`, if the failure is not there and the kernel booted."""
    rows = [test for test in results.under_test() if test.id in wanted.tests]
    other = next((item for item in found if item.test in wanted.tests), None)
    if other is not None:
        return Outcome.OTHER, f"{other.test} fails in another way: {other.title}"
    if set(wanted.tests) <= set(PSEUDO):  # only that it builds, or boots, matters
        return Outcome.PASSES, "builds and boots"
    lame = next((test for test in rows if test.outcome is not Ended.PASS or test.flaky), None)
    if lame is not None:
        return Outcome.UNCLEAR, f"{lame.id}: {lame.describe()}"
    missing = sorted(set(wanted.tests) - {test.id for test in rows})
    if missing:
        return Outcome.UNCLEAR, f"{missing[0]} was not run"
    blind = next((canary for canary in results.canaries if not canary.caught), None)
    if results.verdict is Verdict.INCONCLUSIVE or blind is not None:
        return Outcome.UNCLEAR, why
    # Other failures do not matter: each test has a guest of its own.
    return Outcome.PASSES, "passes" if results.verdict is Verdict.PASS else f"passes; what else fails: {why}"


def tests(results: Results) -> int:
    """How many tests were run, without the pseudo-tests and the leak batch."""
    return len({test.id for test in results.under_test() if test.id not in PSEUDO and not test.id.startswith(BATCH)})


def narrowed(wanted: Wanted, select: str) -> str:
    """pytest's -k for the tests that had the failure, within the selection; unchanged where that is not possible."""
    names = dict.fromkeys(_name(test) for test in wanted.tests)
    if not all(names) or len(names) > NARROW:
        return select
    own = " or ".join(names)
    return f"({select}) and ({own})" if select else own


def _name(test: str) -> str:
    """The function of a test, for -k; empty for a pseudo-test such as the leak batch."""
    if test in PSEUDO or test.startswith(BATCH):
        return ""
    name = test.rpartition("::")[2].partition("[")[0]
    return name if re.fullmatch(r"\w+", name) else ""


def status(results: Results) -> int:
    """The exit status of `run --bisect-exit`, as `git bisect run` understands it: 0 good, 1 bad, 125 to be skipped."""
    if results.verdict is Verdict.PASS:
        return Exit.PASS
    if results.verdict is Verdict.INCONCLUSIVE:
        return UNTESTABLE
    bad = [test for test in results.under_test() if test.outcome is Ended.FAIL and not test.excused]
    untestable = bool(bad) and all(test.id in PSEUDO for test in bad)
    return UNTESTABLE if untestable else Exit.FAIL
