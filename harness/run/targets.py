# SPDX-License-Identifier: GPL-2.0-only
"""The way from a kernel request to a saved guest: source, build, image, accelerator, snapshot.

What goes wrong with the kernel on the way is a result: the pseudo-tests `build`, `selftests-build` and `boot`.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.core import allow
from harness.core.definition import Definition, load
from harness.core.errors import KernelFailure, MachineEnded, UsageError
from harness.core.event_log import EventLog
from harness.core.plan import KernelRequest, Plan, SavedTarget, Scheduler
from harness.core.records import EventKind, Evidence, Finding, Kernel, Machine, Outcome, Role, TestResult
from harness.coverage import lines
from harness.faults import plans
from harness.guest import pristine
from harness.guest.guest import Guest
from harness.guest.pristine import Pristine
from harness.host.cache import Cache
from harness.host.files import filling
from harness.host.progress import Progress
from harness.host.scratch import private_folder
from harness.host.toolchain import Toolchain, guest_root
from harness.kbuild import image, kbuild, kconfig, unbuilt
from harness.kbuild.addresses import Addresses
from harness.kbuild.btf import Btf
from harness.kbuild.make import BuildRequest
from harness.kbuild.struct_ops import Compiler
from harness.kbuild.symbols import Symbols
from harness.machine import accel, facts
from harness.machine.accel import Accelerator
from harness.machine.qemu import Launch
from harness.oracles import crash, dmesg
from harness.oracles.splat.frames import neutral, signature
from harness.oracles.splat.log import parse_kmsg
from harness.run.trees import Sources
from harness.source.tree import Tree
from harness.suite import loader
from harness.suite.interface import BuiltSelftests, NoSelftests, SelftestsRequest

MULTI_SHOT = "kasan_multi_shot"
"""By default KASAN reports one bad access for each boot (mm/kasan/report.c): here that is all tests of a machine."""


class Workbench:
    """Prepares targets for one plan and records each kernel, machine, build and boot in the event log."""

    def __init__(
        self, plan: Plan, toolchain: Toolchain, cache: Cache, progress: Progress, event_log: EventLog, sources: Sources
    ) -> None:
        self._plan = plan
        self._toolchain = toolchain
        self._cache = cache
        self._progress = progress
        self._event_log = event_log
        self._sources = sources
        self._suite = loader.of(plan.suite)
        self._reported: set[str] = set()
        self._selftests: dict[str, BuiltSelftests] = {}
        """The selftests of each kernel by its id, if the run is about them."""

    def targets(self, requests: Sequence[KernelRequest], machines: Sequence[str]) -> list[SavedTarget]:
        """One architecture's kernels, each on each of these machines; empty when nothing can be learnt from them.

        That is: the kernel under test did not build or boot, or the patch changes nothing that is built; each is
        recorded. Raises UsageError, HarnessError and MachineLost, which say nothing about the kernel.
        """
        # The kernel under test first: an error in a patch should not wait for the build of its base.
        order = sorted(requests, key=lambda request: request.role is Role.BASE)
        built = {request.role: self._build(request, machines[0]) for request in order}
        self._know_functions([kernel for kernel in built.values() if kernel])
        if self._suite.selftests:
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
        """Raise UsageError for a fault plan that names a function which none of these kernels has."""
        if not self._plan.faults or not kernels:
            return
        known: dict[str, tuple[int, int]] = {}
        for kernel in kernels:
            known |= Symbols(Path(kernel.vmlinux), self._toolchain).text()
        plans.check(self._plan.faults, known)

    def _build(self, request: KernelRequest, machine: str) -> Kernel | None:
        """The kernel, or None when it did not build; both are recorded, as if it had happened on `machine`."""
        definition = load(request.arch)
        tree = self._sources.tree(request)
        start = time.monotonic()
        try:
            kernel = self._kernel(request, definition, tree)
        except KernelFailure as failure:
            kernel = self._unbuilt(request, tree)
            self._event_log.emit(EventKind.KERNEL, kernel, kernel=kernel.id)
            self._pseudo("build", kernel, machine, start, (self._failed(failure),))
            return None
        self._event_log.emit(EventKind.KERNEL, kernel, kernel=kernel.id)
        self._pseudo("build", kernel, machine, start, ())
        return kernel

    def _with_selftests(self, request: KernelRequest, kernel: Kernel | None, machine: str) -> Kernel | None:
        """Build the selftests of the kernel's tree; returns the kernel, or None where there are none; recorded."""
        if kernel is None:
            return None
        start = time.monotonic()
        tree, guest = self._sources.tree(request), self._guest(kernel.arch)
        wanted = SelftestsRequest(tree, kernel, guest, self._plan.options.jobs)
        assert self._suite.selftests is not None, "only where there are any"
        try:
            built = self._suite.selftests.build(wanted, self._toolchain, self._cache, self._progress)
            self._selftests[kernel.id] = built
        except KernelFailure as failure:
            self._pseudo("selftests-build", kernel, machine, start, (self._failed(failure),))
            return None
        except NoSelftests as none:
            result = TestResult("selftests-build", kernel.arch, kernel.id, machine, Outcome.INCONCLUSIVE, why=none.what)
            self._event_log.emit(EventKind.TEST_END, result, kernel=kernel.id, test=result.id)
            return None
        self._pseudo("selftests-build", kernel, machine, start, ())
        return kernel

    def _guest(self, arch: str) -> image.GuestBuild:
        """The inputs of programs for guests of this architecture."""
        definition = load(arch)
        return image.GuestBuild(definition, guest_root(definition.userspace.debian, self._cache, self._progress))

    def _changes_something(self, requests: Sequence[KernelRequest], base: Kernel, new: Kernel, machine: str) -> bool:
        """Whether the patch changes what is built, in a run of selftests those too; the pseudo-test `patch`."""
        start = time.monotonic()
        paths = {request.role: self._sources.tree(request).path for request in requests}
        srcarch = load(new.arch).kernel.srcarch
        both = (paths[Role.BASE], paths[Role.PATCHED])
        other = self._suite.selftests is not None and self._suite.selftests.differ(*both)
        same = None if other else unbuilt.unchanged(base, new, both, srcarch)
        result = TestResult("patch", new.arch, new.id, machine, Outcome.PASS)
        if same is not None:
            symbols = tuple(dict.fromkeys(name for item in same for name in item.symbols))
            why = f"the patch changes nothing that is built: {'; '.join(item.line() for item in same[:3])}"
            more = f" (and {len(same) - 3} more files)" if len(same) > 3 else ""
            result = replace(result, outcome=Outcome.SKIP, why=why + more, step=self._enabling(new.arch, symbols))
        result = replace(result, seconds=time.monotonic() - start)
        self._event_log.emit(EventKind.TEST_END, result, kernel=new.id, test="patch")
        return same is None

    def _enabling(self, arch: str, symbols: Sequence[str]) -> str:
        """The arguments by which the patched files would be built: a fragment in the results' folder."""
        if not symbols:
            return ""
        file = self._event_log.path.parent / f"enable-{arch}.config"
        with filling(file.parent):
            file.write_text("".join(f"CONFIG_{name}=y\n" for name in symbols))
        return f"--kconfig {shlex.quote(str(file))}"

    def _booted(self, kernel: Kernel, tree: Tree, machines: Sequence[str]) -> list[SavedTarget]:
        """The kernel on each machine that it boots on, saved; a failure to boot is recorded.

        If it does not boot on the first machine, no other is tried.
        """
        launches, schedulers = self.launches(kernel, tree, machines)
        tests = self._selftests[kernel.id].tests if kernel.id in self._selftests else ()
        targets: list[SavedTarget] = []
        for launch in launches:
            target = self._target(launch, kernel)
            if target is None and not targets:
                break
            targets += [replace(target, schedulers=schedulers, selftests=tests)] if target else []
        return targets

    def _target(self, launch: Launch, kernel: Kernel) -> SavedTarget | None:
        """One machine, booted and saved; None when the kernel does not boot on it."""
        spec = launch.spec
        launch, chosen = self.accelerated(launch)
        saved = self._boot(launch, kernel)
        restored = self._restored(saved, launch, kernel) if saved is not None else None
        if saved is None or restored is None:
            return None
        machine = Machine(
            kernel.id,
            kernel.arch,
            spec,
            chosen.name,
            chosen.why,
            saved.boot_seconds,
            restored,
            saved.scale,
            str(saved.state.parent),
        )
        self._event_log.emit(EventKind.MACHINE, machine, kernel=kernel.id)
        if chosen.why not in self._reported:
            self._progress.say(f"machine {kernel.arch} {spec.name}: {chosen.name}, because {chosen.why}")
            self._reported.add(chosen.why)
        return SavedTarget(kernel, machine, str(launch.initramfs), dict(launch.facts), launch.cmdline)

    def build(self, request: KernelRequest) -> tuple[Kernel, Tree]:
        """The kernel and the source it was built from, without an event.

        Raises KernelFailure when it does not build, and what :meth:`targets` raises.
        """
        tree = self._sources.tree(request)
        return self._kernel(request, load(request.arch), tree), tree

    def launches(
        self, kernel: Kernel, tree: Tree, machines: Sequence[str]
    ) -> tuple[list[Launch], tuple[Scheduler, ...]]:
        """How a built kernel is booted on each of these machines, and the user's schedulers in its initramfs.

        The accelerator is not chosen yet. Raises UsageError for an invalid scheduler.
        """
        definition = load(kernel.arch)
        specs = [definition.spec(name) for name in machines]
        initramfs, schedulers = self._image(self._guest(kernel.arch), kernel, tree)
        known = facts.gather(self._toolchain, self._cache)
        path, cmdline = Path(kernel.image), self._cmdline(kernel)
        return [Launch(definition, spec, "tcg", path, initramfs, known, cmdline) for spec in specs], schedulers

    def _cmdline(self, kernel: Kernel) -> str:
        """The user's addition to the kernel's command line, and the option by which KASAN reports every bad access."""
        asked = self._plan.options.cmdline
        silent = MULTI_SHOT in asked.split() or kconfig.read(Path(kernel.config)).get("KASAN") != "y"
        return asked if silent else f"{MULTI_SHOT} {asked}".strip()

    def accelerated(self, launch: Launch) -> tuple[Launch, Accelerator]:
        """The launch with the accelerator that works here, and the accelerator."""
        chosen = accel.choose(launch, self._toolchain, self._cache)
        return replace(launch, accelerator=chosen.name), chosen

    # --- its steps ----------------------------------------------------------------------------

    def _kernel(self, request: KernelRequest, definition: Definition, tree: Tree) -> Kernel:
        users = tuple(Path(path) for path in self._plan.kconfig)
        build = BuildRequest(
            tree,
            definition,
            users,
            self._plan.options.jobs,
            profiles=self._profiles(request.arch),
            incremental=self._plan.incremental,
            own=bool(request.own) and not request.patches,
            suite_fragments=self._suite.fragments,
        )
        return kbuild.build(build, self._toolchain, self._cache, self._progress, request.role)

    def _profiles(self, arch: str) -> tuple[str, ...]:
        """With --coverage, the objects whose execution is counted: the suite's, and those that the patch touches."""
        if not self._plan.options.coverage:
            return ()
        touched = {
            name: None
            for request in self._plan.kernels
            if request.arch == arch
            for file in self._sources.added(arch)
            for name in lines.objects_of(self._sources.tree(request).path, file)
        }
        return tuple(dict.fromkeys((self._suite.code.object, *touched)))

    def _image(self, how: image.GuestBuild, kernel: Kernel, tree: Tree) -> tuple[Path, tuple[Scheduler, ...]]:
        """The initramfs, and the user's schedulers that are in it. Raises UsageError for an invalid one."""
        base = image.initramfs(how, kernel, self._suite.programs, self._toolchain, self._cache, self._progress)
        if kernel.id in self._selftests:
            runner = self._selftests[kernel.id].runner
            base = image.with_selftests(base, runner, kernel, self._toolchain, self._cache, self._progress)
        if not self._plan.bpf:
            return base, ()
        vmlinux = Path(kernel.vmlinux)
        with private_folder() as scratch:
            kind = self._suite.struct_ops
            if kind is None:
                raise UsageError(f"the suite {self._suite.name} takes no BPF programs", step="leave --bpf out")
            compiler = Compiler(
                tree.path,
                vmlinux,
                Btf(vmlinux, self._toolchain),
                how,
                self._toolchain,
                scratch,
                kind,
                self._suite.programs,
            )
            made = compiler.schedulers(self._plan.bpf)
            whole = image.with_objects(base, scratch, self._toolchain, self._cache, self._progress)
        return whole, made

    def _boot(self, launch: Launch, kernel: Kernel) -> Pristine | None:
        """Boot and save; a kernel that dies, hangs or reports a defect at boot is a result."""
        start = time.monotonic()
        symbols = Symbols(Path(kernel.vmlinux), self._toolchain)
        try:
            saved = pristine.ensure(
                launch,
                Path(kernel.path).name,
                symbols,
                self._toolchain,
                self._cache,
                self._progress,
                self._suite.code.functions,
            )
        except MachineEnded as error:
            self._died(error, launch, kernel, start)
            return None
        except KernelFailure as failure:
            self._pseudo("boot", kernel, launch.spec.name, start, (self._failed(failure),))
            return None
        records = [record for text in saved.log for record in parse_kmsg(text)]
        found = allow.applied(dmesg.findings(records, symbols), self._plan.allow, kernel.arch)
        evidence = replace(dmesg.watched(records, 0), payload=len(records))
        self._pseudo("boot", kernel, launch.spec.name, start, tuple(found), evidence)
        return saved

    def _restored(self, saved: Pristine, launch: Launch, kernel: Kernel) -> float | None:
        """The seconds of one restore, to the first answer of the agent.

        None for a kernel that does not survive it, which is recorded as one that does not boot.
        """
        start = time.monotonic()
        try:
            with Guest(saved, self._toolchain) as guest:
                return guest.restore_seconds
        except MachineEnded as error:
            self._died(error, launch, kernel, start)
            return None

    def _died(self, error: MachineEnded, launch: Launch, kernel: Kernel, start: float) -> None:
        """Record the end of a machine as the kernel's. Raises MachineLost, or the error, where it is not."""
        symbols = Symbols(Path(kernel.vmlinux), self._toolchain)
        found = crash.of(error, symbols, resolve=Addresses(symbols, ""))
        if not found:
            lost = crash.classify(error.lines, error.ended, error.expired)
            raise lost or error from error
        self._pseudo("boot", kernel, launch.spec.name, start, tuple(found))

    # --- events -------------------------------------------------------------------------------

    def _pseudo(
        self, name: str, kernel: Kernel, machine: str, start: float, found: tuple[Finding, ...], *evidence: Evidence
    ) -> None:
        """Record a pseudo-test's end: `build`, `selftests-build` or `boot`."""
        counting = [finding for finding in found if finding.counts]
        result = TestResult(
            id=name,
            arch=kernel.arch,
            kernel=kernel.id,
            machine=machine,
            outcome=Outcome.FAIL if counting else Outcome.PASS,
            seconds=time.monotonic() - start,
            why=counting[0].title if counting else "",
            evidence=evidence,
            findings=found,
        )
        self._event_log.emit(EventKind.TEST_END, result, kernel=kernel.id, test=name)

    @staticmethod
    def _failed(failure: KernelFailure) -> Finding:
        text = signature("build" if failure.kind == "build" else "crash", failure.kind, (), neutral(failure.what))
        oracle = "build" if failure.kind == "build" else "crash"
        file, _, rest = failure.what.partition(":")
        line = rest.partition(":")[0]
        place = (file, int(line)) if line.isdigit() else (None, None)
        return Finding(
            oracle,
            failure.kind,
            failure.what,
            text,
            file=place[0],
            line=place[1],
            log=tuple(failure.detail.splitlines()),
        )

    def _unbuilt(self, request: KernelRequest, tree: Tree) -> Kernel:
        """Stands for a kernel that did not build."""
        return Kernel(
            id=f"{request.role}-{request.arch}-{tree.tree[:12]}",
            arch=request.arch,
            role=request.role,
            release=tree.version,
            source=tree.origin,
            commit=tree.commit,
            tree=tree.tree,
            dirty=tree.dirty,
            patches=tree.patches,
            config="",
            config_sha256="",
            toolchain=self._toolchain.id,
            image="",
            vmlinux="",
            path="",
            build_seconds=0.0,
            cached=False,
        )
