# SPDX-License-Identifier: GPL-2.0-only
"""What holds for every unit test: Hypothesis judges what code does, not how long a busy machine takes for it; and the
default suite is loaded, whose log rules the logs of the tests need; each results.json fits its schema."""

from __future__ import annotations

import json

import pytest
from hypothesis import settings

from harness.report import results
from harness.suite import loader
from harness.verdict import Results
from tests.schema import validate

settings.register_profile("kharness", deadline=None)
settings.load_profile("kharness")
loader.of(loader.default())


@pytest.fixture(autouse=True)
def results_fit_their_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds all that is written as results.json to the published schema."""
    render = results.render

    def validated(judged: Results) -> str:
        text = render(judged)
        validate(json.loads(text))
        return text

    monkeypatch.setattr(results, "render", validated)
