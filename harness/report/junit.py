# SPDX-License-Identifier: GPL-2.0-only
"""junit.xml: the results for a CI, which is red there exactly when the verdict is not pass."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from harness.core.records import Finding, Outcome, Verdict, render_frame
from harness.report.results import store
from harness.report.sites import fault_line, under_fault
from harness.report.text import clean, dump_line, kept_line, machine_line, place, replay_line, source_line, verdict_line
from harness.report.trim import trimmed
from harness.verdict import KernelRow, Results, TestRow

FILE = "junit.xml"


def render(results: Results) -> str:
    """The document: one suite a kernel (and so an architecture), and one, ``kharness``, for the run itself.

    A failure of base, or one of the patched kernel that base shows too, is ``skipped``: a CI that reads only
    this file must not blame the patch. What the run as a whole lacked (a canary, pytest's end) is an error of
    the case ``kharness.verdict``.
    """
    results = trimmed(results)
    root = ET.Element("testsuites", name="kharness")
    root.append(_verdict_suite(results))
    known = {kernel.id for kernel in results.kernels}
    for kernel in results.kernels:
        root.append(_suite(results, kernel, [test for test in results.tests if test.kernel == kernel.id]))
    lost = [test for test in results.tests if test.kernel not in known]
    if lost:
        root.append(_suite(results, None, lost))
    for what in ("tests", "failures", "errors", "skipped"):
        root.set(what, str(sum(int(suite.get(what, "0")) for suite in root)))
    for node in root.iter():  # XML 1.0 has no control characters at all
        node.attrib.update({name: clean(value) for name, value in node.attrib.items()})
        node.text = clean(node.text) if node.text else node.text
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def write(results: Results, path: Path) -> None:
    """Write the document whole or not at all. Raises HarnessError when the disk refuses."""
    store(path, render(results))


def _verdict_suite(results: Results) -> ET.Element:
    suite = ET.Element("testsuite", name="kharness", time=f"{results.run.seconds:.3f}")
    case = ET.SubElement(suite, "testcase", classname="kharness", name="verdict", time="0.000")
    why = clean("\n".join(results.why))
    if results.verdict is Verdict.INCONCLUSIVE:
        ET.SubElement(case, "error", message=clean(results.why[0]), type="inconclusive").text = why
    elif results.verdict is not Verdict.PASS:
        ET.SubElement(case, "failure", message=clean(results.why[0]), type=str(results.verdict)).text = why
    lines = [verdict_line(results, ""), *map(clean, results.remarks)]
    ET.SubElement(case, "system-out").text = "\n".join(lines)
    return _count(suite)


def _suite(results: Results, kernel: KernelRow | None, tests: list[TestRow]) -> ET.Element:
    name = f"{kernel.role}.{kernel.arch}" if kernel else "unknown"
    seconds = sum(test.seconds for test in tests)
    suite = ET.Element("testsuite", name=clean(f"{name} {kernel.release}" if kernel else name))
    suite.set("time", f"{seconds:.3f}")
    if results.run.started:
        suite.set("timestamp", datetime.fromtimestamp(results.run.started, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    properties = ET.SubElement(suite, "properties")
    if kernel:
        facts = {"kernel": kernel.id, "tree": kernel.tree, "dirty": str(kernel.dirty).lower()}
        facts |= {f"machine.{m.spec.name}": machine_line(m) for m in results.machines if m.kernel == kernel.id}
        for key, value in facts.items():
            ET.SubElement(properties, "property", name=clean(key), value=clean(value))
    for test in tests:
        suite.append(_case(results, test, name))
    return _count(suite)


def _case(results: Results, test: TestRow, suite: str) -> ET.Element:
    path, _, name = clean(test.id).rpartition("::")
    inside = path.removesuffix(".py").replace("/", ".").replace("::", ".")
    case = ET.Element("testcase", name=name, time=f"{test.seconds:.3f}")
    case.set("classname", ".".join(part for part in (suite, test.machine and clean(test.machine), inside) if part))
    message = clean(test.describe())
    if test.bad and test.excused:
        ET.SubElement(case, "skipped", message=f"{clean(test.excused)}: {message}")
    elif test.outcome is Outcome.FAIL:
        kinds = [finding.kind for finding in test.findings if finding.counts]
        failure = ET.SubElement(case, "failure", message=message, type=clean(kinds[0]) if kinds else "fail")
        failure.text = clean(_details(results, test))
    elif test.outcome is Outcome.INCONCLUSIVE or test.flaky:
        kind = "flaky" if test.flaky else "inconclusive"
        ET.SubElement(case, "error", message=message, type=kind).text = clean(_details(results, test))
    elif test.outcome is Outcome.SKIP:
        ET.SubElement(case, "skipped", message=message)
    return case


def _details(results: Results, test: TestRow) -> str:
    found = (_finding(results, test, finding) for finding in test.findings if finding.counts)
    parts = [test.why, *found, replay_line(results, test), kept_line(test), dump_line(test)]
    return "\n\n".join(part for part in parts if part)


def _finding(results: Results, test: TestRow, finding: Finding) -> str:
    frames = [f"  {render_frame(frame)}" for frame in finding.frames]
    under = [under_fault(finding), fault_line(results, test, finding)]
    head = [f"{finding.kind}: {finding.title}", place(finding), *(line for line in under if line)]
    source = [source_line(line, finding) for line in finding.excerpt]
    stacks = [text for s in finding.stacks for text in (f"{s.name}:", *(f"  {render_frame(f)}" for f in s.frames))]
    return "\n".join([*head, *source, *frames, *stacks, *finding.log])


def _count(suite: ET.Element) -> ET.Element:
    cases = suite.findall("testcase")
    found = Counter(child.tag for case in cases for child in case)
    suite.set("tests", str(len(cases)))
    for what, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(what, str(found[tag]))
    return suite
