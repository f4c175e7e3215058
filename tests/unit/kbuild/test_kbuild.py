# SPDX-License-Identifier: GPL-2.0-only
"""The tests of the kernel build: the real kbuild.py, make and sandbox over a tiny fake kernel tree."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.errors import HarnessError, KernelFailure, KharnessError, UsageError
from harness.core.records import Role
from harness.host.toolchain import HostToolchain
from harness.kbuild import ccache, configure, kbuild, make
from tests.unit.fakes.tree import BASE, CONF_SH, KCONFIG, MAKEFILE, World, with_kernel


def test_a_kernel_is_built_once_and_then_taken_from_the_cache(world: World) -> None:
    kernel = world.build()
    entry = Path(kernel.path)
    assert {path.name for path in entry.iterdir()} == {
        "image",
        "vmlinux",
        "System.map",
        "config",
        "Module.symvers",
        "objects",
        "extmod",
        "meta.json",
    }
    assert (entry / "vmlinux").read_text() == "int dsq;\nint fork;\n"
    assert (entry / "objects").read_text() == "kernel/dsq.o\nkernel/fork.o\n"
    assert (entry / "extmod/Module.symvers").read_text() == (entry / "Module.symvers").read_text()
    assert (entry / "extmod/cc").read_text() == "gcc\n"
    assert (kernel.release, kernel.commit, kernel.cached) == ("7.2.13-fake", "c0ffee", False)
    assert json.loads((entry / "meta.json").read_text())["objects"] == 2
    assert "CONFIG_BUG=y" in Path(kernel.config).read_text().splitlines()
    assert kernel.fragments

    again = world.build(role=Role.BASE)
    assert again.cached and again.path == kernel.path and again.id != kernel.id
    assert again.build_seconds == kernel.build_seconds


def test_the_build_folder_goes_away_and_the_tree_stays_as_it_was(world: World) -> None:
    before = world.digest()
    kernel = world.build()
    assert world.digest() == before
    assert world.leftovers() == [Path(kernel.path)]


def test_a_command_that_fails_without_a_word_is_tried_once_more(world: World) -> None:
    world.write("linux/kernel/dsq.c", "int dsq; #once\n")
    kernel = world.build()
    assert (Path(kernel.path) / "vmlinux").read_text() == "int dsq; #once\nint fork;\n"
    (line,) = [line for line in world.output.getvalue().splitlines() if "once more" in line]
    assert "kernel/dsq.o: its command ended with 1 and no tool says why" in line


def test_one_that_fails_again_is_the_trees(world: World) -> None:
    world.write("linux/kernel/dsq.c", "int dsq; #mute\n")
    with pytest.raises(KernelFailure, match=r"kernel/dsq\.o: its command ended with 1"):
        world.build()
    assert world.output.getvalue().count("once more") == 1


def test_the_environment_is_reproducible_and_ccache_comes_first(world: World) -> None:
    lines = (Path(world.build().path) / "System.map").read_text().splitlines()
    env = dict(line.split("=", 1) for line in lines if "=" in line)
    assert env["PATH"].startswith("/compilers:/usr/lib/ccache:")
    assert (env["CCACHE_DIR"], env["CCACHE_CONFIGPATH"]) == ("/tmp/ccache", "/dev/null")
    assert env["CCACHE_COMPILERCHECK"] == "%compiler% --version"
    assert (env["KBUILD_BUILD_USER"], env["KBUILD_BUILD_HOST"]) == ("kharness", "kharness")
    assert env["KBUILD_BUILD_TIMESTAMP"] == "1970-01-01"
    assert (env["srctree"], env["O"], env["LC_ALL"]) == ("/src", "/build", "C")


def test_what_changes_the_content_changes_the_kernel(world: World) -> None:
    paths = {world.build().path}
    paths.add(world.build(world.request(user="CONFIG_MORE=y\n")).path)
    changed = world.build(world.request(definition=with_kernel(make_vars={"EXTRA": "gcov"})))
    assert Path(changed.image).read_text() == "image gcov\n"
    paths.add(changed.path)
    world.write("linux/kernel/dsq.c", "int dsq = 1;\n")
    paths.add(world.build().path)
    assert len(paths) == 4


def test_a_profiled_kernel_is_another_one_and_keeps_the_notes(world: World) -> None:
    plain = world.build()
    world.write("coverage.config", "CONFIG_MORE=y\n")
    profiled = world.build(world.request(profiles=("kernel/dsq.o", "kernel/none.o")))
    assert profiled.path != plain.path
    assert (Path(profiled.path) / kbuild.notes("kernel/dsq.o")).read_text() == f"y {make.GCOV_FLAGS}\n"
    assert "CONFIG_MORE=y" in Path(profiled.config).read_text().splitlines()
    assert not (Path(plain.path) / kbuild.notes("kernel/dsq.o")).exists()
    assert world.build().path == plain.path


def test_an_architecture_has_flags_of_its_own_for_what_is_counted(world: World) -> None:
    definition = with_kernel(gcov_flags="-mno-outline-atomics")
    counted = dict(world.request(definition=definition, profiles=("kernel/dsq.o",)).make_vars)
    assert counted["CFLAGS_GCOV"] == f"{make.GCOV_FLAGS} -mno-outline-atomics"
    assert "CFLAGS_GCOV" not in dict(world.request(definition=definition).make_vars)


def test_a_profiled_object_that_is_not_built(world: World) -> None:
    world.write("coverage.config", "")
    with pytest.raises(HarnessError, match=r"left no kernel/gone\.gcno") as raised:
        world.build(world.request(profiles=("kernel/gone.o",)))
    assert "`code` in the suite's suite.py" in raised.value.step


def test_the_key_of_a_cached_kernel_stays(world: World) -> None:
    """What was built last week is not built again because a class got another name."""
    known = with_kernel(make_vars={"KCFLAGS": "-O2", "A": "1"})
    request = world.request(definition=known)
    key = make.key(1, "tree", "sha", "tools", request.recipe, request.make_vars)
    assert key == "fa0d7517d19b19ada72b8479d009addefad742db"


def test_two_ways_to_the_same_config_are_one_kernel(world: World) -> None:
    first = world.build(world.request(base=BASE + "CONFIG_MORE=y\n"))
    second = world.build(world.request(user="# of mine\nCONFIG_MORE=y\n"))
    assert second.cached and first.path == second.path


def test_without_modules_there_is_nothing_for_external_ones(world: World) -> None:
    kernel = world.build(world.request(base="CONFIG_BUG=y\n"))
    assert not (Path(kernel.path) / "extmod").exists()


def test_progress_counts_objects_and_remembers_how_many(world: World) -> None:
    world.build()
    assert "build of x86_64 7.2.13: started" in world.output.getvalue()
    assert "2 objects" in world.output.getvalue()
    assert kbuild._recall(world.cache.folder("estimates") / "objects-x86_64.json") == 2


def test_a_damaged_estimate_is_no_harm(world: World) -> None:
    (world.cache.folder("estimates") / "objects-x86_64.json").write_text("{")
    assert not world.build().cached


def test_a_symbol_that_did_not_make_it_refuses_the_build(world: World) -> None:
    with pytest.raises(HarnessError) as caught:
        world.build(world.request(base=BASE + "CONFIG_FRAGILE=y\n"))
    assert "1 requested symbol did not make it into the final .config: CONFIG_FRAGILE (wanted y, got n, " in (
        caught.value.what
    )
    assert "depends on BASIS" in caught.value.detail
    assert world.leftovers() == []
    assert world.build(world.request(base=BASE + "CONFIG_FRAGILE=y\nCONFIG_BASIS=y\n")).arch == "x86_64"


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("CONFIG_FRAGILE=y\n", "did not make it into the final .config: CONFIG_FRAGILE"),
        ("CONFIG_BUGG=y\n", "user.config:1: this kernel tree has no symbol CONFIG_BUGG; near: CONFIG_BUG"),
        ("CONFIG_BUG=maybe\n", "user.config:1: not a Kconfig line"),
    ],
)
def test_a_bad_user_fragment_is_the_callers_mistake(world: World, user: str, shown: str) -> None:
    with pytest.raises(UsageError) as caught:
        world.build(world.request(user=user))
    assert shown in caught.value.what
    assert world.leftovers() == []


def test_a_user_fragment_overrides_ours(world: World) -> None:
    config = configure.configure(world.request(user="CONFIG_BUG=n\n"), world.toolchain, world.cache, world.progress())
    assert config.get("BUG") == "n"


def test_a_suite_s_fragment_overrides_the_engine_s_and_the_user_s_overrides_both(world: World) -> None:
    suite = world.write("suite.config", "CONFIG_BUG=n\n")
    for user, got in ((None, "n"), ("CONFIG_BUG=y\n", "y")):
        request = world.request(user=user, suite_fragments=(suite,))
        config = configure.configure(request, world.toolchain, world.cache, world.progress())
        assert config.get("BUG") == got


def test_two_fragments_of_a_suite_must_agree(world: World) -> None:
    paths = tuple(world.write(f"{value}.config", f"CONFIG_BUG={value}\n") for value in "yn")
    with pytest.raises(HarnessError, match="CONFIG_BUG is y at"):
        configure.configure(world.request(suite_fragments=paths), world.toolchain, world.cache, world.progress())


def test_an_old_pahole_is_named_for_a_kernel_that_needs_more(world: World) -> None:
    world.write("linux/Kconfig", KCONFIG + "config DEBUG_INFO_BTF\n\tbool\n")
    script = CONF_SH.replace("VERSION=130", "VERSION=124")
    world.write("linux/scripts/conf.sh", script)
    with pytest.raises(HarnessError, match="BTF") as caught:
        world.build(world.request(base=BASE + "CONFIG_DEBUG_INFO_BTF=y\n"))
    assert "pahole in the toolchain is 1.24; 1.26 or newer" in caught.value.step
    request = world.request(base=BASE + "CONFIG_DEBUG_INFO_BTF=y\n")
    old = dataclasses.replace(request, tree=dataclasses.replace(request.tree, version="6.12.57"))
    assert world.build(old).arch == "x86_64"


def test_a_broken_kconfig_file_is_the_trees_failure(world: World) -> None:
    broken = "echo 'init/Kconfig:7: syntax error' >&2; exit 1\n"
    world.write("linux/scripts/conf.sh", broken)
    with pytest.raises(KernelFailure) as caught:
        world.build()
    assert (caught.value.kind, caught.value.what) == ("build", "init/Kconfig:7: syntax error")


def test_a_compile_error_names_file_and_line(world: World) -> None:
    world.write("linux/kernel/dsq.c", "int dsq;\n\n#error no such percpu\n")
    with pytest.raises(KernelFailure) as caught:
        world.build()
    assert caught.value.kind == "build"
    assert caught.value.what == "kernel/dsq.c:3: no such percpu"
    assert "make" in caught.value.detail
    assert world.leftovers() == []


@pytest.mark.parametrize(
    ("fate", "shown"),
    [("#killed", "out of memory"), ("#full", "no space left on device in"), ("#scribble", "Read-only file system")],
)
def test_the_hosts_trouble_is_not_the_trees_failure(world: World, fate: str, shown: str) -> None:
    world.write("linux/kernel/dsq.c", fate + "\n")
    with pytest.raises(HarnessError) as caught:
        world.build()
    assert shown in caught.value.line()
    assert caught.value.step
    assert world.leftovers() == []
    assert not (world.tree / "scribble").exists()


def test_an_image_that_is_not_where_the_machine_says(world: World) -> None:
    elsewhere = with_kernel(image="arch/x86/boot/Image")
    with pytest.raises(HarnessError, match="left no arch/x86/boot/Image"):
        world.build(world.request(definition=elsewhere))
    assert world.leftovers() == []


def test_a_config_that_the_build_changes_is_refused(world: World) -> None:
    rule = "modules_prepare:\n"
    world.write("linux/Makefile", MAKEFILE.replace(rule, rule + "\t@echo CONFIG_X=y >> $(O)/.config\n"))
    with pytest.raises(HarnessError, match="the .config changed while it was built"):
        world.build()


def test_a_tree_too_old_for_external_modules_says_so(world: World) -> None:
    (world.tree / "scripts/package/install-extmod-build").unlink()
    with pytest.raises(HarnessError, match="has no scripts/package/install-extmod-build"):
        world.build()


@pytest.mark.parametrize("signal", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch, signal: type[BaseException]
) -> None:
    plain: Callable[[kbuild._Counter, str], None] = kbuild._Counter.__call__

    def interrupted(counter: kbuild._Counter, line: str) -> None:
        plain(counter, line)
        if counter.objects:
            raise signal

    monkeypatch.setattr(kbuild._Counter, "__call__", interrupted)
    with pytest.raises(signal):
        world.build()
    assert world.leftovers() == []
    monkeypatch.undo()
    assert not world.build().cached


def test_jobs_never_exceed_the_machine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    seen: list[str] = []
    real = HostToolchain.run

    def spy(self: HostToolchain, argv: list[str], **rest: object) -> object:
        seen.extend(word for word in argv if word.startswith("-j"))
        return real(self, argv, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(HostToolchain, "run", spy)
    world.build(world.request(jobs=64))
    world.build(world.request(user="CONFIG_MORE=y\n", jobs=1))
    assert set(seen) == {"-j2", "-j1"}


def test_every_error_is_one_line(world: World) -> None:
    world.write("linux/kernel/dsq.c", "#error one\n")
    with pytest.raises(KharnessError) as caught:
        world.build()
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    ("name", "content", "cached"),
    [
        ("piggy.S", '.globl input_data\n\t.incbin "vmlinux.bin.gz"\n', False),
        ("entry.S", "ENTRY(x)\n", True),
        ("fork.c", "int x;\n", True),
    ],
)
def test_what_takes_in_another_file_is_not_taken_from_ccache(
    tmp_path: Path, name: str, content: str, cached: bool
) -> None:
    """Else a kernel whose compressed image is as long as another's boots that other kernel."""
    behind = tmp_path / "behind"
    behind.mkdir()
    (behind / "gcc").write_text('#!/bin/sh\necho "disabled=$CCACHE_DISABLE $*"\n')
    (behind / "gcc").chmod(0o755)
    (tmp_path / "compilers").mkdir()
    (tmp_path / "compilers/gcc").write_text(ccache.SCRIPT.replace(ccache.COMPILERS, f"{tmp_path}/compilers"))
    (tmp_path / "compilers/gcc").chmod(0o755)
    (tmp_path / name).write_text(content)
    path = f"{tmp_path}/compilers:{behind}:{os.environ['PATH']}"
    done = subprocess.run(
        ["gcc", "-c", "-o", "x y.o", name], env={"PATH": path}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"disabled={'' if cached else '1'} -c -o x y.o {name}\n"
