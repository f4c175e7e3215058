# SPDX-License-Identifier: GPL-2.0-only
"""The pristine guest: booted once, checked, quiesced, saved; restored for every test."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.errors import GuestError, HarnessError, KernelFailure, MachineEnded, UsageError
from harness.guest import kmemleak, resident
from harness.guest.agent import Agent
from harness.host.cache import Cache
from harness.host.process import DiskFull
from harness.host.progress import Progress
from harness.host.toolchain import Toolchain
from harness.kbuild.symbols import Symbols
from harness.machine import written
from harness.machine.deadline import Deadline, scale_of
from harness.machine.examine import look_into
from harness.machine.qemu import Launch, Memory, backends, command_line, hardware
from harness.machine.vm import Vm

BOOT_SECONDS = 120.0
"""Deadline from power-on to the agent, where KHARNESS_BOOT_SECONDS names no other; about 3 s are needed."""

FORMAT = 10
"""Version of a snapshot's content and preparation."""

STATE, MEMORY = "state", "memory"
"""What a snapshot consists of: QEMU's migration file, and a folder with the guest's memory."""

BPF_FOLDER = "/bpf"
KEEP_SECONDS = 60.0
WATCHDOGS = (
    ("/proc/sys/kernel/watchdog_thresh", 10, 60),
    ("/proc/sys/kernel/hung_task_timeout_secs", 120, 2400),
    ("/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout", 21, 300),
)
"""The guest's own deadlines: knob, default and most seconds (kernel/watchdog.c, hung_task.c, rcu/tree_stall.h)."""

NEAR = 1 << 16
"""Functions of one object that are at most so many bytes apart have only its text between them."""

BARRIER = "/sys/kernel/debug/kharness/barrier"
PERCPU_STATS = "/sys/kernel/debug/percpu_stats"
OWN_SYMBOLS = "/sys/kernel/debug/kharness/symbols"
SETTLE_SECONDS = 30.0

READY = r"kharness: agent on /dev/\S+"
BROKEN = (r"kharness: module refused", r"kharness: agent on no port", r"kharness: agent ended[^\n]*")


@dataclass(frozen=True)
class Pristine:
    """A saved guest. `state` is QEMU's migration file, `memory` what it lacks (None: nothing).

    `log` are the raw /dev/kmsg records of boot, `percpu` the percpu_stats when it was saved, quiescent; `own` the
    addresses of our module's functions, as harness.kbuild.addresses reads them. `missed` is how often each program of
    the resident ledger had missed an event by then, `blind` why there is no such ledger, if there is none. `age_ms` is
    kmemleak's minimum age of a leak.
    """

    launch: Launch
    state: Path
    memory: Memory | None
    boot_seconds: float
    scale: float
    next_seq: int
    log: tuple[str, ...]
    percpu: str
    cached: bool
    own: str = ""
    missed: dict[str, int] = field(default_factory=dict)
    blind: str = ""
    age_ms: int = kmemleak.MIN_AGE_MS


def key(launch: Launch, kernel: str, toolchain: Toolchain, functions: Sequence[str] = ()) -> str:
    """Content key: kernel, initramfs, whole argv and command line, QEMU binary, accelerator, functions under test."""
    digest = hashlib.sha256()
    digest.update(launch.initramfs.read_bytes())
    parts = (kernel, toolchain.id, command_line(launch), str(FORMAT), *hardware(launch), *functions)
    for part in parts:
        digest.update(b"\0" + part.encode())
    return digest.hexdigest()[:24]


def ensure(
    launch: Launch,
    kernel: str,
    symbols: Symbols,
    toolchain: Toolchain,
    cache: Cache,
    progress: Progress,
    functions: Sequence[str] = (),
) -> Pristine:
    """The pristine guest, from the cache or booted now. `symbols` are those of its kernel, `functions` the code under
    test.

    Raises MachineEnded (for the crash oracle) when the kernel dies or hangs at boot, KernelFailure when it is not the
    machine that was asked for, GuestError when our own userspace does not come up, MachineLost when QEMU fails.
    """
    name = f"boot {launch.definition.arch} ({launch.spec.name}, {launch.accelerator})"

    def maker(folder: Path) -> None:
        with progress.phase(name, f"boot-{launch.definition.arch}-{launch.spec.name}") as phase:
            _boot(launch, symbols, functions, toolchain, folder, lambda note: phase.step(note=note))

    folder, cached = cache.produce(
        "snapshot", key(launch, kernel, toolchain, functions), maker, what=name, say=progress.say
    )
    return load(launch, folder, cached)


def load(launch: Launch, folder: Path, cached: bool) -> Pristine:
    """The pristine guest saved in `folder`, a cache entry of kind ``snapshot``."""
    meta = json.loads((folder / "meta.json").read_text())
    return Pristine(
        launch,
        folder / STATE,
        Memory(folder / MEMORY, private=True),
        meta["boot_seconds"],
        meta["scale"],
        meta["next_seq"],
        tuple(meta["log"]),
        meta["percpu"],
        cached,
        meta["own"],
        meta["missed"],
        meta["blind"],
        meta["age_ms"],
    )


def boot_seconds() -> float:
    """How long a kernel may take to boot. Raises UsageError for an environment that does not name seconds."""
    text = os.environ.get("KHARNESS_BOOT_SECONDS") or str(BOOT_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"KHARNESS_BOOT_SECONDS={text} is no number of seconds", step="unset it, or give 300")
    return seconds


