# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the cache: complete entries or none, one maker at a time, nothing in use is pruned."""

from __future__ import annotations

import errno
import gc
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.core.errors import HarnessError, UsageError
from harness.host import listing
from harness.host.cache import Cache, disk_bytes, write_atomically
from harness.host.process import DiskFull, run


def quiet(line: str) -> None:
    assert line  # nobody says nothing


def put(cache: Cache, key: str, size: int = 1 << 20, used: float = 0) -> None:
    """An entry of about `size` bytes that nobody holds, last used at `used`."""
    cache.produce("kind", key, lambda folder: _fill(folder, size), what=key, say=quiet)
    cache.release("kind", key)
    os.utime(cache.root / ".meta" / "kind" / f"{key}.json", (used, used))


def _fill(folder: Path, size: int) -> None:
    (folder / "data").write_bytes(os.urandom(size))


def staging(cache: Cache) -> list[str]:
    return os.listdir(cache.root / ".staging")


def child(code: str, *argv: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


MAKER = """
import sys
from pathlib import Path
from harness.host import listing
from harness.host.cache import Cache
def maker(folder):
    (folder / "by").write_text(sys.argv[2])
    print("making", flush=True)
    sys.stdin.readline()
cache = Cache(Path(sys.argv[1]), 0)
path, cached = cache.produce("kind", "key", maker, what="thing", say=lambda line: print("said", line, flush=True))
print("got", (path / "by").read_text(), cached, flush=True)
sys.stdin.readline()
"""


def test_made_once_then_reused(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 0)
    calls: list[Path] = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "x").write_text("1")

    path, cached = cache.produce("kind", "key", make, what="x", say=quiet)
    assert not cached
    assert cache.produce("kind", "key", make, what="x", say=quiet) == (path, True)
    assert Cache(tmp_path, 0).get("kind", "key") == path
    assert len(calls) == 1
    assert (path / "x").read_text() == "1"
    assert staging(cache) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failed_maker_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    cache = Cache(tmp_path, 0)

    def make(folder: Path) -> None:
        (folder / "half").mkdir()
        (folder / "half").chmod(0o500)
        raise error

    with pytest.raises(error):
        cache.produce("kind", "key", make, what="x", say=quiet)
    assert cache.get("kind", "key") is None
    assert staging(cache) == []
    assert cache.entries() == []


def test_second_process_waits_for_the_first_and_reuses(tmp_path: Path) -> None:
    first = child(MAKER, str(tmp_path), "first")
    assert first.stdout and first.stdin
    assert first.stdout.readline() == "making\n"
    second = child(MAKER, str(tmp_path), "second")
    assert second.stdout
    assert second.stdout.readline() == f"said thing: waiting for pid {first.pid}, which is doing the same\n"
    assert Cache(tmp_path, 0).get("kind", "key") is None  # not before it is complete
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.stdout.readline() == "got first False\n"
    assert second.stdout.readline() == "got first True\n"
    first.communicate("\n", timeout=30)
    second.communicate("\n", timeout=30)


def test_killed_maker_leaves_no_entry_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    victim = child(MAKER, str(tmp_path), "victim")
    assert victim.stdout
    assert victim.stdout.readline() == "making\n"
    cache = Cache(tmp_path, 0)
    assert len(staging(cache)) == 1
    cache.prune(None, 0)
    assert len(staging(cache)) == 1  # its maker lives
    victim.kill()
    victim.communicate(timeout=30)
    assert cache.get("kind", "key") is None
    cache.prune(None, 1 << 40)
    assert staging(cache) == []
    _, cached = cache.produce("kind", "key", lambda folder: _fill(folder, 10), what="x", say=quiet)
    assert not cached


def test_prune_takes_the_least_recently_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 0)
    for age, key in enumerate(("old", "middle", "new")):
        put(cache, key, used=1000 + age)
    assert [entry.key for entry in cache.entries()] == ["old", "middle", "new"]
    assert all(entry.size >= 1 << 20 for entry in cache.entries())
    cache.get("kind", "old")  # used again, so now the newest
    cache.release("kind", "old")
    assert [entry.key for entry in cache.prune(None, 5 << 19)] == ["middle"]
    assert [entry.key for entry in cache.prune({("kind", "new")}, 0)] == ["old"]
    assert [entry.key for entry in cache.entries()] == ["new"]
    assert staging(cache) == []


def test_cap_is_kept_by_produce(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 5 << 19)
    for age, key in enumerate("abc"):
        put(cache, key, used=1000 + age)
    assert [entry.key for entry in cache.entries()] == ["b", "c"]


def test_entry_in_use_by_another_process_stays(tmp_path: Path) -> None:
    user = child(MAKER, str(tmp_path), "user")
    assert user.stdout and user.stdin
    user.stdin.write("\n")
    user.stdin.flush()
    assert [user.stdout.readline() for _ in range(2)] == ["making\n", "got user False\n"]
    cache = Cache(tmp_path, 0)
    assert cache.prune(None, 0) == []
    assert cache.entries()[0].live
    user.communicate("\n", timeout=30)
    assert [entry.key for entry in cache.prune(None, 0)] == ["key"]
    assert cache.get("kind", "key") is None


