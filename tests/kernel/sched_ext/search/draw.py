# SPDX-License-Identifier: GPL-2.0-only
"""How a move is drawn: from strategies of its arguments, some moves more often than others."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from harness.core.records import Operation


def made(verb: str, **args: SearchStrategy[Any]) -> SearchStrategy[Operation]:
    """A move of this verb."""
    return st.builds(lambda **drawn: Operation(verb, drawn), **args)


def often(*some: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """One of these; what is there more than once is drawn more often, which st.one_of() takes for one."""
    return st.sampled_from(range(len(some))).flatmap(some.__getitem__)
