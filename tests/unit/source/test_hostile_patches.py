# SPDX-License-Identifier: GPL-2.0-only
"""Tests of patches that would write, read or delete elsewhere, and of what git does with one: ours is the same, or said."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import HarnessError, UsageError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.source import patched, series
from harness.source.diffs import Patch, unquoted
from harness.source.local import snapshot
from harness.source.tree import Tree

from . import kernel_trees as trees

CORE = """\
diff --git a/kernel/sched/core.c b/kernel/sched/core.c
--- a/kernel/sched/core.c
+++ b/kernel/sched/core.c
@@ -1 +1,2 @@
 int core;
+int more;
"""
LINKS = "scripts/dtc/include-prefixes/arm64"
"""A link that every kernel tree has."""


def new(path: str, text: str = "evil\n", mode: str = "100644") -> str:
    """A diff that adds a file of one line, or a link."""
    ends = "" if text.endswith("\n") else "\n\\ No newline at end of file\n"
    head = f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n"
    return f"{head}@@ -0,0 +1 @@\n+{text}{ends}"


def gone(path: str, text: str = "evil\n", mode: str = "100644") -> str:
    """The reverse of :func:`new`."""
    ends = "" if text.endswith("\n") else "\n\\ No newline at end of file\n"
    head = f"diff --git a/{path} b/{path}\ndeleted file mode {mode}\n--- a/{path}\n+++ /dev/null\n"
    return f"{head}@@ -1 +0,0 @@\n-{text}{ends}"


def link(path: str, target: object) -> str:
    return new(path, str(target), "120000")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of the user's, beside all else."""
    home = tmp_path / "home"
    (home / "deep").mkdir(parents=True)
    for name in ("authorized_keys", "x", "deep/x"):
        (home / name).write_text("mine\n")
        os.utime(home / name, (1, 1))
    return home


@pytest.fixture
def base(tmp_path: Path) -> Tree:
    """A snapshot with a link to a folder, as Linux has."""
    folder = trees.write_tree(tmp_path / "base")
    (folder / "arch/arm64/boot/dts").mkdir(parents=True)
    (folder / "arch/arm64/boot/dts/Makefile").write_text("x\n")
    (folder / LINKS).parent.mkdir(parents=True)
    (folder / LINKS).symlink_to("../../../arch/arm64/boot/dts")
    (folder / "kernel/old.c").write_text("old\n")
    return tree_of(folder)


def tree_of(folder: Path) -> Tree:
    return Tree(folder, "ab" * 20, "", False, "base", "7.2.13")


def listing(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Files and links, as git sees them."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", os.fsencode(os.readlink(path)))
        elif path.is_file():
            found[name] = (
                "program" if os.access(path, os.X_OK) and path.stat().st_mode & 0o100 else "file",
                path.read_bytes(),
            )
    return {name: shown for name, shown in found.items() if not name.startswith(".git/")}


def applied(base: Tree, folder: Path, cache: Cache, progress: Progress, *diffs: str | bytes) -> Path:
    places = []
    for number, diff in enumerate(diffs, 1):
        place = folder / f"{number}.patch"
        place.write_bytes(diff if isinstance(diff, bytes) else diff.encode("utf-8", "surrogateescape"))
        places.append(str(place))
    return patched.apply(base, series.read(places), cache, progress).path


def by_git(base: Tree, folder: Path, *diffs: str | bytes) -> dict[str, tuple[str, bytes]] | None:
    """What git makes of a copy of the whole tree; None where it refuses."""
    work = folder / "by-git"
    subprocess.run(["cp", "-a", str(base.path), str(work)], check=True)
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder), "GIT_CONFIG_GLOBAL": "/dev/null"}
    for diff in diffs:
        given = diff if isinstance(diff, bytes) else diff.encode("utf-8", "surrogateescape")
        argv = ["git", "apply", "--whitespace=nowarn", "-"]
        if subprocess.run(argv, cwd=work, input=given, env=env, capture_output=True, check=False).returncode:
            return None
    return listing(work)


