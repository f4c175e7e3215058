# SPDX-License-Identifier: GPL-2.0-only
"""Owns the table of fault sites: what all tests and machines of a kernel tell of a site, as one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from harness.faults.optional import Declared, of_kernel, unmatched
from harness.records import FaultSite
from harness.verdict.rows import KernelRow, SiteRow, TestRow

WORST = ("crash", "hang", "splat", "leaked", "wrong errno", "absorbed", "handled", "none")
"""How an injected fault may end, the worst first."""


def table(tests: Iterable[TestRow]) -> tuple[SiteRow, ...]:
    """One row a kernel, architecture and site, sorted."""
    rows: dict[tuple[str, str, str, str, tuple[str, ...]], SiteRow] = {}
    for test in tests:
        for site in test.faults.sites:
            key = (test.kernel, test.arch, site.operation, site.type, site.stack)
            told = vars(site) | {"outcomes": _outcomes(site)}
            row = SiteRow(**told, kernel=test.kernel, arch=test.arch, machines=(test.machine,))
            rows[key] = _sum(rows[key], row) if key in rows else row
    return tuple(rows[key] for key in sorted(rows))


def remarks(
    declared: Mapping[str, Declared], kernels: Iterable[KernelRow], sites: Iterable[SiteRow]
) -> tuple[str, ...]:
    """What was declared optional and was not there to be: the name may have changed. No kernel has each site."""
    found: dict[str, Declared] = {}
    fitted: set[str] = set()
    rows = list(sites)
    for kernel in kernels:
        mine = of_kernel(declared.values(), kernel.arch, kernel.release)
        here = [row for row in rows if row.kernel == kernel.id]
        missed = unmatched(mine, here)
        found |= {entry.place: entry for entry in missed}
        fitted |= {entry.place for entry in mine if any(entry.fits(row) for row in here)}
    return tuple(
        f"{place}: no site of this run fits what is declared optional there: {entry.reason}"
        for place, entry in sorted(found.items())
        if place not in fitted
    )


def _outcomes(site: FaultSite) -> Mapping[str, int]:
    """A site that tells only one outcome has it for each of its faults."""
    told = site.outcomes or ({site.outcome: site.injected} if site.outcome != "none" else {})
    return {word: number for word, number in told.items() if number}


def _sum(first: SiteRow, second: SiteRow) -> SiteRow:
    larger = max(first, second, key=lambda row: (row.size, row.gfp))
    outcomes = Counter(first.outcomes) + Counter(second.outcomes)
    return replace(
        larger,
        reached=first.reached + second.reached,
        injected=first.injected + second.injected,
        outcomes=dict(outcomes),
        outcome=min(outcomes, key=rank, default="none"),
        answers=dict(Counter(first.answers) + Counter(second.answers)),
        optional=first.optional or second.optional,
        findings=tuple(dict.fromkeys((*first.findings, *second.findings))),
        machines=tuple(dict.fromkeys((*first.machines, *second.machines))),
    )


def rank(outcome: str) -> int:
    """Where an outcome stands among all, the worst first; a word of another version counts as the worst."""
    return WORST.index(outcome) if outcome in WORST else -1


def is_bad(site: FaultSite) -> bool:
    """Whether a site does not pass: worse than an error came of a fault, or nothing did and nobody says why."""
    return rank(site.outcome) < rank("absorbed") or (site.outcome == "absorbed" and not site.optional)


def objection(sites: Iterable[FaultSite]) -> tuple[bool, str]:
    """Whether the worst of these sites speaks against the kernel, and what is wrong with it in one line, if anything.

    What is absorbed where nobody declared it may be a failure that is ignored, or a declaration that is missing.
    """
    bad = sorted((site for site in sites if is_bad(site)), key=lambda site: rank(site.outcome))
    if not bad:
        return False, ""
    worst, more = bad[0], f" (and {len(bad) - 1} more)" if bad[1:] else ""
    how = f"the fault at {' < '.join(worst.stack)} during {worst.operation}"
    if worst.outcome == "absorbed":
        return False, f"absorbed, and declared optional by nobody: {how}{more}"
    return True, f"{worst.outcome}: {how}{more}"
