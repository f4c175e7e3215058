# SPDX-License-Identifier: GPL-2.0-only
"""How Python children of ours are started: they import from the checkout and the virtual environment, and from
nowhere else.

``-P`` keeps the current folder out of sys.path, which may be a tree under test with a harness/ or a yaml.py of its own.
What the user's environment says to Python, pytest or hypothesis is not passed on: PYTHONOPTIMIZE removes assertions,
PYTEST_ADDOPTS selects tests, PYTHONWARNINGS and PYTEST_PLUGINS import modules.
"""

from __future__ import annotations

import os
import sys

from harness.core.checkout import CHECKOUT

FOREIGN = ("PYTHON", "PYTEST", "_PYTEST", "PY_COLORS", "HYPOTHESIS", "COVERAGE_", "COV_CORE_")
"""How the names of variables begin that would change what a child imports, selects or checks."""


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of the checkout, or of the virtual environment, with `arguments`."""
    return [sys.executable, "-P", "-X", "utf8", "-m", name, *arguments]


def environment(**more: str) -> dict[str, str]:
    """The environment of such a command: ours without the variables of FOREIGN, with `more`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**own, "PYTHONPATH": str(CHECKOUT), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}
