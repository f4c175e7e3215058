# SPDX-License-Identifier: GPL-2.0-only
"""Tests of `kharness check-mail` as b4 calls it: a mail on standard input, JSON on standard output."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from harness.cli import check_mail as verb
from harness.cli import main
from harness.core.errors import Exit, UsageError
from harness.core.options import Options
from harness.run import check_mail
from harness.run.check_mail import Answer


def test_a_mail_goes_in_and_a_list_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Options, bytes, list[str]]] = []

    def check(options: Options, text: bytes, words: Sequence[str]) -> tuple[Answer, int]:
        seen.append((options, text, list(words)))
        return Answer("kharness", "warn", "why"), Exit.INCONCLUSIVE

    monkeypatch.setattr(check_mail, "check", check)
    words = ["check-mail", "--arch", "x86_64", "-k", "lifecycle"]
    monkeypatch.setattr(sys, "argv", ["kharness", *words])
    done = CliRunner().invoke(main.app, words, input=b"Subject: x\n\n\xff\n")
    assert done.exit_code == Exit.INCONCLUSIVE
    assert json.loads(done.stdout) == [
        {"tool": "kharness", "status": "warn", "summary": "why", "url": "", "details": ""}
    ]
    assert seen == [(Options(arch="x86_64", select="lifecycle"), b"Subject: x\n\n\xff\n", words[1:])]


def test_a_mail_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "MOST", 10)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 11)))
    done = CliRunner().invoke(main.app, ["check-mail"], input=b"x" * 11)
    assert isinstance(done.exception, UsageError) and "longer than" in done.exception.line()
