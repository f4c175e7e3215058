# SPDX-License-Identifier: GPL-2.0-only
"""Holds results.json to its published JSON Schema."""

from __future__ import annotations

import functools
import json
from typing import Any

from jsonschema import Draft202012Validator

from harness.report.schema import FILE


@functools.cache
def _validator() -> Draft202012Validator:
    schema = json.loads(FILE.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def validate(results: Any) -> None:
    """Assert that this is a results.json; what is wrong is named by its place in it."""
    wrong = [f"{error.json_path}: {error.message}" for error in _validator().iter_errors(results)]
    assert not wrong, "results.json does not fit its schema:\n" + "\n".join(wrong)
