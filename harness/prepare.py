# SPDX-License-Identifier: GPL-2.0-only
"""Owns the way from a kernel request to a saved guest: source, build, image, accelerator, snapshot.

What goes wrong with the kernel on the way is a result: the pseudo-tests `build` and `boot`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from harness.build import image, kbuild
from harness.build.symbols import Symbols
from harness.definition import Definition, load
from harness.guest import pristine
from harness.guest.guest import Guest
from harness.guest.pristine import Pristine
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import Toolchain, guest_root
from harness.journal import Journal
from harness.machine import accel, facts
from harness.machine.qemu import Launch
from harness.oracles import crash, dmesg
from harness.oracles.frames import neutral, signature
from harness.oracles.log import parse_kmsg
from harness.plan import KernelRequest, Plan, Target
from harness.records import (
    EventKind,
    Evidence,
    Finding,
    Kernel,
    KernelFailure,
    Machine,
    MachineEnded,
    Outcome,
    TestResult,
    UsageError,
)
from harness.source import debian, local
from harness.source.tree import Tree


class Workbench:
    """Prepares targets for one plan and journals each kernel, machine, build and boot."""

    def __init__(
        self, plan: Plan, toolchain: Toolchain, cache: Cache, progress: Progress, journal: Journal
    ) -> None:
        self._plan = plan
        self._toolchain = toolchain
        self._cache = cache
        self._progress = progress
        self._journal = journal

    def target(self, request: KernelRequest) -> Target | None:
        """The target, or None when the kernel did not build or boot (which is then journalled).

        Raises UsageError, HarnessError and MachineLost, which say nothing of the kernel.
        """
        definition = load(request.arch)
        spec = definition.spec(self._plan.machine)
        tree = self._tree(request)
        if self._plan.tree and tree.tree != self._plan.tree:
            raise UsageError(
                f"{request.source} has changed since: its content is {tree.tree[:12]}, "
                f"{self._plan.tree[:12]} was tested",
                step="bring the old content back, or run the suite on the new one",
            )
        start = time.monotonic()
        try:
            kernel = self._kernel(request, definition, tree)
        except KernelFailure as failure:
            kernel = self._unbuilt(request, tree)
            self._journal.emit(EventKind.KERNEL, kernel, kernel=kernel.id)
            self._pseudo("build", kernel, spec.name, start, (self._failed(failure),))
            return None
        self._journal.emit(EventKind.KERNEL, kernel, kernel=kernel.id)
        self._pseudo("build", kernel, spec.name, start, ())
        how = image.GuestBuild(
            definition, guest_root(definition.userspace.debian, self._cache, self._progress)
        )
        initramfs = image.initramfs(how, kernel, self._toolchain, self._cache, self._progress)
        known = facts.gather(self._toolchain, self._cache)
        launch = Launch(definition, spec, "tcg", Path(kernel.image), initramfs, known, self._plan.cmdline)
        chosen = accel.choose(launch, self._toolchain, self._cache)
        launch = replace(launch, accelerator=chosen.name)
        saved = self._boot(launch, kernel)
        if saved is None:
            return None
        machine = Machine(
            kernel.id, request.arch, spec, chosen.name, chosen.why, saved.boot_seconds,
            self._restore_seconds(saved), saved.scale, str(saved.state.parent),
        )  # fmt: skip
        self._journal.emit(EventKind.MACHINE, machine, kernel=kernel.id)
        self._progress.say(f"machine {request.arch} {spec.name}: {chosen.name}, because {chosen.why}")
        return Target(kernel, machine, str(initramfs), known, self._plan.cmdline)

    # --- its steps ----------------------------------------------------------------------------

    def _tree(self, request: KernelRequest) -> Tree:
        if request.source.tree:
            return local.snapshot(Path(request.source.tree), self._cache, self._progress)
        return debian.fetch(request.source.version, self._toolchain, self._cache, self._progress)

    def _kernel(self, request: KernelRequest, definition: Definition, tree: Tree) -> Kernel:
        users = tuple(Path(path) for path in self._plan.kconfig)
        build = kbuild.BuildRequest(tree, definition, users, self._plan.jobs)
        return kbuild.build(build, self._toolchain, self._cache, self._progress, request.role)

    def _boot(self, launch: Launch, kernel: Kernel) -> Pristine | None:
        """Boots and saves; a kernel that dies, hangs or speaks of trouble at boot is a result."""
        start = time.monotonic()
        symbols = Symbols(Path(kernel.vmlinux), self._toolchain)
        try:
            saved = pristine.ensure(
                launch, Path(kernel.path).name, self._toolchain, self._cache, self._progress
            )
        except MachineEnded as error:
            found = crash.findings(error.lines, error.ended, error.expired, error.waiting, symbols)
            if not found:
                lost = crash.classify(error.lines, error.ended, error.expired)
                raise lost or error from error
            self._pseudo("boot", kernel, launch.spec.name, start, tuple(found))
            return None
        except KernelFailure as failure:
            self._pseudo("boot", kernel, launch.spec.name, start, (self._failed(failure),))
            return None
        records = [record for text in saved.log for record in parse_kmsg(text)]
        found = dmesg.findings(records, symbols)
        evidence = replace(dmesg.watched(records, 0), payload=len(records))
        self._pseudo("boot", kernel, launch.spec.name, start, tuple(found), evidence)
        return saved

    def _restore_seconds(self, saved: Pristine) -> float:
        """One restore, to the first operation answered."""
        with Guest(saved, self._toolchain) as guest:
            return guest.restore_seconds

    # --- journalling --------------------------------------------------------------------------

    def _pseudo(
        self,
        name: str,
        kernel: Kernel,
        machine: str,
        start: float,
        found: tuple[Finding, ...],
        *evidence: Evidence,
    ) -> None:
        """A pseudo-test's end: `build` or `boot`."""
        counting = [finding for finding in found if finding.counts]
        result = TestResult(
            id=name, arch=kernel.arch, kernel=kernel.id, machine=machine,
            outcome=Outcome.FAIL if counting else Outcome.PASS, seconds=time.monotonic() - start,
            why=counting[0].title if counting else "", evidence=evidence, findings=found,
        )  # fmt: skip
        self._journal.emit(EventKind.TEST_END, result, kernel=kernel.id, test=name)

    @staticmethod
    def _failed(failure: KernelFailure) -> Finding:
        text = signature(
            "build" if failure.kind == "build" else "crash", failure.kind, (), neutral(failure.what)
        )
        oracle = "build" if failure.kind == "build" else "crash"
        file, _, rest = failure.what.partition(":")
        line = rest.partition(":")[0]
        place = (file, int(line)) if line.isdigit() else (None, None)
        return Finding(
            oracle, failure.kind, failure.what, text, file=place[0], line=place[1],
            log=tuple(failure.detail.splitlines()),
        )  # fmt: skip

    def _unbuilt(self, request: KernelRequest, tree: Tree) -> Kernel:
        """Stands for a kernel that did not build."""
        return Kernel(
            id=f"{request.role}-{request.arch}-{tree.tree[:12]}", arch=request.arch, role=request.role,
            release=tree.version, source=tree.origin, commit=tree.commit, tree=tree.tree, dirty=tree.dirty,
            patches=(), config="", config_sha256="", toolchain=self._toolchain.id, image="", vmlinux="", path="",
            build_seconds=0.0, cached=False,
        )  # fmt: skip