def _boot(
    launch: Launch,
    symbols: Symbols,
    functions: Sequence[str],
    toolchain: Toolchain,
    folder: Path,
    note: Callable[[str], None],
) -> None:
    memory = Memory(folder / MEMORY, private=False)
    memory.folder.mkdir()
    # QEMU gets SIGBUS when there is no space for what the guest writes, which would look like the kernel's doing.
    if shutil.disk_usage(folder).free < launch.spec.memory_mib << 20:
        raise DiskFull(folder)
    start = time.monotonic()
    with Vm(launch, toolchain, memory=memory) as vm:
        try:
            _prepare(vm, symbols, functions, folder, note, start)
        except MachineEnded as error:
            raise look_into(vm, error, 1.0) from error
    for name, mib in backends(launch).items():
        written.check(memory.folder / name, mib << 20)


def _prepare(
    vm: Vm, symbols: Symbols, functions: Sequence[str], folder: Path, note: Callable[[str], None], start: float
) -> None:
    """Boot, check and save the guest, which was powered on at the time `start`."""
    vm.resume()
    patterns = [READY, *BROKEN]
    found = vm.expect(patterns, Deadline(boot_seconds(), "the kernel to boot"))
    if found:
        tail = "\n".join(vm.console_lines[-20:])
        raise GuestError(f"the guest's userspace did not come up: {patterns[found]}", detail=tail)
    took = time.monotonic() - start
    agent = Agent(vm, scale_of(took))
    agent.call("ping", record=False)
    check_shape(agent, vm.launch)
    _stretch_watchdogs(agent)
    # An object that does not load is left out: the test that needs it reports why.
    note("loading BPF objects")
    agent.call("keep", seconds=KEEP_SECONDS, record=False, path=BPF_FOLDER)
    own = str(agent.call("read", record=False, path=OWN_SYMBOLS)["data"])
    under_test = (*symbols.spans(functions, NEAR), *resident.planting(own))
    blind = resident.attach(agent, BPF_FOLDER, under_test)
    note("kmemleak baseline")
    age_ms = kmemleak.shorten(agent, symbols.variables(kmemleak.MIN_AGE))
    kmemleak.baseline(agent, age_ms)
    agent.call("write", record=False, path="/sys/kernel/debug/clear_warn_once", data="1")
    percpu, missed = (quiesce(agent), {}) if blind else resident.begin(agent, lambda: quiesce(agent))
    records = agent.call("kmsg", record=False)
    if records["overruns"]:
        raise HarnessError("the kernel log overflowed during boot", step="raise CONFIG_LOG_BUF_SHIFT")
    meta: dict[str, Any] = {
        "boot_seconds": took,
        "scale": scale_of(took),
        "next_seq": next_seq(records["records"]),
        "log": records["records"],
        "percpu": percpu,
        "own": own,
        "age_ms": age_ms,
        "missed": missed,
        "blind": blind,
    }
    note("saving")
    vm.save(folder / STATE)
    (folder / "meta.json").write_text(json.dumps(meta))


def _stretch_watchdogs(agent: Agent) -> None:
    """Stretch the guest's own deadlines: what takes a second on real hardware may take half a minute here.

    A kernel built without one of them lacks the knob, and its write is refused.
    """
    for path, seconds, most in WATCHDOGS:
        stretched = min(most, round(seconds * agent.scale))
        agent.call("write", check=False, record=False, path=path, data=str(stretched))


def quiesce(agent: Agent, budget: float = SETTLE_SECONDS) -> str:
    """Wait for quiescence; returns percpu_stats. `budget` is nominal seconds.

    The guest is quiescent when the number of percpu objects was constant over three rounds of our module's barriers.
    """
    agent.call(
        "settle",
        seconds=budget + 10,
        record=False,
        barrier=BARRIER,
        watch=PERCPU_STATS,
        key="  nr_cur_alloc",
        rounds=3,
        timeout_ms=int(budget * agent.scale * 1000),
    )
    return str(agent.call("read", record=False, path=PERCPU_STATS)["data"])


def next_seq(records: list[str]) -> int:
    """The sequence number that the next kernel log record must have (Documentation/ABI/testing/dev-kmsg)."""
    try:
        return int(records[-1].split(",", 2)[1]) + 1 if records else 0
    except (ValueError, IndexError) as error:
        raise GuestError(f"the kernel log holds what is no record: {records[-1][:80]!r}") from error


def _cpus(text: str) -> int:
    """How many CPUs a list such as ``0-1,4`` names."""
    count = 0
    try:
        for part in text.strip().split(","):
            first, _, last = part.partition("-")
            count += int(last or first) - int(first) + 1
    except ValueError as error:
        raise GuestError(f"the guest names its CPUs {text[:80]!r}, which is no list of them") from error
    return count


def check_shape(agent: Agent, launch: Launch) -> None:
    """Raise GuestError unless the guest has the requested shape."""
    spec = launch.spec
    for what, path, wanted in (
        ("possible CPUs", "/sys/devices/system/cpu/possible", spec.possible_cpus),
        ("online CPUs", "/sys/devices/system/cpu/online", spec.online_cpus),
        ("NUMA nodes", "/sys/devices/system/node/online", spec.nodes),
    ):
        got = _cpus(str(agent.call("read", record=False, path=path)["data"]))
        if got != wanted:
            raise KernelFailure("boot", f"the guest has {got} {what}, {wanted} were asked for", step="see its console")