# --- through links ------------------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [True, False])
def test_a_patch_does_not_write_through_the_links_that_a_tree_has(
    base: Tree, home: Path, tmp_path: Path, cache: Cache, progress: Progress, absolute: bool
) -> None:
    target = home if absolute else os.path.relpath(home, base.path / "arch/arm64/boot/dts")
    evil = link("arch/arm64/boot/dts/evil", target) + new(f"{LINKS}/evil/authorized_keys")
    was, before = trees.fingerprint(home), trees.fingerprint(base.path)
    shown = rf"patch 1 of 1, '1\.patch': {LINKS}/evil/authorized_keys leads through the link {LINKS}"
    with pytest.raises(UsageError, match=shown):
        applied(base, tmp_path, cache, progress, evil)
    with pytest.raises(UsageError, match=r"patch 2 of 2, '2\.patch': .* leads through the link"):
        applied(base, tmp_path, cache, progress, link("arch/arm64/boot/dts/evil", target), new(f"{LINKS}/evil/x"))
    assert trees.fingerprint(home) == was and trees.fingerprint(base.path) == before


@pytest.mark.parametrize(
    "diffs",
    [
        [link("foo", "HOME"), new("foo/authorized_keys")],
        [link("foo", "HOME") + new("foo/authorized_keys")],
        [new("foo/authorized_keys") + link("foo", "HOME")],
        [link("foo", "HOME"), gone("foo/authorized_keys", "mine\n")],
        [link("foo", "HOME"), gone("foo/deep/x", "mine\n")],
        [link("foo", "HOME"), gone("foo/x", "mine\n") + gone("foo", "HOME", "120000")],
        [link("foo", "HOME"), "diff --git a/foo/x b/foo/x\n--- a/foo/x\n+++ b/foo/x\n@@ -1 +1 @@\n-mine\n+evil\n"],
        [link("foo", "HOME"), "diff --git a/foo/x b/y\nsimilarity index 100%\nrename from foo/x\nrename to y\n"],
        [link("foo", "HOME"), "diff --git a/foo/x b/y\nsimilarity index 100%\ncopy from foo/x\ncopy to y\n"],
        [link("foo", "HOME"), "diff --git a/foo/x b/foo/x\nold mode 100644\nnew mode 100755\n"],
        [link("foo", ".") + link("bar", "HOME"), new("foo/bar/authorized_keys")],
        [
            link("foo", "HOME"),
            "diff --git a/foo b/bar\nsimilarity index 100%\nrename from foo\nrename to bar\n" + new("bar/x"),
        ],
    ],
)
def test_a_series_does_not_go_through_links_that_it_makes(
    base: Tree, home: Path, tmp_path: Path, cache: Cache, progress: Progress, diffs: list[str]
) -> None:
    was = trees.fingerprint(home)
    with pytest.raises(
        UsageError, match=r"patch [12] of [12], '[12]\.patch'.*(leads through|does not apply)"
    ) as raised:
        applied(base, tmp_path, cache, progress, *(diff.replace("HOME", str(home)) for diff in diffs))
    assert "\n" not in raised.value.line()
    assert trees.fingerprint(home) == was


def test_a_folder_that_becomes_a_link_reads_and_touches_nothing_there(
    base: Tree, home: Path, tmp_path: Path, cache: Cache, progress: Progress
) -> None:
    """As git has it: the files go, the link comes, and what lies behind it is no part of the tree."""
    was = trees.fingerprint(home)
    made = applied(base, tmp_path, cache, progress, new("foo/x", "y\n"), gone("foo/x", "y\n") + link("foo", home))
    assert os.readlink(made / "foo") == str(home)
    assert trees.fingerprint(home) == was
    assert listing(made) == by_git(base, tmp_path, new("foo/x", "y\n"), gone("foo/x", "y\n") + link("foo", home))


