# SPDX-License-Identifier: GPL-2.0-only
"""Owns the way from a kernel request to a saved guest: source, build, image, accelerator, snapshot.

What goes wrong with the kernel on the way is a result: the pseudo-tests `build`, `selftests-build` and `boot`.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness import allow
from harness.build import image, kbuild, kconfig, selftests, unbuilt
from harness.build.addresses import Addresses
from harness.build.btf import Btf
from harness.build.make import BuildRequest
from harness.build.scheduler import Compiler
from harness.build.symbols import Symbols
from harness.definition import Definition, load
from harness.errors import KernelFailure, MachineEnded
from harness.faults import plans
from harness.guest import pristine
from harness.guest.guest import Guest
from harness.guest.pristine import Pristine
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import Toolchain, guest_root
from harness.journal import Journal
from harness.machine import accel, facts
from harness.machine.accel import Accelerator
from harness.machine.qemu import Launch
from harness.oracles import crash, dmesg
from harness.oracles.frames import neutral, signature
from harness.oracles.log import parse_kmsg
from harness.plan import PROFILE, KernelRequest, Plan, Scheduler, Target
from harness.records import EventKind, Evidence, Finding, Kernel, Machine, Outcome, Role, TestResult
from harness.source.tree import Tree
from harness.sources import Sources

MULTI_SHOT = "kasan_multi_shot"
"""KASAN reports one bad access a boot, else (mm/kasan/report.c): here a boot is all the tests of a machine."""


class Workbench:
    """Prepares targets for one plan and journals each kernel, machine, build and boot."""

    def __init__(
        self,
        plan: Plan,
        toolchain: Toolchain,
        cache: Cache,
        progress: Progress,
        journal: Journal,
        sources: Sources,
    ) -> None:
        self._plan = plan
        self._toolchain = toolchain
        self._cache = cache
        self._progress = progress
        self._journal = journal
        self._sources = sources
        self._told: set[str] = set()
        self._selftests: dict[str, selftests.Built] = {}
        """Of each kernel by its id, where the run is of them."""

    def targets(self, requests: Sequence[KernelRequest], machines: Sequence[str]) -> list[Target]:
        """One architecture's kernels, each on each of these machines; none when there is nothing to learn from them.

        That is: the kernel under test did not build or boot, or the patch changes nothing that is built; each is
        journalled. Raises UsageError, HarnessError and MachineLost, which say nothing of the kernel.
        """
        # What is under test first: that a patch does not compile should not wait for the build of its base.
        order = sorted(requests, key=lambda request: request.role is Role.BASE)
        built = {request.role: self._build(request, machines[0]) for request in order}
        self._know_functions([kernel for kernel in built.values() if kernel])
        if self._plan.selftests:
            built = {r.role: self._with_selftests(r, built[r.role], machines[0]) for r in order}
        under_test = [role for role in built if role is not Role.BASE]
        if not all(built[role] for role in under_test):
            return []
        base, changed = built.get(Role.BASE), built.get(Role.PATCHED)
        if base and changed and not self._changes_something(order, base, changed, machines[0]):
            return []
        trees = {request.role: self._sources.tree(request) for request in order}
        booted = {role: self._booted(kernel, trees[role], machines) for role, kernel in built.items() if kernel}
        return [target for targets in booted.values() for target in targets if all(booted[r] for r in under_test)]

    def _know_functions(self, kernels: Sequence[Kernel]) -> None:
        """Raises UsageError for a fault plan that names a function which none of these kernels has."""
        if not self._plan.faults or not kernels:
            return
        known: dict[str, tuple[int, int]] = {}
        for kernel in kernels:
            known |= Symbols(Path(kernel.vmlinux), self._toolchain).text()
        plans.check(self._plan.faults, known)

    def _build(self, request: KernelRequest, machine: str) -> Kernel | None:
        """The kernel, or None when it did not build; both are journalled, as if it had happened on `machine`."""
        definition = load(request.arch)
        tree = self._sources.tree(request)
        start = time.monotonic()
        try:
            kernel = self._kernel(request, definition, tree)
        except KernelFailure as failure:
            kernel = self._unbuilt(request, tree)
            self._journal.emit(EventKind.KERNEL, kernel, kernel=kernel.id)
            self._pseudo("build", kernel, machine, start, (self._failed(failure),))
            return None
        self._journal.emit(EventKind.KERNEL, kernel, kernel=kernel.id)
        self._pseudo("build", kernel, machine, start, ())
        return kernel

    def _with_selftests(self, request: KernelRequest, kernel: Kernel | None, machine: str) -> Kernel | None:
        """The kernel again, its tree's selftests built for it, or None where there are none to run; journalled."""
        if kernel is None:
            return None
        start = time.monotonic()
        wanted = selftests.Request(self._sources.tree(request), kernel, self._guest(kernel.arch), self._plan.jobs)
        try:
            self._selftests[kernel.id] = selftests.build(wanted, self._toolchain, self._cache, self._progress)
        except KernelFailure as failure:
            self._pseudo("selftests-build", kernel, machine, start, (self._failed(failure),))
            return None
        except selftests.NoSelftests as none:
            result = TestResult(
                "selftests-build", kernel.arch, kernel.id, machine, Outcome.INCONCLUSIVE, why=none.what
            )
            self._journal.emit(EventKind.TEST_END, result, kernel=kernel.id, test=result.id)
            return None
        self._pseudo("selftests-build", kernel, machine, start, ())
        return kernel

    def _guest(self, arch: str) -> image.GuestBuild:
        """What programs for guests of this architecture are made with."""
        definition = load(arch)
        return image.GuestBuild(
            definition, guest_root(definition.userspace.debian, self._cache, self._progress)
        )

    def _changes_something(
        self, requests: Sequence[KernelRequest], base: Kernel, new: Kernel, machine: str
    ) -> bool:
        """Whether the patch changes what is built, selftests too if the run is of them; the pseudo-test `patch`."""
        start = time.monotonic()
        paths = {request.role: self._sources.tree(request).path for request in requests}
        srcarch = load(new.arch).kernel.srcarch
        both = (paths[Role.BASE], paths[Role.PATCHED])
        other = self._plan.selftests and selftests.differ(*both)
        same = None if other else unbuilt.unchanged(base, new, both, srcarch)
        result = TestResult("patch", new.arch, new.id, machine, Outcome.PASS)
        if same is not None:
            symbols = tuple(dict.fromkeys(name for item in same for name in item.symbols))
            why = f"the patch changes nothing that is built: {'; '.join(item.line() for item in same[:3])}"
            more = f" (and {len(same) - 3} more files)" if len(same) > 3 else ""
            result = replace(result, outcome=Outcome.SKIP, why=why + more, step=self._enabling(new.arch, symbols))
        result = replace(result, seconds=time.monotonic() - start)
        self._journal.emit(EventKind.TEST_END, result, kernel=new.id, test="patch")
        return same is None

    def _enabling(self, arch: str, symbols: Sequence[str]) -> str:
        """The arguments that would have the patched files built: a fragment in the results' folder."""
        if not symbols:
            return ""
        file = self._journal.path.parent / f"enable-{arch}.config"
        file.write_text("".join(f"CONFIG_{name}=y\n" for name in symbols))
        return f"--kconfig {shlex.quote(str(file))}"

    def _booted(self, kernel: Kernel, tree: Tree, machines: Sequence[str]) -> list[Target]:
        """The kernel on each machine it boots on, saved; what does not is journalled.

        If it does not boot on the first no other is tried.
        """
        launches, schedulers = self.launches(kernel, tree, machines)
        tests = self._selftests[kernel.id].tests if kernel.id in self._selftests else ()
        targets: list[Target] = []
        for launch in launches:
            target = self._target(launch, kernel)
            if target is None and not targets:
                break
            targets += [replace(target, schedulers=schedulers, selftests=tests)] if target else []
        return targets

    def _target(self, launch: Launch, kernel: Kernel) -> Target | None:
        """One machine, booted and saved; None when the kernel does not boot on it."""
        spec = launch.spec
        launch, chosen = self.accelerated(launch)
        saved = self._boot(launch, kernel)
        if saved is None:
            return None
        machine = Machine(
            kernel.id, kernel.arch, spec, chosen.name, chosen.why, saved.boot_seconds,
            self._restore_seconds(saved), saved.scale, str(saved.state.parent),
        )  # fmt: skip
        self._journal.emit(EventKind.MACHINE, machine, kernel=kernel.id)
        if chosen.why not in self._told:
            self._progress.say(f"machine {kernel.arch} {spec.name}: {chosen.name}, because {chosen.why}")
            self._told.add(chosen.why)
        return Target(kernel, machine, str(launch.initramfs), dict(launch.facts), launch.cmdline)

    def build(self, request: KernelRequest) -> tuple[Kernel, Tree]:
        """The kernel and the source it was built from, without a word to the journal.

        Raises KernelFailure when it does not build, and what :meth:`targets` raises.
        """
        tree = self._sources.tree(request)
        return self._kernel(request, load(request.arch), tree), tree

    def launches(
        self, kernel: Kernel, tree: Tree, machines: Sequence[str]
    ) -> tuple[list[Launch], tuple[Scheduler, ...]]:
        """How a built kernel is booted on each of these machines, and the user's schedulers that its initramfs holds.

        The accelerator is not chosen yet. Raises UsageError for a scheduler that is no good.
        """
        definition = load(kernel.arch)
        specs = [definition.spec(name) for name in machines]
        initramfs, schedulers = self._image(self._guest(kernel.arch), kernel, tree)
        known = facts.gather(self._toolchain, self._cache)
        path, cmdline = Path(kernel.image), self._cmdline(kernel)
        return [Launch(definition, spec, "tcg", path, initramfs, known, cmdline) for spec in specs], schedulers

    def _cmdline(self, kernel: Kernel) -> str:
        """What the user adds to the kernel's command line, and that KASAN speaks each time."""
        asked = self._plan.cmdline
        silent = MULTI_SHOT in asked.split() or kconfig.read(Path(kernel.config)).get("KASAN") != "y"
        return asked if silent else f"{MULTI_SHOT} {asked}".strip()

    def accelerated(self, launch: Launch) -> tuple[Launch, Accelerator]:
        """The launch under the accelerator that works here, and which that is and why."""
        chosen = accel.choose(launch, self._toolchain, self._cache)
        return replace(launch, accelerator=chosen.name), chosen

    # --- its steps ----------------------------------------------------------------------------

    def _kernel(self, request: KernelRequest, definition: Definition, tree: Tree) -> Kernel:
        users = tuple(Path(path) for path in self._plan.kconfig)
        profile = PROFILE.object if self._plan.coverage else ""
        build = BuildRequest(
            tree, definition, users, self._plan.jobs, profile=profile, incremental=self._plan.incremental
        )
        return kbuild.build(build, self._toolchain, self._cache, self._progress, request.role)

    def _image(
        self, how: image.GuestBuild, kernel: Kernel, tree: Tree
    ) -> tuple[Path, tuple[Scheduler, ...]]:
        """The initramfs, and the user's schedulers that are in it. Raises UsageError for one that is no good."""
        base = image.initramfs(how, kernel, self._toolchain, self._cache, self._progress)
        if kernel.id in self._selftests:
            runner = self._selftests[kernel.id].runner
            base = image.with_selftests(base, runner, kernel, self._toolchain, self._cache, self._progress)
        if not self._plan.bpf:
            return base, ()
        vmlinux = Path(kernel.vmlinux)
        with tempfile.TemporaryDirectory(prefix="kharness-") as scratch:
            compiler = Compiler(
                tree.path, vmlinux, Btf(vmlinux, self._toolchain), how, self._toolchain, Path(scratch)
            )
            made = compiler.schedulers(self._plan.bpf)
            whole = image.with_objects(base, Path(scratch), self._toolchain, self._cache, self._progress)
        return whole, made

    def _boot(self, launch: Launch, kernel: Kernel) -> Pristine | None:
        """Boots and saves; a kernel that dies, hangs or speaks of trouble at boot is a result."""
        start = time.monotonic()
        symbols = Symbols(Path(kernel.vmlinux), self._toolchain)
        try:
            saved = pristine.ensure(
                launch, Path(kernel.path).name, symbols, self._toolchain, self._cache, self._progress
            )
        except MachineEnded as error:
            found = crash.of(error, symbols, resolve=Addresses(symbols, ""))
            if not found:
                lost = crash.classify(error.lines, error.ended, error.expired)
                raise lost or error from error
            self._pseudo("boot", kernel, launch.spec.name, start, tuple(found))
            return None
        except KernelFailure as failure:
            self._pseudo("boot", kernel, launch.spec.name, start, (self._failed(failure),))
            return None
        records = [record for text in saved.log for record in parse_kmsg(text)]
        found = allow.applied(dmesg.findings(records, symbols), self._plan.allow, kernel.arch)
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
        """A pseudo-test's end: `build`, `selftests-build` or `boot`."""
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
            patches=tree.patches, config="", config_sha256="", toolchain=self._toolchain.id, image="", vmlinux="",
            path="", build_seconds=0.0, cached=False,
        )  # fmt: skip
