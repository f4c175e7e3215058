# SPDX-License-Identifier: GPL-2.0-only
"""Tests of build folders that stay: as a build from nothing in all that comes out, and never what blames a tree."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.errors import HarnessError, KernelFailure
from harness.core.records import Kernel
from harness.host.cache import Cache
from harness.kbuild import build_folders, kbuild, mirror
from harness.kbuild.mirror import Changes
from harness.kbuild.steps import Steps
from tests.unit.fakes.tree import BASE, CC_SH, MAKEFILE, World

# Counts its links as scripts/build-version does, and lets the count into what comes out; links always, for want of kbuild's
# if_changed.
COUNTING = MAKEFILE.replace(
    "@cat $^ > $@",
    "@n=$$(cat $(O)/.version 2>/dev/null || echo 0); n=$$((n + 1)); echo $$n > $(O)/.version;"
    ' (cat $(objs); echo "#$$n") > $@',
).replace("$(O)/vmlinux: $(objs)\n", "FORCE:\n$(O)/vmlinux: $(objs) FORCE\n")

# Warns where the source says so, and compiles nothing in a build folder that is poisoned.
WARNING_CC = (
    """\
test -e /build/poison && { echo "$srctree/$1:1:1: $(cat /build/poison)" >&2; exit 1; }
grep -q "#warn" "$1" && echo "$1:1:1: warning: of $2"
"""
    + CC_SH
)


@pytest.fixture
def world(world: World) -> World:
    put(world, "Makefile", COUNTING)
    put(world, "scripts/cc.sh", WARNING_CC)
    return world


def put(world: World, name: str, text: str) -> None:
    """Writes a file of the tree as a new snapshot has it: never into an inode that somebody linked."""
    path = world.tree / name
    path.unlink(missing_ok=True)
    world.write(f"linux/{name}", text).chmod(0o755)


def build(world: World, base: str = BASE) -> Kernel:
    world.output.seek(0)
    world.output.truncate()
    return world.build(world.request(base, incremental=True))


def compiled(world: World) -> int:
    """The objects that the last build compiled."""
    done = re.findall(r"build of .*: done in [^,\n]*(?:, (\d+) objects)?\n", world.output.getvalue())
    return int(done[-1] or 0)


def from_nothing(world: World) -> bool:
    return "starts from nothing" in world.output.getvalue()


def folders(world: World) -> list[Path]:
    return [entry.path for entry in world.cache.entries() if entry.kind == build_folders.KIND]


def content(entry: Path) -> dict[str, str]:
    """All files of a kernel's entry, but for how long it took and the environment that the fake System.map is."""
    found = {str(path.relative_to(entry)): path.read_text() for path in entry.rglob("*") if path.is_file()}
    meta = json.loads(found["meta.json"])
    del meta["build_seconds"], found["System.map"]
    meta["warnings"].sort()
    return {**found, "meta.json": json.dumps(meta)}


def same_as_from_nothing(world: World, kernel: Kernel, base: str = BASE) -> bool:
    other = dataclasses.replace(world, cache=Cache(world.folder / "other", 0), output=io.StringIO())
    plain = other.build(world.request(base))
    assert not plain.cached
    return content(Path(plain.path)) == content(Path(kernel.path))


def test_only_what_changed_is_compiled_and_the_entry_is_whole(world: World) -> None:
    put(world, "kernel/fork.c", "int fork; #warn\n")
    assert same_as_from_nothing(world, build(world))
    assert from_nothing(world) and compiled(world) == 2
    put(world, "kernel/dsq.c", "int dsq = 1;\n")
    kernel = build(world)
    assert compiled(world) == 1 and not from_nothing(world)
    entry = Path(kernel.path)
    assert (entry / "vmlinux").read_text() == "int dsq = 1;\nint fork; #warn\n#1\n"
    assert (entry / "objects").read_text() == "kernel/dsq.o\nkernel/fork.o\n"
    meta = json.loads((entry / "meta.json").read_text())
    assert (meta["objects"], len(meta["warnings"])) == (2, 1), "what was not made again is shown all the same"
    assert same_as_from_nothing(world, kernel)
    put(world, "kernel/fork.c", "int fork;\n")
    assert json.loads((Path(build(world).path) / "meta.json").read_text())["warnings"] == []