@pytest.mark.parametrize(
    "diffs",
    [
        [link("foo", "../elsewhere") + new("bar/x")],
        [link("foo", "/etc"), gone("foo", "/etc", "120000") + new("foo/passwd")],
        [gone("kernel/old.c", "old\n") + new("kernel/old.c/inner")],
        [
            gone("kernel/sched/core.c", "int core;\n")
            + gone("kernel/old.c", "old\n")
            + new("kernel/other")
            + new("kernel/sched/z")
        ],
        [gone("arch/arm64/boot/dts/Makefile", "x\n") + new("arch/arm64", "file\n")],
        [gone("arch/arm64/boot/dts/Makefile", "x\n"), link("arch", "/")],
        [gone(LINKS, "../../../arch/arm64/boot/dts", "120000") + new(f"{LINKS}/real")],
        [
            f"diff --git a/{LINKS} b/{LINKS}\n--- a/{LINKS}\n+++ b/{LINKS}\n@@ -1 +1 @@\n-../../../arch/arm64/boot/dts\n"
            "\\ No newline at end of file\n+/etc\n\\ No newline at end of file\n"
        ],
    ],
)
def test_files_folders_and_links_take_each_others_place(
    base: Tree, home: Path, tmp_path: Path, cache: Cache, progress: Progress, diffs: list[str]
) -> None:
    want = by_git(base, tmp_path, *diffs)
    assert want is not None
    assert listing(applied(base, tmp_path, cache, progress, *diffs)) == want


@pytest.mark.parametrize(
    ("diff", "shown"),
    [
        (new("kernel/old.c/inner"), "kernel/old.c/inner leads through the file kernel/old.c"),
        (new("kernel", "file\n"), "kernel is a folder, with kernel/"),
        (link("kernel/sched", "/"), "kernel/sched is a folder, with kernel/sched/core.c in it"),
        (gone("kernel/sched/core.c", "int core;\n") + new("kernel"), "kernel is a folder, with kernel/old.c in it"),
        (new("a" * 300), "is a path that is too long"),
        (new("/".join(["d"] * 140)), "is a path that is too long or too deep"),
        (
            new("d" * 200 + "/" + "e" * 200 + "/" + "f" * 200 + "/" + "g" * 200 + "/" + "h" * 250),
            "is a path that is too long",
        ),
        (new("sub", "Subproject commit " + "a" * 40 + "\n", "160000"), "make sub a submodule"),
    ],
)
def test_what_no_tree_can_hold_is_named(
    base: Tree, tmp_path: Path, cache: Cache, progress: Progress, diff: str, shown: str
) -> None:
    with pytest.raises(UsageError, match=shown):
        applied(base, tmp_path, cache, progress, CORE + diff)


@pytest.mark.parametrize(
    "name",
    ["../../evil", "/tmp/evil", ".git/hooks/x", ".GIT/config", "git~1/config", ".g\u200cit/config", "a/./b", "a/../b"],
)
def test_names_that_lead_out_or_to_git(base: Tree, tmp_path: Path, cache: Cache, progress: Progress, name: str) -> None:
    with pytest.raises(UsageError, match=r"does not apply|leave base as it is") as raised:
        applied(base, tmp_path, cache, progress, CORE + new(name))
    assert "\n" not in raised.value.line()


def test_a_makefile_that_becomes_a_link_out_of_the_tree(
    base: Tree, home: Path, tmp_path: Path, cache: Cache, progress: Progress
) -> None:
    (home / "Makefile").write_text("VERSION = 9\nPATCHLEVEL = 9\n")
    made = trees.FILES["Makefile"]
    lines = "".join(f"-{line}\n" for line in made.splitlines())
    diff = f"diff --git a/Makefile b/Makefile\ndeleted file mode 100644\n--- a/Makefile\n+++ /dev/null\n@@ -1,6 +0,0 @@\n{lines}"
    with pytest.raises(UsageError, match="its Makefile is a link that leads out of its folder"):
        applied(base, tmp_path, cache, progress, diff + link("Makefile", home / "Makefile"))


def test_a_link_and_a_program_of_its_text_are_two_trees(
    base: Tree, tmp_path: Path, cache: Cache, progress: Progress
) -> None:
    one = applied(base, tmp_path, cache, progress, link("tool", "/bin/true"))
    other = applied(base, tmp_path, cache, progress, new("tool", "/bin/true", "100755"))
    assert one != other and (one / "tool").is_symlink() and not (other / "tool").is_symlink()


