# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the JSON Schema: it is that of the records, results fit it, and what is no results does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core import event_log
from harness.core.records import Outcome
from harness.report import results, schema
from harness.verdict import judge
from tests.schema import validate
from tests.unit.report.eventlog import CREATE, LEAK, Log, kernel, result

GOLDEN = Path(__file__).parent / "golden"


def written() -> dict[str, Any]:
    """The results of a run with one finding."""
    judged = judge(Log().put(result(kernel(), CREATE, Outcome.FAIL, findings=(LEAK,))).events())
    data: dict[str, Any] = json.loads(results.render(judged))
    return data


def test_the_published_schema_is_that_of_the_records() -> None:
    assert schema.FILE.read_text() == schema.render(), "make schema"
    assert schema.main(check=True) == 0


def test_a_stale_one_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(schema, "CHECKOUT", tmp_path)
    monkeypatch.setattr(schema, "FILE", tmp_path / "results.schema.json")
    assert schema.main(check=True) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert schema.main(check=False) == schema.main(check=True) == 0


def test_results_fit() -> None:
    validate(written())
    validate(json.loads(results.render(judge([]))))
    validate(json.loads(results.render(judge(event_log.read(GOLDEN / "passed.jsonl")))))


def test_a_field_that_a_later_version_adds_is_allowed() -> None:
    validate({**written(), "later": 1})


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda data: data.pop("verdict"), "$: 'verdict'"),
        (lambda data: data.update(verdict="maybe"), "$.verdict"),
        (lambda data: data["tests"][0].pop("id"), r"$.tests[0]: 'id'"),
        (lambda data: data["tests"][0].update(outcome="broken"), "$.tests[0].outcome"),
        (lambda data: data["tests"][-1]["findings"][0].update(line="7"), ".findings[0].line"),
        (lambda data: data["kernels"][0].update(patches="a"), "$.kernels[0].patches"),
    ],
)
def test_what_is_no_results_does_not_fit(change: Callable[[dict[str, Any]], object], place: str) -> None:
    data = written()
    change(data)
    with pytest.raises(AssertionError) as raised:
        validate(data)
    assert place in str(raised.value)
