# SPDX-License-Identifier: GPL-2.0-only
"""Owns how fault sites are told: which function a site is named by, in which order, under which heading."""

from __future__ import annotations

import errno
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from harness.faults.sites import WORST, base_name
from harness.oracles.blame import is_allocator
from harness.records import FaultSite, Finding, Frame, Role
from harness.verdict import KernelRow, Results, SiteRow, TestRow
from harness.verdict.sites import is_bad, rank
from harness.words import plural

CALLERS = 3
OPTIONAL = "absorbed as declared"

_WORDS = (*WORST, OPTIONAL, "not told apart", "never injected")

# Within the allocators, besides what the oracles pass over (mm/slub.c, mm/page_alloc.c, mm/kmemleak.c, mm/util.c).
_INSIDE = re.compile(r"_*pcs_\w+|prepare_alloc_pages|_*alloc_object|_*kmemdup_\w+")


@dataclass(frozen=True)
class Group:
    """The sites of one operation, the worst first."""

    operation: str
    sites: tuple[SiteRow, ...]


@dataclass(frozen=True)
class Table:
    """The sites of one kernel; `reasons` are those for which sites are optional, by which rows number theirs from 1."""

    kernel: str
    arch: str
    role: Role
    release: str
    groups: tuple[Group, ...]
    reasons: tuple[str, ...]

    @property
    def number(self) -> int:
        """How many sites there are."""
        return sum(len(group.sites) for group in self.groups)

    def reason(self, site: SiteRow) -> int:
        """The number of a site's reason."""
        return self.reasons.index(site.optional) + 1


def tables(results: Results) -> list[Table]:
    """One table a kernel and architecture, in the order of the kernels."""
    known = {kernel.id: kernel for kernel in results.kernels}
    keys = dict.fromkeys([*((k.id, k.arch) for k in known.values()), *((s.kernel, s.arch) for s in results.sites)])
    made = (_table(known.get(kernel), kernel, arch, results.sites) for kernel, arch in keys)
    return [table for table in made if table.groups]


def _table(known: KernelRow | None, kernel: str, arch: str, sites: Iterable[SiteRow]) -> Table:
    mine: dict[str, list[SiteRow]] = {}
    for site in sites:
        if (site.kernel, site.arch) == (kernel, arch):
            mine.setdefault(site.operation, []).append(site)
    groups = [Group(operation, tuple(sorted(rows, key=_order))) for operation, rows in mine.items()]
    groups.sort(key=lambda group: (_order(group.sites[0])[0], group.operation))
    reasons = dict.fromkeys(site.optional for group in groups for site in group.sites if site.optional)
    role, release = (known.role, known.release) if known else (Role.TREE, "")
    return Table(kernel, arch, role, release, tuple(groups), tuple(reasons))


def _order(site: SiteRow) -> tuple[int, tuple[str, ...]]:
    """What is bad first, the worst of it before the rest; then as the source goes, from the outermost function in."""
    return (rank(site.outcome) if is_bad(site) else rank("handled"), tuple(reversed(site.stack)))


def kind(site: FaultSite) -> str:
    """The class a site is coloured by."""
    if is_bad(site):
        return "fail"
    return {"handled": "pass", "absorbed": "skip"}.get(site.outcome, "inconclusive")


def outcome(site: FaultSite) -> str:
    """How the faults of a site ended, in words, with their numbers where they differ."""
    if not site.injected:
        return "never injected"
    told = {word: number for word, number in site.outcomes.items() if number} or {site.outcome: site.injected}
    if list(told) == ["none"]:
        return "not told apart"  # several faults in one operation: which of them ended it is not known
    parts = sorted(told.items(), key=lambda item: rank(item[0]))
    return ", ".join(f"{number} {word}" if len(parts) > 1 else word for word, number in parts)


def answers(site: FaultSite) -> str:
    """What the operation answered, the most frequent first: ``-ENOMEM``, or ``-ENOMEM 20, 0 3``."""
    told = Counter({_errno(word): number for word, number in site.answers.items()}).most_common()
    return ", ".join(f"{word} {number}" if len(told) > 1 else word for word, number in told)


