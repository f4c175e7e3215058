# SPDX-License-Identifier: GPL-2.0-only
"""The difference of two .config files as the subject of a search: the n-th point has the first n symbols as the newer.

Kconfig's own order puts a symbol after what it depends on, more often than not. What cannot be had at a point because
of what is not switched yet is left to Kconfig there, and said; where no request comes out as it was asked, there is no
kernel of that point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from harness.bisect.history import History, line
from harness.bisect.rows import Candidate
from harness.bisect.state import Run
from harness.bisect.steps import Impossible
from harness.core.errors import UsageError
from harness.core.plan import KernelRequest
from harness.host.cache import write_atomically
from harness.kbuild import kconfig
from harness.kbuild.kconfig import Entry, Kconfig, Refused

OLD = "k0000"
ROUNDS = 12
"""How often a request is reduced to what is possible."""

Try = Callable[[Path], None]
"""Makes the final .config of a fragment. Raises Refused where it is not as requested."""


class Symbols:
    """The difference of `ends` (files: the older, the newer), on one kernel; fragments are kept in `folder`.

    Raises UsageError for an invalid .config, and for two equal ones.
    """

    what = "symbol"
    old = OLD

    def __init__(
        self,
        kernel: KernelRequest,
        ends: tuple[Path, Path],
        names: tuple[str, str],
        folder: Path,
        attempt: Try,
        say: Callable[[str], None],
    ) -> None:
        self.names = names
        self._kernel = kernel
        self._folder = folder
        self._attempt = attempt
        self._say = say
        self._was, self._now = (kconfig.read(path) for path in ends)
        self.differing = differing(self._was, self._now)
        if not self.differing:
            raise UsageError(f"{names[0]} and {names[1]} ask for the same", step="name two that differ")
        was, now = self._was.values(), self._now.values()
        titles = [f"CONFIG_{name}: {was.get(name, 'n')} -> {now.get(name, 'n')}" for name in self.differing]
        self.history: History = line([(f"k{number:04}", title) for number, title in enumerate(titles, 1)])

    def kernel(self, id: str) -> KernelRequest:
        """The kernel, which is the same for all points."""
        return self._kernel

    def kconfig(self, id: str) -> tuple[str, ...]:
        """The fragment of a point. Raises Impossible where Kconfig cannot satisfy it, whatever is left out."""
        number = 0 if id == OLD else self.history.index[id] + 1
        end = number in (0, len(self.history))
        wanted = mixed(self._was, self._now, self.differing[:number])
        path = self._folder / f"{id}.config"
        undone: dict[str, None] = {}
        for _ in range(ROUNDS):
            write_atomically(path, wanted.render())
            try:
                self._attempt(path)
                return (str(path.resolve()),)
            except Refused as error:
                if end:
                    raise
                undone |= dict.fromkeys(error.got)
                # Not left out, but requested with Kconfig's value: kharness's own fragments may request it, too.
                got = Kconfig(tuple(Entry(name, value, "bisect") for name, value in error.got.items()))
                before, wanted = wanted, got.over(wanted)
                if wanted.values() == before.values():  # the same request would be refused in the same way
                    break
                self._say(f"{id}: left to Kconfig: {_named(error.got)}")
        raise Impossible(f"Kconfig undoes what this point asks for, however it is asked: {_named(undone)}")

    def candidate(self, id: str, chance: float, runs: Sequence[Run] = ()) -> Candidate:
        """A symbol, with what it was and is."""
        place = self.history.index[id]
        before = ", ".join(f"CONFIG_{name}" for name in self.differing[max(0, place - 5) : place])
        note = f"with those before it as in {self.names[1]}: {'..., ' if place > 5 else ''}{before}" if before else ""
        return Candidate(id, chance, self.history.points[place].title, diff=note)

    def dull(self, id: str, run: Run) -> Mapping[str, str]:
        """None is known beforehand: equal .configs get their kernel from the cache."""
        return {}


def _named(symbols: Iterable[str]) -> str:
    """Some of the symbols, with CONFIG_."""
    return ", ".join(f"CONFIG_{name}" for name in list(symbols)[:6])


def differing(was: Kconfig, now: Kconfig) -> tuple[str, ...]:
    """The symbols that differ in two files, in the order of the newer; those of the older alone come last."""
    old, new = was.values(), now.values()
    names = dict.fromkeys([*(entry.symbol for entry in now.entries), *(entry.symbol for entry in was.entries)])
    return tuple(name for name in names if old.get(name, "n") != new.get(name, "n"))


def mixed(was: Kconfig, now: Kconfig, switched: tuple[str, ...]) -> Kconfig:
    """The request of `was`, with the symbols `switched` as in `now`."""
    values = now.values()
    ahead = Kconfig(tuple(Entry(name, values.get(name, "n"), "bisect") for name in switched))
    return ahead.over(was)