def test_what_make_wrote_reaches_the_disk_before_the_folder_counts_as_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else make takes an object that a power cut tore, newer than its source, for done."""
    steps: list[tuple[str, bool]] = []

    def note(what: str) -> Callable[[Path], None]:
        return lambda folder: steps.append((what, (folder / "busy").exists()))

    monkeypatch.setattr(build_folders, "sync", note("names"))
    monkeypatch.setattr(build_folders, "sync_file_system", note("all"))
    build(world)
    assert steps == [("names", True), ("all", True)]
    assert not (folders(world)[0] / "busy").exists()


def test_files_come_and_go(world: World) -> None:
    build(world)
    put(world, "kernel/cid.c", "int cid;\n")
    more = build(world)
    assert compiled(world) == 1
    assert (Path(more.path) / "objects").read_text() == "kernel/cid.o\nkernel/dsq.o\nkernel/fork.o\n"
    (world.tree / "kernel/dsq.c").unlink()
    less = build(world)
    assert (Path(less.path) / "objects").read_text() == "kernel/cid.o\nkernel/fork.o\n"
    assert same_as_from_nothing(world, less) and not from_nothing(world)


def test_what_a_makefile_may_have_dropped_is_made_anew(world: World) -> None:
    put(world, "kernel/Makefile", "obj-y += fork.o\n")
    put(world, "mm/Makefile", "obj-y += slab.o\n")
    build(world)
    (build_folder := folders(world)[0] / "build/kernel/generated.h").write_text("of an older Makefile\n")
    put(world, "kernel/Makefile", "obj-y += fork.o dsq.o\n")
    assert same_as_from_nothing(world, build(world))
    assert compiled(world) == 2 and not build_folder.exists()
    put(world, "mm/Makefile", "obj-y += slub.o\n")
    build(world)
    assert compiled(world) == 0


def test_the_estimate_is_that_of_whole_builds(world: World) -> None:
    build(world)
    put(world, "kernel/dsq.c", "int dsq = 1;\n")
    build(world)
    assert "/2 objects" not in world.output.getvalue(), "it promises objects that are not made"
    assert kbuild._recall(world.cache.folder("estimates") / "objects-x86_64.json") == 2


def test_neither_snapshot_nor_entry_shares_what_a_later_build_writes(world: World) -> None:
    first = build(world)
    before = content(Path(first.path))
    put(world, "kernel/dsq.c", "int dsq = 1;\n")
    tree = world.digest()
    build(world)
    assert content(Path(first.path)) == before and world.digest() == tree
    ours, source = folders(world)[0] / "src/kernel", world.tree / "kernel"
    assert (ours / "fork.c").samefile(source / "fork.c"), "what stays takes no space"
    assert not (ours / "dsq.c").samefile(source / "dsq.c")
    assert all(path.stat().st_nlink == 1 for path in Path(first.path).rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "name", ["scripts/cc.sh", "Makefile", "arch/x86/Makefile", "tools/objtool/check.c", "arch/x86/tools/relocs.c"]
)
def test_what_make_does_not_track_has_it_start_from_nothing(world: World, name: str) -> None:
    put(world, name, (world.tree / name).read_text() if (world.tree / name).exists() else "")
    build(world)
    put(world, name, (world.tree / name).read_text() + "# again\n")
    assert same_as_from_nothing(world, build(world))
    assert f"{name} changed" in world.output.getvalue() and compiled(world) == 2


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("kernel/sched/ext/ext.c", ""),
        ("include/linux/sched.h", ""),
        ("kernel/sched/Makefile", ""),
        ("init/Kconfig", ""),
        ("scripts/Kconfig.include", ""),
        ("Documentation/a.py", ""),
        ("tools/testing/selftests/a.sh", ""),
        ("arch/arm64/Makefile", ""),
        ("arch/arm64/tools/gen.c", ""),
        ("arch/x86/kernel/Makefile", ""),
        ("kernel/gen_kheaders.sh", "kernel/gen_kheaders.sh changed"),
        ("lib/vdso/Makefile.include", "lib/vdso/Makefile.include changed"),
        ("arch/x86/Makefile_32.cpu", "arch/x86/Makefile_32.cpu changed"),
        ("Kbuild", "Kbuild changed"),
        ("tools/include/linux/types.h", "tools/include/linux/types.h changed"),
    ],
)
def test_which_changes_make_can_follow(path: str, why: str) -> None:
    assert build_folders._untracked(Changes(changed={path}), "x86") == why
    assert build_folders._untracked(Changes(gone={path}), "x86") == why


def test_a_symlink_that_changes_has_it_start_from_nothing(world: World) -> None:
    (world.tree / "kernel/link.h").symlink_to("fork.c")
    build(world)
    (world.tree / "kernel/link.h").unlink()
    (world.tree / "kernel/link.h").symlink_to("dsq.c")
    put(world, "kernel/dsq.c", "int dsq = 1;\n")  # the fake content hash is one of files only
    build(world)
    assert "kernel/link.h changed" in world.output.getvalue()


def test_a_header_that_comes_may_be_found_before_its_namesakes(world: World) -> None:
    put(world, "include/dsq.h", "int pcpu;\n")
    build(world)
    folder = folders(world)[0]
    generated = folder / "build/include/generated/dsq.h"
    generated.parent.mkdir(parents=True)
    generated.write_text("generated\n")
    for path in (generated, folder / "src/include/dsq.h"):
        os.utime(path, (1, 1))
    put(world, "kernel/dsq.h", "int other;\n")
    build(world)
    assert not from_nothing(world)
    assert generated.stat().st_mtime > 1 and (folder / "src/include/dsq.h").stat().st_mtime > 1
    assert (world.tree / "include/dsq.h").stat().st_mtime <= 1, "the mtime is the link's own now"


def test_a_file_that_was_generated_before_has_it_start_from_nothing(world: World) -> None:
    build(world)
    (folders(world)[0] / "build/kernel/table.h").write_text("generated\n")
    put(world, "kernel/table.h", "by hand\n")
    assert same_as_from_nothing(world, build(world))
    assert "kernel/table.h was generated before" in world.output.getvalue()


def test_what_only_the_folder_fails_is_not_believed(world: World) -> None:
    build(world)
    (folders(world)[0] / "build/poison").write_text("error: poisoned")
    put(world, "kernel/dsq.c", "int dsq = 2;\n")
    kernel = build(world)
    assert same_as_from_nothing(world, kernel)
    shown = world.output.getvalue()
    assert "failed in the folder that is kept; once more from nothing: kernel/dsq.c:1: poisoned\n" in shown
    put(world, "kernel/dsq.c", "int dsq = 3;\n")
    assert same_as_from_nothing(world, build(world))
    assert "starts from nothing: the last build in it did not come to an end" in world.output.getvalue()


def test_a_folder_that_failed_otherwise_than_the_tree_is_in_doubt(world: World) -> None:
    build(world)
    (folders(world)[0] / "build/poison").write_text("Killed signal terminated program cc1")
    put(world, "kernel/dsq.c", "#error no such percpu\n")
    with pytest.raises(KernelFailure, match="no such percpu"):
        build(world)
    put(world, "kernel/dsq.c", "int dsq = 1;\n")
    build(world)
    assert from_nothing(world)


def test_the_folder_stays_whole_and_extmod_is_never_added_to(world: World) -> None:
    build(world)
    place = folders(world)[0] / "build"
    for name in ("vmlinux", "System.map", "Module.symvers", ".config", "arch/x86/boot/bzImage"):
        assert (place / name).is_file(), name
    (place / "extmod").mkdir()
    (place / "extmod/left").touch()
    put(world, "kernel/dsq.c", "int dsq = 1;\n")
    assert same_as_from_nothing(world, build(world)) and not from_nothing(world)


def test_the_trees_own_failure_is_told_after_both_and_the_folder_stays(world: World) -> None:
    build(world)
    put(world, "kernel/dsq.c", "int dsq;\n#error no such percpu\n")
    with pytest.raises(KernelFailure) as caught:
        build(world)
    assert caught.value.what == "kernel/dsq.c:2: no such percpu"
    assert "once more from nothing" in world.output.getvalue()
    put(world, "kernel/dsq.c", "int dsq = 1;\n")
    assert same_as_from_nothing(world, build(world))
    assert not from_nothing(world) and compiled(world) == 1


def test_a_failure_from_nothing_is_believed_at_once(world: World) -> None:
    put(world, "kernel/dsq.c", "#error no such percpu\n")
    with pytest.raises(KernelFailure):
        build(world)
    assert "once more" not in world.output.getvalue()


def test_the_hosts_trouble_leaves_the_folder_in_doubt(world: World) -> None:
    build(world)
    put(world, "kernel/dsq.c", "#killed\n")
    with pytest.raises(HarnessError, match="out of memory"):
        build(world)
    put(world, "kernel/dsq.c", "int dsq = 1;\n")
    build(world)
    assert from_nothing(world)


def killed_within(world: World, monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> None:
    """Builds in a child of ours that is killed when it comes to this function."""
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(where, name, lambda *args, **rest: os.kill(os.getpid(), signal.SIGKILL))
        try:
            build(world)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (mirror, "_put"),
        (build_folders.Kept, "_forget"),
        (kbuild, "_compile"),
        (kbuild, "_keep"),
        (build_folders.Kept, "end"),
        (mirror, "fill"),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_a_kill_anywhere_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch, where: object, name: str, again: bool
) -> None:
    if name == "fill" or again:
        killed_within(world, monkeypatch, kbuild, "_compile")
    if name != "fill":
        build(world)
        put(world, "kernel/dsq.c", "int dsq = 1;\n")
    killed_within(world, monkeypatch, where, name)
    kernel = build(world)
    assert not kernel.cached and same_as_from_nothing(world, kernel)
    assert "did not come to an end" in world.output.getvalue()
    put(world, "kernel/dsq.c", "int dsq = 2;\n")
    assert same_as_from_nothing(world, build(world))
    assert not from_nothing(world)


@pytest.mark.parametrize("record", ["{", "[]", '{"kernel/dsq.o": 1}', '{"kernel/dsq.o": [1, []]}'])
def test_a_damaged_record_has_it_start_from_nothing(world: World, record: str) -> None:
    build(world)
    (folders(world)[0] / "steps.json").write_text(record)
    put(world, "kernel/dsq.c", "int dsq = 1;\n")
    assert same_as_from_nothing(world, build(world))
    assert "its record is damaged" in world.output.getvalue()


def test_a_clock_that_went_back_has_it_start_from_nothing(world: World) -> None:
    build(world)
    later = time.time() + 3600
    os.utime(folders(world)[0] / "steps.json", (later, later))
    put(world, "kernel/dsq.c", "int dsq = 1;\n")
    build(world)
    assert "written in the future" in world.output.getvalue()


def test_another_config_has_another_folder_and_few_stay(world: World) -> None:
    bases = [BASE, BASE + "CONFIG_MORE=y\n", BASE + "CONFIG_TINY=n\n"]
    seen = []
    for number, base in enumerate(bases):
        build(world, base)
        seen += [path for path in folders(world) if path not in seen]
        for name in os.listdir(world.cache.root / ".meta" / build_folders.KIND):
            if name == f"{seen[-1].name}.json":
                os.utime(world.cache.root / ".meta" / build_folders.KIND / name, (number, number))
    assert len(seen) == 3
    assert set(folders(world)) == set(seen[1:]), "the least recently used went"
    assert {entry.path for entry in world.cache.prune(None, 1)} >= set(seen[1:]), "a prune may take them"


@pytest.mark.parametrize(("own", "count"), [(True, 1), (False, 2)])
def test_what_we_patched_ourselves_shares_the_folder_and_what_others_did_does_not(
    world: World, own: bool, count: int
) -> None:
    """The build of one tree trusts what the build of another left there."""
    build(world)
    put(world, "kernel/dsq.c", "int other;\n")
    request = world.request(incremental=True, own=own)
    world.build(dataclasses.replace(request, tree=dataclasses.replace(request.tree, patches=("a.patch",))))
    assert len(folders(world)) == count


def test_the_second_waits_for_the_first_and_says_so(world: World) -> None:
    build(world)
    request = world.request(incremental=True)
    key = folders(world)[0].name
    put(world, "kernel/dsq.c", "int dsq = 1;\n")
    done: list[Kernel] = []
    with world.cache.workplace(build_folders.KIND, key, what="first", say=print):
        assert not [entry for entry in world.cache.prune(None, 1) if entry.kind == build_folders.KIND], "it is in use"
        thread = threading.Thread(target=lambda: done.append(build(world)))
        thread.start()
        end = time.monotonic() + 30
        while "waiting for pid" not in world.output.getvalue() and time.monotonic() < end:
            time.sleep(0.01)
        assert f"{request.what} in the folder that is kept: waiting for pid {os.getpid()}" in world.output.getvalue()
        assert not done
    thread.join()
    assert not done[0].cached and same_as_from_nothing(world, done[0])


def lines(*text: str) -> Callable[[Steps], None]:
    def tell(steps: Steps) -> None:
        steps.begin()
        for line in text:
            steps.line(line)

    return tell


def test_steps_remember_what_is_not_made_again() -> None:
    steps = Steps()
    lines(
        "b.c:1:2: warning: before any", "  CC      a.o", "a.c:1:2: warning: one", "  LD      vmlinux", "  AS      b.o"
    )(steps)
    lines("  CC      c.o", "include/h.h:3:1: warning: two", "  OBJCOPY c.o", "c.c:4:1: warning: three")(steps)
    again = Steps.decode(json.loads(json.dumps(steps.encode())))
    assert again.objects == ["a.o", "b.o", "c.o"]
    assert again.warnings == ["a.c:1: one", "include/h.h:3: two", "c.c:4: three"]
    lines("  CC      c.o")(again)
    assert again.warnings == ["a.c:1: one"]
    assert again.forget(lambda name: name in ("vmlinux", "a.o")) == ["a.o"]
    assert (again.objects, again.warnings) == (["b.o", "c.o"], [])
