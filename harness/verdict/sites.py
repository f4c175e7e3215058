# SPDX-License-Identifier: GPL-2.0-only
"""The table of fault sites: the results of all tests and machines of a kernel on a site, as one row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from harness.core.records import FaultSite
from harness.faults.optional import Declared, of_kernel, unmatched
from harness.faults.sites import WORST, Key, key, merge
from harness.verdict.rows import KernelRow, SiteRow, TestRow


def table(tests: Iterable[TestRow]) -> tuple[SiteRow, ...]:
    """One row a kernel, architecture and site, sorted."""
    rows: dict[tuple[str, str, Key], SiteRow] = {}
    for test in tests:
        for site in test.faults.sites:
            name = (test.kernel, test.arch, key(site))
            fields = vars(site) | {"outcomes": _outcomes(site)}
            row = SiteRow(**fields, kernel=test.kernel, arch=test.arch, machines=(test.machine,))
            rows[name] = _merge(rows[name], row) if name in rows else row
    return tuple(rows[name] for name in sorted(rows))


def remarks(
    declared: Mapping[str, Declared], kernels: Iterable[KernelRow], sites: Iterable[SiteRow]
) -> tuple[str, ...]:
    """Remarks on declared optional sites that did not occur: a name may have changed. No kernel has each site."""
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
    """The outcomes of a site's faults; a site with only one outcome has it for each of them."""
    counts = site.outcomes or ({site.outcome: site.injected} if site.outcome != "none" else {})
    return {word: number for word, number in counts.items() if number}


def _merge(first: SiteRow, second: SiteRow) -> SiteRow:
    fields = vars(merge(first, second)) | {"machines": tuple(dict.fromkeys((*first.machines, *second.machines)))}
    return SiteRow(**fields)


def rank(outcome: str) -> int:
    """The rank of an outcome, the worst first; an unknown word of another version counts as the worst."""
    words = (*WORST, "none")
    return words.index(outcome) if outcome in words else -1


def is_bad(site: FaultSite) -> bool:
    """Whether a site does not pass: a fault had a worse outcome than an error, or was absorbed undeclared."""
    return rank(site.outcome) < rank("absorbed") or (site.outcome == "absorbed" and not site.optional)


def objection(sites: Iterable[FaultSite], allowed: Collection[str] = ()) -> tuple[bool, str]:
    """Whether the worst of these sites speaks against the kernel, and what is wrong with it in one line, if anything.

    An absorbed fault that is not declared optional may be an ignored failure, or a missing declaration. A site whose
    findings are all among the `allowed` signatures is known already.
    """
    unknown = (site for site in sites if not (site.findings and set(site.findings) <= set(allowed)))
    bad = sorted((site for site in unknown if is_bad(site)), key=lambda site: rank(site.outcome))
    if not bad:
        return False, ""
    worst, more = bad[0], f" (and {len(bad) - 1} more)" if bad[1:] else ""
    how = f"the fault at {' < '.join(worst.stack)} during {worst.operation}"
    if worst.outcome == "absorbed":
        return False, f"absorbed, and not declared optional: {how}{more}"
    return True, f"{worst.outcome}: {how}{more}"