def test_hold_keeps_an_entry_within_the_block(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 0)
    put(cache, "key")
    with cache.hold("kind", "key") as path:
        assert Cache(tmp_path, 0).prune(None, 0) == []
        assert path.is_dir()
    assert len(cache.prune(None, 0)) == 1
    with pytest.raises(HarnessError, match="no kind/key"), cache.hold("kind", "key"):
        raise AssertionError("not reached")


def test_children_do_not_keep_an_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 0)
    cache.produce("kind", "key", lambda folder: _fill(folder, 10), what="x", say=quiet)
    held = run(["sh", "-c", "ls -l /proc/self/fd"], what="ls").stdout
    assert "key.use" not in held


def test_many_threads_make_it_once(tmp_path: Path) -> None:
    made: list[int] = []

    def work(number: int) -> None:
        def make(folder: Path) -> None:
            made.append(number)
            _fill(folder, 1000)

        Cache(tmp_path, 0).produce("kind", "key", make, what="x", say=quiet)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


@pytest.mark.parametrize(
    "fail",
    [
        lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")),
        lambda: run(["sh", "-c", "cat /etc/passwd > /dev/full"], what="x"),
        lambda: Path("/dev/full").write_text("x"),
    ],
)
def test_full_disk_names_the_cache(tmp_path: Path, fail: object) -> None:
    def make(folder: Path) -> None:
        assert callable(fail)
        result = fail()
        next(iter(result))

    with pytest.raises(DiskFull) as caught:
        Cache(tmp_path, 0).produce("kind", "key", make, what="x", say=quiet)
    assert str(tmp_path) in caught.value.what
    assert "cache prune" in caught.value.step


def test_names_that_would_leave_the_cache_are_refused(tmp_path: Path) -> None:
    for name in ("..", "a/b", "", ".staging", "a@b"):
        with pytest.raises(UsageError):
            Cache(tmp_path, 0).get("kind", name)


def test_unusable_cache_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="cannot use the cache folder"):
        Cache(tmp_path / "file", 0)


def test_default_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache.default(1).root == tmp_path / "kharness"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Cache.default(1).root == tmp_path / "home" / ".cache" / "kharness"


def test_nobody_knows_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a uid without a name."""

    def nobody(number: int) -> object:
        raise KeyError(number)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(HarnessError) as caught:
        Cache.default(1)
    assert "set HOME, or XDG_CACHE_HOME" in caught.value.step


def test_write_atomically_leaves_no_draft(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b", "text")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_prune_takes_tools_last(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 0)
    for number, kind in enumerate(("toolchain", "kernel", "guest", "source")):
        cache.produce(kind, "key", lambda folder: _fill(folder, 10), what="x", say=quiet)
        os.utime(cache.root / ".meta" / kind / "key.json", (number, number))
        cache.release(kind, "key")
    assert [entry.kind for entry in cache.prune(None, 0)] == ["kernel", "source", "toolchain", "guest"]


def test_prune_leaves_the_python_that_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Makefile installs it into the cache, and nothing ever marks it as used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for key in ("mine", "other"):
        (tmp_path / "kharness/venv" / key).mkdir(parents=True)
        _fill(tmp_path / "kharness/venv" / key, 1 << 20)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "kharness/venv/mine"))
    assert [entry.key for entry in Cache.default(1 << 30).prune(None, 0)] == ["other"]
    assert (tmp_path / "kharness/venv/mine/data").is_file()


def test_entries_used_in_the_future_go_first(tmp_path: Path) -> None:
    """The clock was a year ahead for a while: they would be the newest for a year. Back a year, all others are these."""
    cache = Cache(tmp_path, 0)
    now = time.time()
    for key, used in (("old", now - 1000), ("ahead", now + 365 * 86400), ("new", now - 10)):
        put(cache, key, used=used)
    assert [(entry.key, entry.used > 0) for entry in cache.entries()] == [
        ("ahead", False),
        ("old", True),
        ("new", True),
    ]
    shown = io.StringIO()
    listing.show_cache(cache, shown)
    assert [line.split()[1] for line in shown.getvalue().splitlines() if "in the future" in line] == ["ahead"]
    cache.get("kind", "ahead")
    cache.release("kind", "ahead")
    assert [entry.key for entry in cache.prune(None, 5 << 19)] == ["old"]


def test_plain_folders_are_listed_and_count(tmp_path: Path) -> None:
    """Builds share ccache's; its 5 GiB are part of what the cap promises."""
    cache = Cache(tmp_path, 0)
    _fill(cache.folder("ccache"), 3 << 20)
    _fill(cache.folder("examples"), 1 << 20)
    for age, key in enumerate("abc"):
        put(cache, key, used=1000 + age)
    os.utime(tmp_path / ".meta/folder/ccache.used", (1, 1))
    shown = io.StringIO()
    listing.show_cache(cache, shown)
    listing.show_cache(Cache(tmp_path, 0), io.StringIO())
    assert next(entry.used for entry in cache.folders()) == 1  # looking is no use
    assert {line.split()[1] for line in shown.getvalue().splitlines() if line.startswith("folder")} == {
        "ccache",
        "examples",
    }
    assert [entry.key for entry in Cache(tmp_path, 0).prune(None, 11 << 19)] == ["a", "b"]
    assert Cache(tmp_path, 0).prune(None, 0)[0].key == "c"
    assert (tmp_path / "folder/ccache/data").exists()  # in use by this process
    for name in ("ccache", "examples"):
        cache.release("folder", name)
    assert [(entry.kind, entry.key) for entry in Cache(tmp_path, 0).prune(None, 0)] == [("folder", "ccache")]
    assert os.listdir(tmp_path / "folder") == ["examples"]  # what a search found cannot be made again
    assert cache.folder("ccache").is_dir()


