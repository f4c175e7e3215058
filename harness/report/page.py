# SPDX-License-Identifier: GPL-2.0-only
"""How a template becomes a page: escaped, with nothing undefined, and what came out of a guest made visible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.core.words import plural
from harness.report import text

SHARED: Mapping[str, Callable[..., Any]] = {"duration": text.duration, "plural": plural}
"""Filters that every page has."""


def page(template: Path, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """Render the template with these values. Raises UndefinedError for a name without a value."""
    env = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: text.clean(value) if type(value) is str else value,
    )
    env.filters.update({**SHARED, **filters})
    return env.get_template(template.name).render(**values)
