# SPDX-License-Identifier: GPL-2.0-only
"""Owns what is read of the user's repository: where its index and objects lie, its commits. It writes nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import HarnessError, UsageError
from harness.host.process import run

USER_SETTINGS = ("core.fileMode", "core.symlinks", "core.ignoreCase", "core.trustctime", "core.checkStat")
"""What tells how the user's file system maps to git's view of it."""


@dataclass(frozen=True)
class User:
    """The user's repository as far as it is read; before the first commit there is no `commit`."""

    index: Path
    objects: Path
    commit: str
    head_tree: str
    format: str
    excludes: tuple[Path, ...]
    sparse: Path
    settings: tuple[tuple[str, str], ...]


def environment(**more: str) -> dict[str, str]:
    """An environment in which git reads no configuration of user or system and takes no optional lock."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {
        **clean,
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",  # for git before 2.45, which does not know the one above
        # Only for our reading: a tree of another user's, as under sudo, is no reason to refuse.
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "GIT_CONFIG_KEY_1": "core.fsmonitor",
        "GIT_CONFIG_VALUE_1": "false",
        **more,
    }


def of_folder(folder: Path) -> User | None:
    """The repository whose top folder is `folder`; None for a plain folder, also one inside a repository."""
    if shutil.which("git") is None:
        raise HarnessError("git: no such command", step="apt-get install git")

    def ask(*argv: str, env: Mapping[str, str] | None = None) -> str:
        command = ["git", "-C", str(folder), *argv]
        done = run(command, what=f"reading {folder}", env=env or environment(), check=False)
        return done.stdout.strip("\n") if done.status == 0 else ""

    top = ask("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != folder:
        if (folder / ".git").exists():
            raise UsageError(
                f"git cannot read the repository of {folder}",
                step=f"see 'git -C {folder} status', or remove its .git for a plain folder",
            )
        return None
    return _read(folder, ask)


def of_bare(folder: Path) -> User | None:
    """The bare repository `folder`, or None when it is none. Raises UsageError when it has no commit."""
    if not ((folder / "HEAD").is_file() and (folder / "objects").is_dir()) or (folder / "Makefile").exists():
        return None

    def ask(*argv: str, env: Mapping[str, str] | None = None) -> str:
        command = ["git", "--git-dir", str(folder), *argv]
        done = run(command, what=f"reading {folder}", env=env or environment(), check=False)
        return done.stdout.strip("\n") if done.status == 0 else ""

    if folder.name == ".git" and ask("config", "--bool", "core.bare") != "true":
        raise UsageError(f"{folder} is the inside of a repository", step=f"point --tree at {folder.parent}")
    user = _read(folder, ask)
    if not user.commit:
        raise UsageError(f"{folder} has no commit at its HEAD", step="see 'git symbolic-ref HEAD' in it")
    return user


def _read(folder: Path, ask: Callable[..., str]) -> User:
    def inside(name: str) -> Path:
        return folder / ask("rev-parse", "--git-path", name)

    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    ignore = ask("config", "--type=path", "core.excludesFile", env={**own, "GIT_OPTIONAL_LOCKS": "0"})
    xdg = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "git" / "ignore"
    return User(
        index=inside("index"),
        objects=inside("objects").resolve(),
        commit=ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}"),
        head_tree=ask("rev-parse", "--verify", "--quiet", "HEAD^{tree}"),
        format=ask("rev-parse", "--show-object-format") or "sha1",
        sparse=inside("info/sparse-checkout"),
        excludes=(Path(ignore) if ignore else xdg, inside("info/exclude")),
        settings=tuple((name, value) for name in USER_SETTINGS if (value := ask("config", name))),
    )


def at(user: User | None, folder: Path, revision: str) -> User:
    """`user` as if `revision` were its HEAD and nothing lay in its work tree.

    Raises UsageError where there is no repository, or none that has this revision.
    """
    if user is None:
        raise UsageError(
            f"{folder} is no git tree: it has no revision {revision}", step="give the top folder of a clone"
        )

    def ask(kind: str) -> str:
        name = f"{revision}^{{{kind}}}"
        command = ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "--end-of-options", name]
        done = run(command, what=f"reading {folder}", env=environment(), check=False)
        return done.stdout.strip() if done.status == 0 else ""

    commit, tree = ask("commit"), ask("tree")
    if not (commit and tree):
        raise UsageError(
            f"{folder} has no revision {revision}", step=f"see 'git -C {folder} log --oneline', or fetch it first"
        )
    nowhere = folder / ".kharness-has-no-index"
    return replace(user, commit=commit, head_tree=tree, index=nowhere, sparse=nowhere)
