# SPDX-License-Identifier: GPL-2.0-only
"""Tests of a guest that does not outlive its restore: what can be seen of it is looked at before QEMU is ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import Ended, How, MachineEnded
from harness.guest import guest
from harness.guest.pristine import Pristine
from harness.host.toolchain import Toolchain
from harness.machine.examine import Examination, Hung


def test_one_that_hangs_is_examined_while_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class FakeVm:
        def __init__(self, *args: object, **named: object) -> None: ...
        def __enter__(self) -> None: ...
        def resume(self) -> None: ...
        def close(self) -> None:
            done.append("ended")

    def call(*args: object, **named: object) -> Any:
        raise MachineEnded("no answer", Ended(How.RUNNING), (), True, "an answer")

    def look(vm: object, error: MachineEnded, scale: float) -> MachineEnded:
        done.append(f"looked into at {scale}")
        return Hung(error, Examination())

    monkeypatch.setattr(guest, "Vm", FakeVm)
    monkeypatch.setattr(guest, "Agent", lambda vm, scale: SimpleNamespace(call=call))
    monkeypatch.setattr(guest, "look_into", look)
    pristine: Any = SimpleNamespace(launch=None, state=None, memory=None, scale=3.0)
    with pytest.raises(Hung), guest.Guest(cast(Pristine, pristine), cast(Toolchain, None)):
        pass
    assert done == ["looked into at 3.0", "ended"]
