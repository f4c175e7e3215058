# SPDX-License-Identifier: GPL-2.0-only
"""What make printed for each target: whether it is an object of the kernel, and the warnings when it was last made.

make prints only what it makes, so in a build folder that stays this is kept from one make to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.kbuild import buildlog


@dataclass
class MakeTarget:
    """One target of make's, from the output when it was last made."""

    object: bool = False
    warnings: list[str] = field(default_factory=list)


class Steps:
    """The targets by their names, in the order in which they were last made; "" has the output before the first.

    Warnings belong to the target whose line precedes them: for that make has to print each target's output in one
    piece (--output-sync=target). Without it only the sum of all warnings is right.
    """

    def __init__(self, targets: dict[str, MakeTarget] | None = None) -> None:
        self._targets = targets or {}
        self._made: set[str] = set()
        self._current = ""

    def begin(self) -> None:
        """Start a make: targets that it makes again get new warnings."""
        self._made.clear()
        self._enter("")

    def line(self, line: str) -> None:
        """Add one line of its output."""
        step = buildlog.step(line)
        if step is not None:
            self._enter(step.target)
            self._targets[step.target].object |= step.is_object
            return
        self._targets[self._current].warnings += buildlog.warnings([line])

    def _enter(self, target: str) -> None:
        self._current = target
        if target not in self._made:
            self._made.add(target)
            self._targets.pop(target, None)
            self._targets[target] = MakeTarget()

    def forget(self, gone: Callable[[str], bool]) -> list[str]:
        """Drop the targets for which `gone` is true; returns the objects among them."""
        names = [name for name in self._targets if gone(name)]
        return [name for name in names if self._targets.pop(name).object]

    @property
    def objects(self) -> list[str]:
        """All objects of the kernel, sorted."""
        return sorted(name for name, target in self._targets.items() if target.object)

    @property
    def warnings(self) -> list[str]:
        """All warnings, each once."""
        return list(dict.fromkeys(text for target in self._targets.values() for text in target.warnings))

    def encode(self) -> dict[str, list[object]]:
        """For :meth:`decode`, as JSON has it."""
        return {name: [target.object, target.warnings] for name, target in self._targets.items()}

    @classmethod
    def decode(cls, steps: dict[str, list[object]]) -> Steps:
        """What :meth:`encode` gave. Raises ValueError for anything else."""
        targets = {}
        for name, (is_object, warnings) in steps.items():
            if not isinstance(is_object, bool) or not isinstance(warnings, list):
                raise ValueError(f"not a target: {name}")
            targets[name] = MakeTarget(is_object, [str(text) for text in warnings])
        return cls(targets)
