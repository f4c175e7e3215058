# SPDX-License-Identifier: GPL-2.0-only
"""Owns the builder of event logs for the tests of the verdict and the reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.faults.optional import Declared
from harness.records import (
    SCHEMA,
    Canary,
    Event,
    EventKind,
    Evidence,
    FaultSite,
    FaultSummary,
    Finding,
    Frame,
    Kernel,
    Machine,
    MachineSpec,
    ModelSummary,
    Outcome,
    Role,
    TestResult,
    encode,
)

CANARIES = ("dmesg", "kmemleak", "percpu")
MACHINE = "default"
CREATE = "tests/kernel/dsq/test_create.py::test_enomem"
DESTROY = "tests/kernel/dsq/test_destroy.py::test_twice"

LEAK = Finding(
    oracle="kmemleak",
    kind="percpu leak",
    title="unreferenced percpu object of 8 bytes, 50 times",
    signature="kmemleak:percpu leak:init_dsq<scx_bpf_create_dsq",
    function="init_dsq",
    file="kernel/sched/ext/ext.c",
    line=4711,
    frames=(
        Frame("alloc_helper", file="kernel/sched/ext/ext.c", line=4709, inlined=True),
        Frame("init_dsq", 0x3C, 0x120, "kernel/sched/ext/ext.c", 4711),
        Frame("scx_bpf_create_dsq", 0x80, 0x200, "kernel/sched/ext/ext.c", 8001, reliable=False),
    ),
    operation="create",
    count=50,
    log=("unreferenced object (percpu) 0x607e03c2", '  comm "agent", pid 71'),
)
SPLAT = Finding(
    oracle="dmesg",
    kind="WARN",
    title="WARNING at exit_dsq",
    signature="dmesg:WARN:exit_dsq",
    function="exit_dsq",
)


SITE = FaultSite("create", "failslab", ("pcpu_alloc_noprof", "init_dsq"), 64, 0xCC0, 100, 50, "handled")


def kernel(role: Role = Role.TREE, arch: str = "x86_64", **more: Any) -> Kernel:
    facts: dict[str, Any] = {
        "id": f"{role}-{arch}", "arch": arch, "role": role, "release": "7.2.13", "source": "linux-source-7.2",
        "commit": "", "tree": "0123456789abcdef" * 4, "dirty": False, "patches": (), "config": "/c",
        "config_sha256": "ab" * 32, "toolchain": "cd" * 32, "image": "/i", "vmlinux": "/v", "path": "/p",
        "build_seconds": 372.0, "cached": True,
    }  # fmt: skip
    return Kernel(**(facts | more))


def machine(of: Kernel) -> Machine:
    why = "kvm: the probe guest printed nothing within 10 s"
    spec = MachineSpec(of.arch)
    return Machine(of.id, of.arch, spec, "tcg", why, 2.9, 0.12, 5.0, "/s")


def result(of: Kernel, test: str, outcome: Outcome = Outcome.PASS, **more: Any) -> TestResult:
    facts: dict[str, Any] = {
        "machine": MACHINE,
        "seconds": 1.5,
        "evidence": (Evidence("dmesg", payload=["big"]), Evidence("kmemleak")),
        "faults": FaultSummary(100, 50, 50, (SITE,)),
        "model": ModelSummary(60, 40),
    }
    return TestResult(id=test, arch=of.arch, kernel=of.id, outcome=outcome, **(facts | more))


class Log:
    """A run under construction: by default everything that a pass needs, each piece of it can be changed."""

    def __init__(self, *kernels: Kernel, collected: list[Any] | None = None) -> None:
        self.kernels = kernels or (kernel(),)
        self.argv = ["kharness", "run", "--tree", "linux"]
        self.plan: dict[str, Any] = {"suite": "dsq"}
        self.collected = collected if collected is not None else [CREATE, DESTROY]
        self.canaries = [Canary(oracle, k.id, True, machine=MACHINE) for k in self.kernels for oracle in CANARIES]
        self.results = [result(k, test) for k in self.kernels for test in (CREATE, DESTROY)]
        self.status = 0
        self.why = ""
        self.spared: set[str] = set()
        self.optional: list[Declared] = []

    def put(self, *results: TestResult) -> Log:
        """Put these results in the place of those of the same test and kernel."""
        keys = {(new.kernel, new.id) for new in results}
        self.results = [old for old in self.results if (old.kernel, old.id) not in keys] + list(results)
        bad = any(new.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE) for new in self.results)
        self.status = int(bad)
        return self

    def fall(self, of: Kernel, what: str = "boot") -> Log:
        """This kernel does not come up: no test, no canary, no machine."""
        self.results = [old for old in self.results if old.kernel != of.id]
        self.canaries = [canary for canary in self.canaries if canary.kernel != of.id]
        fallen = result(of, what, Outcome.FAIL, evidence=(), why=f"it does not {what}")
        self.results.append(fallen)
        return self

    def spare(self, base: Kernel, patched: Kernel, **more: Any) -> Log:
        """The patch changes nothing on this architecture: neither kernel is booted or tested."""
        self.spared |= {base.id, patched.id}
        self.results = [old for old in self.results if old.kernel not in self.spared]
        self.canaries = [canary for canary in self.canaries if canary.kernel not in self.spared]
        self.results.append(result(patched, "patch", Outcome.SKIP, evidence=(), **more))
        return self

    def events(self) -> list[Event]:
        self._events: list[Event] = []
        run = {"argv": self.argv, "seed": 42, "plan": self.plan, "version": "0.1"}
        self._emit(EventKind.RUN_START, run)
        early = ("build", "boot", "selftests-build")
        bad = (Outcome.FAIL, Outcome.INCONCLUSIVE)
        fallen = {r.kernel for r in self.results if r.id in early and r.outcome in bad}
        fallen |= self.spared
        for of in self.kernels:
            self._emit(EventKind.KERNEL, of, of.id)
            if of.id not in fallen:
                self._emit(EventKind.MACHINE, machine(of), of.id)
        if len(fallen) < len(self.kernels):
            self._emit(EventKind.SESSION_START, self._announced([of for of in self.kernels if of.id not in fallen]))
        for canary in self.canaries:
            self._emit(EventKind.CANARY, canary, canary.kernel)
        for done in self.results:
            if done.id not in (*early, "patch"):
                self._emit(EventKind.TEST_START, {"machine": done.machine}, done.kernel, done.id)
            self._emit(EventKind.TEST_END, done, done.kernel, done.id)
        if len(fallen) < len(self.kernels):
            self._emit(EventKind.SESSION_END, {"exitstatus": self.status})
        self._emit(EventKind.RUN_END, {"why": self.why})
        return self._events

    def _announced(self, standing: list[Kernel]) -> dict[str, Any]:
        """A plain id of `collected` stands for the test on each kernel."""
        tests = [item if isinstance(item, dict) else {"id": item} for item in self.collected]
        places = [{"kernel": of.id, "machine": MACHINE} for of in standing]
        return {
            "collected": [place | test for place in places for test in tests if place["kernel"] == test.get("kernel", place["kernel"])],
            "canaries": [{"oracle": name, **place} for place in places for name in CANARIES],
            "optional": encode(self.optional),
        }

    def _emit(self, kind: EventKind, data: Any, of: str = "", test: str = "") -> None:
        payload: Mapping[str, Any] = encode(data)
        time = 1_700_000_000.0 + len(self._events)
        self._events.append(Event(SCHEMA, time, "r1", kind, of, test, payload))


POOL = ("slab_alloc_node", "kmem_cache_alloc_noprof", "mem_pool_alloc", "__alloc_object", "__create_object")
FAULTY = replace(
    LEAK, site="__alloc_pages_noprof < pcpu_alloc_noprof < init_dsq < scx_bpf_create_dsq < bpf",
    fault="- {operation: create, what: page, nth: 3}",
)  # fmt: skip


def many_sites(number: int = 60) -> tuple[FaultSite, ...]:
    """What a sweep over attaches and creates gives: a leak, kmemleak's objects, the rest handled."""
    sites = [
        FaultSite(
            "create", "page", tuple(str(FAULTY.site).split(" < ")), 2, 0xCC2, 15, 15, "leaked", LEAK.frames,
            {"handled": 14, "leaked": 1}, {"-ENOMEM": 15}, "", (FAULTY.signature,), "GFP_KERNEL|__GFP_HIGHMEM",
        )
    ]  # fmt: skip
    for count in range(number - 1):
        own = count % 2 == 1
        chain = (*(POOL if own else ()), "slab_alloc_node", "__kmalloc_noprof", f"caller_{count}", "scx_alloc_and_add_sched")
        how, answer = ("absorbed", "0") if own else ("handled", "exit -ENOMEM")
        optional = "kmemleak has a pool" if own else ""
        sites.append(
            FaultSite(
                f"attach, {'loader' if count % 3 else 'enabler'}", "failslab", chain, 168, 0x92CC0, 3, 3, how,
                tuple(Frame(name, 0x10, 0x20, "mm/slub.c", 99) for name in chain), {how: 3}, {answer: 3}, optional,
            )
        )  # fmt: skip
    return tuple(sites)
