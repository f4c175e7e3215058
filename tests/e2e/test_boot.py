# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that panic or hang at boot: a result, exit status 1, the failed `boot` named at the end."""

from __future__ import annotations

import pytest

from tests.e2e.command import Done, Kharness

STAYS_UP = 'rdinit=/bin/busybox -- sh -c "read x"'
"""A kernel that runs and never starts our init: what follows -- becomes the arguments of init."""


@pytest.mark.parametrize(
    ("cmdline", "words"),
    [
        # Neither the initramfs nor a disk has an init: kernel/panic.c speaks for itself.
        ("rdinit=/nonexistent", ["the kernel panicked", "init"]),
        ("rdinit=/bin/busybox -- false", ["the kernel panicked", "kill init"]),
    ],
    ids=["no-root", "init-ends"],
)
def test_panic(kharness: Kharness, passed: Done, cmdline: str, words: list[str]) -> None:
    done = kharness.run("-k", "duplicate", "--cmdline", cmdline, timeout=120).expect(1)
    boot = done.test("boot")
    assert boot["outcome"] == "fail"
    (finding,) = boot["findings"]
    assert finding["kind"] == "panic"
    assert any("Kernel panic" in line for line in finding["log"])
    for word in words:
        assert word in finding["title"]
        assert word in done.stdout
    assert "boot" in done.stdout
    assert done.verdict.startswith("verdict: FAIL")
    assert done.results["verdict"] == "fail"
    assert [row["id"] for row in done.results["tests"]] == ["build", "boot"]


def test_hang(kharness: Kharness, passed: Done) -> None:
    """The deadline ends it, and the console's end is kept. Long enough for this machine to get to user space."""
    enough = f"{5 + 4 * passed.results['machines'][0]['boot_seconds']:.0f}"
    done = kharness.run(
        "-k", "duplicate", "--cmdline", STAYS_UP, timeout=300, env={"KHARNESS_BOOT_SECONDS": enough}
    ).expect(1)
    (finding,) = done.test("boot")["findings"]
    assert finding["kind"] == "hang"
    assert "the kernel hangs" in done.stdout
    assert any("busybox" in line for line in finding["log"]), "the console's last lines are not shown"
    assert done.verdict.startswith("verdict: FAIL")
    assert done.seconds < float(enough) + 90


def test_deadline_that_is_none(kharness: Kharness, passed: Done) -> None:
    done = kharness.run("--cmdline", "kharness_e2e", timeout=60, env={"KHARNESS_BOOT_SECONDS": "soon"}).expect(2)
    assert "KHARNESS_BOOT_SECONDS=soon" in done.error
