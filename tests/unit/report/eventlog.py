# SPDX-License-Identifier: GPL-2.0-only
"""The builder of event logs for the tests of the verdict and the reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from harness.core.event_log import RUNNER
from harness.core.records import (
    SCHEMA,
    Canary,
    DueCanary,
    DueResult,
    DueTest,
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
    Protection,
    Role,
    Selection,
    SessionEnd,
    SessionStart,
    TestResult,
    WorkerEnd,
    Workers,
    encode,
)
from harness.faults.optional import Declared

EARLY = ("build", "boot", "selftests-build")
PSEUDO = (*EARLY, "patch")
CANARIES = ("dmesg", "kmemleak", "percpu")
SHAPE = ("dmesg", "percpu")
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
    oracle="dmesg", kind="WARN", title="WARNING at exit_dsq", signature="dmesg:WARN:exit_dsq", function="exit_dsq"
)


SITE = FaultSite("create", "failslab", ("pcpu_alloc_noprof", "init_dsq"), 64, 0xCC0, 100, 50, "handled")


def kernel(role: Role = Role.TREE, arch: str = "x86_64", **more: Any) -> Kernel:
    facts: dict[str, Any] = {
        "id": f"{role}-{arch}",
        "arch": arch,
        "role": role,
        "release": "7.2.13",
        "source": "linux-source-7.2",
        "commit": "",
        "tree": "0123456789abcdef" * 4,
        "dirty": False,
        "patches": (),
        "config": "/c",
        "config_sha256": "ab" * 32,
        "toolchain": "cd" * 32,
        "image": "/i",
        "vmlinux": "/v",
        "path": "/p",
        "build_seconds": 372.0,
        "cached": True,
    }
    return Kernel(**(facts | more))


def machine(of: Kernel, name: str = MACHINE) -> Machine:
    why = "kvm: the probe guest printed nothing within 10 s"
    spec = MachineSpec(of.arch, name)
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
        self.failed = 0
        self.why = ""
        self.shards = 1
        """Test children of each architecture; they share the tests out in turn."""
        self.batches = False
        """Whether each of them has a leak batch."""
        self.unproved: set[str] = set()
        """Further machines without canaries; each other one that has results has those of SHAPE."""
        self.prepared = True
        """Whether it is recorded that each kernel built and booted."""
        self.spared: set[str] = set()
        self.optional: list[Declared] = []

    def put(self, *results: TestResult) -> Log:
        """Put these results in the place of those of the same test and kernel."""
        keys = {(new.kernel, new.id) for new in results}
        self.results = [old for old in self.results if (old.kernel, old.id) not in keys] + list(results)
        bad = any(new.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE) for new in self.results)
        self.status = int(bad)
        return self

    def only(self, test: str) -> Log:
        """Leave out the results of all other tests."""
        self.results = [done for done in self.results if done.id == test]
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
        self._numbers: Counter[str] = Counter()
        kernels = [{"arch": of.arch, "role": str(of.role)} for of in self.kernels]
        run = {"argv": self.argv, "seed": 42, "plan": {"kernels": kernels} | self.plan, "version": "0.1"}
        self._emit(EventKind.RUN_START, run)
        self._emit(EventKind.SURVEY, self._selection())
        self._emit(EventKind.PROTECTION, Protection("bubblewrap as root", ("no capabilities", "no network")))
        for arch in dict.fromkeys(of.arch for of in self.kernels):
            self._architecture(arch, [of for of in self.kernels if of.arch == arch])
        self._emit(EventKind.RUN_END, {"why": self.why, "events": len(self._events)})
        return self._events

    def _fallen(self, *early: str) -> set[str]:
        """The kernels that did not come as far as to be tested; with `early` those that stopped there."""
        bad = (Outcome.FAIL, Outcome.INCONCLUSIVE)
        own = {r.kernel for r in self.results if r.id in (early or EARLY) and r.outcome in bad and r.machine == MACHINE}
        archs = {of.arch for of in self.kernels if of.id in own and of.role is not Role.BASE}
        return own | self.spared | {of.id for of in self.kernels if of.arch in archs}

    def _architecture(self, arch: str, kernels: list[Kernel]) -> None:
        """One after the other, as the runner does."""
        fallen, unbuilt = self._fallen(), self._fallen("build", "selftests-build")
        own = {done.kernel for done in self.results if done.id in EARLY and done.outcome is not Outcome.PASS}
        mine = {of.id for of in kernels}
        standing = [of for of in kernels if of.id not in fallen]
        booted = [of for of in kernels if of.id not in unbuilt and (of in standing or of.id not in own)]
        shown = {(done.kernel, done.id) for done in self.results}
        pair = {of.role for of in kernels} > {Role.BASE} and self.prepared
        for of in kernels:
            self._emit(EventKind.KERNEL, of, of.id)
            if self.prepared and (of.id not in own or of in standing) and (of.id, "build") not in shown:
                self._end(self._whole(of, "build"))
        for of in standing:
            if self.prepared and self.plan.get("suite") == "tests/kernel/selftests":
                self._end(self._whole(of, "selftests-build"))
            if pair and of.role is Role.PATCHED and (of.id, "patch") not in shown:
                self._end(self._whole(of, "patch"))
        for of in booted:
            for name in self._machines(of):
                if self.prepared and (of.id, "boot") not in shown:
                    self._end(replace(self._whole(of, "boot"), machine=name))
                self._emit(EventKind.MACHINE, machine(of, name), of.id)
        results = [done for done in self.results if done.kernel in mine]
        for done in results:
            if done.id in PSEUDO:
                self._end(done)
        if standing:
            places = tuple((of.id, name) for of in standing for name in self._machines(of))
            self._emit(EventKind.CHILDREN, Workers(arch, self.shards, places), writer=f"{arch}/children")
            for shard in range(self.shards):
                self._session(arch, shard, standing, [done for done in results if done.id not in PSEUDO])
            for shard in range(self.shards):
                end = WorkerEnd(arch, shard, self.status, f"exit status {self.status}")
                self._emit(EventKind.CHILD_END, end, writer=f"{arch}/children")

    def _session(self, arch: str, shard: int, standing: list[Kernel], results: list[TestResult]) -> None:
        writer = f"{arch}/{shard}"
        due, planted = self._due(standing), self._planted(standing)
        own = [item for number, item in enumerate(due) if number % self.shards == shard]
        batch = [DueResult(f"batch::kmemleak-{shard}", of.id, MACHINE) for of in standing] if self.batches else []
        canaries = [one for number, one in enumerate(planted) if number % self.shards == shard]
        optional = tuple(encode(self.optional))
        start = SessionStart((*own, *batch), tuple(canaries), due, planted, optional, arch, shard, self.shards)
        self._emit(EventKind.SESSION_START, start, writer=writer)
        places = {(one.oracle, one.kernel, one.machine) for one in canaries}
        strange = {(c.oracle, c.kernel, c.machine) for c in self.canaries} - {
            (c.oracle, c.kernel, c.machine) for c in planted
        }
        further = [
            Canary(o, of.id, True, machine=name) for of in standing for name in self._machines(of)[1:] for o in SHAPE
        ]
        for canary in (*self.canaries, *(one for one in further if one.machine not in self.unproved)):
            place = (canary.oracle, canary.kernel, canary.machine)
            if place in places or (place in strange and not shard and canary.kernel in {of.id for of in standing}):
                self._emit(EventKind.CANARY, canary, canary.kernel, writer=writer)
        names = {(item.id, item.kernel, item.machine) for item in own}
        every = {(item.id, item.kernel, item.machine) for item in due}
        for done in results:
            key = (done.id, done.kernel, done.machine)
            if key in names or (key not in every and not shard):
                self._tested(done, writer)
        for item in batch:
            of = next(one for one in standing if one.id == item.kernel)
            self._tested(result(of, item.id, evidence=(Evidence("dmesg"), Evidence("kmemleak"))), writer)
        end = SessionEnd(self.status, arch, shard, self.failed)
        self._emit(EventKind.SESSION_END, end, writer=writer)

    def _tested(self, done: TestResult, writer: str) -> None:
        self._emit(EventKind.TEST_START, {"machine": done.machine}, done.kernel, done.id, writer)
        if done.search:
            self._emit(EventKind.SEARCH, {"seconds": 1.0, "done": encode(done.search)}, done.kernel, done.id, writer)
        self._end(done, writer)

    def _whole(self, of: Kernel, name: str) -> TestResult:
        seen = (Evidence("dmesg"),) if name == "boot" else ()
        return result(of, name, evidence=seen, faults=FaultSummary(), model=ModelSummary(), seconds=0.0)

    def _end(self, done: TestResult, writer: str = RUNNER) -> None:
        self._emit(EventKind.TEST_END, done, done.kernel, done.id, writer)

    def _items(self) -> list[dict[str, Any]]:
        """A plain id of `collected` stands for the test on each kernel."""
        return [item if isinstance(item, dict) else {"id": item} for item in self.collected]

    def _due(self, standing: list[Kernel]) -> tuple[DueResult, ...]:
        places = [(of.id, item) for of in standing for item in self._items()]
        first = [DueResult(item["id"], of, MACHINE) for of, item in places if of == item.get("kernel", of)]
        further = [
            DueResult(r.id, r.kernel, r.machine) for r in self._further() if r.kernel in {of.id for of in standing}
        ]
        return tuple(dict.fromkeys((*first, *further)))

    def _further(self) -> list[TestResult]:
        """The results on further machines."""
        return [done for done in self.results if done.id not in PSEUDO and done.machine != MACHINE]

    def _machines(self, of: Kernel) -> list[str]:
        return [MACHINE, *dict.fromkeys(done.machine for done in self._further() if done.kernel == of.id)]

    def _planted(self, standing: list[Kernel]) -> tuple[DueCanary, ...]:
        first = [DueCanary(name, of.id, MACHINE) for of in standing for name in CANARIES]
        machines = [(of, name) for of in standing for name in self._machines(of)[1:] if name not in self.unproved]
        return (*first, *(DueCanary(oracle, of.id, name) for of, name in machines for oracle in SHAPE))

    def _selection(self) -> Selection:
        if self.plan.get("test_id"):
            return Selection()
        places = [(of, item) for of in self.kernels for item in self._items() if of.id == item.get("kernel", of.id)]
        due = [DueTest(item["id"], of.arch, of.role, MACHINE) for of, item in places]
        roles = {of.id: of.role for of in self.kernels}
        due += [DueTest(done.id, done.arch, roles[done.kernel], done.machine) for done in self._further()]
        return Selection(tuple(dict.fromkeys(due)), exact=self.plan.get("suite") != "tests/kernel/selftests")

    def _emit(self, kind: EventKind, data: Any, of: str = "", test: str = "", writer: str = RUNNER) -> None:
        payload: Mapping[str, Any] = encode(data)
        time = 1_700_000_000.0 + len(self._events)
        self._numbers[writer] += 1
        self._events.append(Event(SCHEMA, time, "r1", kind, of, test, payload, writer, self._numbers[writer]))


def renumbered(events: Iterable[Event]) -> list[Event]:
    """The events as if their writers had written no others: numbers and run-end's count fit them."""
    numbers: Counter[str] = Counter()
    out: list[Event] = []
    for event in events:
        numbers[event.writer] += 1
        data = event.data
        if event.kind is EventKind.RUN_END:
            data = {**data, "events": len(out)}
        out.append(replace(event, number=numbers[event.writer], data=data))
    return out


