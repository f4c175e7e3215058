# SPDX-License-Identifier: GPL-2.0-only
"""Owns the pytest plugin: which targets a test runs on, its guest, its end, and what is journalled."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness import replay
from harness.guest.guest import Guest
from harness.model.state import Features
from harness.plan import RETRY_LOST_MACHINE
from harness.records import SCHEMA, EventKind, MachineEnded, Outcome, Role, TestResult
from harness.suite.bench import Bench
from harness.suite.dsq import Dsqs
from harness.suite.extra import CanaryItem, LeakBatch, canaries
from harness.suite.outcome import Inconclusive, KernelFinding
from harness.suite.session import Ready, Workshop, read_session
from harness.suite.sweep import Faults

WORKSHOP = pytest.StashKey[Workshop]()
BENCH = pytest.StashKey[Bench]()
RESULT = pytest.StashKey[TestResult]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kharness-plan", help="plan.json of a run; written by 'kharness run'")
    parser.addoption("--kharness-shard", default="0/1", help="which part of the session this process runs: I/N")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "solo: what it does to its guest is not repeated in the leak batch")
    path = config.getoption("--kharness-plan")
    if path:
        config.stash[WORKSHOP] = Workshop(read_session(Path(path)))


def canonical(nodeid: str, ready: Ready) -> str:
    """The test's id without the target parameter, so that base and patched compare."""
    return (
        nodeid.replace(f"[{ready.name}]", "").replace(f"[{ready.name}-", "[").replace(f"-{ready.name}]", "]")
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "ready" in metafunc.fixturenames:
        workshop = metafunc.config.stash.get(WORKSHOP, None)
        if workshop is None:
            raise pytest.UsageError("tests of a kernel need a kernel: use 'kharness run' or 'make test'")
        metafunc.parametrize("ready", workshop.ready, ids=lambda r: r.name, indirect=True, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    workshop = config.stash.get(WORKSHOP, None)
    if workshop is None:
        return
    wanted = workshop.session.test_id
    if wanted:
        items[:] = [item for item in items if _canonical_of(item) == wanted]
    if items:
        items[:0] = [item for ready in workshop.ready for item in canaries(session, ready, workshop)]
    shard, shards = (int(part) for part in config.getoption("--kharness-shard").split("/"))
    items[:] = items[shard::shards]
    if not wanted:
        # Each part repeats its own tests: what another process did is not there to be repeated.
        mine = {id(ready) for item in items if (ready := _ready_of(item)) and not isinstance(item, CanaryItem)}
        items += [
            LeakBatch.make(session, ready, workshop, shard) for ready in workshop.ready if id(ready) in mine
        ]
    collected: dict[str, list[str]] = {}
    for item in items:
        ready = _ready_of(item)
        if ready and not isinstance(item, CanaryItem):
            collected.setdefault(_canonical_of(item), []).append(ready.kernel.id)
    planted = [item for item in items if isinstance(item, CanaryItem)]
    data = {
        "collected": [{"id": test, "kernel": kernel} for test, kernels in collected.items() for kernel in kernels],
        "canaries": [{"oracle": oracle, "kernel": item.ready.kernel.id} for item in planted for oracle in item.oracles],
    }
    workshop.journal.emit(EventKind.SESSION_START, data)


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
    item.stash[BENCH] = bench
    workshop.journal.emit(EventKind.TEST_START, {}, kernel=ready.kernel.id, test=bench.test_id)
    for attempt in range(RETRY_LOST_MACHINE + 1):
        try:
            bench.guest.__enter__()
            break
        except MachineEnded:
            bench.guest.__exit__(None, None, None)
            if attempt == RETRY_LOST_MACHINE:
                raise
            bench.guest = ready.restore()
    yield bench
    bench.guest.__exit__(None, None, None)


@pytest.fixture
def guest(bench: Bench) -> Guest:
    """The pristine guest itself."""
    return bench.guest


@pytest.fixture
def dsq(bench: Bench) -> Dsqs:
    """DSQ operations, each compared with the model."""
    return Dsqs(bench)


@pytest.fixture
def features(ready: Ready) -> Features:
    """What this kernel's DSQs have; see harness.suite.features.need()."""
    return ready.features


@pytest.fixture
def faults(bench: Bench) -> Faults:
    """Fault injection, with every site observed."""
    return Faults(bench)


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
    return "\n".join(lines) or result.why


def _journal(workshop: Workshop, bench: Bench, result: TestResult) -> TestResult:
    """Writes the replay file of what did not pass, then the end event."""
    if result.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE):
        path = workshop.out / "replay" / (_file_name(f"{result.id}-{bench.ready.name}") + ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        signatures = tuple(sorted({found.signature for found in result.findings if found.counts}))
        again = replay.Replay(
            schema=SCHEMA, kernel=bench.ready.kernel, test=result.id, machine=result.machine, seed=bench.seed,
            signatures=signatures, scenario=bench.scenario(), argv=workshop.session.argv,
            kconfig=workshop.session.kconfig, suite=workshop.session.suite,
            cmdline=bench.ready.target.cmdline,
            patches=workshop.session.patches if bench.ready.kernel.role is Role.PATCHED else (),
        )  # fmt: skip
        replay.write(path, again)
        result = replace(result, replay=str(path))
    workshop.journal.emit(EventKind.TEST_END, result, kernel=result.kernel, test=result.id)
    return result


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)[-120:]


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
