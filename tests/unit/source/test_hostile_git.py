# SPDX-License-Identifier: GPL-2.0-only
"""Tests of git on a repository from a stranger: no program that it names is run, nothing that it sets changes what is read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.bisect.commits import Repository
from harness.core.errors import HarnessError, UsageError
from harness.host.cache import Cache
from harness.host.process import Expired
from harness.host.progress import Progress
from harness.source import releases, repository, series
from harness.source.changed import changed
from harness.source.local import snapshot
from harness.source.patched import apply

from . import kernel_trees as trees

PROGRAMS = (
    "core.fsmonitor",
    "core.pager",
    "core.editor",
    "core.sshCommand",
    "core.gitProxy",
    "core.alternateRefsCommand",
    "core.askPass",
    "credential.helper",
    "diff.external",
    "diff.x.command",
    "diff.x.textconv",
    "filter.x.clean",
    "filter.x.smudge",
    "filter.x.process",
    "gpg.program",
    "gpg.openpgp.program",
    "gpg.x509.program",
    "gpg.ssh.program",
    "gpg.ssh.defaultKeyCommand",
    "interactive.diffFilter",
    "merge.x.driver",
    "mergetool.x.cmd",
    "difftool.x.cmd",
    "sequence.editor",
    "uploadpack.packObjectsHook",
    "remote.origin.uploadpack",
    "remote.origin.receivepack",
    "trailer.x.command",
    "trailer.x.cmd",
    "pager.log",
    "pager.show",
    "pager.diff",
    "pager.rev-list",
    "pager.cat-file",
    "pager.diff-tree",
    "pager.config",
    "pager.rev-parse",
    "browser.x.cmd",
    "man.x.cmd",
    "guitool.x.cmd",
    "web.browser",
    "sendemail.sendmailCmd",
    "imap.tunnel",
    "svn.authorsProg",
)
"""Settings that git-config(1) describes as the names of programs."""

ALIASES = ("log", "show", "rev-parse", "rev-list", "cat-file", "diff-tree", "add", "config", "merge-base", "apply")

SETTINGS = {
    "log.showSignature": "true",
    "color.ui": "always",
    "format.pretty": "fuller",
    "log.date": "relative",
    "log.decorate": "full",
    "log.showRoot": "false",
    "log.follow": "true",
    "log.diffMerges": "remerge",
    "log.mailmap": "true",
    "mailmap.file": "mailmap",
    "core.abbrev": "5",
    "core.quotePath": "false",
    "diff.noprefix": "true",
    "diff.mnemonicPrefix": "true",
    "diff.renames": "copies",
    "diff.context": "0",
    "diff.interHunkContext": "50",
    "diff.algorithm": "patience",
    "diff.orderFile": "order",
    "diff.ignoreSubmodules": "all",
    "diff.submodule": "diff",
    "diff.wordRegex": ".",
    "diff.colorMoved": "zebra",
    "diff.wsErrorHighlight": "all",
    "i18n.logOutputEncoding": "UTF-16",
    "i18n.commitEncoding": "latin1",
    "mailinfo.scissors": "true",
    "apply.whitespace": "fix",
    "apply.ignoreWhitespace": "change",
    "core.autocrlf": "true",
    "core.eol": "crlf",
    "core.safecrlf": "true",
    "core.whitespace": "cr-at-eol",
    "core.attributesFile": "attributes",
    "core.bigFileThreshold": "1",
    "core.logAllRefUpdates": "always",
    "core.warnAmbiguousRefs": "true",
    "diff.x.binary": "true",
    "diff.x.xfuncname": ".",
    "extensions.partialClone": "origin",
    "remote.origin.promisor": "true",
    "remote.origin.partialclonefilter": "blob:none",
    "fetch.recurseSubmodules": "true",
    "submodule.recurse": "true",
    "status.submoduleSummary": "true",
    "core.untrackedCache": "true",
    "index.version": "4",
    "advice.detachedHead": "true",
    "blame.ignoreRevsFile": "x",
    "grep.patternType": "perl",
    "core.splitIndex": "true",
    "trace2.normalTarget": "2",
    "feature.experimental": "true",
    "core.commentChar": "%",
    "commit.gpgSign": "true",
}
"""Settings that would change what git prints or takes."""

ATTRIBUTES = "* filter=x diff=x merge=x text eol=crlf ident export-ignore\n"
MAIL = """From 1 Mon Sep 17 00:00:00 2001
From: A <a@b>
Date: Mon, 30 Nov 2026 10:00:00 +0000
Subject: [PATCH] a change

In the body.
-- >8 --
Subject: another subject

