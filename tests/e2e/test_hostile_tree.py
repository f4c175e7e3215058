# SPDX-License-Identifier: GPL-2.0-only
"""Trees whose Makefile attacks whoever builds them, really built: nothing outside the build folder is read or changed.

None of them is a kernel, so no run passes; what is asserted is that each ends in one line and harms nobody.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import hostile
from tests.e2e.command import Done, Kharness
from tests.e2e.test_host import needs_root, tight

SECRET = "the key of the house"


def full(attack: str) -> Any:
    """A further attack of the same kind: only of the long run."""
    return pytest.param(attack, marks=pytest.mark.full)


@pytest.fixture
def home(kharness: Kharness) -> Iterator[Path]:
    """What a user has; the name is as long as it is for each path to be a word of shell. It may not change."""
    folder = kharness.cwd / "precious"
    (folder / "documents").mkdir(parents=True)
    (folder / "key").write_text(SECRET)
    (folder / "documents/thesis.c").write_text(SECRET)
    with (folder / "endless").open("w") as file:
        file.truncate(100 << 30)
    before = state(folder)
    yield folder
    assert state(folder) == before, "something of the user's was changed"


def state(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every file: its inode, its mode, and what is in it or how long it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        seen = path.lstat()
        short = path.is_file() and seen.st_size < 1 << 20
        found[str(path)] = (seen.st_ino, seen.st_mode, path.read_text() if short else str(seen.st_size))
    return found


def built(kharness: Kharness, attack: str, *, name: str = "tree", before: tuple[str, ...] = ()) -> Done:
    """A run on a tree with this attack: it ends by itself, and never well."""
    tree = hostile.tree(kharness.cwd / name, attack)
    done = kharness.start("run", "--arch", hostile.ARCH, "--tree", str(tree), before=before).finish(300)
    assert done.status in (1, 2, 3, 4), done.stderr
    assert "Traceback" not in done.stderr and "kharness itself failed" not in done.stderr, done.stderr
    return done


def everywhere(done: Done) -> str:
    """All that a run has said, and written to its results."""
    files = [path for path in (done.cwd / "out").rglob("*") if path.is_file()]
    return "\n".join((done.stdout, done.stderr, *(path.read_text(errors="replace") for path in files)))


@pytest.mark.parametrize("stage", [full("tinyconfig"), full("olddefconfig"), "build"])
def test_links_to_what_the_user_has(kharness: Kharness, passed: Done, home: Path, stage: str) -> None:
    """Everything that is read or taken from the build folder is a link to a file of the user's, or to a folder."""
    names = ".config objects vmlinux System.map Module.symvers include/config/kernel.release arch/x86/boot/bzImage"
    attack = f"""
[ "$1" = {stage} ] || exit 0
mkdir -p include/config arch/x86/boot
for name in {names}; do ln -sfn {home}/key $name; done
ln -sfn {home}/documents extmod
ln -sfn {home}/documents kernel
echo '  CC      kernel/fork.o; touch {home}/run #.o'
"""
    done = built(kharness, attack)
    assert SECRET not in everywhere(done)


@pytest.mark.parametrize(
    "attack",
    [
        "rm -f vmlinux; mkfifo vmlinux",
        full("rm -f include/config/kernel.release; mkfifo include/config/kernel.release"),
        full("rm -f .config; mkfifo .config"),
        "ln -sfn {home}/endless arch/x86/boot/bzImage",
        full("rm -f objects; mkfifo objects"),
        full("rm -f vmlinux; truncate -s 100G vmlinux"),
        "rm -f include/config/kernel.release; truncate -s 100G include/config/kernel.release",
        full("rm -rf include; ln -sfn . include"),
        full("rm -f Module.symvers; mkdir Module.symvers"),
        full("chmod 0 . include vmlinux"),
    ],
    ids=[
        "fifo",
        "fifo-release",
        "fifo-config",
        "endless",
        "fifo-objects",
        "sparse",
        "sparse-release",
        "loop",
        "folder",
        "modes",
    ],
)
def test_files_that_are_none(kharness: Kharness, passed: Done, home: Path, attack: str) -> None:
    """Nothing is waited for that nobody writes, and nothing is read that has no end."""
    done = built(kharness, f'[ "$1" = build ] && {{ {attack.replace("{home}", str(home))}; }}; exit 0')
    assert done.seconds < 120


@pytest.fixture
def listener() -> Iterator[tuple[int, list[str]]]:
    """A service of this machine's that listens on the loopback; who came is shown."""
    came: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return  # closed: the test is over
                came.append(str(address))
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_no_network(kharness: Kharness, passed: Done, listener: tuple[int, list[str]]) -> None:
    """The build reaches neither what listens on this machine nor an abstract socket."""
    port, came = listener
    attack = f"""
perl -MIO::Socket::INET -e 'exit !IO::Socket::INET->new("127.0.0.1:{port}")' && echo "error: REACHED the network" >&2
(ip link || cat /proc/net/dev) | grep -c . | sed 's/^/lines of interfaces: /' >&2
exit 1
"""
    done = built(kharness, attack)
    assert not came
    assert "REACHED" not in everywhere(done)