def test_a_bomb_is_not_taken(
    base: Tree, tmp_path: Path, cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = trees.git_tree(tmp_path / "linux")
    (repository / "bomb").write_bytes(b"\0" * (70 << 20))
    trees.git(repository, "add", "bomb")
    diff = trees.git(repository, "diff", "--cached", "--binary") + "\n\n"
    assert len(diff) < 1 << 20
    with pytest.raises(UsageError, match="bomb, which a patch touches, has 73400320 bytes"):
        applied(base, tmp_path, cache, progress, CORE + diff)


# --- as git has it --------------------------------------------------------------------------------

NUL = "diff --git a/kernel/bin b/kernel/bin\nnew file mode 100644\nindex 0000000000000000000000000000000000000000.."
CASES: Mapping[str, str] = {
    "new empty file": "diff --git a/kernel/e.h b/kernel/e.h\nnew file mode 100644\nindex 000000000000..e69de29bb2d1\n",
    "pure rename": "diff --git a/kernel/old.c b/kernel/new.c\nsimilarity index 100%\nrename from kernel/old.c\nrename to kernel/new.c\n",
    "pure copy": "diff --git a/kernel/old.c b/kernel/new.c\nsimilarity index 100%\ncopy from kernel/old.c\ncopy to kernel/new.c\n",
    "mode change": "diff --git a/Kbuild b/Kbuild\nold mode 100644\nnew mode 100755\n",
    "quoted name": 'diff --git "a/kernel/\\303\\251.h" "b/kernel/\\303\\251.h"\nnew file mode 100644\n--- /dev/null\n'
    '+++ "b/kernel/\\303\\251.h"\n@@ -0,0 +1 @@\n+x\n',
    "quoted, empty": 'diff --git "a/kernel/\\303\\251.h" "b/kernel/\\303\\251.h"\nnew file mode 100644\nindex 000000000000..e69de29bb2d1\n',
    "quoted rename": 'diff --git a/kernel/old.c "b/kernel/\\303\\251\\t\\".c"\nsimilarity index 100%\nrename from kernel/old.c\n'
    'rename to "kernel/\\303\\251\\t\\".c"\n',
    "newline": 'diff --git "a/kernel/a\\nb" "b/kernel/a\\nb"\nnew file mode 100644\n--- /dev/null\n+++ "b/kernel/a\\nb"\n@@ -0,0 +1 @@\n+x\n',
    "blank": new("kernel/a b.h").replace("+++ b/kernel/a b.h", "+++ b/kernel/a b.h\t"),
    "timestamps": "--- linux.orig/Kbuild\t2026-01-01 00:00:00\n+++ linux/Kbuild\t2026-01-01\n@@ -1 +1,2 @@\n obj-y += kernel/\n+#\n",
    "after a signature": "-- \n2.39\n\n" + new("kernel/late.h"),
    "doubled slash": new("kernel//double.h"),
    "binary": f"{NUL}e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\nGIT binary patch\nliteral 1\nIcmZPo000310RR91\n\nliteral 0\nHcmV?d00001\n\n",
    "deletes the only file of folders": gone("arch/arm64/boot/dts/Makefile", "x\n"),
    "a link": link("kernel/link", "old.c"),
    "setuid": new("kernel/suid", mode="104755"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_git_does_is_what_is_tested(
    base: Tree, tmp_path: Path, cache: Cache, progress: Progress, case: str
) -> None:
    for number, diff in enumerate((CASES[case] + CORE, CORE + CASES[case])):
        (tmp_path / str(number)).mkdir()
        want = by_git(base, tmp_path / str(number), diff)
        try:
            made = listing(applied(base, tmp_path, cache, progress, diff))
        except UsageError as error:
            assert want is None, error.line()
        else:
            assert made == want


def test_quoted_names() -> None:
    assert unquoted('"a/\\303\\251\\t\\"\\\\.h"') == 'a/\u00e9\t"\\.h'
    assert unquoted('a/"b"') == 'a/"b"' and unquoted('"') == '"' and unquoted("") == ""


def test_a_name_that_is_not_utf_8_is_named(base: Tree, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    quoted = new("X").replace("a/X", '"a/\\377"').replace("b/X", '"b/\\377"')
    for diff in (quoted, new("\udcff")):
        with pytest.raises(UsageError, match="not UTF-8"):
            applied(base, tmp_path, cache, progress, CORE + diff)


def test_what_git_changed_and_nobody_named_is_an_error(
    base: Tree, tmp_path: Path, cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = patched._git

    def lying(patch: Patch, folder: Path, *options: str) -> tuple[int, str, str]:
        if not options:
            (folder / "stray").write_text("x")
        return real(patch, folder, *options)

    monkeypatch.setattr(patched, "_git", lying)
    with pytest.raises(HarnessError, match="git changed 'stray'"):
        applied(base, tmp_path, cache, progress, CORE)


def test_a_patch_of_very_many_files(base: Tree, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    count = 1000
    made = applied(base, tmp_path, cache, progress, "".join(new(f"lib/d{n % 50}/f{n}.c") for n in range(count)))
    assert sum(1 for _ in (made / "lib").rglob("*.c")) == count


# --- anything at random ----------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "kernel", "\u00e9 x", 'q"t'])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
LINES = st.lists(st.sampled_from(["one", "two", "three"]), min_size=0, max_size=12).map("\n".join)
ENTRIES = st.dictionaries(
    PATHS,
    st.one_of(
        st.tuples(st.just("file"), LINES),
        st.tuples(st.just("program"), LINES),
        st.tuples(st.just("binary"), st.binary(max_size=40).map(lambda data: "\0" + data.hex())),
        st.tuples(st.just("link"), st.sampled_from(["HOME", "..", ".", "a", "../b", "/", "b/a", "../../home"])),
    ),
    max_size=7,
)


def grown(folder: Path, entries: Mapping[str, tuple[str, str]], home: Path) -> Path:
    """A kernel tree with these entries besides, as far as they fit beside each other; in git."""
    trees.write_tree(folder)
    for path, (kind, content) in entries.items():
        place = folder / path
        above = [folder / "/".join(path.split("/")[:count]) for count in range(1, path.count("/") + 1)]
        if os.path.lexists(place) or any(one.is_symlink() or one.is_file() for one in above):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            place.symlink_to(content.replace("HOME", str(home)))
        else:
            place.write_text(content)
            place.chmod(0o755 if kind == "program" else 0o644)
    return folder


def commit(repository: Path, folder: Path) -> str:
    """The tree of a folder's content in a repository."""
    trees.git(repository, "--work-tree", str(folder), "add", "-A", "-f", ".")
    return trees.git(repository, "write-tree")


@given(
    states=st.lists(ENTRIES, min_size=2, max_size=3),
    options=st.sampled_from([(), ("-M", "-C", "--find-copies-harder")]),
)
@settings(max_examples=40, deadline=None)
def test_random_patches_give_what_git_gives_or_are_refused(
    states: list[Mapping[str, tuple[str, str]]], options: tuple[str, ...]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        for file in ("a", "b", "x"):
            (home / file).write_text("mine\n")
        repository = folder / "repository"
        repository.mkdir()
        trees.git(repository, "init", "-q", ".")
        steps = [grown(folder / f"state{number}", state, home) for number, state in enumerate(states)]
        ids = [commit(repository, step) for step in steps]
        argv = ["git", "-C", str(repository), "diff", "--binary", "--full-index", *options]
        diffs = [
            subprocess.run([*argv, one, two], check=True, capture_output=True).stdout
            for one, two in itertools.pairwise(ids)
            if one != two
        ]
        was = trees.fingerprint(home)
        base = tree_of(steps[0])
        want = by_git(base, folder, *diffs)
        try:
            made = applied(base, folder, Cache(folder / "cache", 0), Progress(None, io.StringIO()), *diffs)
        except UsageError as error:
            if want is not None and diffs and want != listing(steps[0]):
                raise AssertionError(f"refused: {error.line()} {error.detail}") from error
        else:
            assert listing(made) == want == listing(steps[-1])
        assert trees.fingerprint(home) == was


def test_a_snapshot_of_the_result_is_the_result(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    """What is patched can be taken as a tree again."""
    tree = trees.git_tree(tmp_path / "linux")
    made = applied(snapshot(tree, cache, progress), tmp_path, cache, progress, link("kernel/l", "/etc") + CORE)
    again = snapshot(made, cache, progress)
    assert listing(again.path) == listing(made)
