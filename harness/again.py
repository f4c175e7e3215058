# SPDX-License-Identifier: GPL-2.0-only
"""Owns `kharness replay`: one failed test again, on the same kernel, with the same seed."""

from __future__ import annotations

import re
from pathlib import Path

from harness import replay
from harness.errors import Exit, HarnessError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.plan import CACHE_CAP_GIB, DEFAULT_SUITE, KernelRequest, Plan, SourceRequest
from harness.records import Outcome
from harness.run import Conductor
from harness.suite.search.words import words
from harness.verdict import Results


def replay_file(path: Path, out: str, toolchain: str) -> Exit:
    """Replays `path`. FAIL only if one of its signatures comes back; PASS if the test passes.

    Raises UsageError when the source is no longer what was tested: that would be another kernel.
    """
    wanted = replay.read(path)
    kernel = KernelRequest(source_of(wanted), wanted.kernel.arch, wanted.kernel.role, wanted.patches)
    plan = Plan(
        kernels=(kernel,), seed=wanted.seed, out=out,
        machines=(wanted.machine,), toolchain=toolchain, argv=("kharness", "replay", str(path)),
        test_id=wanted.test, tree=wanted.kernel.tree, kconfig=wanted.kconfig, cmdline=wanted.cmdline,
        suite=wanted.suite or DEFAULT_SUITE, bpf=wanted.bpf, faults=wanted.faults, coverage=wanted.coverage,
        allow=wanted.allow, sequence=wanted.scenario.sequence,
    )  # fmt: skip
    cache = Cache.default(CACHE_CAP_GIB << 30)
    progress = Progress(cache.folder("durations"))
    progress.say(f"replaying {wanted.test} with seed {wanted.seed} on {wanted.kernel.release}")
    for one in wanted.scenario.sequence:
        progress.say(f"  {words(one)}")
    conductor = Conductor(plan, progress, cache)
    conductor.run()
    status, line = compare(wanted, conductor.judged)
    print(line)
    return status


def source_of(wanted: replay.Replay) -> SourceRequest:
    """Where the kernel of a replay came from: a folder (its commit, if that was tested), or a Debian package."""
    package = re.fullmatch(r"linux-source-\S+ (\S+)", wanted.kernel.source)
    if package:
        return SourceRequest(version=package[1])
    kernel = wanted.kernel
    return SourceRequest(tree=kernel.source, revision="" if kernel.dirty else kernel.commit)


def compare(wanted: replay.Replay, results: Results | None) -> tuple[Exit, str]:
    """What a replay's results say about the finding that was looked for, as status and last line."""
    if results is None:
        raise HarnessError("the replay gave no results", step="run it again")
    rows = [test for test in results.tests if test.id == wanted.test]
    seen = {found.signature for test in rows for found in test.findings if found.counts}
    again = seen & set(wanted.signatures)
    if again:
        return Exit.FAIL, f"replay: FAIL, the same finding came back: {sorted(again)[0]}"
    if rows and all(test.outcome is Outcome.PASS for test in rows):
        return Exit.PASS, "replay: PASS, the finding did not come back"
    other = f"another finding: {sorted(seen)[0]}" if seen else "the test could not be judged"
    return Exit.INCONCLUSIVE, f"replay: INCONCLUSIVE, {other}"