POOL = ("slab_alloc_node", "kmem_cache_alloc_noprof", "mem_pool_alloc", "__alloc_object", "__create_object")
FAULTY = replace(
    LEAK,
    site="__alloc_pages_noprof < pcpu_alloc_noprof < init_dsq < scx_bpf_create_dsq < bpf",
    fault="- {operation: create, what: page, nth: 3}",
)


def many_sites(number: int = 60) -> tuple[FaultSite, ...]:
    """What a sweep over attaches and creates gives: a leak, kmemleak's objects, the rest handled."""
    sites = [
        FaultSite(
            "create",
            "page",
            tuple(str(FAULTY.site).split(" < ")),
            2,
            0xCC2,
            15,
            15,
            "leaked",
            LEAK.frames,
            {"handled": 14, "leaked": 1},
            {"-ENOMEM": 15},
            "",
            (FAULTY.signature,),
            "GFP_KERNEL|__GFP_HIGHMEM",
        )
    ]
    for count in range(number - 1):
        own = count % 2 == 1
        chain = (
            *(POOL if own else ()),
            "slab_alloc_node",
            "__kmalloc_noprof",
            f"caller_{count}",
            "scx_alloc_and_add_sched",
        )
        how, answer = ("absorbed", "0") if own else ("handled", "exit -ENOMEM")
        optional = "kmemleak has a pool" if own else ""
        sites.append(
            FaultSite(
                f"attach, {'loader' if count % 3 else 'enabler'}",
                "failslab",
                chain,
                168,
                0x92CC0,
                3,
                3,
                how,
                tuple(Frame(name, 0x10, 0x20, "mm/slub.c", 99) for name in chain),
                {how: 3},
                {answer: 3},
                optional,
            )
        )
    return tuple(sites)
