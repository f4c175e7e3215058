# SPDX-License-Identifier: GPL-2.0-only
"""Owns what the pytest child works with: plan.json, its targets made ready, the event journal."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from harness import definition
from harness.build import kconfig
from harness.build.addresses import Addresses
from harness.build.btf import Btf
from harness.build.kconfig import Kconfig
from harness.build.symbols import Symbols
from harness.errors import HarnessError
from harness.faults import gfp
from harness.guest.guest import Guest
from harness.guest.pristine import Pristine, load
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import Toolchain, open_toolchain
from harness.journal import Journal
from harness.machine.local_dsqs import Layout
from harness.machine.qemu import Launch
from harness.model.state import Features
from harness.plan import Session, Survey, Target
from harness.records import decode
from harness.suite.coverage import Counters
from harness.suite.dump import Dumper
from harness.suite.features import probe
from harness.suite.keep import Keeper
from harness.suite.machines import target_name

if TYPE_CHECKING:
    from harness.suite.bench import Bench


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


class Ready:
    """One target, ready to be restored: a kernel on a machine.

    `first` is another target of the same kernel: what is read from its vmlinux is read once. With `linger`
    the memory of its guests outlives a crash.
    """

    def __init__(
        self, target: Target, toolchain: Toolchain, first: Ready | None = None, *, linger: bool = False
    ) -> None:
        self._linger = linger
        self.target = target
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
    def features(self) -> Features:
        """What this kernel's DSQs have."""
        return probe(self.btf)

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
            definition.load(self.kernel.arch), self.machine.spec, self.machine.accelerator,
            Path(self.kernel.image), Path(self.target.initramfs), self.target.facts, self.target.cmdline,
        )  # fmt: skip
        return load(launch, Path(self.machine.snapshot), cached=True)

    @functools.cached_property
    def layout(self) -> Layout | None:
        """Where its guests have their local DSQs; None for a kernel without sched_ext."""
        tasks, nr = (self.btf.offset("rq", "scx", "local_dsq", name) for name in ("list", "nr"))
        found = [self.symbols.variables(name) for name in ("__per_cpu_offset", "runqueues")]
        if tasks is None or nr is None or any(len(one) != 1 for one in found):
            return None
        offsets, runqueues = (one.pop() for one in found)
        return Layout(offsets, runqueues, tasks, nr, self.machine.spec.possible_cpus)

    @functools.cached_property
    def addresses(self) -> Addresses:
        """The functions of addresses in its guests."""
        return Addresses(self.symbols, self.pristine.own)

    def restore(self) -> Guest:
        """A pristine guest, not yet entered."""
        return Guest(self.pristine, self._toolchain, linger=self._linger)


class Workshop:
    """Everything of one pytest session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.out = Path(session.out)
        self.cache = cache = Cache(Path(session.cache), session.cache_cap_gib << 30)
        arch = session.targets[0].kernel.arch  # one in a session
        self.toolchain = open_toolchain(session.toolchain, arch, cache, Progress(None))
        firsts: dict[str, Ready] = {}
        ready = []
        for target in session.targets:
            ready.append(Ready(target, self.toolchain, firsts.get(target.kernel.id), linger=session.dump))
            firsts.setdefault(target.kernel.id, ready[-1])
        self.ready = tuple(ready)
        self.journal = Journal(self.out / "events.jsonl", session.run)
        self.counters = Counters(session) if session.coverage else None
        self.keeper = Keeper(session, self.toolchain) if session.keep else None
        self.dumper = Dumper(session) if session.dump else None
        self._done: dict[str, list[Bench]] = {}

    def equip(self, bench: Bench) -> None:
        """Gives a test's bench what the run was asked for: guests to keep, memory to dump, findings that are known."""
        bench.keeper, bench.dumper, bench.allow = self.keeper, self.dumper, self.session.allow

    def remember(self, bench: Bench) -> None:
        """Keeps what a test that passed did, for the leak batch of its target."""
        self._done.setdefault(bench.ready.name, []).append(bench)

    def remembered(self, ready: Ready) -> list[Bench]:
        """What the tests that passed on this target did."""
        return self._done.get(ready.name, [])
