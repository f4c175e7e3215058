# SPDX-License-Identifier: GPL-2.0-only
"""One failed test repeated, on the same kernel, with the same seed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from harness.core.errors import Exit, HarnessError
from harness.core.plan import CACHE_CAP_GIB, KernelRequest, Plan, SourceRequest
from harness.core.printable import one_line
from harness.core.records import Outcome, Verdict
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.run import planning
from harness.run.runner import Runner
from harness.session import replay_file
from harness.suite import loader
from harness.verdict import Results


def replay(path: Path, flags: Mapping[str, object]) -> Exit:
    """Replay `path`. FAIL only if one of its signatures comes back; PASS if the test passes.

    `flags` are further options of the user; ``suite`` is the path of the test. Raises UsageError when the source is no
    longer what was tested, which would be another kernel, and for a suite outside the checkout that only the file
    names.
    """
    wanted = replay_file.read(path)
    suite = str(flags.get("suite", ""))
    if suite:
        wanted = replace(wanted, suite=planning.suite_of(suite))
    else:
        planning.must_be_typed(wanted.suite, str(path))
    wanted = replace(wanted, suite=wanted.suite or loader.default())
    kernel = KernelRequest(source_of(wanted), wanted.kernel.arch, wanted.kernel.role, wanted.patches)
    argv = ("kharness", "replay", *(("--suite", suite) if suite else ()), str(path))
    options = planning.with_flags(wanted.options, flags)
    plan = Plan(
        kernels=(kernel,),
        seed=wanted.seed,
        options=options,
        machines=(wanted.machine,),
        argv=argv,
        test_id=wanted.test,
        tree=wanted.kernel.tree,
        kconfig=wanted.kconfig,
        suite=wanted.suite,
        bpf=wanted.bpf,
        faults=wanted.faults,
        allow=wanted.allow,
        sequence=wanted.scenario.sequence,
    )
    cache = Cache.default(CACHE_CAP_GIB << 30)
    progress = Progress(cache.folder("durations"))
    progress.say(f"replaying {wanted.test} with seed {wanted.seed} on {wanted.kernel.release}")
    describe = loader.of(wanted.suite).describe or str
    for one in wanted.scenario.sequence:
        progress.say(f"  {describe(one)}")
    runner = Runner(plan, progress, cache)
    runner.run()
    status, line = compare(wanted, runner.judged)
    print(one_line(line))
    return status


def source_of(wanted: replay_file.Replay) -> SourceRequest:
    """The source of a replay's kernel: a folder (its commit, if that was tested), or a Debian package."""
    package = re.fullmatch(r"linux-source-\S+ (\S+)(?: \(.*\))?", wanted.kernel.source)
    if package:
        return SourceRequest(version=package[1])
    kernel = wanted.kernel
    return SourceRequest(tree=kernel.source, revision="" if kernel.dirty else kernel.commit)


def compare(wanted: replay_file.Replay, results: Results | None) -> tuple[Exit, str]:
    """The status and last line of a replay, from its results on the finding that is looked for."""
    if results is None:
        raise HarnessError("the replay gave no results", step="run it again")
    rows = [test for test in results.tests if test.id == wanted.test]
    seen = {found.signature for test in rows for found in test.findings if found.counts}
    again = seen & set(wanted.signatures)
    if again:
        return Exit.FAIL, f"replay: FAIL, the same finding came back: {sorted(again)[0]}"
    passed = bool(rows) and all(test.outcome is Outcome.PASS for test in rows)
    if passed and results.verdict is Verdict.PASS:
        return Exit.PASS, "replay: PASS, the finding did not come back"
    other = f"another finding: {sorted(seen)[0]}" if seen else "the test could not be judged"
    if passed:
        other = f"the test passed, but {results.why[0] if results.why else 'the run was not whole'}"
    return Exit.INCONCLUSIVE, f"replay: INCONCLUSIVE, {other}"
