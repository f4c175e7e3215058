# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what a power cut, a full disk or a bad one leave of cache entries: none that is not whole is ever given out."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import HarnessError
from harness.host import cache as cache_module
from harness.host import contents, files
from harness.host.cache import Cache
from harness.host.process import DiskFull

FILES = {"image": b"\x7fELF" * 5000, "config": b"CONFIG_X=y\n", "extmod/include/a.h": b"#define A 1\n" * 9}


def fill(folder: Path) -> None:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "link").symlink_to("image")


class Kitchen:
    """A cache with one entry, and who makes that anew."""

    def __init__(self, root: Path, maker: Callable[[Path], None] = fill, kind: str = "kernel") -> None:
        self.root = root
        self.kind = kind
        self.maker = maker
        self.made = 0
        self.said: list[str] = []
        self.path = self.produce()

    def produce(self) -> Path:
        def make(folder: Path) -> None:
            self.made += 1
            self.maker(folder)

        return Cache(self.root, 0).produce(self.kind, "key", make, what="kernel", say=self.said.append)[0]

    def get(self) -> Path | None:
        return Cache(self.root, 0).get(self.kind, "key")

    def meta(self, suffix: str) -> Path:
        return self.root / ".meta" / self.kind / f"key.{suffix}"

    def reboot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another boot of the host: what was found whole before tells nothing any more."""
        boot = self.root.parent / "boot_id"
        boot.write_text(f"{(boot.read_text() if boot.exists() else '')}x")
        monkeypatch.setattr(contents, "BOOT_ID", boot)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


LOSSES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "gone": lambda path: path.unlink(),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "a folder": to_folder,
    "a link": to_link,
}


@pytest.mark.parametrize("rebooted", [False, True])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("loss", LOSSES)
def test_an_entry_that_lost_something_is_none_and_is_made_anew(
    tmp_path: Path, loss: str, name: str, rebooted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kitchen = Kitchen(tmp_path / "c")
    LOSSES[loss](kitchen.path / name)
    if rebooted:
        kitchen.reboot(monkeypatch)
    cache = Cache(kitchen.root, 0)
    assert cache.get("kernel", "key") is None
    assert not cache.has("kernel", "key")
    with pytest.raises(HarnessError, match="no kernel/key"), cache.hold("kernel", "key"):
        raise AssertionError("not reached")
    path = kitchen.produce()
    assert kitchen.made == 2
    assert {name: (path / name).read_bytes() for name in FILES} == FILES
    assert len(kitchen.said) == 1
    assert kitchen.said[0].startswith(f"cache entry kernel/key: {name}")
    assert os.listdir(kitchen.root / ".staging") == []
    assert kitchen.get() == path


def test_the_loss_is_told_in_bytes(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path / "c")
    (kitchen.path / "image").write_bytes(b"")
    kitchen.produce()
    assert kitchen.said == ["cache entry kernel/key: image has 0 of 20000 bytes: made again"]


def test_a_process_that_had_found_it_whole_looks_again(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path / "c")
    cache = Cache(kitchen.root, 0)
    assert cache.get("kernel", "key")
    (kitchen.path / "image").write_bytes(bytes(20000))
    assert cache.get("kernel", "key") is None
    _, cached = cache.produce("kernel", "key", fill, what="x", say=print)
    assert not cached
    assert cache.get("kernel", "key")


@pytest.mark.parametrize(
    "left",
    [
        "",
        "{",
        "[]",
        "null",
        '{"size": 5}',
        '{"size": 5, "count": 3, "sha256": 1}\n{}\n',
        '{"count": 1e999, "sha256": ""}',
        "[" * 100000,
        None,
        b"\xff\xfe",
    ],
)
def test_without_its_record_there_is_no_entry(tmp_path: Path, left: str | bytes | None) -> None:
    """As one was left by versions that kept none: a zero-length image would be taken for whole for ever."""
    kitchen = Kitchen(tmp_path / "c")
    if left is None:
        kitchen.meta("json").unlink()
    elif isinstance(left, bytes):
        kitchen.meta("json").write_bytes(left)
    else:
        kitchen.meta("json").write_text(left)
    assert kitchen.get() is None
    kitchen.produce()
    assert kitchen.made == 2
    assert len(kitchen.said) == 1 and kitchen.said[0].endswith(": made again")


def test_a_torn_second_half_of_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen = Kitchen(tmp_path / "c")
    text = kitchen.meta("json").read_text()
    kitchen.meta("json").write_text(text.replace("image", "imagf"))
    kitchen.reboot(monkeypatch)
    assert kitchen.get() is None
    kitchen.meta("json").write_text(text)
    assert kitchen.get() is not None


def test_what_was_not_made_with_it(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path / "c")
    (kitchen.path / "extmod/include/more.h").write_text("")
    assert kitchen.get() is None


def many(folder: Path) -> None:
    for number in range(contents.FEW + 1):
        (folder / f"src/{number % 7}").mkdir(parents=True, exist_ok=True)
        (folder / f"src/{number % 7}/{number}.c").write_text(f"int f{number};\n")
    (folder / "Makefile").write_text("VERSION = 7\n")


@pytest.mark.parametrize("loss", ["empty", "half", "gone", "a folder", "a link"])
def test_an_entry_of_many_files_is_walked_after_each_boot(
    tmp_path: Path, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kitchen = Kitchen(tmp_path / "c", many, "source")
    LOSSES[loss](kitchen.path / "src/3/10.c")
    kitchen.reboot(monkeypatch)
    assert kitchen.get() is None
    kitchen.produce()
    assert (kitchen.path / "src/3/10.c").read_text() == "int f10;\n"


def test_a_big_entry_may_gain_files_and_its_top_is_looked_at_each_time(tmp_path: Path) -> None:
    """bubblewrap makes mount points in a toolchain root."""
    kitchen = Kitchen(tmp_path / "c", many, "toolchain")
    (kitchen.path / "src/build").mkdir()
    (kitchen.path / "mount-point").write_text("")
    assert kitchen.get() is not None
    (kitchen.path / "Makefile").write_text("VERSION = 8\n")
    assert kitchen.get() is None


def test_what_was_found_whole_is_not_hashed_twice_in_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen = Kitchen(tmp_path / "c")
    hashed: list[str] = []
    real = contents._file_hash

    def hashing(path: Path, like: str = "") -> str:
        hashed.append(path.name)
        return real(path, like)

    monkeypatch.setattr(contents, "_file_hash", hashing)
    os.utime(kitchen.path / "image", ns=(1, 1))  # another ctime, so it is hashed
    monkeypatch.setattr(contents, "RACY_NS", -1)
    assert kitchen.get()
    assert sorted(hashed) == ["a.h", "config", "image"]
    assert kitchen.get() and kitchen.get()
    assert len(hashed) == 3
    kitchen.reboot(monkeypatch)
    assert kitchen.get() and kitchen.get()
    assert len(hashed) == 6


def test_files_that_just_changed_are_not_believed_by_their_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one tick of the file system's clock a second change leaves the times as they are."""
    monkeypatch.setattr(contents, "RACY_NS", 10**15)
    kitchen = Kitchen(tmp_path / "c")
    assert kitchen.get() is not None
    assert not kitchen.meta("seen").exists()


