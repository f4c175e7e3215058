# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin: which targets a test runs on, its guest, its end, and what is recorded.

What a test may ask for besides its guest is in harness.session.fixtures.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.errors import Inconclusive, UsageError
from harness.core.plan import BpfRequest, Survey, Surveyed, Wanted
from harness.core.records import (
    SCHEMA,
    DueCanary,
    DueResult,
    EventKind,
    Outcome,
    Role,
    SessionEnd,
    SessionError,
    SessionStart,
    TestResult,
    encode,
)
from harness.core.words import file_name
from harness.faults.optional import Declared, beside
from harness.host.cache import write_atomically
from harness.session import replay_file
from harness.session.batch import LeakBatch
from harness.session.context import BAD, TestContext
from harness.session.defects import CanaryItem, canaries
from harness.session.outcome import KernelFinding
from harness.session.places import HELP, MARKER, Place, Spot, places, shares
from harness.session.session import Target, TestSession, read_session, read_survey
from harness.session.supplied import SUPPLIED, Thing, canonical, has_selftest, supplied
from harness.suite import loader
from harness.suite.interface import Suite

pytest_plugins = ("harness.session.fixtures",)

SEQUENTIAL = "sequential"

WORDS = 400
"""Characters of an exception's first line that are reported."""

TEST_SESSION = pytest.StashKey[TestSession]()
SURVEY = pytest.StashKey[Survey]()
ERRORS = pytest.StashKey[list[str]]()
BENCH = pytest.StashKey[TestContext]()
RESULT = pytest.StashKey[TestResult]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kharness-plan", help="plan.json of a run; written by 'kharness run'")
    parser.addoption("--kharness-survey", help="survey.json: only say which machines the selected tests need")
    parser.addoption("--kharness-shard", default="0/1", help="which part of the session this process runs: I/N")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "solo: what it does to its guest is not repeated in the leak batch")
    config.addinivalue_line("markers", f"{SEQUENTIAL}: no two CPUs need to run at the same instant; TCG is faster so")
    config.addinivalue_line("markers", HELP)
    if path := config.getoption("--kharness-plan"):
        shard, shards = (int(part) for part in config.getoption("--kharness-shard").split("/"))
        config.stash[TEST_SESSION] = test_session = TestSession(read_session(Path(path)), shard, shards)
        _fixtures(config, test_session.suite)
    if path := config.getoption("--kharness-survey"):
        config.stash[SURVEY], config.stash[ERRORS] = read_survey(Path(path)), []
        _fixtures(config, loader.of(config.stash[SURVEY].suite))


