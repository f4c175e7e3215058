# SPDX-License-Identifier: GPL-2.0-only
"""Owns what the pytest child works with: plan.json, its targets made ready, the event journal."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from harness import definition
from harness.build.btf import Btf
from harness.build.symbols import Symbols
from harness.guest.guest import Guest
from harness.guest.pristine import Pristine, load
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import Toolchain, open_toolchain
from harness.journal import Journal
from harness.machine.qemu import Launch
from harness.model.state import Features
from harness.plan import Session, Target
from harness.records import HarnessError, decode
from harness.suite.features import probe

if TYPE_CHECKING:
    from harness.suite.bench import Bench


def read_session(path: Path) -> Session:
    """plan.json. Raises HarnessError when it is not there, UsageError when it is malformed."""
    try:
        return decode(json.loads(path.read_text()), Session)
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: {error}", step="start the suite through 'kharness run'") from error


class Ready:
    """One target, ready to be restored: a kernel on a machine."""

    def __init__(self, target: Target, toolchain: Toolchain) -> None:
        self.target = target
        self.kernel = target.kernel
        self.machine = target.machine
        self._toolchain = toolchain
        self.symbols = Symbols(Path(target.kernel.vmlinux), toolchain)
        self.btf = Btf(Path(target.kernel.vmlinux), toolchain)

    @property
    def name(self) -> str:
        """Role, architecture and machine: the parameter that the canonical test id leaves out."""
        return f"{self.kernel.role}-{self.kernel.arch}-{self.machine.spec.name}"

    @functools.cached_property
    def features(self) -> Features:
        """What this kernel's DSQs have."""
        return probe(self.btf)

    @functools.cached_property
    def pristine(self) -> Pristine:
        launch = Launch(
            definition.load(self.kernel.arch), self.machine.spec, self.machine.accelerator,
            Path(self.kernel.image), Path(self.target.initramfs), self.target.facts, self.target.cmdline,
        )  # fmt: skip
        return load(launch, Path(self.machine.snapshot), cached=True)

    def restore(self) -> Guest:
        """A pristine guest, not yet entered."""
        return Guest(self.pristine, self._toolchain)


class Workshop:
    """Everything of one pytest session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.out = Path(session.out)
        cache = Cache(Path(session.cache), session.cache_cap_gib << 30)
        arch = session.targets[0].kernel.arch  # one in a session
        self.toolchain = open_toolchain(session.toolchain, arch, cache, Progress(None))
        self.ready = tuple(Ready(target, self.toolchain) for target in session.targets)
        self.journal = Journal(self.out / "events.jsonl", session.run)
        self._done: dict[str, list[Bench]] = {}

    def remember(self, bench: Bench) -> None:
        """Keeps what a test that passed did, for the leak batch of its target."""
        self._done.setdefault(bench.ready.name, []).append(bench)

    def remembered(self, ready: Ready) -> list[Bench]:
        """What the tests that passed on this target did."""
        return self._done.get(ready.name, [])
