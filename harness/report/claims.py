# SPDX-License-Identifier: GPL-2.0-only
"""What a patch claims, with the tests and the faults that showed it, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from harness.core.words import plural
from harness.coverage.claims import Claim, Kind
from harness.verdict import Results

NOT_SHOWN = 5
"""Claims that nothing showed and that are on the terminal."""

TESTS = 3


def claims(results: Results) -> tuple[Claim, ...]:
    """The claims of the patch; of an equal one on several architectures that which was shown most often."""
    known: dict[tuple[str, str, str, int], Claim] = {}
    for found in results.coverage:
        for claim in found.claims:
            key = (claim.sentence, claim.text, claim.file, claim.line)
            if key not in known or known[key].times < claim.times:
                known[key] = claim
    return tuple(known.values())


def faults(results: Results, claim: Claim) -> str:
    """``failslab 31, fail_function 8``: the injected faults under the functions of a claim about a failure."""
    if claim.kind is Kind.CALLED:
        return ""
    wanted = {claim.function, claim.caller} - {""}
    kinds: Counter[str] = Counter()
    for site in results.sites:
        if wanted <= {*site.stack, *(frame.function for frame in site.frames)}:
            kinds[site.type] += site.injected
    return ", ".join(f"{kind} {number}" for kind, number in kinds.most_common() if number)


def evidence(results: Results, claim: Claim) -> str:
    """How often a claim was shown, by which tests, under which faults; or why it was not."""
    if not claim.times:
        return claim.why or "no test showed it"
    by = faults(results, claim)
    names = ", ".join(name.rpartition("::")[2] for name in claim.named[:TESTS])
    left = claim.tests - len(claim.named[:TESTS])
    more = f" and {left} more" if left else ""
    said = f"{plural(claim.times, 'time')} in {plural(claim.tests, 'test')}"
    return said + (f" ({names}{more})" if names else "") + (f"; faults: {by}" if by else "")


def lines(results: Results) -> Iterator[str]:
    """How many claims were shown, and each that was not."""
    every = claims(results)
    left = [claim for claim in every if not claim.times]
    if every:
        yield f"{len(every) - len(left)} of {plural(len(every), 'claim')} of the patch shown"
    for claim in left[:NOT_SHOWN]:
        yield f"not shown: {claim.sentence} ({claim.file}:{claim.line}): {evidence(results, claim)}"
    if len(left) > NOT_SHOWN:
        yield f"and {plural(len(left) - NOT_SHOWN, 'more claim')}, see the report"


def whole(results: Results) -> Iterator[str]:
    """Each claim with its evidence."""
    for claim in claims(results):
        yield f"{claim.sentence} ({claim.file}:{claim.line}): {evidence(results, claim)}"
