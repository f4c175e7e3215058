# SPDX-License-Identifier: GPL-2.0-only
"""The results as a report for KCIDB, KernelCI's common database: checkouts, builds, tests, issues and incidents.

The shape is kcidb-io's schema 5.3, which also checks what is made here. Ids begin with the origin; a submitter with
another name replaces it. No URL is given: the files lie with whoever ran it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from harness.core.errors import HarnessError
from harness.core.records import Finding, Outcome, Role
from harness.report import mail, text
from harness.report.text import clean
from harness.verdict import BOOT, BUILD, KernelRow, Results, TestRow

ORIGIN = "kharness"
MAJOR, MINOR = 5, 3

MOST_LOG = 16_384
"""Letters of an excerpt that the schema takes."""

ISSUE_VERSION = 1

STATUS = {Outcome.PASS: "PASS", Outcome.FAIL: "FAIL", Outcome.INCONCLUSIVE: "ERROR", Outcome.SKIP: "SKIP"}
"""ERROR: the test did not complete, and nothing is known of the code."""

_LEAD = ("tests", "kernel")
"""Folders that all our tests lie in, which say nothing."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


def kcidb(results: Results) -> str:
    """The report as JSON. Raises HarnessError where kcidb-io does not take it."""
    data = report(results)
    check(data)
    return json.dumps(data, indent=1, ensure_ascii=True) + "\n"


def check(data: dict[str, Any]) -> None:
    """Raises HarnessError, with the place, for what kcidb-io does not take."""
    from jsonschema import ValidationError
    from kcidb_io.schema import V5_3

    try:
        V5_3.validate(data)
    except ValidationError as error:
        place = "/".join(map(str, error.absolute_path))
        what = f"kcidb-io does not take the report at {place}: {text.one_line(error.message)[:200]}"
        raise HarnessError(what, step="use --format json, and report this line") from error


def report(results: Results) -> dict[str, Any]:
    """The report as plain values."""
    names = _Names(results)
    known = {kernel.id for kernel in results.kernels}
    tests = [test for test in results.tests if test.kernel in known and test.id != BUILD]
    found = mail.causes(results)
    return {
        "version": {"major": MAJOR, "minor": MINOR},
        "checkouts": [_checkout(results, names, role) for role in dict.fromkeys(k.role for k in results.kernels)],
        "builds": [_build(results, names, kernel) for kernel in results.kernels],
        "tests": [_test(results, names, test) for test in tests],
        "issues": [_issue(cause.finding) for cause in found],
        "incidents": [one for cause in found for one in _incidents(names, cause)],
    }


class _Names:
    """Ids. Those of a run are unique for its content, and the same whenever it is reported."""

    def __init__(self, results: Results) -> None:
        run = results.run
        self._run = _digest(run.id, run.started, run.seed, *run.argv, *(kernel.id for kernel in results.kernels))

    def checkout(self, role: Role) -> str:
        return f"{ORIGIN}:{self._run}-{role}"

    def build(self, kernel: str) -> str:
        return f"{ORIGIN}:{self._run}-{_digest(kernel)}"

    def test(self, test: TestRow) -> str:
        return f"{ORIGIN}:{self._run}-{_digest(test.kernel, test.machine, test.id)}"

    def incident(self, test: TestRow, signature: str) -> str:
        return f"{self.test(test)}-{_digest(signature)}"


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:20]


def _issue_id(signature: str) -> str:
    return f"{ORIGIN}:{_digest(signature)}"


def _checkout(results: Results, names: _Names, role: Role) -> dict[str, Any]:
    kernel = next(kernel for kernel in results.kernels if kernel.role is role)
    made: dict[str, Any] = {
        "id": names.checkout(role),
        "origin": ORIGIN,
        "comment": clean(f"{role}: Linux {kernel.release}"),
        "start_time": datetime.fromtimestamp(results.run.started, UTC).isoformat(),
        "valid": True,
        "misc": {
            "content": kernel.tree,
            "uncommitted_edits": kernel.dirty,
            "patches": [clean(name) for name in kernel.patches],
            "verdict": str(results.verdict),
            "why": [clean(why) for why in results.why],
        },
    }
    if _COMMIT.fullmatch(kernel.commit):
        made["git_commit_hash"] = kernel.commit
    if not kernel.patches and not kernel.dirty:
        made["patchset_hash"] = ""
    return made


