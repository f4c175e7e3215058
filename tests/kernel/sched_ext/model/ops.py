# SPDX-License-Identifier: GPL-2.0-only
"""The rules for what a scheduler sets and answers: what the kernel refuses, ends it for, or lets pass (7.2.13)."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import replace

from sched_ext.model import ids
from sched_ext.model.case import INT_MAX, RESTART_FOR_HOTPLUG, Case, End, ExitKind, Insert, Platform
from sched_ext.model.rules import Rules
from sched_ext.model.state import Hash

MAX_ERRNO = 4095
MAX_TIMEOUT_MS = 30_000
"""SCX_WATCHDOG_MAX_TIMEOUT, 30 * HZ: any more milliseconds are a tick more (msecs_to_jiffies() rounds up)."""

CALM_MS = 5000
"""With a shorter timeout the watchdog may speak on a slow machine whatever the scheduler does."""

MAY_SLEEP = frozenset(
    ("init_task", "cgroup_init", "cgroup_exit", "cgroup_prep_move", "cpu_online", "cpu_offline", "init", "exit")
)
"""Callbacks whose programs may be sleepable (bpf_scx_check_member)."""

PCPU_UNIT = 32 << 10
"""PCPU_MIN_UNIT_SIZE with pages of 4 KiB: no percpu object may be larger (include/linux/percpu.h)."""

BATCH_ENTRY = 32
"""Bytes of struct scx_dsp_buf_ent."""

DFL_BATCH = 32
"""SCX_DSP_DFL_MAX_BATCH."""

NAMED = re.compile(r"[0-9A-Za-z_.]{1,127}")
"""What bpf_obj_name_cpy() copies."""

TASK = r".{1,15}\[\d+\]"
BATCH_WARNS = (r"illegal size \(\d+\) or align \(\d+\) for percpu allocation",)
DUMP_WARNS = (r"kvmalloc_node",)
IMMED_WARNS = (r"dsq_inc_nr|dispatch_enqueue",)
"""Once a boot: the global DSQ stands in for the local one of a CPU that is not possible, and takes no SCX_ENQ_IMMED."""

STALLED = r"(?:.{1,15}\[\d+\] failed to run|watchdog failed to check in) for [\d.]+s"


def error_of(answer: int) -> bool:
    """Whether ops_sanitize_err() takes an answer for an errno."""
    return -MAX_ERRNO <= answer < 0


class OpsRules:
    """The rules on one platform: :meth:`ends` are the legal ends of a case, several where the kernel may do either."""

    def __init__(self, platform: Platform) -> None:
        self._on = platform
        self._creating = Rules(platform.features, platform.nodes, platform.possible_cpus)

    def ends(self, case: Case) -> tuple[End, ...]:
        """How the case may end: the first stage that does not let it pass decides."""
        for stage in (self._load, self._members, self._memory, self._init, self._validate, self._enable_tasks):
            found = stage(case)
            if found:
                return found
        return self._forked(case) or self._running(case)

    # --- load and attach ----------------------------------------------------------------

    def _load(self, case: Case) -> tuple[End, ...]:
        wrong = sorted(case.sleeping - MAY_SLEEP)
        if not wrong:
            return ()
        why = f"ops.{wrong[0]}() may not sleep"
        return (End(self._cite("bpf_scx_check_member"), why, load=-errno.EINVAL),)

    def _members(self, case: Case) -> tuple[End, ...]:
        """bpf_scx_init_member(), for each member in the order of struct sched_ext_ops: the first error counts."""

        def refused(number: int, why: str) -> tuple[End, ...]:
            return (End(self._cite("bpf_scx_init_member"), why, attach=-number),)

        if case.dispatch_max_batch > INT_MAX:
            return refused(errno.E2BIG, "ops.dispatch_max_batch is above INT_MAX")
        if case.flags & ~self._on.all_flags:
            return refused(errno.EINVAL, "ops.flags has a bit that SCX_OPS_ALL_FLAGS has not")
        if case.timeout_ms > MAX_TIMEOUT_MS:
            return refused(errno.E2BIG, "ops.timeout_ms is above SCX_WATCHDOG_MAX_TIMEOUT")
        if not NAMED.fullmatch(case.name):
            return refused(errno.EINVAL, "ops.name is empty, has no end, or has a character that no name may have")
        return ()

    def _memory(self, case: Case) -> tuple[End, ...]:
        """scx_alloc_and_add_sched(): the exit info comes before the batch."""
        if case.exit_dump_len > INT_MAX:
            why = "kvzalloc() refuses more than INT_MAX bytes, with a WARN once a boot"
            return (End(self._cite("alloc_exit_info"), why, attach=-errno.ENOMEM, warns=DUMP_WARNS),)
        if case.dispatch_max_batch * BATCH_ENTRY > PCPU_UNIT:
            why = "alloc_percpu() refuses more than PCPU_MIN_UNIT_SIZE, with a WARN"
            return (End(self._cite("scx_alloc_and_add_sched"), why, attach=-errno.ENOMEM, warns=BATCH_WARNS),)
        return ()

    # --- scx_root_enable_workfn() -------------------------------------------------------

    def _init(self, case: Case) -> tuple[End, ...]:
        _, failed = self._creating.init(case.creates, None, Hash())
        answer = failed or case.init
        if answer:
            return (self._answered("init", answer, f"ops.init() failed ({answer})"),)
        if case.hotplug:
            seq = r"\d+"
            message = f"expected hotplug seq {seq} did not match actual {seq}"
            why = "a CPU came or went since ops.hotplug_seq was read"
            rule = self._cite("check_hotplug_seq")
            return (End(rule, why, kind=ExitKind.KERNEL, code=RESTART_FOR_HOTPLUG, message=message),)
        return ()

    def _validate(self, case: Case) -> tuple[End, ...]:
        where = "validate_ops"
        if case.flags & self._flag("SCX_OPS_ENQ_LAST") and not case.has("enqueue"):
            return (self._error(where, "SCX_OPS_ENQ_LAST requires ops.enqueue() to be implemented"),)
        own_idle = "update_idle" in case.extra and not case.flags & self._flag("SCX_OPS_KEEP_BUILTIN_IDLE")
        if case.flags & self._flag("SCX_OPS_BUILTIN_IDLE_PER_NODE") and own_idle:
            return (self._error(where, "SCX_OPS_BUILTIN_IDLE_PER_NODE requires CPU idle selection enabled"),)
        return ()

    def _enable_tasks(self, case: Case) -> tuple[End, ...]:
        """All cgroups, then all tasks. scx_cgroup_init() tells any answer as it is, an errno or not."""
        if case.cgroup_init and case.has("cgroup_init") and "cgroup_init" in self._on.members:
            return (self._error("scx_cgroup_init", f"ops.cgroup_init() failed ({case.cgroup_init})"),)
        if case.init_task and case.has("init_task"):
            failed = re.escape(f"ops.init_task() failed ({case.init_task}) for ") + TASK
            return (self._answered("init_task", case.init_task, failed, escaped=True),)
        return ()

    def _forked(self, case: Case) -> tuple[End, ...]:
        """scx_fork(): the answer is fork's own, sanitised; it ends nobody but the task."""
        if not case.has("init_task"):
            return ()
        if case.fork and error_of(case.fork):
            why = "ops.init_task() refuses the task"
            return (End(self._cite("scx_fork"), why, fork=case.fork),)
        if case.fork:
            message = re.escape(f"ops.init_task() returned an invalid errno {case.fork}")
            rule = self._cite("ops_sanitize_err")
            return (End(rule, "it is no errno", fork=-errno.EPROTO, kind=ExitKind.ERROR, message=message),)
        if case.disallow:
            message = rf"ops\.init_task\(\) set task->scx\.disallow for {TASK} during fork"
            why = "a task can be kept out of the class only while the scheduler comes"
            return (End(self._cite("__scx_init_task"), why, kind=ExitKind.ERROR, message=message),)
        return ()

    # --- tasks --------------------------------------------------------------------------

    def _running(self, case: Case) -> tuple[End, ...]:
        """What tasks meet. An error of ops.dispatch and one of another callback may come in either order."""
        errors = [*self._moving(case)]
        avoided = not errors and case.pinned is None and not case.has("select_cpu")
        arrival = self._arrival(case)
        if arrival.kind is not None:
            errors.append(arrival)
        ends = errors or [arrival]
        if avoided and arrival.kind is not None:
            ends.append(self._stays("select_task_rq_scx", "scx_select_cpu_dfl() may find an idle CPU each time"))
        if self._anywhere(case):
            ends.append(self._elsewhere(r"\d+"))
        if not errors and self._immediate(case):
            message = r"SCX_ENQ_REENQ on SCX_DSQ_LOCAL repeated \d+ times"
            rule = self._cite("process_deferred_reenq_locals")
            ends.append(End(rule, "the CPU was not free at once, every time", kind=ExitKind.ERROR, message=message))
        if case.timeout_ms and case.timeout_ms < CALM_MS and all(end.kind is not ExitKind.STALL for end in ends):
            ends.append(self._stall("the timeout is short"))
        return tuple(ends)

    def _moving(self, case: Case) -> Iterator[End]:
        """ops.dispatch is called on each CPU whether tasks are there or not."""
        if case.move is None or not case.has("dispatch") or case.move in self._created(case):
            return
        where = "scx_bpf_dsq_move_to_local" + ("___v2" if "sub_attach" in self._on.members else "")
        yield self._error(where, f"invalid DSQ ID 0x{case.move:016x}")

    def _arrival(self, case: Case) -> End:
        """A task that wakes: ops.select_cpu unless it is pinned (select_task_rq() in core.c), then ops.enqueue."""
        warns: tuple[str, ...] = ()
        if case.pinned is None and case.has("select_cpu"):
            problem = self._inserted(case, case.select) if case.select else None
            if problem:
                return problem
            if case.select_cpu is not None and not self._is_cpu(case.select_cpu):
                return self._error("select_task_rq_scx", f"invalid CPU {case.select_cpu} from ops.select_cpu()")
            if case.select and case.select.dsq_id != ids.INVALID:
                return self._landed(case, case.select)
            again = case.has("enqueue") and case.enqueue is not None
            if case.select and (case.select.flags or case.select.vtime is not None) and again:  # SCX_ENQ_DSQ_PRIQ
                warns = ("mark_direct_dispatch",)
        end = self._enqueued(case)
        return replace(end, warns=(*warns, *end.warns))

    def _enqueued(self, case: Case) -> End:
        if not case.has("enqueue"):
            return self._stays("do_enqueue_task", "without ops.enqueue() tasks go to the global DSQ")
        if case.enqueue is not None:
            problem = self._inserted(case, case.enqueue)
            if problem:
                return problem
            if case.enqueue.dsq_id == ids.INVALID:
                return self._stall("SCX_DSQ_INVALID is no verdict: the task waits for one (do_enqueue_task)")
            return self._landed(case, case.enqueue)
        if case.dispatch is None or not case.has("dispatch"):
            return self._stall("nothing dispatches the task")
        batch = case.dispatch_max_batch or DFL_BATCH
        problem = self._vetted(case.dispatch)
        if problem:
            return problem
        if case.dispatch.times > batch:
            return self._error("scx_dsq_insert_commit", "dispatch buffer overflow")
        return self._landed(case, case.dispatch)

    def _vetted(self, insert: Insert) -> End | None:
        """scx_dsq_insert_preamble(): flags, before anything else."""
        if insert.flags & self._on.internal_enq:
            return self._flags(insert)
        immediate = insert.flags & self._flag("SCX_ENQ_IMMED")
        local = insert.dsq_id == ids.LOCAL or ids.is_local_on(insert.dsq_id)
        if immediate and not local:
            return self._error("scx_vet_enq_flags", f"SCX_ENQ_IMMED on a non-local DSQ {insert.dsq_id:#x}")
        return None

    def _flags(self, insert: Insert) -> End:
        """The flags that the core gave ops.enqueue are among those that the message tells."""
        message = r"invalid enq_flags 0x[0-9a-f]+"
        why = "the highest eight bits are the kernel's own"
        return End(self._cite("scx_dsq_insert_preamble"), why, kind=ExitKind.ERROR, message=message)

    def _inserted(self, case: Case, insert: Insert) -> End | None:
        """A direct dispatch until the callback returns: only one, and of the task in question."""
        problem = self._vetted(insert)
        if problem or insert.times < 2:
            return problem
        message = rf"{TASK} already direct-dispatched"
        return End(self._cite("mark_direct_dispatch"), "one verdict a task", kind=ExitKind.ERROR, message=message)

    def _landed(self, case: Case, insert: Insert) -> End:
        """find_dsq_for_dispatch(), then dispatch_enqueue(); a bad DSQ is replaced by the global one while all ends."""
        dsq_id, where = insert.dsq_id, "find_dsq_for_dispatch"
        if ids.is_local_on(dsq_id):
            cpu = ids.local_cpu(dsq_id)
            if not self._is_cpu(cpu):
                end = self._error(where, f"invalid CPU {cpu} in SCX_DSQ_LOCAL_ON dispatch verdict")
                return replace(end, warns=IMMED_WARNS) if self._at_once(case, insert) else end
            if case.pinned is not None and cpu != case.pinned:
                return self._elsewhere(str(cpu))
        elif dsq_id not in (ids.LOCAL, ids.GLOBAL) and dsq_id not in self._created(case):
            return self._error(where, f"non-existent DSQ {dsq_id:#x}")
        if insert.vtime is not None and dsq_id & ids.BUILTIN:
            return self._error("dispatch_enqueue", "cannot use vtime ordering for built-in DSQs")
        if not dsq_id & ids.BUILTIN and (case.move != dsq_id or not case.has("dispatch")):
            return self._stall("nothing takes tasks from the DSQ")
        return self._stays("dispatch_enqueue", f"{ids.id_name(dsq_id)} takes the task")

    def _elsewhere(self, cpu: str) -> End:
        message = rf"SCX_DSQ_LOCAL\[_ON\] target CPU {cpu} not allowed for {TASK}"
        rule = self._cite("task_can_run_on_remote_rq")
        return End(rule, "the task may not run there", kind=ExitKind.ERROR, message=message)

    def _anywhere(self, case: Case) -> bool:
        """Whether ops.dispatch puts a pinned task on the local DSQ of whichever CPU it happens to run on."""
        if case.enqueue is not None or case.pinned is None or not (case.has("enqueue") and case.has("dispatch")):
            return False
        insert = case.dispatch
        if insert is None or insert.dsq_id != ids.LOCAL or self._on.possible_cpus < 2 or self._vetted(insert):
            return False
        return insert.times <= (case.dispatch_max_batch or DFL_BATCH)

    def _immediate(self, case: Case) -> bool:
        """Whether a task may be put on a local DSQ on the condition that it runs at once."""
        for insert in (case.select, case.enqueue, case.dispatch):
            if insert and self._at_once(case, insert):
                if insert.dsq_id == ids.LOCAL or ids.is_local_on(insert.dsq_id):
                    return True
        return False

    def _at_once(self, case: Case, insert: Insert) -> bool:
        """Whether SCX_ENQ_IMMED goes with an insertion on a local DSQ."""
        always = case.flags & self._flag("SCX_OPS_ALWAYS_ENQ_IMMED")
        return bool(always or insert.flags & self._flag("SCX_ENQ_IMMED"))

    # --- parts --------------------------------------------------------------------------

    def _created(self, case: Case) -> frozenset[int]:
        return frozenset(dsq_id for dsq_id, _ in case.creates)

    def _is_cpu(self, cpu: int) -> bool:
        """__cpu_valid(): possible CPUs, also those that are offline."""
        return 0 <= cpu < self._on.possible_cpus

    def _flag(self, name: str) -> int:
        return self._on.flag(name)

    def _cite(self, function: str) -> str:
        return self._creating.cite(function)

    def _error(self, function: str, message: str) -> End:
        """scx_error() with exactly this message."""
        return End(self._cite(function), message, kind=ExitKind.ERROR, message=re.escape(message))

    def _answered(self, callback: str, answer: int, failed: str, *, escaped: bool = False) -> End:
        """A callback that must answer 0 or an errno: any other answer is an error itself (ops_sanitize_err)."""
        if error_of(answer):
            message = failed if escaped else re.escape(failed)
            where = self._cite("scx_root_enable_workfn")
            return End(where, f"ops.{callback}() fails", kind=ExitKind.ERROR, message=message)
        return self._error("ops_sanitize_err", f"ops.{callback}() returned an invalid errno {answer}")

    def _stays(self, function: str, why: str) -> End:
        return End(self._cite(function), why)

    def _stall(self, why: str) -> End:
        return End(self._cite("check_rq_for_timeouts"), why, kind=ExitKind.STALL, message=STALLED)
