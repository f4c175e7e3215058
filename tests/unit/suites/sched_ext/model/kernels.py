# SPDX-License-Identifier: GPL-2.0-only
"""Naive kernels to hold the model against: a dict, a few ifs, and mutants that each break one."""

from __future__ import annotations

import errno


class NaiveKernel:
    """One scheduler at a time, unassociated programs, every answer written down a second time and plainly."""

    def __init__(self, nodes: int = 1, cpus: int = 2) -> None:
        self.nodes, self.cpus = nodes, cpus
        self.dsqs: dict[int, int] = {}
        self.linked = self.enabled = self.dying = False
        self.percpu = 0

    def create(self, dsq_id: int, node: int, fail: bool = False) -> int:
        if node < -1 or node >= self.nodes or dsq_id >> 63:
            return -errno.EINVAL
        if fail:
            return -errno.ENOMEM
        if not self.enabled:
            return -errno.ENODEV
        if dsq_id in self.dsqs:
            return -errno.EEXIST
        self.dsqs[dsq_id] = 0
        self.percpu += 1
        return 0

    def destroy(self, dsq_id: int) -> int:
        if self.enabled and dsq_id in self.dsqs:
            if self.dsqs[dsq_id]:
                self.dying = True
            else:
                del self.dsqs[dsq_id]
                self.percpu -= 1
        return 0

    def nr_queued(self, dsq_id: int) -> int:
        if not self.enabled:
            return -errno.ENODEV
        if dsq_id == 1 << 63 | 2:
            return 1
        if dsq_id >> 62 == 3:
            if dsq_id & 0xFFFFFFFF < self.cpus:
                return 0
            self.dying = True
            return -errno.ENOENT
        return self.dsqs.get(dsq_id, -errno.ENOENT)

    def attach(self, creates: list[tuple[int, int]], fail_at: int = 0) -> tuple[int, int | None]:
        """`fail_at`: the n-th alloc_percpu fails, 0 for none."""
        own = self.nodes + self.cpus
        if self.enabled:
            return -errno.EBUSY, None
        if 0 < fail_at <= own:
            return -errno.ENOMEM, None
        self.linked = self.enabled = True
        self.dsqs, self.percpu = {}, own
        for count, (dsq_id, node) in enumerate(creates, 1):
            ret = self.create(dsq_id, node, fail=count == fail_at - own)
            if ret:
                self.enabled = False
                return 0, ret
        return 0, None

    def detach(self) -> int:
        self.dsqs, self.percpu = {}, 0
        self.linked = self.enabled = self.dying = False
        return 0


class DuplicateAllowed(NaiveKernel):
    def create(self, dsq_id: int, node: int, fail: bool = False) -> int:
        ret = super().create(dsq_id, node, fail)
        return 0 if ret == -errno.EEXIST else ret


class DestroyLeavesTheId(NaiveKernel):
    def destroy(self, dsq_id: int) -> int:
        return 0


class BuiltinAllowed(NaiveKernel):
    def create(self, dsq_id: int, node: int, fail: bool = False) -> int:
        return super().create(dsq_id & ~(1 << 63), node, fail)


class NodeUnchecked(NaiveKernel):
    def create(self, dsq_id: int, node: int, fail: bool = False) -> int:
        return super().create(dsq_id, -1, fail)


class FaultSwallowed(NaiveKernel):
    """Says success although the percpu data is missing."""

    def create(self, dsq_id: int, node: int, fail: bool = False) -> int:
        return 0 if fail else super().create(dsq_id, node)


class FailedCreateStays(NaiveKernel):
    """Says -ENOMEM but leaves the DSQ in the table."""

    def create(self, dsq_id: int, node: int, fail: bool = False) -> int:
        if fail and self.enabled:
            self.dsqs.setdefault(dsq_id, 0)
        return super().create(dsq_id, node, fail)


class OutlivesItsScheduler(NaiveKernel):
    def detach(self) -> int:
        kept = dict(self.dsqs)
        super().detach()
        self.dsqs = kept
        return 0

    def attach(self, creates: list[tuple[int, int]], fail_at: int = 0) -> tuple[int, int | None]:
        kept = dict(self.dsqs)
        ret = super().attach(creates, fail_at)
        self.dsqs |= kept
        return ret


class WrongErrno(NaiveKernel):
    def create(self, dsq_id: int, node: int, fail: bool = False) -> int:
        ret = super().create(dsq_id, node, fail)
        return -errno.EINVAL if ret == -errno.ENODEV else ret


class CountsTheDead(NaiveKernel):
    def nr_queued(self, dsq_id: int) -> int:
        return max(super().nr_queued(dsq_id), 0)


class SecondAttachAllowed(NaiveKernel):
    def attach(self, creates: list[tuple[int, int]], fail_at: int = 0) -> tuple[int, int | None]:
        self.enabled = False
        return super().attach(creates, fail_at)


class EnableIgnoresFaults(NaiveKernel):
    def attach(self, creates: list[tuple[int, int]], fail_at: int = 0) -> tuple[int, int | None]:
        return super().attach(creates)


class LeakOnError(NaiveKernel):
    """The error path of create forgets free_percpu()."""

    def create(self, dsq_id: int, node: int, fail: bool = False) -> int:
        ret = super().create(dsq_id, node, fail)
        if ret == -errno.EEXIST:
            self.percpu += 1
        return ret


MUTANTS: list[type[NaiveKernel]] = [
    DuplicateAllowed,
    DestroyLeavesTheId,
    BuiltinAllowed,
    NodeUnchecked,
    FaultSwallowed,
    FailedCreateStays,
    OutlivesItsScheduler,
    WrongErrno,
    CountsTheDead,
    SecondAttachAllowed,
    EnableIgnoresFaults,
    LeakOnError,
]
