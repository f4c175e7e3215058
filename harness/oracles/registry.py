# SPDX-License-Identifier: GPL-2.0-only
"""What an oracle is, and the defects that prove oracles alive.

An oracle looks at a quiescent guest at the end of each test and books what it found: findings, and always one piece of
evidence under its own name, which says whether it could watch. A test whose oracle booked none is inconclusive.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from harness.core.plan import CodeUnderTest
    from harness.core.records import Evidence, Finding, Kernel, LogRecord, Machine
    from harness.guest.guest import Guest
    from harness.guest.pristine import Pristine
    from harness.kbuild.addresses import Addresses
    from harness.kbuild.btf import Btf
    from harness.kbuild.kconfig import Kconfig
    from harness.kbuild.symbols import Symbols
    from harness.machine.examine import Reader


class KernelTarget(Protocol):
    """The kernel and machine under test as oracles see them (harness.session.session)."""

    @property
    def name(self) -> str: ...
    @property
    def kernel(self) -> Kernel: ...
    @property
    def machine(self) -> Machine: ...
    @property
    def symbols(self) -> Symbols: ...
    @property
    def btf(self) -> Btf: ...
    @property
    def config(self) -> Kconfig: ...
    @property
    def pristine(self) -> Pristine: ...
    @property
    def addresses(self) -> Addresses: ...
    @property
    def gfp_bits(self) -> dict[int, str]: ...
    @property
    def features(self) -> Any: ...
    @property
    def readers(self) -> tuple[Reader, ...]: ...
    @property
    def code(self) -> CodeUnderTest:
        """The code under test."""

    @property
    def allocates_once(self) -> Mapping[str, str]:
        """Functions of the suite's that allocate once and keep it, with the reason."""


class TestEnd(Protocol):
    """The test that an oracle judges (harness.session.context), with its quiescent guest.

    `after` is percpu_stats at that point, `records` are the kernel log's since the snapshot, and `overruns` how often
    it overran. `planted` is how many objects of each kind our module leaked on purpose.
    """

    guest: Guest
    findings: list[Finding]
    evidence: list[Evidence]
    windows: list[Any]
    planted: int
    after: str
    records: list[LogRecord]
    overruns: int

    @property
    def target(self) -> Any: ...

    def log(self) -> tuple[list[LogRecord], int]:
        """The whole kernel log since the snapshot, read again, and how often it overran."""

    def reports(self, records: Sequence[LogRecord]) -> list[Finding]:
        """The findings of these records of the kernel log, the expected ones marked."""

    def only_on_console(self, lines: Sequence[str], records: Sequence[LogRecord]) -> list[Finding]:
        """The findings of these lines of the console that the records do not have, without known or expected ones."""

    def book(self, cause: Any, outcome: str, finding: Finding) -> None:
        """Book a finding on the fault site that it came under."""

    def unreferenced(self) -> list[Finding]:
        """kmemleak's findings, after its whole protocol. Raises Inconclusive where it did not complete its scan."""

    def blame(self, leaks: Sequence[Finding]) -> bool:
        """Add kmemleak's findings; True if any of them was not planted by us."""


@dataclass(frozen=True)
class Defect:
    """A defect that is planted on purpose, in a guest of its own, to prove that oracles see it.

    `plant` does it and returns, for each oracle it `proves`, whether that one saw it. `config` is the Kconfig symbol
    without which a kernel cannot show it; `applies` may require more. A `cheap` one is planted again on each further
    machine of a kernel, all in one guest; a `last` one ends that guest. A `further` one is planted there only.
    """

    name: str
    proves: tuple[str, ...]
    plant: Callable[[Guest, Any], dict[str, bool]]
    config: str = ""
    cheap: bool = False
    last: bool = False
    further: bool = False
    applies: Callable[[Any], bool] = lambda target: True

    def possible(self, target: Any) -> bool:
        """Whether the kernel can show the defect."""
        return (not self.config or target.config.get(self.config) == "y") and self.applies(target)


@dataclass(frozen=True)
class Oracle:
    """One oracle, and the defects that prove it alive.

    `judge` collects from a guest that is quiescent and books findings and evidence on the test; it may raise
    MachineEnded. None: it reports when a guest dies, or when a test calls it. `applies` says whether a kernel has what
    the oracle needs; if not, the oracle is left out, and its evidence is not missed. `evidence` are the names under
    which `judge` books, without which a test is inconclusive; its own `name` if there are none. Oracles with a lower
    `order` come first.
    """

    name: str
    judge: Callable[[Any], None] | None
    applies: Callable[[Any], bool] = lambda target: True
    evidence: tuple[str, ...] = ()
    order: int = 50
    defects: tuple[Defect, ...] = ()

    @property
    def due(self) -> tuple[str, ...]:
        """The names of its evidence that each test must have."""
        return (self.evidence or (self.name,)) if self.judge else ()


CANARY = "/sys/kernel/debug/kharness/canary"
"""Takes the name of a defect of our module's (vm/module/canary.c)."""


def trigger(guest: Guest, name: str, times: int = 1) -> None:
    """Trigger a defect of our module."""
    for _ in range(times):
        guest.write(CANARY, name)


@functools.cache
def engine() -> tuple[Oracle, ...]:
    """The engine's own oracles, in their order: ORACLES of each module of harness.oracles."""
    import harness.oracles as package

    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    found = [oracle for module in modules for oracle in getattr(module, "ORACLES", ())]
    return tuple(sorted(found, key=lambda oracle: (oracle.order, oracle.name)))


def every(suites: Sequence[Oracle]) -> tuple[Oracle, ...]:
    """The engine's oracles and a suite's, in their order."""
    return tuple(sorted((*engine(), *suites), key=lambda oracle: oracle.order))


def defects(suites: Sequence[Oracle], more: Sequence[Defect] = ()) -> tuple[Defect, ...]:
    """The defects of all these oracles, and `more` of the suite's."""
    return (*(defect for oracle in every(suites) for defect in oracle.defects), *more)


def by_name(defects: Sequence[Defect]) -> dict[str, Defect]:
    """Defects by name. Raises ValueError where two have one name."""
    found = {defect.name: defect for defect in defects}
    if len(found) != len(defects):
        names = [defect.name for defect in defects]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two defects are called {twice!r}")
    return found
