# SPDX-License-Identifier: GPL-2.0-only
"""How fault sites are shown: which function names a site, in which order, under which heading."""

from __future__ import annotations

import errno
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from harness.core.records import FaultSite, Finding, Frame, Role
from harness.core.words import plural
from harness.faults import types
from harness.faults.sites import WORST, base_name
from harness.oracles.splat.blame import is_allocator
from harness.verdict import KernelRow, Results, SiteRow, TestRow
from harness.verdict.sites import is_bad, rank

CALLERS = 3
OPTIONAL = "absorbed as declared"

_WORDS = (*WORST, OPTIONAL, "not attributed", "never injected")


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
    """Bad sites first, the worst before the others; then by source, from the outermost function in."""
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
    ended = {word: number for word, number in site.outcomes.items() if number} or {site.outcome: site.injected}
    if list(ended) == ["none"]:
        return "not attributed"  # several faults in one operation: which of them ended it is not known
    parts = sorted(ended.items(), key=lambda item: rank(item[0]))
    return ", ".join(f"{number} {word}" if len(parts) > 1 else word for word, number in parts)


def answers(site: FaultSite) -> str:
    """What the operation answered, the most frequent first: ``-ENOMEM``, or ``-ENOMEM 20, 0 3``."""
    counts = Counter({_errno(word): number for word, number in site.answers.items()}).most_common()
    return ", ".join(f"{word} {number}" if len(counts) > 1 else word for word, number in counts)


def _errno(word: str) -> str:
    number = -int(word) if re.fullmatch(r"-\d+", word) else 0
    return f"-{errno.errorcode[number]}" if number in errno.errorcode else word


def size(site: FaultSite) -> str:
    """The size of the allocation: bytes, or the order for pages."""
    return types.size(site.type, site.size)


def flags(site: FaultSite) -> str:
    """The gfp flags of the allocation by name, or their number where this kernel names none."""
    return site.flags or f"{site.gfp:#x}"


def summary(sites: Iterable[FaultSite]) -> str:
    """``51 sites, 20 handled, 31 absorbed as declared``: by the worst outcome of each."""
    counts: Counter[str] = Counter()
    for site in sites:
        word = OPTIONAL if site.outcome == "absorbed" and site.optional else site.outcome
        counts["never injected" if not site.injected else "not attributed" if word == "none" else word] += 1
    words = sorted(counts, key=lambda word: _WORDS.index(word) if word in _WORDS else -1)
    return ", ".join([plural(counts.total(), "site"), *(f"{counts[word]} {word}" for word in words)])


def by_operation(sites: Iterable[SiteRow], most: int) -> list[str]:
    """A summary for each operation, whichever task did it (``attach, loader`` is an attach), and one for the rest.

    At most `most` operations have their own; first come those with a bad site, then those with most sites.
    """
    found: dict[str, list[SiteRow]] = {}
    for site in sites:
        found.setdefault(site.operation.partition(",")[0], []).append(site)
    order = sorted(found, key=lambda name: (not any(map(is_bad, found[name])), -len(found[name]), name))
    lines = [f"{name}: {summary(found[name])}" for name in order[: most if len(order) > most + 1 else None]]
    rest = order[len(lines) :]
    if rest:
        lines.append(f"{plural(len(rest), 'more operation')}: {summary(site for name in rest for site in found[name])}")
    return lines


def named(stack: Sequence[str]) -> tuple[str, ...]:
    """The name of a site: the innermost function that is not an allocator's, and its callers up to a BPF program."""
    names = [name for name in stack if not is_allocator(name)]
    if "bpf" in names[1:]:
        names = names[: names.index("bpf", 1) + 1]
    return tuple(names[: CALLERS + 1]) or tuple(stack[:1])


def frames(site: FaultSite) -> tuple[Frame, ...]:
    """A site's frames, from where its chain begins: the functions further in only observe the allocation."""
    names = [base_name(frame.function) for frame in site.frames]
    return site.frames[names.index(site.stack[0]) :] if site.stack and site.stack[0] in names else site.frames


def called(stack: Sequence[str]) -> str:
    """A site in few words."""
    return " < ".join(named(stack)[:CALLERS])


def under_fault(finding: Finding) -> str:
    """The fault under which a finding came: ``during create, fault at cgroup_create < cgroup_mkdir``, or empty."""
    site = called(finding.site.split(" < ")) if finding.site else ""
    parts = [f"during {finding.operation}" if finding.operation else "", f"fault at {site}" if site else ""]
    return ", ".join(part for part in parts if part)


def fault_line(results: Results, test: TestRow, finding: Finding) -> str:
    """The commands that inject one finding's fault again, and no other; empty for a finding without a fault."""
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
