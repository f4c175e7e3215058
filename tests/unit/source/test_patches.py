# SPDX-License-Identifier: GPL-2.0-only
"""Tests of patches: what is taken as one, what it does to a snapshot, what is said when it does not apply."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest

from harness.core.errors import Exit, UsageError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.source import series
from harness.source.changed import changed
from harness.source.local import snapshot
from harness.source.patched import apply

from . import kernel_trees as trees

CORE = "".join(f"int line_{number};\n" for number in range(1, 41))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = trees.git_tree(tmp_path / "linux")
    (folder / "kernel/sched/core.c").write_text(CORE)
    trees.git(folder, "commit", "-q", "-a", "-m", "longer")
    return folder


def patch_of(tree: Path, to: Path, *edits: tuple[str, str], name: str = "1.patch", subject: str = "a change") -> Path:
    """A patch as git format-patch writes it, of replacing text in core.c; the tree is left as it was."""
    core = tree / "kernel/sched/core.c"
    text = core.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    core.write_text(text)
    trees.git(tree, "commit", "-q", "-a", "-m", subject)
    to.mkdir(exist_ok=True)
    (to / name).write_text(trees.git(tree, "format-patch", "-1", "--stdout") + "\n")
    trees.git(tree, "reset", "-q", "--hard", "HEAD^")
    return to / name


def applied(tree: Path, cache: Cache, progress: Progress, *patches: Path) -> Path:
    base = snapshot(tree, cache, progress)
    return apply(base, series.read(map(str, patches)), cache, progress).path


def test_a_patch_changes_its_file_and_the_base_stays(
    tree: Path, tmp_path: Path, cache: Cache, progress: Progress
) -> None:
    patch = patch_of(tree, tmp_path / "p", ("line_20", "line_twenty"))
    before = trees.fingerprint(tree)
    base = snapshot(tree, cache, progress)
    was = trees.fingerprint(base.path)
    patched = apply(base, series.read([str(patch)]), cache, progress)
    assert "line_twenty" in (patched.path / "kernel/sched/core.c").read_text()
    assert (base.path / "kernel/sched/core.c").read_text() == CORE
    assert {k: v[:2] + v[4:] for k, v in trees.fingerprint(base.path).items()} == {
        k: v[:2] + v[4:] for k, v in was.items()
    }
    assert trees.fingerprint(tree) == before
    assert patched.tree != base.tree
    assert patched.patches == ("a change",)
    assert os.access(patched.path / "scripts/tool.sh", os.X_OK)


def test_the_key_is_the_content_not_the_words(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    base = snapshot(tree, cache, progress)
    whole = patch_of(tree, tmp_path / "p", ("line_2;", "two;"), ("line_30", "thirty"))
    reworded = patch_of(tree, tmp_path / "q", ("line_2;", "two;"), ("line_30", "thirty"), subject="said better")
    one = patch_of(tree, tmp_path / "r", ("line_2;", "two;"), name="1.patch")
    two = patch_of(tree, tmp_path / "r", ("line_30", "thirty"), name="2.patch")
    keys = {
        apply(base, series.read(given), cache, progress).tree
        for given in ([str(whole)], [str(reworded)], [str(one), str(two)], [str(tmp_path / "r")])
    }
    assert len(keys) == 1


def test_lines_that_moved_are_said(
    tree: Path, tmp_path: Path, cache: Cache, progress: Progress, said: io.StringIO
) -> None:
    patch = patch_of(tree, tmp_path / "p", ("line_30", "thirty"))
    (tree / "kernel/sched/core.c").write_text("int before;\n" * 3 + CORE)
    applied(tree, cache, progress, patch)
    assert "hunk 1 at line 30 (offset 3 lines)" in said.getvalue()


def test_what_does_not_apply_names_patch_file_and_hunk(
    tree: Path, tmp_path: Path, cache: Cache, progress: Progress
) -> None:
    patch = patch_of(tree, tmp_path / "p", ("line_2;", "two;"), ("line_30", "thirty"))
    (tree / "kernel/sched/core.c").write_text(CORE.replace("line_31", "other"))
    with pytest.raises(UsageError) as caught:
        applied(tree, cache, progress, patch)
    assert caught.value.exit is Exit.USAGE
    assert "patch 1 of 1, 'a change', does not apply" in caught.value.what
    assert "kernel/sched/core.c, hunk 2 of 2 at line 27" in caught.value.what
    assert "\n" not in caught.value.line()


def test_a_patch_that_is_in_already(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    patch = patch_of(tree, tmp_path / "p", ("line_20", "twenty"))
    subprocess.run(["git", "apply", str(patch)], cwd=tree, check=True)
    with pytest.raises(UsageError) as caught:
        applied(tree, cache, progress, patch)
    assert "it is already in" in caught.value.step


def test_the_second_of_a_series_is_named(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    patch_of(tree, tmp_path / "p", ("line_20", "twenty"), name="0001-a.patch")
    patch_of(tree, tmp_path / "p", ("line_20", "zwanzig"), name="0002-b.patch", subject="clashes")
    with pytest.raises(UsageError, match="patch 2 of 2, 'clashes'"):
        applied(tree, cache, progress, tmp_path / "p")


def test_a_file_that_moved_is_pointed_at(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    patch = patch_of(tree, tmp_path / "p", ("line_20", "twenty"))
    (tree / "kernel/sched/sub").mkdir()
    (tree / "kernel/sched/core.c").rename(tree / "kernel/sched/sub/core.c")
    with pytest.raises(UsageError, match=r"no such file \(there is kernel/sched/sub/core.c\)"):
        applied(tree, cache, progress, patch)


def test_files_made_renamed_and_removed(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    (tree / "kernel/sched/new.sh").write_text("#!/bin/sh\n")
    (tree / "kernel/sched/new.sh").chmod(0o755)
    trees.git(tree, "mv", "kernel/sched/core.c", "kernel/sched/moved.c")
    trees.git(tree, "rm", "-q", "Kbuild")
    trees.git(tree, "add", "-A")
    trees.git(tree, "commit", "-q", "-m", "moves")
    patch = tmp_path / "1.patch"
    patch.write_text(trees.git(tree, "format-patch", "-1", "-M", "--stdout") + "\n")
    (tree / "Kbuild").write_text("")  # a kernel tree has one
    trees.git(tree, "reset", "-q", "--hard", "HEAD^")
    base = snapshot(tree, cache, progress)
    with pytest.raises(UsageError, match="it has no Kbuild"):
        apply(base, series.read([str(patch)]), cache, progress)
    patch.write_text("".join(p for p in [patch.read_text()]).replace("Kbuild", "Kconfig2"))
    (tree / "Kconfig2").write_text(trees.FILES["Kbuild"])
    made = applied(tree, cache, progress, patch)
    assert os.access(made / "kernel/sched/new.sh", os.X_OK)
    assert (made / "kernel/sched/moved.c").read_text() == CORE
    assert not (made / "kernel/sched/core.c").exists()
    assert not (made / "Kconfig2").exists()


def test_mails_mailboxes_and_cover_letters(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    core = tree / "kernel/sched/core.c"
    for number in (5, 35):
        core.write_text(core.read_text().replace(f"line_{number};", f"zeile_{number}; /* \u00e4 */"))
        trees.git(tree, "commit", "-q", "-a", "-m", f"change {number}")
    box = tmp_path / "thread.mbox"
    box.write_text(trees.git(tree, "format-patch", "-2", "--cover-letter", "--stdout") + "\n")
    trees.git(tree, "reset", "-q", "--hard", "HEAD~2")
    patches = series.read([str(box)])
    assert [patch.name for patch in patches] == ["change 5", "change 35"]
    assert "zeile_35; /* \u00e4 */" in (applied(tree, cache, progress, box) / "kernel/sched/core.c").read_text()


def test_a_quoted_printable_mail_with_dos_lines(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    patch = patch_of(tree, tmp_path / "p", ("line_20;", "x = 1;"))
    head, _, body = patch.read_text().partition("\n\n")
    head = (
        head.partition("\n")[2]
        + "\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable"
    )
    patch.write_bytes(f"{head}\n\n{body.replace('=', '=3D')}".replace("\n", "\r\n").encode())
    assert "int x = 1;" in (applied(tree, cache, progress, patch) / "kernel/sched/core.c").read_text()


def test_a_quilt_series_has_its_own_order(tree: Path, tmp_path: Path) -> None:
    patch_of(tree, tmp_path / "p", ("line_2;", "two;"), name="z.patch", subject="first")
    patch_of(tree, tmp_path / "p", ("line_30", "thirty"), name="a.patch", subject="second")
    (tmp_path / "p/series").write_text("# quilt\nz.patch\na.patch -p1 # last\n\n")
    assert [patch.name for patch in series.read([str(tmp_path / "p")])] == ["first", "second"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Dear all,\nthis is no patch.\n", "no diff in it"),
        ("--- a/kernel/fork.c\n+++ b/kernel/fork.c\n@@ -1,9 +1,9 @@\n int a;\nlost its blank\n-b\n+c\n", "is damaged"),
        ("", "no diff in it"),
    ],
)
def test_what_is_no_patch(tmp_path: Path, text: str, shown: str) -> None:
    (tmp_path / "x.patch").write_text(text)
    with pytest.raises(UsageError, match=shown):
        series.read([str(tmp_path / "x.patch")])


def test_missing_and_empty_places(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the patch .*none.patch: No such file"):
        series.read([str(tmp_path / "none.patch")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no patch in this folder"):
        series.read([str(tmp_path / "empty")])


def test_a_patch_cannot_leave_the_tree(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    patch = tmp_path / "evil.patch"
    patch.write_text("--- /dev/null\n+++ b/../../escaped\n@@ -0,0 +1 @@\n+here\n")
    with pytest.raises(UsageError, match="does not apply"):
        applied(tree, cache, progress, patch)
    assert not list(tmp_path.rglob("escaped"))


def test_changed_lines_are_those_of_the_new_file(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    patch = patch_of(tree, tmp_path / "p", ("int line_20;\n", ""), ("int line_30;\n", "int a;\nint b;\n"))
    base = snapshot(tree, cache, progress)
    patched = apply(base, series.read([str(patch)]), cache, progress)
    assert changed(base.path, patched.path) == {"kernel/sched/core.c": (20, 29, 30)}
    assert changed(base.path, base.path) == {}
    other = snapshot(tree, cache, progress, "HEAD~1")
    found = changed(other.path, base.path)
    assert found.keys() == {"kernel/sched/core.c"} and found["kernel/sched/core.c"] == tuple(range(1, 41))
    (tree / "scripts/tool.sh").unlink()
    (tree / "scripts/new").write_text("one\n")
    assert changed(base.path, snapshot(tree, cache, progress).path) == {"scripts/new": (1,), "scripts/tool.sh": ()}


# --- revisions ------------------------------------------------------------------------------


def test_a_revision_is_what_its_commit_holds(tree: Path, cache: Cache, progress: Progress) -> None:
    (tree / "kernel/sched/core.c").write_text("int edited;\n")
    (tree / "kernel/sched/untracked.c").write_text("int untracked;\n")
    before = trees.fingerprint(tree)
    old = snapshot(tree, cache, progress, "HEAD~1")
    assert trees.contents(old.path) == dict(trees.FILES)
    assert (old.commit, old.dirty) == (trees.git(tree, "rev-parse", "HEAD~1"), False)
    assert trees.fingerprint(tree) == before
    now = snapshot(tree, cache, progress)
    assert now.dirty
    assert "int edited;\n" in trees.contents(now.path).values()


@pytest.mark.parametrize("revision", ["v9.9", "HEAD~7", "--all", "HEAD:Makefile"])
def test_an_unknown_revision(tree: Path, cache: Cache, progress: Progress, revision: str) -> None:
    with pytest.raises(UsageError, match="has no revision"):
        snapshot(tree, cache, progress, revision)


def test_a_plain_folder_has_no_revision(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    folder = trees.write_tree(tmp_path / "plain")
    with pytest.raises(UsageError, match="is no git tree"):
        snapshot(folder, cache, progress, "HEAD")


def test_a_bare_clone_has_revisions_too(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    trees.git(tmp_path, "clone", "-q", "--bare", str(tree), "repo.git")
    assert trees.contents(snapshot(tmp_path / "repo.git", cache, progress, "HEAD~1").path) == dict(trees.FILES)
