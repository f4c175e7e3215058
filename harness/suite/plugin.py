# SPDX-License-Identifier: GPL-2.0-only
"""Owns the pytest plugin: which targets a test runs on, its guest, its end, and what is journalled.

What a test may ask for besides its guest is in harness.suite.fixtures.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import replay
from harness.errors import MachineEnded, UsageError
from harness.faults.optional import Declared, beside
from harness.plan import (
    RETRY_LOST_MACHINE,
    BpfRequest,
    Survey,
    Surveyed,
    Wanted,
)
from harness.records import SCHEMA, EventKind, Outcome, Role, TestResult, encode
from harness.suite.bench import Bench
from harness.suite.extra import CanaryItem, LeakBatch, canaries
from harness.suite.machines import HELP, MARKER, Place, Spot, places, shares
from harness.suite.outcome import Inconclusive, KernelFinding
from harness.suite.session import Ready, Workshop, read_session, read_survey
from harness.suite.supplied import SUPPLIED, Thing, canonical, has_selftest, supplied

pytest_plugins = ("harness.suite.fixtures",)

WORKSHOP = pytest.StashKey[Workshop]()
SURVEY = pytest.StashKey[Survey]()
ERRORS = pytest.StashKey[list[str]]()
BENCH = pytest.StashKey[Bench]()
RESULT = pytest.StashKey[TestResult]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kharness-plan", help="plan.json of a run; written by 'kharness run'")
    parser.addoption("--kharness-survey", help="survey.json: only say which machines the selected tests need")
    parser.addoption("--kharness-shard", default="0/1", help="which part of the session this process runs: I/N")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "solo: what it does to its guest is not repeated in the leak batch")
    config.addinivalue_line("markers", HELP)
    if path := config.getoption("--kharness-plan"):
        config.stash[WORKSHOP] = Workshop(read_session(Path(path)))
    if path := config.getoption("--kharness-survey"):
        config.stash[SURVEY], config.stash[ERRORS] = read_survey(Path(path)), []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "ready" not in metafunc.fixturenames:
        return
    survey = metafunc.config.stash.get(SURVEY, None)
    workshop = metafunc.config.stash.get(WORKSHOP, None)
    chosen: list[tuple[Ready | Spot, Place]] = []
    if survey is not None:
        for place in _places(metafunc.definition, survey.machines):
            chosen += [(Spot(kernel.role, kernel.arch, place.machine), place) for kernel in survey.kernels]
    elif workshop is not None:
        for place in _places(metafunc.definition, workshop.session.machines):
            chosen += [(ready, place) for ready in workshop.ready if ready.machine.spec.name == place.machine]
    else:
        raise pytest.UsageError("tests of a kernel need a kernel: use 'kharness run' or 'make test'")
    params = [
        pytest.param(target, id=target.name, marks=[pytest.mark.full] if place.full else [])
        for target, place in chosen
    ]
    metafunc.parametrize("ready", params, indirect=True, scope="session")
    for fixture in SUPPLIED.keys() & set(metafunc.fixturenames):
        # By name: what is behind it differs between targets.
        names = [thing.name for thing in _supplied(metafunc.config, fixture)]
        metafunc.parametrize(fixture, names, indirect=True)


def _supplied(config: pytest.Config, fixture: str) -> tuple[Thing, ...]:
    """What there is for a fixture, in a session and in the pass before it."""
    told = config.stash[WORKSHOP].session if WORKSHOP in config.stash else None
    return supplied(config.stash.get(SURVEY, told), fixture)


def _places(item: pytest.Item, asked: Sequence[str]) -> tuple[Place, ...]:
    """Where a test runs; a marker that cannot be obeyed is an error of its file's collection."""
    mark = item.get_closest_marker(MARKER)
    try:
        return places(mark.args, dict(mark.kwargs), asked) if mark else places((), {}, asked)
    except UsageError as error:
        why = f"{item.name}: {error.line()}"
    pytest.fail(why, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Keeps the last words on what cannot be collected."""
    report = yield
    if report.failed and ERRORS in collector.config.stash:
        words = [line.removeprefix("E ").strip() for line in report.longreprtext.splitlines() if line.strip()]
        collector.config.stash[ERRORS].append(f"{collector.nodeid}: {words[-1]}")
    return report


def _answer(survey: Survey, items: list[pytest.Item], errors: list[str]) -> None:
    """Writes which machine each selected test wants, and what could not be collected."""
    spots = [(item.nodeid, item.callspec.params.get("ready")) for item in items if hasattr(item, "callspec")]
    wanted = (Wanted(test, spot.arch, spot.role, spot.machine) for test, spot in spots if isinstance(spot, Spot))
    Path(survey.answer).write_text(json.dumps(encode(Surveyed(tuple(wanted), tuple(errors)))))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    wanting = {fixture for fixture in SUPPLIED if not _supplied(config, fixture)}
    items[:] = [item for item in items if not wanting & set(getattr(item, "fixturenames", ()))]  # and not skipped
    items[:] = [item for item in items if has_selftest(_ready_of(item), getattr(item, "callspec", None))]
    survey = config.stash.get(SURVEY, None)
    if survey is not None:
        try:
            _optional(items)  # a mistake in it ends the run before anything is built
        except UsageError as error:
            config.stash[ERRORS].append(error.line())
        _answer(survey, items, config.stash[ERRORS])
    workshop = config.stash.get(WORKSHOP, None)
    if workshop is None:
        return
    wanted = workshop.session.test_id
    if wanted:
        items[:] = [item for item in items if _canonical_of(item) == wanted]
    if items:
        items[:0] = [item for ready in workshop.ready for item in canaries(session, ready, workshop)]
    shard, shards = (int(part) for part in config.getoption("--kharness-shard").split("/"))
    further = [ready.machine.spec.name for ready in workshop.ready if not ready.first]
    parts = shares([_kept_together(item) for item in items], further, shards)
    items[:] = [item for item, part in zip(items, parts, strict=True) if part == shard]
    if not wanted:
        # Each part repeats its own tests: what another process did is not there to be repeated.
        mine = {id(ready) for item in items if (ready := _ready_of(item)) and not isinstance(item, CanaryItem)}
        items += [
            LeakBatch.make(session, ready, workshop, shard) for ready in workshop.ready if id(ready) in mine
        ]
    workshop.journal.emit(EventKind.SESSION_START, _announced(items))


def _kept_together(item: pytest.Item) -> str:
    """What must not be shared out: a test on base and patched, or the leak batches of a part would not compare; and a
    further machine, which so has one leak batch."""
    ready = _ready_of(item)
    return _canonical_of(item) if ready is None or ready.first else ready.machine.spec.name


def _announced(items: list[pytest.Item]) -> dict[str, Any]:
    """What must come of a session: the end of each test on each target, and each canary; which sites are optional."""
    collected, planted = [], []
    for item in items:
        ready = _ready_of(item)
        if ready is None:
            continue
        place = {"kernel": ready.kernel.id, "machine": ready.machine.spec.name}
        if isinstance(item, CanaryItem):
            planted += [{"oracle": oracle, **place} for oracle in item.oracles]
        else:
            collected.append({"id": _canonical_of(item), **place})
    return {"collected": collected, "canaries": planted, "optional": encode(_optional(items))}


def _optional(items: list[pytest.Item]) -> list[Declared]:
    """The fault sites that are declared optional for these tests."""
    return list(dict.fromkeys(entry for item in items for entry in beside(item.path)))


def _canonical_of(item: pytest.Item) -> str:
    ready = _ready_of(item)
    return canonical(item.nodeid, ready) if ready else item.nodeid


def _ready_of(item: pytest.Item) -> Ready | None:
    callspec = getattr(item, "callspec", None)
    ready = callspec.params.get("ready") if callspec else getattr(item, "ready", None)
    return ready if isinstance(ready, Ready) else None


@pytest.fixture(scope="session")
def workshop(pytestconfig: pytest.Config) -> Workshop:
    """Everything of this session: targets, toolchain, journal."""
    return pytestconfig.stash[WORKSHOP]


@pytest.fixture(scope="session")
def ready(request: pytest.FixtureRequest) -> Ready:
    """The target: a kernel on a machine."""
    target = request.param
    assert isinstance(target, Ready)
    return target


@pytest.fixture
def bench(request: pytest.FixtureRequest, ready: Ready, workshop: Workshop) -> Iterator[Bench]:
    """A pristine guest and the record of what is done on it."""
    item = request.node
    bench = Bench(canonical(item.nodeid, ready), ready, workshop.session.seed)
    workshop.equip(bench)
    item.stash[BENCH] = bench
    _started(workshop, ready, bench.test_id)
    for attempt in range(RETRY_LOST_MACHINE + 1):
        try:
            bench.guest.__enter__()
            break
        except MachineEnded:
            bench.guest.__exit__(None, None, None)
            if attempt == RETRY_LOST_MACHINE:
                raise
            bench.guest = ready.restore()
    if workshop.counters:
        workshop.counters.begin(bench.guest)
    yield bench
    if workshop.counters:  # the test has been judged
        workshop.counters.end(bench.guest, ready, bench.test_id)
    bench.guest.__exit__(None, None, None)


def _started(workshop: Workshop, ready: Ready, test: str) -> None:
    data = {"machine": ready.machine.spec.name}
    workshop.journal.emit(EventKind.TEST_START, data, kernel=ready.kernel.id, test=test)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that makes no sense on this machine is skipped, with a word in the journal, before a guest is restored."""
    ready, workshop = _ready_of(item), item.config.stash.get(WORKSHOP, None)
    if ready is None or workshop is None or isinstance(item, CanaryItem | LeakBatch):
        return
    machine = ready.machine.spec.name
    why = next((p.refused for p in _places(item, workshop.session.machines) if p.machine == machine), "")
    if why:
        _started(workshop, ready, test := canonical(item.nodeid, ready))
        skipped = TestResult(test, ready.kernel.arch, ready.kernel.id, machine, Outcome.SKIP, why=why)
        workshop.journal.emit(EventKind.TEST_END, skipped, kernel=ready.kernel.id, test=test)
        pytest.skip(why)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Runs the test, then its oracles, and turns what they found into the test's failure."""
    bench = item.stash.get(BENCH, None)
    if bench is None:
        return (yield)
    error: BaseException | None = None
    answer: object = None
    try:
        answer = yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as raised:  # skip and fail are BaseExceptions of pytest's own
        error = raised
    result = bench.conclude(error)
    item.stash[RESULT] = _journal(item.config.stash[WORKSHOP], bench, result)
    if error is not None:
        raise error
    if result.outcome is Outcome.FAIL:
        raise KernelFinding(_words(result))
    if result.outcome is Outcome.INCONCLUSIVE:
        raise Inconclusive(result.why)
    if not item.get_closest_marker("solo"):
        item.config.stash[WORKSHOP].remember(bench)
    return answer


def _words(result: TestResult) -> str:
    lines = []
    for finding in (found for found in result.findings if found.counts):
        place = f" at {finding.file}:{finding.line}" if finding.file else ""
        blame = f" in {finding.function}" if finding.function else ""
        lines.append(f"{finding.kind}: {finding.title}{blame}{place}")
    return "\n".join(dict.fromkeys(lines)) or result.why  # backtraces that differ in their callers


def _journal(workshop: Workshop, bench: Bench, result: TestResult) -> TestResult:
    """Writes the replay file of what did not pass, then the end event."""
    if result.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE):
        path = workshop.out / "replay" / (replay.file_name(f"{result.id}-{bench.ready.name}") + ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        signatures = tuple(sorted({found.signature for found in result.findings if found.counts}))
        again = replay.Replay(
            schema=SCHEMA, kernel=bench.ready.kernel, test=result.id, machine=result.machine, seed=bench.seed,
            signatures=signatures, scenario=bench.scenario(), argv=workshop.session.argv,
            kconfig=workshop.session.kconfig, suite=workshop.session.suite,
            cmdline=bench.ready.target.cmdline,
            patches=workshop.session.patches if bench.ready.kernel.role is Role.PATCHED else (),
            bpf=tuple(BpfRequest(found.path, found.sha256) for found in bench.ready.target.schedulers),
            faults=workshop.session.faults, allow=workshop.session.allow,
            coverage=workshop.session.coverage,
        )  # fmt: skip
        replay.write(path, again)
        result = replace(result, replay=str(path))
    workshop.journal.emit(EventKind.TEST_END, result, kernel=result.kernel, test=result.id)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that never came to its call (its guest could not be restored) is journalled all the same."""
    report = yield
    bench = item.stash.get(BENCH, None)
    if bench and call.when == "setup" and call.excinfo is not None:
        result = bench.conclude(call.excinfo.value)
        item.stash[RESULT] = _journal(item.config.stash[WORKSHOP], bench, result)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    workshop = session.config.stash.get(WORKSHOP, None)
    if workshop is not None:
        workshop.journal.emit(EventKind.SESSION_END, {"exitstatus": int(exitstatus)})
        workshop.journal.close()