---
diff --git a/kernel/sched/core.c b/kernel/sched/core.c
--- a/kernel/sched/core.c
+++ b/kernel/sched/core.c
@@ -1 +1,2 @@
 int core;
+int patched; \t
"""


class Trap:
    """A program that writes down that it was run, and what points there."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "ran"
        self.script = folder / "trap"
        self.script.write_text(f'#!/bin/sh\necho "$0 $*" >>{self.log}\ncat\n')
        self.script.chmod(0o755)
        for name in (
            "git-remote-trap",
            "trap",
            "ssh",
            "gpg",
            "less",
            "vi",
        ):  # also what is looked for by a name in PATH
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).symlink_to(self.script)

    def ran(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def into(self, git_dir: Path, attributes: bool = True) -> None:
        """Every setting, hook and attribute of a repository."""
        config = [
            f"[{'.'.join(name.split('.')[:1])}{self._middle(name)}]\n\t{name.split('.')[-1]} = {self.script}\n"
            for name in PROGRAMS
        ]
        config += [f"[alias]\n\t{name} = !{self.script}\n" for name in ALIASES]
        config += [
            f"[{name.split('.')[0]}{self._middle(name)}]\n\t{name.split('.')[-1]} = {value}\n"
            for name, value in SETTINGS.items()
        ]
        config += [
            '[remote "origin"]\n\turl = ext::'
            + str(self.script)
            + "\n\tvcs = trap\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
        ]
        config += [
            f'[submodule "drivers/sub"]\n\tupdate = !{self.script}\n\turl = ext::{self.script}\n\tactive = true\n'
        ]
        config += [f'[core]\n\tcheckStat = "default\\n[core]\\n\\tfsmonitor = {self.script}"\n']
        with (git_dir / "config").open("a") as file:
            file.write("".join(config))
            file.write(f"[include]\n\tpath = {git_dir}/more\n[core]\n\thooksPath = {git_dir}/hooks\n")
        (git_dir / "more").write_text(f"[core]\n\tfsmonitor = {self.script}\n[log]\n\tshowSignature = true\n")
        (git_dir / "hooks").mkdir(exist_ok=True)
        for hook in (
            "post-index-change",
            "post-checkout",
            "pre-commit",
            "reference-transaction",
            "fsmonitor-watchman",
            "pre-auto-gc",
            "applypatch-msg",
            "pre-applypatch",
            "post-applypatch",
            "post-rewrite",
            "push-to-checkout",
            "post-update",
            "update",
        ):
            (git_dir / "hooks" / hook).unlink(missing_ok=True)
            (git_dir / "hooks" / hook).symlink_to(self.script)
        if attributes:
            (git_dir / "info").mkdir(exist_ok=True)
            (git_dir / "info/attributes").write_text(ATTRIBUTES + "*.c working-tree-encoding=UTF-16\n")

    @staticmethod
    def _middle(name: str) -> str:
        middle = ".".join(name.split(".")[1:-1])
        return f' "{middle}"' if middle else ""


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    (tmp_path / "trap").mkdir()
    return Trap(tmp_path / "trap")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with a submodule of edited files, a nested repository, a signed commit and names that git would quote."""
    folder = trees.git_tree(tmp_path / "linux")
    trees.git_tree(folder / "drivers/sub")
    (folder / "drivers/sub/.gitattributes").write_text(ATTRIBUTES)
    trees.git(folder / "drivers/sub", "add", "-f", ".gitattributes")
    trees.git(folder / "drivers/sub", "commit", "-q", "-m", "sub")
    trees.git(folder, "add", "-A")
    trees.git(folder, "commit", "-q", "-m", "with a submodule")
    (folder / "kernel/sched/core.c").write_text("int core;\nint two;\n")
    (folder / "kernel/sched/\u00e9.c").write_text("int e;\n")
    (folder / ".gitattributes").write_text(ATTRIBUTES)
    trees.git(folder, "add", "-f", "-A", ".gitattributes", "kernel")
    trees.git(folder, "commit", "-q", "-m", "subject \u00e9")
    _sign(folder)
    trees.git_tree(folder / "tools/within")
    os.utime(folder / "drivers/sub/kernel/sched/core.c", (1, 1))
    return folder


def _sign(folder: Path) -> None:
    """Makes HEAD a commit with a signature: any bytes do."""
    head, _, body = trees.git(folder, "cat-file", "commit", "HEAD").partition("\n\n")
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n AAAA\n -----END PGP SIGNATURE-----"
    (folder.parent / "commit").write_text(f"{head}\n{signature}\n\n{body}\n")
    id = trees.git(folder, "hash-object", "-t", "commit", "-w", str(folder.parent / "commit"))
    trees.git(folder, "update-ref", "HEAD", id)


def answers(tree: Path, tmp_path: Path, cache: Cache, progress: Progress, where: Path) -> Iterator[tuple[str, Any]]:
    """What every entry point that uses git gives; `where` is the current folder."""
    os.chdir(where)
    for revision in ("", "HEAD", "HEAD^"):
        taken = snapshot(tree, cache, progress, revision)
        files = sorted(str(path.relative_to(taken.path)) for path in taken.path.rglob("*") if path.is_file())
        yield f"snapshot {revision}", (taken.tree, taken.commit, taken.dirty, files)
    ours = Repository(tree)
    head, first = ours.commit("HEAD", "--bad"), ours.commit("HEAD~2", "--good")
    yield "commits", (head, first)
    history = ours.between(first, head, ("--good", "--bad"))
    yield "between", history
    ids = [point.id for point in history.points]
    yield "tell", [ours.describe(id) for id in ids]
    yield "trees", ours.trees(ids)
    yield "parents", ours.parents(ids)
    changes = ours.changes(ids)
    yield "changes", changes
    yield "texts", ours.texts(change.blob for sides in changes.values() for side in sides for change in side)
    yield "diff", [ours.diff(id, []) for id in ids]
    yield "not an ancestor", _refused(lambda: ours.between(head, first, ("--good x", "--bad y")))
    yield "date", releases._committed(tree, head)
    base = snapshot(tree, cache, progress, "HEAD~2")
    mail = tmp_path / "mail"
    mail.write_text(MAIL)
    patches = series.read([str(mail)])
    yield "series", patches
    patched = apply(base, patches, cache, progress)
    yield "patched", (patched.tree, (patched.path / "kernel/sched/core.c").read_bytes())
    yield "changed", changed(base.path, patched.path)


def _refused(call: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as raised:
        call()
    return raised.value.line()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's own settings are, and a working folder to come back to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/.config"))
    (tmp_path / "home/.config/git").mkdir(parents=True)
    return tmp_path / "home"


def test_no_repository_runs_or_changes_anything(
    tree: Path, tmp_path: Path, trap: Trap, home: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings of the tree, its submodule, a repository within, the current folder and the user, at each entry point."""
    before = dict(answers(tree, tmp_path, Cache(tmp_path / "one", 0), progress, tmp_path))
    for git_dir in (tree / ".git", tree / "drivers/sub/.git", tree / "tools/within/.git"):
        trap.into(git_dir)
    (home / ".gitconfig").write_text((tree / ".git/config").read_text())
    (home / ".config/git/config").write_text((tree / ".git/config").read_text())
    (home / ".config/git/attributes").write_text("* -diff filter=x\n")
    for name, value in {
        "GIT_EXTERNAL_DIFF": trap.script,
        "GIT_SSH_COMMAND": trap.script,
        "GIT_PAGER": trap.script,
        "GIT_EDITOR": trap.script,
        "GIT_PROXY_COMMAND": trap.script,
        "GIT_ASKPASS": trap.script,
        "PAGER": trap.script,
        "GIT_DIR": tree / "drivers/sub/.git",
        "GIT_INDEX_FILE": "x",
        "GIT_OBJECT_DIRECTORY": "/nowhere",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.fsmonitor",
        "GIT_CONFIG_VALUE_0": trap.script,
        "GIT_CONFIG_PARAMETERS": "'core.fsmonitor=/x'",
        "GIT_DIFF_OPTS": "-u0",
        "GIT_NAMESPACE": "x",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_EXEC_PATH": trap.script.parent,
        "LANGUAGE": "de",
        "PATH": f"{os.environ['PATH']}:{trap.script.parent / 'bin'}",
    }.items():
        monkeypatch.setenv(name, str(value))
    after = dict(answers(tree, tmp_path, Cache(tmp_path / "two", 0), progress, tree))
    assert trap.ran() == ""
    for name, answer in before.items():
        assert after[name] == answer, name


def test_the_settings_would_run_programs(tree: Path, trap: Trap) -> None:
    """What the test above rests on: asked as a user asks, git does run them."""
    trap.into(tree / ".git")
    for argv in (["log", "-1"], ["status"], ["diff", "HEAD^"]):
        trap.log.unlink(missing_ok=True)
        try:
            trees.git(tree, *argv)
        except Exception:  # a hook may break it, which is no matter here
            assert trap.ran()
        assert trap.ran(), argv


def test_importing_releases_runs_nothing(
    tree: Path, tmp_path: Path, trap: Trap, cache: Cache, progress: Progress
) -> None:
    """The repository of releases and what is imported are a stranger's."""
    into = tmp_path / "releases.git"
    first = trees.write_tree(tmp_path / "linux-7.2.1", {**trees.FILES, "Makefile": trees.MAKEFILE.replace("13", "1")})
    releases.gather([str(first)], into, cache, progress)
    trap.into(into, attributes=False)
    trap.into(tree / ".git")
    trap.into(tree / "drivers/sub/.git")
    made = releases.gather([str(first), str(tree)], into, cache, progress)
    assert [version for version, _ in made] == ["7.2.1", "7.2.13"]
    assert trap.ran() == ""


@pytest.mark.parametrize("name", ["refs/tags", "refs/heads", "info", "HEAD", "config"])
def test_a_repository_of_releases_that_leads_elsewhere(
    tmp_path: Path, cache: Cache, progress: Progress, name: str
) -> None:
    into = tmp_path / "releases.git"
    first = trees.write_tree(tmp_path / "linux-7.2.1")
    releases.gather([str(first)], into, cache, progress)
    elsewhere = tmp_path / "elsewhere"
    (into / name).rename(elsewhere)
    (into / name).symlink_to(elsewhere)
    before = trees.fingerprint(tmp_path / "elsewhere") if elsewhere.is_dir() else elsewhere.read_text()
    with pytest.raises(UsageError, match="symbolic link"):
        releases.gather([str(first)], into, cache, progress)
    assert (trees.fingerprint(elsewhere) if elsewhere.is_dir() else elsewhere.read_text()) == before


def test_a_setting_cannot_bring_others_along(tree: Path, trap: Trap, cache: Cache, progress: Progress) -> None:
    """Some settings are taken over into the configuration that we write: git itself takes any text for this one."""
    trees.git(tree, "config", "core.checkStat", f"default\n[core]\n\tfsmonitor = {trap.script}")
    user = repository.find(tree)
    assert user is not None and "core.checkStat" not in dict(user.settings)
    snapshot(tree, cache, progress)
    assert trap.ran() == ""


def test_settings_of_the_file_system_are_taken_over(tree: Path) -> None:
    trees.git(tree, "config", "core.fileMode", "no")
    trees.git(tree, "config", "core.checkStat", "minimal")
    user = repository.find(tree)
    assert user is not None
    assert dict(user.settings)["core.fileMode"] == "false" and dict(user.settings)["core.checkStat"] == "minimal"


def test_a_configuration_that_never_ends_is_not_waited_for(
    tree: Path, cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "ASK_SECONDS", 1.0)
    os.mkfifo(tree / "fifo")
    with (tree / ".git/config").open("a") as file:
        file.write(f"[include]\n\tpath = {tree / 'fifo'}\n")
    start = time.monotonic()
    with pytest.raises(HarnessError) as raised:
        snapshot(tree, cache, progress)
    assert isinstance(raised.value, Expired)
    assert time.monotonic() - start < 60


def test_a_shallow_clone_ends_where_it_ends(tmp_path: Path) -> None:
    """That it is shallow is all of its settings that takes part."""
    tree = trees.git_tree(tmp_path / "linux")
    for number in range(4):
        trees.git(tree, "commit", "-q", "--allow-empty", "-m", f"c{number}")
    trees.git(tmp_path, "clone", "-q", "--depth=3", f"file://{tree}", "shallow")
    ours = Repository(tmp_path / "shallow")
    head, first = ours.commit("HEAD", "--bad"), ours.commit("HEAD~2", "--good")
    assert [point.title for point in ours.between(first, head, ("--good", "--bad")).points] == ["c2", "c3"]
    assert ours.parents([first]) == {first: ()}
    with pytest.raises(UsageError, match="no such revision"):
        ours.commit("HEAD~3", "--good")


# --- submodules -------------------------------------------------------------------------------


def test_submodules_stay_what_they_are(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    """Checked out, not checked out, gone, and become a folder like any other."""
    assert snapshot(tree, cache, progress, "HEAD").tree == snapshot(tree, cache, progress).tree
    (tree / "drivers/sub").rename(tmp_path / "sub")
    (tree / "drivers/sub").mkdir()
    assert not snapshot(tree, cache, progress).dirty, "not checked out"
    (tree / "drivers/sub/plain.c").write_text("int plain;\n")
    taken = snapshot(tree, cache, progress)
    assert taken.dirty and (taken.path / "drivers/sub/plain.c").is_file()
    (tree / "drivers/sub/plain.c").unlink()
    (tree / "drivers/sub").rmdir()
    gone = snapshot(tree, cache, progress)
    assert gone.dirty and "drivers/sub" not in trees.git(
        tree, "--git-dir", str(_private(cache)), "ls-tree", "-r", gone.tree
    )


def _private(cache: Cache) -> Path:
    (place,) = cache.folder("git").iterdir()
    return place
