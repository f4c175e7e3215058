# SPDX-License-Identifier: GPL-2.0-only
"""Parent and sub-schedulers: attached to cgroups, each used by programs of its own, all compared."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from harness.core.errors import GuestError, UsageError
from harness.faults.endings import ended_with
from harness.guest.guest import BpfObject, Workload
from harness.machine.deadline import Deadline
from harness.suite.needs import need
from sched_ext.dsq import ERRNO, SCHED_EXT, STATE, Dsqs, dsq_context
from sched_ext.model.sub import Tree
from sched_ext.model.trace import Answer

CGROUP_ROOT = "/sys/fs/cgroup"
TAKES, TAKES_NONE = "dsq_sub", "dsq_leaf"
"""The schedulers of bpf_progs: one that takes sub-schedulers, one that does not."""

CALLS = ("create", "destroy", "nr_queued")
NO_CGROUP = 0x7FFF_FFFF
"""An id that no cgroup has."""

DETACHED = "unregistered from user space"
"""The reason in the exit info of a scheduler whose link was dropped (scx_exit_reason())."""

GONE_SECONDS = 10.0
NAP_US = 3000
"""How long a task that ran sleeps before it comes back."""


class Subs:
    """A root scheduler and sub-schedulers on one guest. A cgroup is its path below the hierarchy, "/a/b"."""

    def __init__(self, dsq: Dsqs) -> None:
        features = dsq.model.features
        need(features.sub_scheds and features.cid_form, "sub-schedulers of the cid form")
        self._dsq = dsq
        self._guest = dsq.guest
        self.model = dsq.model
        self._ids: dict[str, int] = {}
        self._loaded: dict[str, BpfObject] = {}

    def cgroup(self, path: str) -> int:
        """Makes a cgroup; returns its id."""
        self._ids[path] = int(self._guest.agent.call("mkdir", path=f"{CGROUP_ROOT}{path}")["ino"])
        return self._ids[path]

    def rmdir(self, path: str) -> None:
        """Remove a cgroup; a sub-scheduler that is attached to it must exit."""
        self._guest.agent.call("rmdir", path=f"{CGROUP_ROOT}{path}")
        self._ids.pop(path)
        self.model.cgroup_offline(path)

    def cgroup_id(self, path: str) -> int:
        """The id of a cgroup; 0 if it does not exist, and for the hierarchy's root."""
        return self._ids.get(path, 0)

    def load(self, cgroup: str = "", program: str = TAKES, *, first: int = 0, count: int = 1) -> BpfObject:
        """Loads a scheduler for a cgroup, or a root, whose ops.init creates ids [first, first + count)."""
        members = {"sub_cgroup_id": self._ids.get(cgroup, NO_CGROUP)} if cgroup else {}
        scheduler = self._guest.load(program, members, first_id=first, nr_dsqs=count)
        scheduler.associate(*CALLS)
        self._loaded[scheduler.name] = scheduler
        return scheduler

    def attach(
        self,
        scheduler: BpfObject,
        cgroup: str = "",
        *,
        creates: Sequence[tuple[int, int]] = ((0, -1),),
        program: str = TAKES,
        fault: str | None = None,
        nth: int | None = None,
    ) -> int:
        """Attach it and compare; returns attach's answer."""
        answer = self.answer(scheduler, cgroup, creates=creates, program=program, fault=fault, nth=nth)
        if scheduler.name not in self.model.links:  # else it may have exited, which stays
            scheduler.set("exited", 0)
        got = scheduler.attach(check=False)
        error = None
        if got == 0:
            error = self._ended(scheduler) if cgroup else self._dsq.exit_error(scheduler)
        self._dsq.last = got if error is None else ended_with(error)
        self._dsq.judge(answer, got, error)
        return got

    def answer(
        self,
        scheduler: BpfObject,
        cgroup: str,
        *,
        creates: Sequence[tuple[int, int]],
        program: str,
        fault: str | None = None,
        nth: int | None = None,
    ) -> Answer:
        """The model's answer for an attach, which is not done."""
        there = cgroup in self._ids
        takes = program == TAKES
        return self.model.attach(scheduler.name, creates, fault, nth, takes, cgroup, there=there, cid_form=True)

    def unload(self, scheduler: BpfObject) -> None:
        """Unload one that is not attached."""
        del self._loaded[scheduler.name]
        scheduler.unload()

    def add(self, cgroup: str = "", program: str = TAKES, first: int = 0) -> BpfObject:
        """Load and attach one."""
        scheduler = self.load(cgroup, program, first=first)
        self.attach(scheduler, cgroup, creates=((first, -1),), program=program)
        return scheduler

    def detach(self, scheduler: BpfObject) -> None:
        """Drop the link; it and all below it must have exited."""
        ran, answer = self.model.running(scheduler.name), self.model.detach(scheduler.name)
        scheduler.detach()
        self._dsq.judge(answer, 0)
        if ran:
            ended = scheduler.get("exit_reason", "exit_msg")
            wrong = f"{scheduler.name} exited, the model let it run until it was detached: {ended['exit_reason']}"
            right = ended["exit_reason"] == DETACHED
            self._dsq.count("" if right else f"{wrong}: {ended['exit_msg']} (scx_claim_exit)")
        self.check_running()
        if self.model.root is None:
            self._guest.wait_for(STATE, "disabled")

    def ended(self, scheduler: BpfObject, says: str, *, expected: bool = False) -> None:
        """Wait until a scheduler has exited by itself with this message, and compare.

        `expected`: the test caused it, not a rule of the model.
        """
        self._await_exit(scheduler)
        ended = scheduler.get("exit_msg", "exit_reason")
        text = f"{ended['exit_reason']}: {ended['exit_msg']}"
        self._dsq.count("" if says in text else f"{scheduler.name} exited for {text!r}, the model wants {says!r}")
        self._dsq.count(self.model.gone(expected, scheduler.name))
        self.check_running()

    def check_running(self) -> None:
        """Compare which of the loaded schedulers have exited with the model."""
        for name, scheduler in self._loaded.items():
            if name not in self.model.links:
                continue
            if not self.model.running(name):
                self._await_exit(scheduler)
            ended = scheduler.get("exited", "exit_reason", "exit_msg")
            why = f"{ended['exit_reason']}: {ended['exit_msg']}"
            wrong = f"{name} exited, the model lets it run: {why} (scx_claim_exit)"
            self._dsq.count(wrong if self.model.running(name) and ended["exited"] else "")

    def _await_exit(self, scheduler: BpfObject) -> None:
        """ops.exit is called when its parent no longer waits for it (scx_sub_disable). Then, where the kernel
        has that, its programs find it no more."""
        deadline = Deadline(GONE_SECONDS * self._dsq.scale, f"scheduler {scheduler.name} to exit")
        while not scheduler.get("exited")["exited"]:
            if deadline.expired:
                self._dsq.count(f"{deadline}: the model has it gone (scx_claim_exit)")
        while self.model.features.dead and self._found(scheduler):
            if deadline.expired:
                self._dsq.count(f"{deadline}: its programs find it still (scx_prog_sched)")

    def _found(self, scheduler: BpfObject) -> bool:
        """Whether its programs find the scheduler."""
        (answer,) = scheduler.run("nr_queued", dsq_context(0), record=False)
        return answer != -errno.ENODEV

    def owner(self, cgroup: str) -> str:
        """The name of the scheduler that owns a cgroup, or empty."""
        found = Tree(self.model.rules, self.model.root, self.model.links).owner(cgroup)
        return found.name if found else ""

    def refuse(self, scheduler: BpfObject, error: int) -> None:
        """What its ops.sub_attach answers from now on: 0 or a negative errno."""
        scheduler.set("refusal", error)
        self.model.refuse(scheduler.name, error)

    # --- tasks ------------------------------------------------------------------------------

    def tasks(self, cgroup: str, tasks: int) -> Workload:
        """Start SCHED_EXT tasks in a cgroup. Moving does not change their scheduler: attach it later."""
        load = self._guest.work("sleep", tasks, us=NAP_US, cpu=0, policy=SCHED_EXT)
        self.move(load, cgroup)
        return load

    def move(self, load: Workload, cgroup: str) -> None:
        """Moves tasks to a cgroup."""
        for pid in load.pids:
            self._guest.write(f"{CGROUP_ROOT}{cgroup}/cgroup.procs", str(pid))

    def hold(self, scheduler: BpfObject, tasks: int) -> None:
        """Hold its tasks; returns when so many are on its first user DSQ."""
        scheduler.set("hold", 1)
        first = scheduler.get("first_id")["first_id"]
        deadline = Deadline(GONE_SECONDS * self._dsq.scale, f"{tasks} tasks to lie on the DSQ of {scheduler.name}")
        while (there := scheduler.run("nr_queued", dsq_context(first), record=False)[0]) != tasks:
            if deadline.expired:
                raise GuestError(f"{deadline}: {there} do")

    def sysrq(self) -> None:
        """SysRq-S: ejects the root, and with it those below (sysrq_handle_sched_ext_reset())."""
        root = self.model.root
        if root is None:
            raise UsageError("no root scheduler runs", step="add one first")
        self._guest.write("/proc/sysrq-trigger", "S")
        self.ended(self._loaded[root.name], "disabled by sysrq-S", expected=True)
        self._guest.wait_for(STATE, "disabled")

    # --- operations of its programs -------------------------------------------------------

    def create(self, scheduler: BpfObject, dsq_id: int, node: int = -1) -> int:
        """scx_bpf_create_dsq() by a program that is associated with the scheduler."""
        return self._ask(scheduler, "create", dsq_id, node)

    def destroy(self, scheduler: BpfObject, dsq_id: int) -> None:
        """scx_bpf_destroy_dsq()."""
        self._ask(scheduler, "destroy", dsq_id)

    def nr_queued(self, scheduler: BpfObject, dsq_id: int) -> int:
        """scx_bpf_dsq_nr_queued()."""
        return self._ask(scheduler, "nr_queued", dsq_id)

    def check_live(self, scheduler: BpfObject, cgroup: str = "") -> None:
        """Compares the set of live DSQs of a scheduler that runs, a root or that of a cgroup."""
        self._dsq.check_live(scheduler.name, self._ids[cgroup] if cgroup else 0)

    def _ask(self, scheduler: BpfObject, program: str, dsq_id: int, node: int = -1) -> int:
        self.model.associate(scheduler.name)
        match program:
            case "create":
                answer = self.model.create(dsq_id, node)
            case "destroy":
                answer = self.model.destroy(dsq_id)
            case _:
                answer = self.model.nr_queued(dsq_id)
        got = scheduler.run(program, dsq_context(dsq_id, node))[0]
        self._dsq.judge(answer, got)
        self.model.associate(None)
        return got

    def _ended(self, scheduler: BpfObject) -> int | None:
        """How a sub-scheduler's attach ended, which is known when it returns: the errno of its exit info, 0 where it
        has none, None where the scheduler stays."""
        ended = scheduler.get("exited", "exit_msg")
        if not ended["exited"]:
            return None
        found = ERRNO.search(ended["exit_msg"])
        return int(found[1]) if found else 0
