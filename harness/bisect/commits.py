# SPDX-License-Identifier: GPL-2.0-only
"""The commits between two revisions of the user's tree, read with git and never written.

Read through :class:`harness.source.repository.Objects`: nothing that the repository's configuration names is run, and
nothing that it sets changes what is read.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.bisect.history import History, Point, called
from harness.core.errors import HarnessError, UsageError
from harness.host.process import Done, end, how_ended, spawn
from harness.source import repository
from harness.source.repository import Objects

SECONDS = 600.0

CHANGE = ("-c", "log.showRoot=false", "show", "--first-parent", "-m")
"""Git's arguments for a commit's change against its first parent; empty for a commit without parents."""


@dataclass(frozen=True)
class Change:
    """One path that differs between a commit and a parent; `gone` or `new` where one side has none.

    `blob` is its content in the commit.
    """

    path: str
    blob: str = ""
    new: bool = False
    gone: bool = False


@dataclass(frozen=True)
class Commit:
    """A commit; its date is in the author's time zone.

    `paths` are what it changes, a merge against its first parent.
    """

    id: str
    subject: str
    author: str
    date: str
    paths: tuple[str, ...]


class Repository:
    """The user's repository at `folder`: a work tree's top folder, or a bare one.

    Raises UsageError where it is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        user = repository.find(folder)
        if user is None:
            raise UsageError(f"{folder} is no git tree: it has no history", step="give the top folder of a clone")
        self._objects = Objects(user)

    def git(self, *argv: str, input: str | None = None, check: bool = True) -> Done:
        """Run git, which only reads. Raises HarnessError with its message when it fails and `check` is set."""
        what = f"git {argv[0]} of {self.folder}"
        done = self._objects.git(*argv, what=what, input=input, deadline=SECONDS)
        if check and done.status:
            said = next((line for line in done.stderr.splitlines() if line.startswith(("fatal:", "error:"))), "")
            raise HarnessError(
                f"git {argv[0]} of {self.folder} failed: {said.partition(': ')[2] or f'status {done.status}'}",
                step="see 'git fsck' there",
                detail=done.stderr[-2000:],
            )
        return done

    def commit(self, revision: str, flag: str) -> str:
        """The commit that a revision names; `flag` is how the user named it. Raises UsageError where there is none."""
        found = repository.resolve(self.folder, revision)
        if not found:
            raise UsageError(
                f"{flag} {revision}: {self.folder} has no such revision",
                step=f"see 'git -C {self.folder} log --oneline', or fetch it first",
            )
        return found

    def between(self, old: str, new: str, flags: tuple[str, str]) -> History:
        """The commits that `new` contains and `old` does not, oldest first. Both are full ids.

        Raises UsageError for an empty range, and where `old` is no ancestor of `new`; `flags` are how the user named
        the two.
        """
        if old == new:
            raise UsageError(f"{flags[0]} and {flags[1]} are the same commit ({old[:12]})", step="name two that differ")
        if self.git("merge-base", "--is-ancestor", old, new, check=False).status:
            said = f"{called(flags[0], old)} is no ancestor of {called(flags[1], new)}"
            raise UsageError(said, step=self._instead(old, new, flags))
        listed = self.git("log", "--topo-order", "--reverse", "--format=%H%x00%P%x00%s", new, f"^{old}").stdout
        # Not splitlines(): a subject may have characters that are line ends to Unicode.
        rows = [row.split("\0") for row in listed.split("\n") if row]
        inside = {row[0] for row in rows}
        return History(
            tuple(
                Point(id, tuple(parent for parent in parents.split() if parent in inside), title)
                for id, parents, title in rows
            )
        )

    def _instead(self, old: str, new: str, flags: tuple[str, str]) -> str:
        """Advice where `old` is no ancestor of `new`: git's own bisect begins at their merge base, too."""
        if self.git("merge-base", "--is-ancestor", new, old, check=False).status == 0:
            other = "fixed" if flags[0].startswith("--good") else "regression"
            return f"exchange them, or search the other way with --find {other}"
        if self.git("rev-parse", "--is-shallow-repository").stdout.strip() == "true":
            return f"the clone is shallow: git -C {self.folder} fetch --unshallow"
        bases = self.git("merge-base", "--all", old, new, check=False).stdout.split()
        if not bases:
            return "they have no commit in common: name two of one history"
        flag = flags[0].partition(" ")[0]
        more = f", one of {len(bases)}," if len(bases) > 1 else ""
        same = "passes" if flag == "--good" else "fails"
        return f"give their merge base{more} if it {same} too: {flag} {bases[0][:12]}"

    def describe(self, id: str) -> Commit:
        """Subject, author, date and paths of a commit."""
        argv = [*CHANGE, "-z", "--name-only", "--no-renames", "--format=%s%x00%an%x00%ai", id]
        subject, author, date, *paths = self.git(*argv).stdout.split("\0")
        names = (path.removeprefix("\n") for path in paths)
        return Commit(id, subject, author, date.strip(), tuple(name for name in names if name))

    def trees(self, ids: Iterable[str]) -> Mapping[str, str]:
        """The content hash of each commit, by its id."""
        wanted = list(ids)
        asked = "".join(f"{id}^{{tree}}\n" for id in wanted)
        found = self.git("cat-file", "--batch-check=%(objectname)", input=asked).stdout.splitlines()
        return dict(zip(wanted, found, strict=True))

    def parents(self, ids: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """All parents of each commit, by its id."""
        listed = self.git("log", "--no-walk=unsorted", "--stdin", "--format=%H %P", input="\n".join(ids) + "\n")
        return {row.split()[0]: tuple(row.split()[1:]) for row in listed.stdout.splitlines()}

    def changes(self, ids: Sequence[str]) -> Mapping[str, tuple[tuple[Change, ...], ...]]:
        """The changes of each commit against each of its parents, in their order."""
        parents = self.parents(ids)
        trees = self.trees(dict.fromkeys([*ids, *(parent for all in parents.values() for parent in all)]))
        pairs = [(trees[parent], trees[id]) for id in ids for parent in parents[id]]
        differing = [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]
        asked = "".join(f"{old} {new}\n" for old, new in differing)
        argv = ("diff-tree", "--stdin", "-r", "-z", "--raw", "--no-renames")
        found = dict(_parse(self.git(*argv, input=asked).stdout)) if differing else {}
        return {id: tuple(found.get((trees[parent], trees[id]), ()) for parent in parents[id]) for id in ids}

    def texts(self, blobs: Iterable[str]) -> Mapping[str, str]:
        """The content of each blob, by its id; missing ones are left out."""
        with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answer:
            asked.write("".join(f"{blob}\n" for blob in dict.fromkeys(blobs)).encode())
            asked.seek(0)
            child = spawn(["git", "cat-file", "--batch"], env=self._objects.env, stdin=asked, stdout=answer)
            try:
                status = child.wait(SECONDS)
            except subprocess.TimeoutExpired as error:
                what = f"git cat-file of {self.folder} was not done after {SECONDS:g} s"
                raise HarnessError(what, step="give the same command again") from error
            finally:
                end(child)
            if status:  # missing texts would count as files that nothing includes
                raise HarnessError(
                    f"git cat-file of {self.folder} failed ({how_ended(status)})", step="see 'git fsck' there"
                )
            answer.seek(0)
            found = {}
            while head := answer.readline().split():
                if head[-1] != b"missing":
                    found[head[0].decode()] = answer.read(int(head[2])).decode(errors="replace")
                    answer.readline()
        return found

    def diff(self, id: str, paths: Sequence[str]) -> str:
        """The change of a commit, of a merge against its first parent, limited to `paths` (none: all)."""
        argv = [*CHANGE, "-p", "--format=", "--no-color", "--no-ext-diff", "--no-textconv", id, "--"]
        return self.git(*argv, *(f":(literal){path}" for path in paths)).stdout


def _parse(text: str) -> Iterator[tuple[tuple[str, str], tuple[Change, ...]]]:
    """The output of ``git diff-tree --stdin -z``: each pair of trees with what differs."""
    pair: tuple[str, str] | None = None
    found: list[Change] = []
    words = iter(text.split("\0"))
    for word in words:
        # A pair ends in a newline and not in a NUL, so that it precedes its first entry.
        if not word.startswith(":") and "\n" in word:
            if pair is not None:
                yield pair, tuple(found)
            named, _, word = word.rpartition("\n")
            old, new = named.split("\n")[-1].split()
            pair, found = (old, new), []
        if word.startswith(":"):
            _, _, _, blob, status = word.split()
            found.append(Change(next(words), blob, new=status == "A", gone=status == "D"))
    if pair is not None:
        yield pair, tuple(found)
