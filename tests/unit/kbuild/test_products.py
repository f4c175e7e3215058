# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what is taken out of a folder that a sandbox wrote, for the guest's module and images and for gcov."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from harness.core.definition import load
from harness.core.errors import HarnessError, KernelFailure
from harness.core.plan import CodeUnderTest
from harness.core.records import Kernel, Role
from harness.coverage.measure import sources
from harness.host.below import Unsafe
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.sandbox import Bind
from harness.kbuild import image
from harness.kbuild.image import GuestBuild
from harness.kbuild.products import out_folder, release_of


@pytest.mark.parametrize(
    "release", ["7.2.13", "7.2.13-fake", "7.3.0-rc2-00012-gabcdef012345-dirty", "6.12.9+deb13~x", "a" * 64]
)
def test_what_a_kernel_may_call_itself(release: str) -> None:
    assert release_of(release, "build") == release


@pytest.mark.parametrize(
    "release", ["", "../x", ".x", "a/b", "-x", "a" * 65, "a b", "a\nb", "a\x1b[0m", "\u0667.2", "7.2\n"]
)
def test_what_it_may_not(release: str) -> None:
    with pytest.raises(KernelFailure, match="build calls its kernel") as raised:
        release_of(release, "build")
    assert "\n" not in raised.value.line() and "\x1b" not in raised.value.line()


def test_only_what_is_wanted_is_taken(tmp_path: Path) -> None:
    with out_folder(tmp_path, "made") as out:
        (out / "made").write_bytes(b"x")
        (out / "made").chmod(0o4777)
        (out / "other").symlink_to("/etc")
    assert [(path.name, path.stat().st_mode & 0o7777) for path in tmp_path.iterdir()] == [("made", 0o755)]
    with pytest.raises(HarnessError, match="gone was not made"), out_folder(tmp_path, "gone"):
        pass
    with pytest.raises(ZeroDivisionError), out_folder(tmp_path, "made") as out:
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


SPOILS: list[tuple[Callable[[Path], object], str]] = [
    (lambda file: file.symlink_to("/etc/passwd"), "is a symbolic link"),
    (lambda file: file.symlink_to("/dev/zero"), "is a symbolic link"),
    (lambda file: os.mkfifo(file), "is a FIFO"),
    (lambda file: os.truncate(os.open(file, os.O_CREAT | os.O_WRONLY), 1 << 40), "has 1099511627776 bytes"),
]


@pytest.mark.parametrize(("spoil", "shown"), SPOILS)
def test_what_is_no_file_is_not_taken(tmp_path: Path, spoil: Callable[[Path], object], shown: str) -> None:
    with pytest.raises(Unsafe, match=shown), out_folder(tmp_path, "made") as out:
        spoil(out / "made")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("spoil", "shown"), SPOILS)
def test_a_module_that_the_trees_makefiles_replaced(
    tmp_path: Path, progress: Progress, spoil: Callable[[Path], object], shown: str
) -> None:
    """Its build runs the kernel's own makefiles, out of extmod."""

    class Hostile:
        id = "tools"

        def run(self, argv: Sequence[str], *, binds: Sequence[Bind], **more: Any) -> None:
            spoil(next(bind.host for bind in binds if bind.writable) / image.MODULE)

    kernel = Kernel(
        "k1",
        "x86_64",
        Role.TREE,
        "7.2",
        "",
        "",
        "t",
        False,
        (),
        "config",
        "sha",
        "tools",
        "image",
        "vmlinux",
        str(tmp_path),
        0.0,
        True,
    )
    (tmp_path / "packages").write_text("")
    how, cache = GuestBuild(load("x86_64"), tmp_path / "root"), Cache(tmp_path / "cache", 0)
    with pytest.raises(KernelFailure, match=f"kernel module x86_64 left {image.MODULE}, which {shown}"):
        image.module(how, kernel, cast(Any, Hostile()), cache, progress)
    assert not any((tmp_path / "cache/.staging").iterdir())


def test_coverage_is_of_files_of_the_tree_only(tmp_path: Path) -> None:
    """The names come out of what a build made and a guest brought home."""
    code = CodeUnderTest("kernel/sched/build_policy.o", ("init_dsq",))
    folder = Path(code.object).parent
    (tmp_path / "tree" / folder).mkdir(parents=True)
    text = f"int {code.functions[0]}(void) {{ return 0; }}\n"
    up = "/".join([".."] * (len(folder.parts) + 1))
    for name in (f"tree/{folder}/own.c", "secret.c"):
        (tmp_path / name).write_text(text)
    (tmp_path / "tree" / folder / "link.c").symlink_to(tmp_path / "secret.c")
    named = dict.fromkeys([f"{folder}/own.c", f"{folder}/{up}/secret.c", f"{folder}/link.c", f"{folder}/none.c"])
    assert list(sources(code, tmp_path / "tree", cast(Any, named))) == [f"{folder}/own.c"]