def _build(results: Results, names: _Names, kernel: KernelRow) -> dict[str, Any]:
    own = next((test for test in results.tests if test.kernel == kernel.id and test.id == BUILD), None)
    canaries = [canary for canary in results.canaries if canary.kernel == kernel.id]
    made: dict[str, Any] = {
        "id": names.build(kernel.id),
        "checkout_id": names.checkout(kernel.role),
        "origin": ORIGIN,
        "architecture": re.sub(r"[^a-z0-9_]", "_", kernel.arch),
        "duration": kernel.build_seconds,
        "status": STATUS[own.outcome] if own else "PASS",
        "misc": {
            "config_sha256": kernel.config_sha256,
            "fragments": [clean(name) for name in kernel.fragments],
            "planted_defects": {"planted": len(canaries), "caught": sum(canary.caught for canary in canaries)},
        },
    }
    if kernel.compiler:
        made["compiler"] = clean(kernel.compiler)
    if own and own.findings:
        made["log_excerpt"] = _log(own)
    return made


def _test(results: Results, names: _Names, test: TestRow) -> dict[str, Any]:
    machine = next((m for m in results.machines if m.kernel == test.kernel and m.spec.name == test.machine), None)
    made: dict[str, Any] = {
        "id": names.test(test),
        "build_id": names.build(test.kernel),
        "origin": ORIGIN,
        "path": path(test.id),
        "status": "ERROR" if test.flaky else STATUS[test.outcome],
        "duration": test.seconds,
        "comment": text.one_line(f"{test.excused}: {test.describe()}" if test.excused else test.describe()),
        "misc": {
            "id": clean(test.id),
            "faults": {
                "reached": test.faults.reached,
                "injected": test.faults.injected,
                "handled": test.faults.handled,
            },
            "signatures": [clean(finding.signature) for finding in test.findings if finding.counts],
        },
    }
    if machine:
        shape = f"QEMU, {machine.accelerator}, {test.machine}: {text.spec_line(machine.spec)}"
        made["environment"] = {"comment": clean(shape)}
    if log := _log(test):
        made["log_excerpt"] = log
    return made


def path(test: str) -> str:
    """A test's id as a path of KCIDB: ``tests/kernel/x/test_a.py::test_b[c]`` is ``kharness.x.test_a.test_b.c``."""
    if test == BOOT:
        return BOOT
    parts = [part.removesuffix(".py") for part in re.split(r"/|::|[\[\]]", test)]
    while parts and parts[0] in _LEAD:
        parts.pop(0)
    named = (re.sub(r"[^a-zA-Z0-9_-]+", "_", part).strip("_") for part in parts)
    return ".".join([ORIGIN, *(part for part in named if part)])


def _log(test: TestRow) -> str:
    """What the findings that count show of the kernel log."""
    lines = [line for finding in test.findings if finding.counts for line in (finding.title, *finding.log)]
    return clean("\n".join(lines))[:MOST_LOG]


def _issue(finding: Finding) -> dict[str, Any]:
    return {
        "id": _issue_id(finding.signature),
        "version": ISSUE_VERSION,
        "origin": ORIGIN,
        "culprit": {"code": True, "tool": False, "harness": False},
        "comment": text.one_line(finding.title),
        "misc": {"signature": clean(finding.signature), "place": clean(text.place(finding))},
    }


def _incidents(names: _Names, cause: mail.Cause) -> Iterator[dict[str, Any]]:
    """One for each test that showed it."""
    for test in cause.tests:
        of = {"build_id": names.build(test.kernel)} if test.id == BUILD else {"test_id": names.test(test)}
        yield {
            "id": names.incident(test, cause.finding.signature),
            "origin": ORIGIN,
            "issue_id": _issue_id(cause.finding.signature),
            "issue_version": ISSUE_VERSION,
            "present": True,
            **of,
        }