def test_caches_that_are_gone_hold_no_descriptors(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for number in range(20):
        cache = Cache(tmp_path, 0)
        put(cache, str(number), 1)
        cache.folder("git")
    del cache
    gc.collect()
    assert descriptors() <= before
    assert len(Cache(tmp_path, 0).prune(None, 0)) == 21


def test_a_full_disk_can_be_listed_and_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path, 0)
    put(cache, "key")
    (tmp_path / "venv/old").mkdir(parents=True)  # of which no size is noted

    def full(*arguments: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(os, "pwrite", full)
    assert {entry.kind for entry in cache.entries()} == {"kind", "venv"}
    assert {entry.kind for entry in cache.prune(None, 0)} == {"kind", "venv"}


def test_drafts_of_dead_writers_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 0)
    put(cache, "key")
    drafts = [tmp_path / ".meta/kind" / name for name in (".key.json.old", ".key.json.new")]
    for draft in drafts:
        draft.write_text("")
    os.utime(drafts[0], (1, 1))
    cache.prune(None, 1 << 40)
    assert [draft.exists() for draft in drafts] == [False, True]


def test_links_to_one_file_count_once_together(tmp_path: Path) -> None:
    """Else snapshots that are links to one another fill the cap with what they do not take."""
    snapshots = [tmp_path / str(number) for number in range(4)]
    for folder in snapshots:
        folder.mkdir()
    (snapshots[0] / "file").write_bytes(os.urandom(4 << 20))
    alone = disk_bytes(snapshots[0])
    for folder in snapshots[1:]:
        os.link(snapshots[0] / "file", folder / "file")
    assert 4 << 20 <= alone
    assert alone <= sum(disk_bytes(folder) for folder in snapshots) < alone * 5 // 4
    assert disk_bytes(snapshots[0]) < alone // 3


def test_what_killed_makers_left_goes_at_the_next_start(tmp_path: Path) -> None:
    """Whether or not that command makes an entry: what it needs may all be there."""
    victim, alive = (
        child(MAKER, str(tmp_path), "victim"),
        child(MAKER.replace('"key"', '"other"'), str(tmp_path), "alive"),
    )
    assert victim.stdout and victim.stdout.readline() == "making\n"
    assert alive.stdout and alive.stdout.readline() == "making\n"
    victim.kill()
    victim.communicate(timeout=30)
    cache, said = Cache(tmp_path, 0), list[str]()
    cache.sweep(said.append)
    assert [name.split("@")[1] for name in staging(cache)] == ["other"]
    assert len(said) == 1 and said[0].startswith(f"removed 1 folder of runs that were killed from {tmp_path}: ")
    alive.communicate("\n\n", timeout=30)
    cache.sweep(said.append)
    assert len(said) == 1


def test_the_least_recently_used_of_a_kind_go_beyond_a_number(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 0)
    for number in range(4):
        put(cache, f"k{number}", 1, used=number)
    with cache.hold("kind", "k0"):
        os.utime(cache.root / ".meta/kind/k0.json", (0, 0))
        assert [entry.key for entry in cache.trim("kind", 2)] == ["k1", "k2"]
    assert {entry.key for entry in cache.entries()} == {"k0", "k3"}
    assert cache.trim("kind", 2) == []


def test_a_workplace_stays_and_is_measured(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 0)
    with pytest.raises(KeyError), cache.workplace("kind", "key", what="w", say=quiet) as folder:
        (folder / "data").write_bytes(os.urandom(1 << 20))
        assert cache.prune(None, 1) == []
        raise KeyError
    with cache.workplace("kind", "key", what="w", say=quiet) as again:
        assert (again / "data").exists()
    assert [entry.size >= 1 << 20 for entry in cache.entries()] == [True]
    assert [entry.key for entry in cache.prune(None, 1)] == ["key"]
