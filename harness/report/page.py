# SPDX-License-Identifier: GPL-2.0-only
"""Owns how a template becomes a page: escaped, with nothing undefined, and what came out of a guest made visible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.report import text
from harness.words import plural

SHARED: Mapping[str, Callable[..., Any]] = {"duration": text.duration, "plural": plural}
"""Filters that every page has."""


def page(template: Path, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """The template with these values. Raises UndefinedError for a name that it is not given."""
    env = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda value: text.clean(value) if type(value) is str else value,
    )  # fmt: skip
    env.filters.update({**SHARED, **filters})
    return env.get_template(template.name).render(**values)
