# SPDX-License-Identifier: GPL-2.0-only
"""Where a test runs: the marker `machines`, the command line's restrictions, and the distribution to workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from harness.core.errors import UsageError
from harness.core.options import DEFAULT_MACHINE
from harness.core.records import Role

MARKER = "machines"
HELP = (
    "machines(*names, full=(), only=False): runs once on each of these machines of vm/ARCH.yaml, on those of `full` "
    "only with --full; `only`: it makes no sense on any other"
)

BATCH = 6
"""A leak batch takes as long as so many tests."""


def target_name(role: Role, arch: str, machine: str) -> str:
    """The parameter that carries kernel, architecture and machine, and that the canonical test id leaves out."""
    return f"{role}-{arch}-{machine}"


@dataclass(frozen=True)
class Spot:
    """A target that does not exist yet, in the collecting pass."""

    role: Role
    arch: str
    machine: str

    @property
    def name(self) -> str:
        return target_name(self.role, self.arch, self.machine)


@dataclass(frozen=True)
class Place:
    """One machine of a test: whether it needs --full, or why the test cannot run there."""

    machine: str
    full: bool = False
    refused: str = ""


def places(names: Sequence[object], options: dict[str, object], asked: Sequence[str]) -> tuple[Place, ...]:
    """Where a test runs: the arguments of its marker (both empty: it has none), unless the command line `asked`.

    Raises UsageError for an invalid marker.
    """
    unknown = sorted(options.keys() - {"full", "only"})
    if unknown:
        raise UsageError(f"{MARKER}: no option {unknown[0]!r}", step="it has full=(...) and only=True")
    full = options.get("full", ())
    full = (full,) if isinstance(full, str) else full
    if not isinstance(full, Sequence) or not all(isinstance(name, str) for name in (*names, *full)):
        raise UsageError(f"{MARKER}: a machine is named by a string", step='as in machines("cpu1", "cpu8")')
    own = [Place(str(name)) for name in names] + [Place(name, full=True) for name in full]
    if options and not own:
        raise UsageError(f"{MARKER}: no machine is named", step='as in machines("cpu64", only=True)')
    if not asked:
        once = {place.machine: place for place in reversed(own)}  # named twice: the first counts
        return tuple(reversed(once.values())) or (Place(DEFAULT_MACHINE),)
    mine = [place.machine for place in own]
    why = f"runs only on {', '.join(mine)}" if options.get("only") else ""
    return tuple(Place(name, refused="" if name in mine else why) for name in dict.fromkeys(asked))


def shares(keys: Sequence[Hashable], whole: Sequence[Hashable], parts: int) -> list[int]:
    """Which of `parts` each item goes to, by the items' keys: items of one key stay together.

    First the keys of `whole`, which have a leak batch of their own, the largest first; then the others in their order;
    each goes to the part that has the least.
    """
    count = Counter(keys)
    load = [0] * parts
    of: dict[Hashable, int] = {}
    groups = sorted({key for key in whole if key in count}, key=lambda key: (-count[key], whole.index(key)))
    for key in dict.fromkeys((*groups, *keys)):
        of[key] = load.index(min(load))
        load[of[key]] += count[key] + (BATCH if key in groups else 0)
    return [of[key] for key in keys]