def test_a_host_that_does_not_tell_its_boots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "BOOT_ID", tmp_path / "absent")
    kitchen = Kitchen(tmp_path / "c")
    assert kitchen.get() is not None
    (kitchen.path / "config").write_bytes(bytes(len(FILES["config"])))
    assert kitchen.get() is None


def test_an_entry_that_is_a_link_is_no_entry(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path / "c")
    elsewhere = tmp_path / "elsewhere"
    kitchen.path.rename(elsewhere)
    kitchen.path.symlink_to(elsewhere)
    assert kitchen.get() is None
    assert Cache(kitchen.root, 0).entries() == []
    Cache(kitchen.root, 0).prune(None, 0)
    assert kitchen.path.is_symlink()
    kitchen.produce()
    assert not kitchen.path.is_symlink()
    assert (elsewhere / "image").read_bytes() == FILES["image"]


def test_a_kind_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere/key").mkdir(parents=True)
    cache = Cache(tmp_path / "c", 0)
    (cache.root / "kernel").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HarnessError, match="is a link, and the cache follows none"):
        cache.produce("kernel", "other", fill, what="x", say=print)
    assert cache.entries() == []
    cache.prune(None, 0)
    assert os.listdir(tmp_path / "elsewhere") == ["key"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 0)
    with pytest.raises(HarnessError, match="pipe is neither file nor folder nor link"):
        cache.produce("kernel", "key", lambda folder: os.mkfifo(folder / "pipe"), what="x", say=print)
    assert cache.get("kernel", "key") is None
    cache.produce("toolchain", "key", lambda folder: os.mkfifo(folder / "pipe"), what="x", say=print)