def _fixtures(config: pytest.Config, suite: Suite) -> None:
    """Register the suite's fixtures."""
    for name in suite.fixtures:
        config.pluginmanager.register(importlib.import_module(name), name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" not in metafunc.fixturenames:
        return
    survey = metafunc.config.stash.get(SURVEY, None)
    test_session = metafunc.config.stash.get(TEST_SESSION, None)
    chosen: list[tuple[Target | Spot, Place]] = []
    if survey is not None:
        for place in _places(metafunc.definition, survey.machines):
            chosen += [(Spot(kernel.role, kernel.arch, place.machine), place) for kernel in survey.kernels]
    elif test_session is not None:
        for place in _places(metafunc.definition, test_session.session.machines):
            chosen += [(target, place) for target in test_session.targets if target.machine.spec.name == place.machine]
    else:
        raise pytest.UsageError("tests of a kernel need a kernel: use 'kharness run' or 'make test'")
    params = [
        pytest.param(target, id=target.name, marks=[pytest.mark.full] if place.full else []) for target, place in chosen
    ]
    metafunc.parametrize("target", params, indirect=True, scope="session")
    for fixture in SUPPLIED.keys() & set(metafunc.fixturenames):
        # By name: its value differs between targets.
        names = [thing.name for thing in _supplied(metafunc.config, fixture)]
        metafunc.parametrize(fixture, names, indirect=True)


def _supplied(config: pytest.Config, fixture: str) -> tuple[Thing, ...]:
    """The values of a fixture, in a session and in the collecting pass."""
    session = config.stash[TEST_SESSION].session if TEST_SESSION in config.stash else None
    return supplied(config.stash.get(SURVEY, session), fixture)


def _places(item: pytest.Item, asked: Sequence[str]) -> tuple[Place, ...]:
    """Where a test runs; an invalid marker is an error of its file's collection."""
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
    """Keep the last line of each collection error."""
    report = yield
    if report.failed and ERRORS in collector.config.stash:
        words = [line.removeprefix("E ").strip() for line in report.longreprtext.splitlines() if line.strip()]
        collector.config.stash[ERRORS].append(f"{collector.nodeid}: {words[-1]}")
    return report


def _answer(survey: Survey, items: list[pytest.Item], errors: list[str]) -> None:
    """Write which machine each selected test needs, and what could not be collected."""
    spots = [(item.nodeid, item.callspec.params.get("target")) for item in items if hasattr(item, "callspec")]
    wanted = (
        Wanted(test, spot.arch, spot.role, spot.machine, canonical(test, spot))
        for test, spot in spots
        if isinstance(spot, Spot)
    )
    write_atomically(Path(survey.answer), json.dumps(encode(Surveyed(tuple(wanted), tuple(errors)))))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    wanting = {fixture for fixture in SUPPLIED if not _supplied(config, fixture)}
    items[:] = [item for item in items if not wanting & set(getattr(item, "fixturenames", ()))]  # and not skipped
    items[:] = [item for item in items if has_selftest(_target_of(item), getattr(item, "callspec", None))]
    survey = config.stash.get(SURVEY, None)
    if survey is not None:
        try:
            _optional(items)  # a mistake in it ends the run before anything is built
        except UsageError as error:
            config.stash[ERRORS].append(error.line())
        _answer(survey, items, config.stash[ERRORS])
    test_session = config.stash.get(TEST_SESSION, None)
    if test_session is None:
        return
    wanted = test_session.session.test_id
    if wanted:
        items[:] = [item for item in items if _canonical_of(item) == wanted]
    if items:
        items[:0] = [item for target in test_session.targets for item in canaries(session, target, test_session)]
    whole = list(items)
    further = [target.machine.spec.name for target in test_session.targets if not target.first]
    parts = shares([_kept_together(item) for item in items], further, test_session.shards)
    items[:] = [item for item, part in zip(items, parts, strict=True) if part == test_session.shard]
    if not wanted:
        # Each part repeats its own tests: it does not have those of other processes.
        mine = {id(target) for item in items if (target := _target_of(item)) and not isinstance(item, CanaryItem)}
        items += [
            LeakBatch.make(session, target, test_session) for target in test_session.targets if id(target) in mine
        ]
    test_session.event_log.emit(EventKind.SESSION_START, _announced(test_session, items, whole))


def _kept_together(item: pytest.Item) -> str:
    """The keys of items that stay in one part: a test on base and patched, so that the leak batches of a part compare;
    and a further machine, which has one leak batch."""
    target = _target_of(item)
    return _canonical_of(item) if target is None or target.first else target.machine.spec.name


def _announced(test_session: TestSession, mine: list[pytest.Item], whole: list[pytest.Item]) -> SessionStart:
    """What is due in a session: the end of each test on each target, and each canary; which sites are optional.

    Each process announces the `whole`, so that the part of a lost process is missed.
    """
    return SessionStart(
        _results(mine),
        _planted(mine),
        _results(whole),
        _planted(whole),
        tuple(encode(_optional(mine))),
        test_session.arch,
        test_session.shard,
        test_session.shards,
    )


def _results(items: list[pytest.Item]) -> tuple[DueResult, ...]:
    """The tests of these items that have a target, with it."""
    return tuple(
        DueResult(_canonical_of(item), target.kernel.id, target.machine.spec.name)
        for item in items
        if (target := _target_of(item)) is not None and not isinstance(item, CanaryItem)
    )


def _planted(items: list[pytest.Item]) -> tuple[DueCanary, ...]:
    """The canaries of these items, by each oracle that they prove."""
    canaries = [item for item in items if isinstance(item, CanaryItem)]
    return tuple(
        DueCanary(oracle, item.target.kernel.id, item.target.machine.spec.name)
        for item in canaries
        for oracle in item.oracles
    )


def _optional(items: list[pytest.Item]) -> list[Declared]:
    """The fault sites that are declared optional for these tests."""
    return list(dict.fromkeys(entry for item in items for entry in beside(item.path)))


def _canonical_of(item: pytest.Item) -> str:
    target = _target_of(item)
    return canonical(item.nodeid, target) if target else item.nodeid


def _target_of(item: pytest.Item) -> Target | None:
    callspec = getattr(item, "callspec", None)
    target = callspec.params.get("target") if callspec else getattr(item, "target", None)
    return target if isinstance(target, Target) else None


@pytest.fixture(scope="session")
def test_session(pytestconfig: pytest.Config) -> TestSession:
    """Everything of this session: targets, toolchain, event log."""
    return pytestconfig.stash[TEST_SESSION]


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Target:
    """The target: a kernel on a machine."""
    target = request.param
    assert isinstance(target, Target)
    return target


@pytest.fixture
def context(request: pytest.FixtureRequest, target: Target, test_session: TestSession) -> Iterator[TestContext]:
    """A pristine guest and the record of what is done on it."""
    item = request.node
    sequential = item.get_closest_marker(SEQUENTIAL) is not None
    context = TestContext(canonical(item.nodeid, target), target, test_session.session.seed, sequential=sequential)
    test_session.equip(context)
    item.stash[BENCH] = context
    _started(test_session, target, context.test_id)
    context.enter()
    if test_session.counters:
        test_session.counters.begin(context.guest)
    yield context
    if test_session.counters:  # the test has been judged
        test_session.counters.end(context.guest, target, context.test_id)
    context.guest.__exit__(None, None, None)


def _started(test_session: TestSession, target: Target, test: str) -> None:
    data = {"machine": target.machine.spec.name}
    test_session.event_log.emit(EventKind.TEST_START, data, kernel=target.kernel.id, test=test)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that makes no sense on this machine, with an event, before a guest is restored."""
    target, test_session = _target_of(item), item.config.stash.get(TEST_SESSION, None)
    if test_session is not None and test_session.session.options.fail_fast and (test_session.out / STOPPED).exists():
        item.session.shouldfail = "a test of another process failed, and --fail-fast was given"
        pytest.skip(str(item.session.shouldfail))
    if target is None or test_session is None or isinstance(item, CanaryItem | LeakBatch):
        return
    machine = target.machine.spec.name
    why = next((p.refused for p in _places(item, test_session.session.machines) if p.machine == machine), "")
    if why:
        _started(test_session, target, test := canonical(item.nodeid, target))
        skipped = TestResult(test, target.kernel.arch, target.kernel.id, machine, Outcome.SKIP, why=why)
        test_session.event_log.emit(EventKind.TEST_END, skipped, kernel=target.kernel.id, test=test)
        pytest.skip(why)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run the test, then its oracles, and turn their findings into the test's failure."""
    context = item.stash.get(BENCH, None)
    if context is None:
        return (yield)
    error: BaseException | None = None
    answer: object = None
    try:
        answer = yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as raised:  # pytest's skip and fail are BaseExceptions
        error = raised
    result = context.conclude(error)
    item.stash[RESULT] = _record_result(item.config.stash[TEST_SESSION], context, result)
    if result.outcome is Outcome.FAIL:
        _ends(item)
    late = isinstance(error, pytest.skip.Exception) and result.outcome is not Outcome.SKIP
    if error is not None and not late:
        raise error
    if result.outcome is Outcome.FAIL:
        raise KernelFinding(_words(result))
    if result.outcome is Outcome.INCONCLUSIVE:
        raise Inconclusive(result.why)
    if not item.get_closest_marker("solo"):
        item.config.stash[TEST_SESSION].remember(context)
    return answer


STOPPED = "stopped"
"""With --fail-fast a file in the results' folder: a test has failed, and no process begins another."""


def _ends(item: pytest.Item) -> None:
    """With --fail-fast, a test that failed is the last."""
    test_session = item.config.stash[TEST_SESSION]
    if test_session.session.options.fail_fast:
        (test_session.out / STOPPED).touch()
        item.session.shouldfail = "a test failed, and --fail-fast was given"


def _words(result: TestResult) -> str:
    lines = []
    for finding in (found for found in result.findings if found.counts):
        place = f" at {finding.file}:{finding.line}" if finding.file else ""
        blame = f" in {finding.function}" if finding.function else ""
        lines.append(f"{finding.kind}: {finding.title}{blame}{place}")
    return "\n".join(dict.fromkeys(lines)) or result.why  # the same title for backtraces with different callers


def _record_result(test_session: TestSession, context: TestContext, result: TestResult) -> TestResult:
    """Write the replay file of a test that did not pass, then the end event."""
    if result.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE):
        path = test_session.out / "replay" / (file_name(f"{result.id}-{context.target.name}") + ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        signatures = tuple(sorted({found.signature for found in result.findings if found.counts}))
        again = replay_file.Replay(
            schema=SCHEMA,
            kernel=context.target.kernel,
            test=result.id,
            machine=result.machine,
            seed=context.seed,
            signatures=signatures,
            scenario=context.scenario(),
            argv=test_session.session.argv,
            kconfig=test_session.session.kconfig,
            suite=test_session.session.suite,
            patches=test_session.session.patches if context.target.kernel.role is Role.PATCHED else (),
            bpf=tuple(BpfRequest(found.path, found.sha256) for found in context.target.saved.schedulers),
            faults=test_session.session.faults,
            allow=test_session.session.allow,
            options=test_session.session.options,
        )
        replay_file.write(path, again)
        result = replace(result, replay=str(path))
    test_session.event_log.emit(EventKind.TEST_END, result, kernel=result.kernel, test=result.id)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record a test that never reached its call, too (its guest could not be restored)."""
    report = yield
    context = item.stash.get(BENCH, None)
    if context and call.when == "setup" and call.excinfo is not None:
        result = context.conclude(call.excinfo.value)
        item.stash[RESULT] = _record_result(item.config.stash[TEST_SESSION], context, result)
    test_session = item.config.stash.get(TEST_SESSION, None)
    if test_session is not None and report.failed and not _is_recorded(item, report.when):
        lines = str(call.excinfo.value).splitlines() if call.excinfo else []
        kind = call.excinfo.typename if call.excinfo else "failed"
        why = f"{kind}: {lines[0]}"[:WORDS] if lines else kind
        error = SessionError(_canonical_of(item), str(report.when), why, test_session.arch, test_session.shard)
        test_session.event_log.emit(EventKind.ERROR, error)
    return report


def _is_recorded(item: pytest.Item, when: str | None) -> bool:
    """Whether a failure that pytest reports is in the event log already: as the test's result, or a canary's."""
    if when == "teardown":
        return False
    if isinstance(item, CanaryItem | LeakBatch):
        return item.recorded
    result = item.stash.get(RESULT, None)
    return result is not None and result.outcome in BAD


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    test_session = session.config.stash.get(TEST_SESSION, None)
    if test_session is not None:
        ended = SessionEnd(int(exitstatus), test_session.arch, test_session.shard, session.testsfailed)
        test_session.event_log.emit(EventKind.SESSION_END, ended)
        test_session.event_log.close()
