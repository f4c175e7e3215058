# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the way into a guest whose QEMU has just ended."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import Ended, How, MachineEnded
from harness.guest import ssh
from harness.guest.ssh import Reachable


@pytest.mark.parametrize("left", [True, False], ids=["killed", "ended in order, which removes its sockets"])
def test_qemu_that_has_just_ended_is_the_machines_end(tmp_path: Path, left: bool) -> None:
    place = tmp_path / "ssh.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
    if not left:
        place.unlink()

    def gone(what: str) -> MachineEnded:
        return MachineEnded(f"QEMU ended during: {what}", Ended(How.KILLED, signal=9), [], expired=False)

    def call(verb: str, **args: Any) -> dict[str, Any]:
        return {"ok": True}

    vm = SimpleNamespace(sockets=SimpleNamespace(ssh=place), gone=gone)
    guest = cast(Reachable, SimpleNamespace(vm=vm, agent=SimpleNamespace(call=call, scale=1.0)))
    with pytest.raises(MachineEnded, match="QEMU ended during: connecting to the SSH server"), ssh.connect(guest):
        pass