@pytest.mark.parametrize("umask", [0o077, 0o022, 0])
def test_what_is_made_can_be_read_in_the_sandbox_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    def make(folder: Path) -> None:
        fill(folder)
        (folder / "image").chmod(0o4700 & ~umask)

    old = os.umask(umask)
    try:
        kitchen = Kitchen(tmp_path / "c", make)
    finally:
        os.umask(old)
    modes = {
        name: path.lstat().st_mode & 0o7777
        for name, path in ((str(p.relative_to(kitchen.path)), p) for p in kitchen.path.rglob("*") if not p.is_symlink())
    }
    assert modes == {
        "image": 0o755,
        "config": 0o644,
        "extmod": 0o755,
        "extmod/include": 0o755,
        "extmod/include/a.h": 0o644,
    }
    assert kitchen.path.stat().st_mode & 0o7777 == 0o755
    assert kitchen.root.stat().st_mode & 0o7777 == 0o700


# --- order on the disk ------------------------------------------------------------------------


def test_content_and_record_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_sync, real_rename = os.fsync, os.rename

    def name(path: str) -> str:
        return "entry" if path.endswith("/kernel/key") else Path(path).name.lstrip(".").partition(".json.")[0]

    def sync(descriptor: int) -> None:
        where = os.readlink(f"/proc/self/fd/{descriptor}")
        steps.append(
            "sync "
            + ("staging" if "/.staging/" in where and where.count("@") == 2 and where[-33] == "@" else name(where))
        )
        real_sync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        steps.append(f"rename {name(str(target))}")
        real_rename(self, target)
        return target

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    Kitchen(tmp_path / "c")
    end = steps.index("rename entry")
    assert {"sync image", "sync config", "sync a.h", "sync include", "sync extmod", "sync staging"} <= set(steps[:end])
    assert steps[:end].index("sync key") > steps.index("sync image")  # the record, ``.key.json.<draft>``
    assert steps[end + 1 :] == ["sync kernel", "sync c"]


def test_many_files_are_synced_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Path] = []
    real = files.sync_file_system

    def syncing(folder: Path) -> None:
        shown.append(folder)
        real(folder)

    monkeypatch.setattr(contents, "sync_file_system", syncing)
    kitchen = Kitchen(tmp_path / "c", many, "source")
    assert len(shown) == 1 and shown[0].parent == kitchen.root / ".staging"


def test_a_failed_sync_of_a_file_system_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        files.sync_file_system(tmp_path / "absent")


# --- a disk that fails ------------------------------------------------------------------------

CALLS: tuple[tuple[Any, str], ...] = (
    (os, "fsync"),
    (os, "open"),
    (os, "mkdir"),
    (os, "rename"),
    (os, "replace"),
    (os, "chmod"),
    (os, "write"),
    (os, "scandir"),
    (os, "ftruncate"),
    (os, "pwrite"),
    (os, "utime"),
    (os, "readlink"),
    (io, "open"),
    (contents, "sync"),
    (cache_module, "sync"),
    (Path, "write_text"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "mkdir"),
)


