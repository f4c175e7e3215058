# SPDX-License-Identifier: GPL-2.0-only
"""Tests of trees whose makefiles leave links, FIFOs and endless files: the user's own are neither read nor touched."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from harness.core.errors import HarnessError, KernelFailure
from harness.kbuild import build_folders
from tests.unit.fakes.tree import CONF_SH, EXTMOD_SH, MAKEFILE, World
from tests.unit.source.kernel_trees import fingerprint

RELEASE = "$(O)/include/config/kernel.release"


@pytest.fixture
def home(world: World) -> Path:
    """A folder of the user's with what an attacker may want, called as what a build makes and removes is."""
    home = world.folder / "home"
    for name in (".bashrc", "id", "sub/a.c", "sub/b.h", "extmod/thesis", "x.o", ".config"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("CONFIG_MODULES=y\n")
        os.utime(home / name, (1, 1))
    return home


def leave(world: World, *commands: str, rule: str = "modules_prepare") -> None:
    """Has the tree's Makefile do this at the end of the build; HOME in it is the user's folder."""
    lines = "".join(f"\t@{command}\n" for command in commands).replace("HOME", str(world.folder / "home"))
    head = f"{rule}:\n"
    put(world, "Makefile", MAKEFILE.replace(head, head + lines) if rule == "modules_prepare" else MAKEFILE + lines)


def put(world: World, name: str, text: str) -> None:
    (world.tree / name).unlink(missing_ok=True)
    world.write(f"linux/{name}", text).chmod(0o755)


def after_all(world: World, *commands: str) -> None:
    """Has the last program of the build do this in the build folder, when all has been made."""
    lines = "\n".join(commands).replace("HOME", str(world.folder / "home"))
    put(world, "scripts/package/install-extmod-build", f"{EXTMOD_SH}{lines}\n")


BAD = [
    ("rm vmlinux; ln -s HOME/id vmlinux", "vmlinux, which is a symbolic link"),
    ("rm vmlinux; ln -s System.map vmlinux", "vmlinux, which is a symbolic link"),
    ("rm vmlinux; mkfifo vmlinux", "vmlinux, which is a FIFO"),
    ("rm vmlinux; mkdir vmlinux", "vmlinux, which is a folder"),
    ("rm vmlinux; truncate -s 12G vmlinux", "vmlinux, which has 12884901888 bytes"),
    ("rm System.map; truncate -s 1G System.map", "System.map, which has 1073741824 bytes"),
    ("rm System.map; ln -s /dev/zero System.map", "System.map, which is a symbolic link"),
    ("rm Module.symvers; ln -s HOME/id Module.symvers", "Module.symvers, which is a symbolic link"),
    ("rm arch/x86/boot/bzImage; ln -s HOME/id arch/x86/boot/bzImage", "which is a link that leads out"),
    ("rm arch/x86/boot/bzImage; ln -s ../../../../../home/id arch/x86/boot/bzImage", "which is a link that leads out"),
    ("rm arch/x86/boot/bzImage; ln -s bzImage arch/x86/boot/bzImage", "which is a link that leads out"),
    ("rm arch/x86/boot/bzImage; mkfifo arch/x86/boot/bzImage", "which is a FIFO"),
    ("rm -r arch; ln -s HOME arch", "which leads out through the link arch"),
    ("cp .config c; rm .config; ln -s c .config", ".config, which is a symbolic link"),
    ("rm .config; ln -s HOME/.config .config", ".config, which is a symbolic link"),
    ("rm .config; mkfifo .config", ".config, which is a FIFO"),
    ("rm .config", "a .config that is none"),
    ("echo CONFIG_X=evil >> .config", "a .config that is none"),
    ("rm -r extmod; ln -s HOME extmod", "extmod, which is a symbolic link"),
    ("ln -s HOME extmod/home", "extmod/home, which is a link that leads out of extmod"),
    ("ln -s ../vmlinux extmod/v", "extmod/v, which is a link that leads out of extmod"),
    ("mkfifo extmod/include/fifo", "extmod/include/fifo, which is a FIFO"),
    ("truncate -s 12G extmod/big", "extmod/big, which has 12884901888 bytes"),
    ("cd extmod; for i in $(seq 200); do mkdir d; cd d; done", "which is deeper than 128 folders"),
    ("rm include/config/kernel.release; ln -s HOME/id include/config/kernel.release", "which is a symbolic link"),
    ("rm include/config/kernel.release; mkfifo include/config/kernel.release", "which is a FIFO"),
    ("rm -r include/config; ln -s HOME include/config", "which leads through the link include/config"),
    ("echo ../../../../etc/cron.d/x > include/config/kernel.release", "calls its kernel '../../../../etc/cron.d/x'"),
    ("printf '7.2\\033]0;x\\007' > include/config/kernel.release", "calls its kernel '7.2.x1b]0;x.x07'"),
    ("head -c 100 /dev/zero | tr '\\0' 7 > include/config/kernel.release", "calls its kernel '777"),
    (": > include/config/kernel.release", "calls its kernel ''"),
    ("truncate -s 1G include/config/kernel.release", "kernel.release, which has 1073741824 bytes"),
]


@pytest.mark.parametrize(
    ("command", "shown", "incremental"), [*((*one, False) for one in BAD), *((*one, True) for one in BAD[::7])]
)
def test_what_a_build_leaves_is_not_believed(
    world: World, home: Path, command: str, shown: str, incremental: bool
) -> None:
    after_all(world, command)
    was = fingerprint(home)
    with pytest.raises(KernelFailure, match=shown) as raised:
        world.build(world.request(incremental=incremental))
    assert raised.value.kind == "build" and "\n" not in raised.value.line()
    assert raised.value.what.startswith("build of x86_64 7.2.13 ")
    assert fingerprint(home) == was
    assert world.leftovers() == []


def test_the_list_of_objects_is_written_into_no_file_of_the_builds(world: World, home: Path) -> None:
    after_all(world, "ln -s HOME/.bashrc objects", "echo '  CC      touch /tmp/evil #.o'")
    was = fingerprint(home)
    kernel = world.build()
    assert (Path(kernel.path) / "objects").read_text() == "kernel/dsq.o\nkernel/fork.o\n"
    assert fingerprint(home) == was


def test_an_image_may_be_a_link_within_the_folder(world: World) -> None:
    """As arch/x86_64/boot/bzImage is one to arch/x86/boot/bzImage."""
    after_all(
        world, "mkdir -p arch/other; mv arch/x86/boot/bzImage arch/other/; ln -s ../../other/bzImage arch/x86/boot/"
    )
    image = Path(world.build().image)
    assert image.read_text() == "image \n" and not image.is_symlink()


def test_what_is_taken_has_plain_modes_and_one_name(world: World) -> None:
    after_all(
        world,
        "chmod 6777 vmlinux; chmod 600 System.map; ln vmlinux extmod/hard; ln vmlinux other; chmod 4711 extmod/cc",
    )
    entry = Path(world.build(world.request(incremental=True)).path)
    modes = {
        str(path.relative_to(entry)): stat.S_IMODE(path.lstat().st_mode) for path in entry.rglob("*") if path.is_file()
    }
    assert modes["vmlinux"] == modes["extmod/cc"] == 0o755 and modes["System.map"] == 0o644
    assert set(modes.values()) <= {0o644, 0o755}
    assert all(path.stat().st_nlink == 1 for path in entry.rglob("*") if path.is_file())
    assert all(path.stat().st_uid == os.geteuid() for path in entry.rglob("*"))


def test_links_within_the_folder_for_external_modules_stay(world: World) -> None:
    after_all(world, "ln -s include/../Makefile x || :; rm x; ln -s ../cc extmod/include/cc")
    assert os.readlink(Path(world.build().path) / "extmod/include/cc") == "../cc"


def test_a_build_folder_deeper_than_python_recurses_goes_away(world: World) -> None:
    after_all(world, "for i in $(seq 1100); do mkdir d; cd d; done")
    world.build()
    assert not any((world.cache.root / ".staging").iterdir())


@pytest.mark.parametrize(
    ("when", "command"),
    [
        ("tinyconfig", 'rm -f "$2"; ln -s HOME/.config "$2"'),
        ("tinyconfig", 'rm -f "$2"; mkfifo "$2"'),
        ("tinyconfig", 'rm -f "$2"; mkdir "$2"'),
        ("olddefconfig", 'rm -f "$2"; ln -s HOME/.config "$2"'),
        ("olddefconfig", 'rm -f "$2"; mkfifo "$2"'),
        ("olddefconfig", 'rm -f "$2"; truncate -s 12G "$2"'),
        ("olddefconfig", 'rm -f "$2"'),
        ("olddefconfig", 'echo CONFIG_X=evil >> "$2"'),
    ],
)
def test_a_configuration_is_read_and_written_nowhere_else(world: World, home: Path, when: str, command: str) -> None:
    script = f'{CONF_SH.replace("; exit; fi", "; else :; fi", 1)}\nif [ "$1" = {when} ]; then {command}; fi\n'
    put(world, "scripts/conf.sh", script.replace("HOME", str(home)))
    was = fingerprint(home)
    with pytest.raises(KernelFailure, match=r"configuration of x86_64 7.2.13 left (a )?\.config"):
        world.build()
    assert fingerprint(home) == was


# --- a folder that stays ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf kernel/sub; ln -s HOME kernel/sub",
        "rm -rf kernel/sub; ln -s HOME/sub kernel/sub",
        "mkdir -p kernel/sub; ln -s HOME/sub kernel/sub/deeper",
        "mkdir -p kernel/sub; ln -s HOME/sub/a.c kernel/sub/a.c; ln -s HOME/sub/b.h kernel/sub/b.h",
        "mkdir -p kernel/sub; mkfifo kernel/sub/a.c",
        "rm -f .version; ln -s HOME/id .version",
        "mkdir .version; ln -s HOME/id .version/x",
        "ln -s HOME/sub include/generated; ln -s HOME/sub/b.h b.h; ln -s HOME/sub/b.h new.h",
        "ln -s HOME here; echo '  CC      here/x.o' >&2",
        "ln -s HOME/sub steps.json; ln -s HOME/sub busy",
        "for i in $(seq 200); do mkdir -p d; cd d; done",
        "rm -f .config.old; ln -s HOME/.config .config.old",
    ],
)
def test_what_the_last_build_left_does_not_reach_the_user(world: World, home: Path, command: str) -> None:
    """The next commit of a bisection changes a makefile and brings a header, for which the folder is tidied."""
    put(world, "kernel/sub/Makefile", "obj-y += one.o\n")
    after_all(world, command)
    was = fingerprint(home)
    world.build(world.request(incremental=True))
    put(world, "kernel/sub/Makefile", "obj-y += two.o\n")
    put(world, "kernel/sub/new.h", "int x;\n")
    put(world, "include/b.h", "int x;\n")
    put(world, "kernel/fork.c", "int fork = 1;\n")
    world.build(world.request(incremental=True))
    assert fingerprint(home) == was


