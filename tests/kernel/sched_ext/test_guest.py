# SPDX-License-Identifier: GPL-2.0-only
"""The guest itself: what a restore must renew, what the agent must refuse, SSH for files."""

from __future__ import annotations

import time

import pytest

from harness.guest import ssh
from harness.guest.agent import AgentError
from harness.guest.guest import Guest
from harness.oracles import dmesg
from harness.oracles.registry import CANARY
from harness.session.context import TestContext
from harness.session.session import Target

CLOCK_SLACK = 5.0


def test_clock_is_right_after_a_restore(guest: Guest) -> None:
    seconds = next(
        int(line.split()[1]) for line in guest.read("/proc/stat").splitlines() if line.startswith("btime")
    ) + float(guest.read("/proc/uptime").split()[0])
    assert abs(seconds - time.time()) < CLOCK_SLACK


def test_two_restores_differ_in_entropy(guest: Guest, target: Target) -> None:
    path = "/proc/sys/kernel/random/uuid"
    with target.restore() as other:
        assert guest.read(path) != other.read(path)


def test_clocksource_has_high_resolution(guest: Guest) -> None:
    """Without it timers tick at HZ, and every deadline in the guest is wrong."""
    assert guest.read("/sys/devices/system/clocksource/clocksource0/current_clocksource").strip() not in (
        "jiffies",
        "refined-jiffies",
    )


def test_agent_refuses_clearly(guest: Guest) -> None:
    with pytest.raises(AgentError, match="no verb 'juggle'"):
        guest.agent.call("juggle", record=False)
    with pytest.raises(AgentError, match="No such file"):
        guest.read("/no/such/file")
    with pytest.raises(AgentError, match="no object 'ghost'"):
        guest.agent.call("attach", record=False, name="ghost")


@pytest.mark.solo
def test_files_over_ssh(guest: Guest) -> None:
    """dropbear with a key made for this connection; a file there and back, and a command."""
    with ssh.connect(guest) as client:
        into, out, _ = client.exec_command("cat > /tmp/file; wc -c < /tmp/file; uname -r")
        into.write(b"x" * 100_000)
        into.channel.shutdown_write()
        size, release = out.read().decode().split()
    assert size == "100000"
    assert release == guest.read("/proc/sys/kernel/osrelease").strip()


def test_an_object_comes_back_as_it_was(guest: Guest) -> None:
    """Objects are kept loaded in the snapshot: what a test did with one must not be seen by the next load."""
    first = guest.load("dsq_many", nr_dsqs=5, first_id=7)
    first.set("created", 99)
    assert first.get("nr_dsqs", "first_id", "created") == {"nr_dsqs": 5, "first_id": 7, "created": 99}
    first.unload()
    assert guest.load("dsq_many").get("nr_dsqs", "first_id", "created") == {"nr_dsqs": 1, "first_id": 0, "created": 0}
    second = guest.load("dsq_many", nr_dsqs=3)
    assert second.get("nr_dsqs") == {"nr_dsqs": 3}, "a second one of the same program is its own"


@pytest.mark.solo
def test_a_warning_that_a_test_read_is_judged_all_the_same(guest: Guest, context: TestContext) -> None:
    """Reading the log takes it out of the guest; the test's end must have it nevertheless."""
    context.expect("kharness: deliberate WARN")
    guest.write(CANARY, "warn")
    assert any("kharness: deliberate WARN" in record for record in guest.log())
    records, overruns = context.log()
    (found,) = dmesg.findings(records, context.target.symbols)
    assert (found.kind, found.function, overruns) == ("warn", "kharness_warn", 0)
    assert not dmesg.watched(records, context.target.pristine.next_seq).lost
