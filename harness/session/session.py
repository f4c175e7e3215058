# SPDX-License-Identifier: GPL-2.0-only
"""The input of a worker: plan.json with its targets, and the event log."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core import definition
from harness.core.errors import HarnessError
from harness.core.event_log import EventLog
from harness.core.plan import CodeUnderTest, SavedTarget, Session, Survey
from harness.core.records import EventKind, Retry, decode
from harness.coverage.counters import Counters
from harness.faults import gfp
from harness.guest.guest import Guest
from harness.guest.pristine import Pristine, load
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import Toolchain, open_toolchain
from harness.kbuild import kconfig
from harness.kbuild.addresses import Addresses
from harness.kbuild.btf import Btf
from harness.kbuild.kconfig import Kconfig
from harness.kbuild.symbols import Symbols
from harness.machine.examine import Reader
from harness.machine.qemu import Launch
from harness.session.dump import Dumper
from harness.session.keep import Keeper
from harness.session.places import target_name
from harness.suite import loader
from harness.suite.interface import Suite

if TYPE_CHECKING:
    from harness.session.context import TestContext


def read_session(path: Path) -> Session:
    """plan.json. Raises HarnessError when it is not there, UsageError when it is malformed."""
    try:
        return decode(json.loads(path.read_text()), Session)
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: {error}", step="start the suite through 'kharness run'") from error


def read_survey(path: Path) -> Survey:
    """survey.json. Raises as read_session does."""
    try:
        return decode(json.loads(path.read_text()), Survey)
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: {error}", step="start the suite through 'kharness run'") from error


class Target:
    """One target, ready to be restored: a kernel on a machine.

    `first` is another target of the same kernel: the data of its vmlinux is read once. With `linger` the memory of its
    guests outlives a crash.
    """

    def __init__(
        self,
        target: SavedTarget,
        toolchain: Toolchain,
        suite: Suite,
        first: Target | None = None,
        *,
        linger: bool = False,
    ) -> None:
        self._linger = linger
        self.suite = suite
        self.saved = target
        self.kernel = target.kernel
        self.machine = target.machine
        self.first = first is None
        self._toolchain = toolchain
        vmlinux = Path(target.kernel.vmlinux)
        self.symbols: Symbols = first.symbols if first else Symbols(vmlinux, toolchain)
        self.btf: Btf = first.btf if first else Btf(vmlinux, toolchain)

    @property
    def name(self) -> str:
        """The parameter that the canonical test id leaves out."""
        return target_name(self.kernel.role, self.kernel.arch, self.machine.spec.name)

    @functools.cached_property
    def features(self) -> Any:
        """The suite's features of this kernel."""
        return self.suite.features(self.btf) if self.suite.features else None

    @functools.cached_property
    def config(self) -> Kconfig:
        """The .config that this kernel was built with."""
        return kconfig.read(Path(self.kernel.config))

    @functools.cached_property
    def gfp_bits(self) -> dict[int, str]:
        """This kernel's allocation flags by their bit."""
        return gfp.bits(self.btf.enumerators(gfp.PREFIX))

    @functools.cached_property
    def pristine(self) -> Pristine:
        launch = Launch(
            definition.load(self.kernel.arch),
            self.machine.spec,
            self.machine.accelerator,
            Path(self.kernel.image),
            Path(self.saved.initramfs),
            self.saved.facts,
            self.saved.cmdline,
        )
        return load(launch, Path(self.machine.snapshot), cached=True)

    @property
    def code(self) -> CodeUnderTest:
        """The code under test."""
        return self.suite.code

    @property
    def allocates_once(self) -> Mapping[str, str]:
        """Functions of the suite's that allocate once and keep it."""
        return self.suite.allocates_once

    @functools.cached_property
    def readers(self) -> tuple[Reader, ...]:
        """The suite's readers of its guests' memory."""
        found = (make(self) for make in self.suite.readers)
        return tuple(reader for reader in found if reader is not None)

    @functools.cached_property
    def addresses(self) -> Addresses:
        """Resolves addresses in its guests to functions."""
        return Addresses(self.symbols, self.pristine.own)

    def takes_turns(self, sequential: bool) -> bool:
        """Whether the CPUs of a guest for something `sequential` take turns: only TCG can do that."""
        return sequential and self.machine.accelerator == "tcg"

    def restore(self, *, sequential: bool = False) -> Guest:
        """A pristine guest, not yet entered. `sequential`: its CPUs may take turns."""
        turns = self.takes_turns(sequential)
        return Guest(self.pristine, self._toolchain, linger=self._linger, sequential=turns)


class TestSession:
    """Everything of one pytest session: part `shard` of `shards` of the tests on an architecture."""

    __test__ = False

    def __init__(self, session: Session, shard: int = 0, shards: int = 1) -> None:
        self.shard, self.shards = shard, shards
        self.session = session
        self.suite = loader.of(session.suite)
        self.out = Path(session.out)
        self.cache = cache = Cache(Path(session.cache), session.cache_cap_gib << 30)
        self.arch = arch = session.targets[0].kernel.arch  # one in a session
        self.toolchain = open_toolchain(session.toolchain, arch, cache, Progress(None))
        firsts: dict[str, Target] = {}
        targets: list[Target] = []
        for saved in session.targets:
            first = firsts.get(saved.kernel.id)
            targets.append(Target(saved, self.toolchain, self.suite, first, linger=session.options.dump))
            firsts.setdefault(saved.kernel.id, targets[-1])
        self.targets = tuple(targets)
        self.event_log = EventLog(self.out / "events.jsonl", session.run, f"{arch}/{shard}")
        self.counters = Counters(session) if session.options.coverage else None
        self.keeper = Keeper(session, self.toolchain) if session.options.keep else None
        self.dumper = Dumper(session) if session.options.dump else None
        self._done: dict[str, list[TestContext]] = {}

    def equip(self, context: TestContext) -> None:
        """Set up a test's context as the run requires: guests to keep, memory to dump, known findings, and the event
        for a guest that was lost."""
        context.keeper, context.dumper, context.allow = self.keeper, self.dumper, self.session.allow

        def lost(retry: Retry) -> None:
            self.event_log.emit(EventKind.RETRY, retry, kernel=context.target.kernel.id, test=context.test_id)

        context.hears = lost

    def remember(self, context: TestContext) -> None:
        """Keep the operations of a test that passed, for the leak batch of its target."""
        self._done.setdefault(context.target.name, []).append(context)

    def remembered(self, target: Target) -> list[TestContext]:
        """The operations of the tests that passed on this target."""
        return self._done.get(target.name, [])
