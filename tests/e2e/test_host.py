# SPDX-License-Identifier: GPL-2.0-only
"""The machine's trouble: tools missing, the disk full, two runs at once. Never the kernel's fault."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.command import Done, Kharness
from tests.e2e.conftest import QUICK, place
from tests.e2e.leaks import state

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")


def small(folder: Path, size: str) -> list[str]:
    """What a command is started through so that for it, and for nobody else, `folder` is a disk of `size`."""
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, str(folder)]


COSTLY = ("toolchain", "guest", "source", "steering", "config", "kernel", "folder")
"""What of the cache takes minutes to make."""


def tight(cache: Path, folder: Path, size: str, left: str = "", kinds: Sequence[str] = COSTLY) -> list[str]:
    """What a command is started through so that the cache is a disk of `size` for it, on which only `kinds` take nothing.

    `folder` is anywhere else; `left` is how much is free, by default all of it.
    """
    script = """
set -e
cache=$0 disk=$1/disk size=$2 left=$3
shift 3
mkdir "$disk"
mount -t tmpfs -o size="$size",mode=700 tmpfs "$disk"
cp -a "$cache/.meta" "$cache/.locks" "$cache/.lock" "$disk/" 2>/dev/null || true
for kind in {kinds}; do
    if [ -d "$cache/$kind" ]; then mkdir "$disk/$kind"; mount --bind "$cache/$kind" "$disk/$kind"; fi
done
if [ -n "$left" ]; then dd if=/dev/zero of="$disk/fill" bs=16k 2>/dev/null || truncate -s -"$left" "$disk/fill"; fi
mount --rbind "$disk" "$cache"
exec "$@"
"""
    script = script.replace("{kinds}", " ".join(kinds))
    own = ["unshare", "--mount", "--propagation", "private", "--"]
    return [*own, "sh", "-c", script, str(cache), str(folder), size, left]


def test_no_qemu(kharness: Kharness, passed: Done) -> None:
    """Found before anything is built; what is needed is one command."""
    tools = kharness.cwd / "bin"
    tools.mkdir()
    for folder in os.environ["PATH"].split(":"):
        for tool in Path(folder).glob("*"):
            if not tool.name.startswith("qemu") and not os.path.lexists(tools / tool.name):  # a link may lead nowhere
                (tools / tool.name).symlink_to(tool)
    done = kharness.run("--toolchain", "host", timeout=120, env={"PATH": str(tools)}).expect(4)
    assert "qemu-system-x86_64 is missing" in done.error
    assert "apt-get install" in done.error
    assert "qemu-system-x86" in done.error.partition("apt-get install")[2]
    assert "started" not in done.stderr, "something was begun all the same"


@needs_root
@pytest.mark.parametrize(("place_of", "size"), [("cache", "16m"), ("TMPDIR", "40k")])
def test_disk_full_while_saving(kharness: Kharness, passed: Done, cache: Path, place_of: str, size: str) -> None:
    """The guest's memory does not fit into the cache, or the state of its devices into TMPDIR."""
    tmp = kharness.cwd.parent / "tmp"
    folder = cache / ".staging" if place_of == "cache" else tmp
    snapshots = sorted((cache / "snapshot").iterdir())
    running = kharness.start_run("--cmdline", f"kharness_e2e_{place_of}", before=small(folder, size))
    done = running.finish(120).expect(4)
    assert "boot x86_64" in done.stderr
    assert str(cache if place_of == "cache" else tmp) in done.error
    assert "space" in done.error
    assert done.results["verdict"] == "inconclusive"
    assert sorted((cache / "snapshot").iterdir()) == snapshots


@needs_root
def test_disk_full_while_the_toolchain_is_made(tmp_path: Path, cache_home: Path) -> None:
    for started in place(tmp_path):
        done = started.start_run(before=small(tmp_path, "64m")).finish(300).expect(4)
        assert str(tmp_path / "kharness") in done.error
        assert "space" in done.error
    assert not list(tmp_path.iterdir())


@needs_root
def test_disk_full_where_the_results_go(kharness: Kharness, passed: Done) -> None:
    (kharness.cwd / "out").mkdir()
    done = kharness.start_run("-k", QUICK, before=small(kharness.cwd / "out", "12k")).finish(120).expect(4)
    assert "space" in done.error
    assert "out/" in done.error


@pytest.fixture
def second(cache_home: Path) -> Iterator[Kharness]:
    """Another user's terminal."""
    yield from place(cache_home)


def test_two_at_once(second: Kharness, kharness: Kharness, passed: Done) -> None:
    """Both want the same guest booted: one does it, the other waits for it, and both pass.

    The first one stands still, as by Ctrl-Z, until the other one has come there: a boot may take less time than that.
    """
    args = ["-k", QUICK, "--cmdline", "kharness_e2e_two"]
    boots = kharness.start_run(*args)
    boots.wait_for(r"boot x86_64[^\n]*: started")
    boots.process.send_signal(signal.SIGTSTP)
    boots.wait_until("it stands still", lambda: state(boots.process.pid) in "Tt")
    waits = second.start_run(*args)
    try:
        waits.wait_for("waiting for pid", 300)
    finally:
        boots.process.send_signal(signal.SIGCONT)
    done = [one.finish(300).expect(0) for one in (boots, waits)]
    assert all(one.verdict.startswith("verdict: PASS") for one in done)
    assert done[0].cwd != done[1].cwd
