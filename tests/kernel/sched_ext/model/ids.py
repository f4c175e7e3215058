# SPDX-License-Identifier: GPL-2.0-only
"""The numbers of the DSQ interface: id flags, built-in ids, errno names.

The id layout was read from ``enum scx_dsq_id_flags`` in include/linux/sched/ext.h (7.2.13): bit 63 marks
a built-in DSQ; with bit 62 as well the low 32 bits are a CPU number, and it is that CPU's local DSQ.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

U64 = (1 << 64) - 1
U32 = (1 << 32) - 1

BUILTIN = 1 << 63
"""SCX_DSQ_FLAG_BUILTIN: no user DSQ may have it."""

LOCAL_ON_FLAG = 1 << 62
"""SCX_DSQ_FLAG_LOCAL_ON: means something only together with BUILTIN; alone it is an ordinary user id."""

INVALID = BUILTIN
GLOBAL = BUILTIN | 1
LOCAL = BUILTIN | 2
BYPASS = BUILTIN | 3
LOCAL_ON = BUILTIN | LOCAL_ON_FLAG
LOCAL_CPU_MASK = U32

NUMA_NO_NODE = -1
"""include/linux/nodemask_types.h: any node will do."""

_NAMES = {INVALID: "SCX_DSQ_INVALID", GLOBAL: "SCX_DSQ_GLOBAL", LOCAL: "SCX_DSQ_LOCAL", BYPASS: "SCX_DSQ_BYPASS"}


def is_local_on(dsq_id: int) -> bool:
    """Whether the id names the local DSQ of one CPU (both flags set)."""
    return dsq_id & LOCAL_ON == LOCAL_ON


def local_cpu(dsq_id: int) -> int:
    """The CPU of a LOCAL_ON id, as the kernel's s32 sees it: negative from 0x80000000 on."""
    cpu = dsq_id & LOCAL_CPU_MASK
    return cpu - (1 << 32) if cpu >= 1 << 31 else cpu


def id_name(dsq_id: int) -> str:
    """An id for a human: the kernel's name of a built-in DSQ, hexadecimal for all others."""
    if dsq_id in _NAMES:
        return _NAMES[dsq_id]
    if is_local_on(dsq_id) and dsq_id & ~(LOCAL_ON | LOCAL_CPU_MASK) == 0:
        return f"SCX_DSQ_LOCAL_ON|{local_cpu(dsq_id)}"
    return f"{dsq_id:#x}"


def errno_name(value: int) -> str:
    """A return value for a human: ``-ENOMEM`` for -12, the plain number where no errno has it."""
    name = errno.errorcode.get(-value) if value < 0 else None
    return f"-{name}" if name else str(value)


def digest(ids: Iterable[int]) -> tuple[int, int, int]:
    """Count, sum and sum of scrambled ids (both modulo 2**64) of a set of DSQs, however large.

    The scrambling is splitmix64's finaliser, as in bpf_progs/sched_ext/dsq_api.bpf.c, so that two sets of the same
    size and sum still differ.
    """
    count = total = mixed = 0
    for dsq_id in ids:
        x = dsq_id
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & U64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & U64
        count, total, mixed = count + 1, (total + dsq_id) & U64, (mixed + (x ^ (x >> 31))) & U64
    return count, total, mixed