@pytest.mark.parametrize("name", ["HOME/x.o", "../../../../../../home/x.o", "here/x.o", "kernel"])
def test_objects_that_make_says_are_elsewhere_are_not_removed(world: World, home: Path, name: str) -> None:
    """What make prints is the tree's to say."""
    leave(world, "ln -sfn HOME $(O)/here", f"echo '  CC      {name}'")
    was = fingerprint(home)
    world.build(world.request(incremental=True))
    steps = next((world.cache.root / build_folders.KIND).iterdir()) / "steps.json"
    said = name.replace("HOME", str(home))
    assert said in steps.read_text() or not said.endswith(".o")
    for top in ("kernel", "here", str(home).lstrip("/")):
        put(world, f"{top}/Makefile", "obj-y += again.o\n")
    put(world, "x.c", "int x;\n")
    put(world, f"{str(home).lstrip('/')}/x.c", "int x;\n")
    world.build(world.request(incremental=True))
    assert fingerprint(home) == was


def test_a_config_link_left_behind_is_replaced_not_written_through(world: World, home: Path) -> None:
    world.build(world.request(incremental=True))
    (folder,) = (entry.path for entry in world.cache.entries() if entry.kind == build_folders.KIND)
    (folder / "build/.config").unlink()
    (folder / "build/.config").symlink_to(home / ".bashrc")
    was = fingerprint(home)
    put(world, "kernel/fork.c", "int fork = 1;\n")
    world.build(world.request(incremental=True))
    assert fingerprint(home) == was
    assert not (folder / "build/.config").is_symlink()


def test_a_tree_that_makes_no_release_at_all(world: World) -> None:
    after_all(world, "rm include/config/kernel.release")
    with pytest.raises(HarnessError, match=r"left no include/config/kernel\.release"):
        world.build()