class Fault:
    """Makes the n-th of all calls of CALLS fail, while it is `armed`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int, number: int) -> None:
        self.left, self.number, self.armed, self.what = nth, number, False, ""
        for owner, name in CALLS:
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name), name))

    def wrapped(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self.armed:
                self.left -= 1
                if self.left == 0:
                    self.armed, self.what = False, f"{name}{args}"
                    raise OSError(self.number, os.strerror(self.number), str(args[0]))
            return real(*args, **options)

        return call


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_at_any_call_leaves_an_entry_that_is_whole_or_none(tmp_path: Path, number: int) -> None:
    nth, failed = 0, set()
    while True:
        nth += 1
        root = tmp_path / str(nth)
        cache = Cache(root, 0)
        with pytest.MonkeyPatch.context() as patch:
            broken = Fault(patch, nth, number)

            def make(folder: Path, broken: Fault = broken) -> None:
                broken.armed = False
                fill(folder)
                broken.armed = broken.left > 0

            broken.armed = True
            try:
                cache.produce("kernel", "key", make, what="x", say=print)
            except HarnessError as error:
                assert "\n" not in error.line() and error.step, broken.what
                assert isinstance(error, DiskFull) == (number == errno.ENOSPC), broken.what
                failed.add(broken.what.partition("(")[0])
            broken.armed = False
        found = Cache(root, 0).get("kernel", "key")
        assert found is None or {name: (found / name).read_bytes() for name in FILES} == FILES, broken.what
        Cache(root, 0).produce("kernel", "key", fill, what="x", say=print)
        Cache(root, 0).prune(None, 1 << 40)
        assert os.listdir(root / ".staging") == [], broken.what
        if broken.left > 0:
            break
    assert nth > 30
    assert {"fsync", "open", "mkdir", "rename", "write_text"} <= failed


def test_out_of_descriptors_no_entry_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen = Kitchen(tmp_path / "c")

    def refuse(path: object) -> object:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    cache = Cache(kitchen.root, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(HarnessError, match="Too many open files"):
            cache.produce("kernel", "key", fill, what="x", say=print)
    assert kitchen.get() == kitchen.path
    assert kitchen.made == 1


def memory(folder: Path) -> None:
    """A guest's memory as QEMU leaves it: data between holes."""
    with open(folder / "memory", "xb") as file:
        for place, data in ((0, b"\0" * 70000), (300_000, b"page"), (5 << 20, b"another")):
            file.seek(place)
            file.write(data)
        file.truncate(32 << 20)


def test_of_a_file_of_holes_the_data_count_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen = Kitchen(tmp_path / "cache", memory)
    with open(kitchen.path / "memory", "r+b") as file:
        file.seek(20 << 20)
        file.write(b"\0" * 100_000)  # as file systems may, too
    kitchen.reboot(monkeypatch)
    assert kitchen.get() == kitchen.path


@pytest.mark.parametrize(
    ("place", "data"), [(300_000, b"pagf"), (20 << 20, b"x"), (300_004, b"page"), (5 << 20, b"\0")]
)
def test_a_file_of_holes_that_changed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, data: bytes
) -> None:
    kitchen = Kitchen(tmp_path / "cache", memory)
    with open(kitchen.path / "memory", "r+b") as file:
        file.seek(place)
        file.write(data)
    kitchen.reboot(monkeypatch)
    kitchen.produce()
    assert kitchen.made == 2 and "memory has another content" in "".join(kitchen.said)


def test_a_file_of_holes_that_lost_them_is_still_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was copied, or is on a file system without holes."""
    kitchen = Kitchen(tmp_path / "cache", memory)
    whole = (kitchen.path / "memory").read_bytes()
    (kitchen.path / "memory").write_bytes(whole)
    assert (kitchen.path / "memory").stat().st_blocks * 512 >= len(whole)
    kitchen.reboot(monkeypatch)
    assert kitchen.get() == kitchen.path
