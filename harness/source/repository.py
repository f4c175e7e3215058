# SPDX-License-Identifier: GPL-2.0-only
"""What is read of the user's repository: where its index and objects lie, its commits. It writes nothing.

A repository's own configuration can name programs (hooks, filters, fsmonitor, gpg, textconv), and repositories come in
tarballs and from strangers. It is asked for little: where its files are, some settings of a fixed form, and what a
revision is called; none of that runs a program, and what might is switched off. Everything else is read from its
objects through a git directory of our own (:class:`Objects`), which has no configuration.
"""

from __future__ import annotations

import os
import re
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.errors import HarnessError, UsageError
from harness.host.process import Done, run
from harness.host.scratch import Scratch

ASK_SECONDS = 60.0
"""For one question to the user's repository: its configuration may include a FIFO."""

USER_SETTINGS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("core.fileMode", "core.symlinks", "core.ignoreCase", "core.trustctime"), ("true", "false")),
    "core.checkStat": ("default", "minimal"),
}
"""The settings that say how the user's file system maps to git's view of it, with the values that are taken over."""

NOWHERE = "/dev/null"
"""As GIT_DIR: no repository at all, whatever is in the current folder or around it."""

OVER: Mapping[str, str] = {
    # Only for our reading: a tree of another user's, as under sudo, is no reason to refuse.
    "safe.directory": "*",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.attributesFile": "/dev/null",  # else $XDG_CONFIG_HOME/git/attributes
    "core.pager": "cat",
    "log.showSignature": "false",
    "color.ui": "false",
}
"""Settings that are put over those of any repository."""


@dataclass(frozen=True)
class User:
    """What is read of the user's repository; before the first commit `commit` is empty."""

    index: Path
    objects: Path
    commit: str
    head_tree: str
    format: str
    excludes: tuple[Path, ...]
    sparse: Path
    shallow: Path
    settings: tuple[tuple[str, str], ...]


def environment(**more: str) -> dict[str, str]:
    """An environment in which git reads no configuration of user or system, takes no optional lock and speaks English.

    It is in no repository unless `more` has a GIT_DIR.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") and name != "LANGUAGE"}
    over: dict[str, str] = {"GIT_CONFIG_COUNT": str(len(OVER))}
    for number, (name, value) in enumerate(OVER.items()):
        over |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return {
        **clean,
        **over,
        "LC_ALL": "C.UTF-8",
        "GIT_DIR": NOWHERE,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",  # for git before 2.45, which does not know the one above
        "GIT_NO_REPLACE_OBJECTS": "1",
        **more,
    }


def lent(objects: Path) -> dict[str, str]:
    """Additions to an environment for git to read the user's objects, too; git writes none there."""
    escaped = str(objects).replace("\\", "\\\\").replace('"', '\\"')
    return {"GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{escaped}"'}


def _asked(command: list[str], folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Git's answer about the user's repository; empty where git fails."""
    given = dict(env or environment())
    if given.get("GIT_DIR") == NOWHERE:
        del given["GIT_DIR"]  # to be found from the folder
    done = run(["git", *command], what=f"asking git about {folder}", env=given, check=False, deadline=ASK_SECONDS)
    return done.stdout.strip("\n") if done.status == 0 else ""


def find(folder: Path) -> User | None:
    """The repository at `folder`, bare or with a work tree; None where there is none. Raises as these two do."""
    return of_bare(folder) or of_folder(folder)


def of_folder(folder: Path) -> User | None:
    """The repository whose top folder is `folder`; None for a plain folder, also one inside a repository."""
    if shutil.which("git") is None:
        raise HarnessError("git: no such command", step="apt-get install git")

    def ask(*argv: str, env: Mapping[str, str] | None = None) -> str:
        return _asked(["-C", str(folder), *argv], folder, env)

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
        return _asked(["--git-dir", str(folder), *argv], folder, env)

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
        format="sha256" if ask("rev-parse", "--show-object-format") == "sha256" else "sha1",
        sparse=inside("info/sparse-checkout"),
        excludes=(Path(ignore) if ignore else xdg, inside("info/exclude")),
        shallow=inside("shallow"),
        settings=tuple(_settings(ask)),
    )


def _settings(ask: Callable[..., str]) -> Iterator[tuple[str, str]]:
    """The settings that are taken over, without values of another form, which may contain newlines."""
    for name, allowed in USER_SETTINGS.items():
        typed = ("--type=bool",) if "true" in allowed else ()
        value = ask("config", *typed, name).lower()
        if value in allowed:
            yield name, value


def resolve(folder: Path, revision: str, kind: str = "commit") -> str:
    """The id of the commit (or another `kind`) that a revision names in the repository at `folder`; empty if none.

    This is the one question that the repository itself must answer: names are its own.
    """
    name = f"{revision}^{{{kind}}}"
    found = _asked(["-C", str(folder), "rev-parse", "--verify", "--quiet", "--end-of-options", name], folder)
    return found if re.fullmatch(r"[0-9a-f]{40,64}", found) else ""


def at(user: User | None, folder: Path, revision: str) -> User:
    """`user` as if `revision` were its HEAD and its work tree were empty.

    Raises UsageError where there is no repository, or none that has this revision.
    """
    if user is None:
        raise UsageError(
            f"{folder} is no git tree: it has no revision {revision}", step="give the top folder of a clone"
        )
    commit, tree = resolve(folder, revision), resolve(folder, revision, "tree")
    if not (commit and tree):
        raise UsageError(
            f"{folder} has no revision {revision}", step=f"see 'git -C {folder} log --oneline', or fetch it first"
        )
    nowhere = folder / ".kharness-has-no-index"
    return replace(user, commit=commit, head_tree=tree, index=nowhere, sparse=nowhere)


class Objects:
    """The objects of a user's repository, read through an empty git directory that exists as long as this object.

    The repository's configuration, hooks, attributes, replacements and grafts are ignored; its shallowness is not.
    """

    def __init__(self, user: User) -> None:
        scratch = Scratch()
        weakref.finalize(self, scratch.close)
        place = scratch.path
        init = ["git", "init", "-q", "--bare", "--template=", f"--object-format={user.format}", str(place)]
        run(init, what="making a private git directory", env=environment())
        if user.shallow.is_file():
            shutil.copyfile(user.shallow, place / "shallow")
        self.env: Mapping[str, str] = environment(GIT_DIR=str(place), **lent(user.objects))

    def git(self, *argv: str, what: str, input: str | None = None, deadline: float | None = None) -> Done:
        """Runs git on these objects; its status may be anything."""
        return run(["git", *argv], what=what, env=self.env, input=input, deadline=deadline, check=False)
