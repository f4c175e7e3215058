# SPDX-License-Identifier: GPL-2.0-only
"""Schedulers with given members and answers: each is loaded and given tasks, and its end compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.core.errors import Disagreed, GuestError
from harness.guest.agent import AgentError
from harness.guest.guest import BpfObject, Workload
from harness.kbuild.btf import Btf
from harness.machine.deadline import Deadline
from harness.session.context import TestContext
from harness.session.load import PATIENCE_SECONDS, TURNS, whereabouts
from sched_ext.dsq import ENABLE_SECONDS, SCHED_EXT, STATE
from sched_ext.model import ids
from sched_ext.model.case import CALLBACKS, Case, End, ExitKind, Insert, Platform, Seen
from sched_ext.model.ops import OpsRules
from sched_ext.model.state import Features

PROGRAM = "dsq_fields"
HOTPLUG_SEQ = "/sys/kernel/sched_ext/hotplug_seq"
TASKS = 2
NAP_US = 2000
PLACES = ("select", "enqueue", "dispatch")
"""Callbacks of bpf_progs/sched_ext/dsq_fields.bpf.c that insert."""


def probe(btf: Btf, features: Features, nodes: int, possible_cpus: int) -> Platform:
    """What the rules need to know about a kernel and a machine."""
    flags = btf.enumerators("SCX_OPS_") | btf.enumerators("SCX_ENQ_") | btf.enumerators("__SCX_ENQ_")
    return Platform(
        features,
        frozenset(range(nodes)),
        possible_cpus,
        flags.get("SCX_OPS_ALL_FLAGS", 0) & ids.U64,
        flags.get("__SCX_ENQ_INTERNAL_MASK", 0) & ids.U64,
        flags,
        btf.members("sched_ext_ops"),
    )


def members(case: Case, platform: Platform, hotplug_seq: int) -> dict[str, int | str]:
    """The members of ops to set before the scheduler is loaded; those of a case that changes none stay as compiled."""
    usual = Case()
    ops: dict[str, int | str] = {
        name: getattr(case, name)
        for name in ("flags", "timeout_ms", "dispatch_max_batch", "exit_dump_len", "name")
        if getattr(case, name) != getattr(usual, name)
    }
    if case.hotplug is not None:
        ops["hotplug_seq"] = hotplug_seq + case.hotplug
    absent = {name for name in CALLBACKS if name not in platform.members}
    ops |= dict.fromkeys(sorted(case.without | absent), "")
    ops |= {name: f"fields_{name}_may_sleep" for name in sorted(case.sleeping)}
    ops |= {name: f"fields_{name}" for name in sorted(case.extra)}
    return ops


def answers(case: Case, forker: int) -> dict[str, int]:
    """The global variables of the scheduler; the elements of arrays follow when it is loaded."""
    values = {
        "init_answer": case.init,
        "cgroup_init_answer": case.cgroup_init,
        "init_task_answer": case.init_task,
        "init_task_nth": case.nth if case.init_task else 0,
        "fork_answer": case.fork,
        "fork_disallow": int(case.disallow),
        "fork_parent": forker if case.fork or case.disallow else 0,
        "nr_creates": len(case.creates),
        "selects": int(case.select_cpu is not None),
        "select_cpu": case.select_cpu or 0,
        "moves": int(case.move is not None),
        "move_dsq": case.move or 0,
    }
    for place in PLACES:
        insert: Insert | None = getattr(case, place)
        values[f"{place}_times"] = insert.times if insert else 0
        if insert:
            values |= {
                f"{place}_dsq": insert.dsq_id,
                f"{place}_slice": insert.slice,
                f"{place}_vtime": insert.vtime or 0,
                f"{place}_flags": insert.flags,
                f"{place}_by_vtime": int(insert.vtime is not None),
            }
    return values


def problem(case: Case, legal: Sequence[End], seen: Seen) -> str:
    """What is wrong with the end of a case; empty where it is legal."""
    if any(end.allows(seen) for end in legal):
        return ""
    wanted = " or ".join(f"{end} ({end.rule}: {end.why})" for end in legal)
    return f"{case}: {seen}; the model allows only that {wanted}"


class Fields:
    """Cases on a guest, each compared with the rules; the first that ends otherwise raises Disagreed."""

    def __init__(self, context: TestContext) -> None:
        self._context = context
        self._guest = context.guest
        spec = context.target.machine.spec
        self.platform = probe(context.target.btf, context.target.features, spec.nodes, spec.possible_cpus)
        self.rules = OpsRules(self.platform)
        self.cpu = spec.online_cpus - 1
        """The CPU of pinned tasks."""
        self._kinds = {value: name for name, value in context.target.btf.enumerators("SCX_EXIT_").items()}

    def run(self, case: Case) -> Seen:
        """Run one case from its load to its end, and clean up."""
        legal = self.rules.ends(case)
        for end in legal:
            self._context.expect(*end.expects)
        seen = self._carry_out(case, legal)
        wrong = problem(case, legal, seen)
        self._context.count_model(1, 1, wrong or None)
        if wrong:
            raise Disagreed(wrong)
        return seen

    def _carry_out(self, case: Case, legal: tuple[End, ...]) -> Seen:
        seq = int(self._guest.read(HOTPLUG_SEQ)) if case.hotplug is not None else 0
        try:
            scheduler = self._guest.load(PROGRAM, members(case, self.platform, seq), **answers(case, self._guest.tid()))
        except AgentError as error:
            if not error.errno or not any(end.load for end in legal):
                raise
            return Seen(load=-error.errno)
        for number, (dsq_id, node) in enumerate(case.creates):
            scheduler.set("create_ids", dsq_id, number)
            scheduler.set("create_nodes", node, number)
        attach = scheduler.attach(check=False)
        seen = Seen(attach=attach) if attach else self._under(scheduler, case, legal)
        scheduler.unload()
        self._guest.wait_for(STATE, "disabled")
        return seen

    def _under(self, scheduler: BpfObject, case: Case, legal: tuple[End, ...]) -> Seen:
        """Follow an attached scheduler until it has exited or its tasks have made progress."""
        if self._enabled(scheduler):
            return self._exit(scheduler)
        cpu = -1 if case.pinned is None else self.cpu
        try:
            load = self._guest.work("sleep", TASKS, us=NAP_US, cpu=cpu, policy=SCHED_EXT)
        except AgentError as error:
            if all(end.kind is not None for end in legal):
                self._until("the scheduler to exit", lambda: self._exited(scheduler))
            return self._exit(scheduler, fork=-error.errno)
        may_stay = any(end.kind is None for end in legal)
        seconds = PATIENCE_SECONDS + max(end.kind is ExitKind.STALL for end in legal) * 2 * case.timeout_ms / 1000
        self._until(
            f"{case}: every task to do {TURNS} turns" if may_stay else f"{case}: the scheduler to exit",
            lambda: self._exited(scheduler) or (may_stay and min(load.progress()) >= TURNS),
            seconds,
            load,
        )
        load.kill()
        return self._exit(scheduler)

    def _enabled(self, scheduler: BpfObject) -> bool:
        """Wait for the end of the enabling; returns whether the scheduler has exited by then."""
        self._until(
            "the scheduler to be enabled or to exit",
            lambda: self._exited(scheduler) or self._guest.read(STATE).strip() == "enabled",
            ENABLE_SECONDS,
        )
        return self._exited(scheduler)

    def _exited(self, scheduler: BpfObject) -> bool:
        return bool(scheduler.get("exited")["exited"])

    def _exit(self, scheduler: BpfObject, fork: int = 0) -> Seen:
        got = scheduler.get("exited", "exit_kind", "exit_code", "exit_msg")
        if not got["exited"]:
            return Seen(fork=fork)
        kind = self._kinds.get(got["exit_kind"], str(got["exit_kind"]))
        return Seen(fork=fork, kind=kind, code=got["exit_code"], message=got["exit_msg"])

    def _until(
        self, what: str, happened: Callable[[], bool], seconds: float = PATIENCE_SECONDS, load: Workload | None = None
    ) -> None:
        """Wait, nominal `seconds`. A timeout with tasks: they make no progress, and their scheduler does not exit."""
        deadline = Deadline(seconds * self._guest.pristine.scale, what)
        while not happened():
            if not deadline.expired:
                continue
            if load is None:
                raise GuestError(f"{deadline}: sched_ext is {self._guest.read(STATE).strip()}")
            where = "; ".join(whereabouts(self._guest, pid) for pid in load.pids)
            wrong = f"{deadline}: {load.progress()} turns were done; {where}"
            self._context.count_model(1, 1, wrong)
            raise Disagreed(wrong)
