# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's own sandbox (-sandbox), inside the one that it is started in: a guest that escapes finds less to call."""

from __future__ import annotations

from harness.host.toolchain import Toolchain

OPTIONS = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
"""No program may be started, no user id and no CPU affinity changed, and what was obsolete in 2012 is not there."""

SECONDS = 30.0


def options(toolchain: Toolchain, binary: str) -> tuple[str, ...]:
    """More of QEMU's argv; nothing where the host's QEMU was built without it. Debian's has it."""
    return OPTIONS if toolchain.kind == "root" or knows(toolchain, binary) else ()


_known: dict[tuple[str, str], bool] = {}


def knows(toolchain: Toolchain, binary: str) -> bool:
    """Whether this QEMU was built with seccomp: without, it ends with an error at the option. Asked once a process."""
    if (toolchain.id, binary) not in _known:
        _known[toolchain.id, binary] = _ask(toolchain, binary)
    return _known[toolchain.id, binary]


def _ask(toolchain: Toolchain, binary: str) -> bool:
    done = toolchain.run(
        [binary, *OPTIONS, "-version"], what=f"asking {binary} for its sandbox", deadline=SECONDS, check=False
    )
    return done.status == 0
