# SPDX-License-Identifier: GPL-2.0-only
"""Owns the table of fault sites: what all tests and machines of a kernel tell of a site, as one row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from harness.faults.optional import Declared, of_kernel, unmatched
from harness.faults.sites import WORST, Key, key, merge
from harness.records import FaultSite
from harness.verdict.rows import KernelRow, SiteRow, TestRow


def table(tests: Iterable[TestRow]) -> tuple[SiteRow, ...]:
    """One row a kernel, architecture and site, sorted."""
    rows: dict[tuple[str, str, Key], SiteRow] = {}
    for test in tests:
        for site in test.faults.sites:
            name = (test.kernel, test.arch, key(site))
            told = vars(site) | {"outcomes": _outcomes(site)}
            row = SiteRow(**told, kernel=test.kernel, arch=test.arch, machines=(test.machine,))
            rows[name] = _merge(rows[name], row) if name in rows else row
    return tuple(rows[name] for name in sorted(rows))


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


def _merge(first: SiteRow, second: SiteRow) -> SiteRow:
    told = vars(merge(first, second)) | {"machines": tuple(dict.fromkeys((*first.machines, *second.machines)))}
    return SiteRow(**told)


def rank(outcome: str) -> int:
    """Where an outcome stands among all, the worst first; a word of another version counts as the worst."""
    words = (*WORST, "none")
    return words.index(outcome) if outcome in words else -1


def is_bad(site: FaultSite) -> bool:
    """Whether a site does not pass: worse than an error came of a fault, or nothing did and nobody says why."""
    return rank(site.outcome) < rank("absorbed") or (site.outcome == "absorbed" and not site.optional)


def objection(sites: Iterable[FaultSite], allowed: Collection[str] = ()) -> tuple[bool, str]:
    """Whether the worst of these sites speaks against the kernel, and what is wrong with it in one line, if anything.

    What is absorbed where nobody declared it may be a failure that is ignored, or a declaration that is missing.
    A site whose findings are all among the `allowed` signatures is known already.
    """
    unknown = (site for site in sites if not (site.findings and set(site.findings) <= set(allowed)))
    bad = sorted((site for site in unknown if is_bad(site)), key=lambda site: rank(site.outcome))
    if not bad:
        return False, ""
    worst, more = bad[0], f" (and {len(bad) - 1} more)" if bad[1:] else ""
    how = f"the fault at {' < '.join(worst.stack)} during {worst.operation}"
    if worst.outcome == "absorbed":
        return False, f"absorbed, and declared optional by nobody: {how}{more}"
    return True, f"{worst.outcome}: {how}{more}"