def test_no_privileges(kharness: Kharness, passed: Done, cache: Path) -> None:
    """As root or not: no capability, nothing outside can be mounted anew, written, or killed."""
    poison = "usr/bin/kharness-poison"
    attack = f"""
grep -E '^Cap(Eff|Bnd):|^NoNewPrivs:' /proc/self/status | sed 's/^/error: /' >&2
mount -o remount,rw,bind / 2>/dev/null
mount -t tmpfs tmpfs /mnt 2>/dev/null && echo 'error: MOUNTED' >&2
touch /{poison} 2>/dev/null && echo 'error: WRITTEN' >&2
unshare -Ur true 2>/dev/null && echo 'error: NESTED' >&2
ls /dev | grep -E '^(sd|vd|nvme|loop[0-9]|kmsg|mem)' | sed 's/^/error: DEVICE /' >&2
kill -9 -1
exit 1
"""
    done = built(kharness, attack)
    said = everywhere(done)
    for word in ("MOUNTED", "WRITTEN", "NESTED", "DEVICE"):
        assert f"error: {word}" not in said
    assert not list((cache / "toolchain").glob(f"*/root/{poison}"))


def test_what_one_tree_leaves_the_next_does_not_run(kharness: Kharness, passed: Done, cache: Path) -> None:
    """Programs and settings that a build leaves in ccache's folder are not those of the next tree's build."""
    attack = """
for folder in /ccache /ccache/compilers /ccache/own /compilers /tmp/ccache; do
    for name in ld sh make pahole nm gcc perl; do
        rm -f $folder/$name
        printf '#!/bin/sh\\necho "error: POISONED" >&2\\nexit 1\\n' > $folder/$name && chmod 755 $folder/$name
    done
    rm -f $folder/ccache.conf
    echo 'prefix_command = /ccache/ld' > $folder/ccache.conf
done 2>/dev/null
exit 1
"""
    built(kharness, attack, name="one")
    after = """
for name in ld sh make pahole nm gcc perl; do $name --version >/dev/null; done
echo 'int x;' > /tmp/x.c && gcc -c -o /tmp/x.o /tmp/x.c || echo 'error: NO COMPILER' >&2
exit 1
"""
    said = everywhere(built(kharness, after, name="other"))
    assert "POISONED" not in said
    assert "NO COMPILER" not in said


@pytest.mark.parametrize(
    "flood",
    [
        full("yes '  CC      a.o' | head -c 300000000"),
        "head -c 300000000 /dev/zero | tr '\\0' x",
        full("head -c 300000000 /dev/zero"),
    ],
    ids=["lines", "no-newline", "zeros"],
)
def test_make_that_prints_without_end(kharness: Kharness, passed: Done, flood: str) -> None:
    """300 MB of output: the run ends, with little memory."""
    limit = 1 << 20  # KiB of address space for the harness itself, its children excepted
    done = built(
        kharness,
        f'[ "$1" = build ] && {{ {flood}; exit 1; }}; exit 0',
        before=("prlimit", f"--data={limit * 1024}", "--"),
    )
    assert done.seconds < 240
    assert sum(path.stat().st_size for path in (done.cwd / "out").rglob("*") if path.is_file()) < 64 << 20


def test_what_make_says_reaches_no_terminal(kharness: Kharness, passed: Done) -> None:
    """Escapes that set a terminal's title or its clipboard, and commands of a CI's runner."""
    attack = r"""
printf 'kernel/fork.c:1:2: error: \033]52;c;ZXZpbA==\007\033[31m \342\200\256 bad\n' >&2
printf '##vso[task.setvariable variable=PATH]/evil\n::add-mask::x\n' >&2
exit 1
"""
    done = built(kharness, attack)
    for said in (done.stdout, done.stderr):
        assert not [c for c in said if ord(c) < 32 and c not in "\n\t"]
        assert "\u202e" not in said
        assert not [line for line in said.splitlines() if line.startswith(("##vso", "::add-mask"))]


@needs_root
@pytest.mark.parametrize("place_of", ["/build", full("/ccache/own")], ids=["build", "ccache"])
def test_disk_full_while_building(kharness: Kharness, passed: Done, cache: Path, place_of: str) -> None:
    """The build folder or ccache's is on a file system of 300 MB that the build fills: the host's fault, with its name."""
    attack = f'[ "$1" = build ] || exit 0; dd if=/dev/zero of={place_of}/fill bs=1M || exit 1'
    whole = ("toolchain", "guest")
    done = built(kharness, attack, before=tuple(tight(cache, kharness.cwd.parent, "300m", kinds=whole))).expect(4)
    assert "space" in done.error


def test_the_same_tree_without_an_attack_gets_further(kharness: Kharness, passed: Done) -> None:
    """All these trees are configured and built up to where a kernel is needed: the attacks were carried out."""
    mark = "error: HERE"
    for stage in ("tinyconfig", "olddefconfig", "build", "extmod"):
        done = built(kharness, f'[ "$1" != {stage} ] || {{ echo "{mark} $1" >&2; exit 1; }}', name=stage)
        assert f"{mark} {stage}" in everywhere(done), stage