def _errno(word: str) -> str:
    number = -int(word) if re.fullmatch(r"-\d+", word) else 0
    return f"-{errno.errorcode[number]}" if number in errno.errorcode else word


def size(site: FaultSite) -> str:
    """How much was asked for: bytes, or the order for pages."""
    return f"order {site.size}" if site.type == "page" else f"{site.size} B"


def flags(site: FaultSite) -> str:
    """How it was asked for: gfp flags by name, or their number where this kernel names none."""
    return site.flags or f"{site.gfp:#x}"


def summary(sites: Iterable[FaultSite]) -> str:
    """``51 sites, 20 handled, 31 absorbed as declared``: by the worst that came of each."""
    counts: Counter[str] = Counter()
    for site in sites:
        word = OPTIONAL if site.outcome == "absorbed" and site.optional else site.outcome
        counts["never injected" if not site.injected else "not told apart" if word == "none" else word] += 1
    words = sorted(counts, key=lambda word: _WORDS.index(word) if word in _WORDS else -1)
    return ", ".join([plural(counts.total(), "site"), *(f"{counts[word]} {word}" for word in words)])


def by_operation(sites: Iterable[SiteRow], most: int) -> list[str]:
    """A summary an operation, whoever did a part of it (``attach, loader`` is an attach), and one of those over `most`.

    First come those with a site that does not pass, then those with most sites.
    """
    found: dict[str, list[SiteRow]] = {}
    for site in sites:
        found.setdefault(site.operation.partition(",")[0], []).append(site)
    order = sorted(found, key=lambda name: (not any(map(is_bad, found[name])), -len(found[name]), name))
    told = [f"{name}: {summary(found[name])}" for name in order[: most if len(order) > most + 1 else None]]
    rest = order[len(told) :]
    if rest:
        told.append(f"{plural(len(rest), 'more operation')}: {summary(site for name in rest for site in found[name])}")
    return told


def named(stack: Sequence[str]) -> tuple[str, ...]:
    """What a site is called: the innermost function that is no allocator's, and its callers up to a BPF program."""
    names = [name for name in stack if not (is_allocator(name) or _INSIDE.fullmatch(name))]
    if "bpf" in names[1:]:
        names = names[: names.index("bpf", 1) + 1]
    return tuple(names[: CALLERS + 1]) or tuple(stack[:1])


def frames(site: FaultSite) -> tuple[Frame, ...]:
    """A site's frames, from where its chain begins: what looks at the allocation lies further in."""
    names = [base_name(frame.function) for frame in site.frames]
    return site.frames[names.index(site.stack[0]) :] if site.stack and site.stack[0] in names else site.frames


def called(stack: Sequence[str]) -> str:
    """A site in few words."""
    return " < ".join(named(stack)[:CALLERS])


def under_fault(finding: Finding) -> str:
    """Under which fault a finding came: ``during create, fault at init_dsq < scx_bpf_create_dsq``, or nothing."""
    site = called(finding.site.split(" < ")) if finding.site else ""
    parts = [f"during {finding.operation}" if finding.operation else "", f"fault at {site}" if site else ""]
    return ", ".join(part for part in parts if part)


def fault_line(results: Results, test: TestRow, finding: Finding) -> str:
    """The commands that make one finding's fault again, and no other; nothing where it came without a fault."""
    if not finding.fault:
        return ""
    plan = f"printf '%s\\n' {shlex.quote(finding.fault)} > fault.yaml"
    argv = list(results.run.argv) or ["run"]
    if PurePath(argv[0]).name in ("kharness", "__main__.py", "cli.py"):
        del argv[0]
    for option in ("-k", "--faults", "--arch", "--machine", "--out"):
        if option in argv:
            at = argv.index(option)
            del argv[at : at + 2]
    place = ["--arch", test.arch, *(["--machine", test.machine] if test.machine else [])]
    own = ["--faults", "fault.yaml", "-k", "plan"]
    return f"{plan}; {shlex.join(['kharness', *argv, *place, *own])}"
