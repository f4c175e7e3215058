# SPDX-License-Identifier: GPL-2.0-only
"""Many short runs, in each of which something is killed, stopped or interrupted at a random moment.

``python -m tests.e2e.stress --runs 100 --seed 1`` does it alone, on a private copy of the cache. The runs are shared
out to lanes, which are processes: all use one cache, and each has a TMPDIR of its own that all its runs use, for what a
killed run leaves there is the next one's to sweep. Each fault is drawn from the seed and the number of the run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.core.errors import Exit, KharnessError
from harness.core.event_log import read
from harness.core.records import Event, EventKind, Verdict, decode
from harness.verdict import judge
from tests.e2e.clone import cloned
from tests.e2e.command import CHECKOUT, Done, Kharness, Running
from tests.e2e.leaks import Before, adopt_orphans, below, with_word

LIMIT = 240.0
"""Seconds from the fault to the end of the run, and for a run until its moment comes: it takes about 30."""

GOES_ON = 20.0
"""Seconds after which a build that was struck is let be."""

LANES = 4
"""At once. Most of a short run is waiting, for kmemleak's clock above all."""

GAP = 0.3
"""Seconds after a test's or canary's end was recorded within which its QEMU may be killed and nothing is lost."""

LOOK_SECONDS = 0.03
"""How often it is looked whether the moment has come."""

MOMENTS: Mapping[str, tuple[int, float]] = {
    "start": (4, 4.0),
    "boot": (3, 4.0),
    "build": (3, 12.0),
    "session": (2, 1.0),
    "canary": (6, 2.0),
    "test": (4, 2.5),
    "end": (2, 0.6),
}
"""When it happens: how often that is drawn, and how many seconds later at most."""

VICTIMS: Mapping[str, tuple[tuple[str, int], ...]] = {
    "start": (("runner", 4), ("python", 2), ("sandbox", 1)),
    "boot": (("runner", 3), ("qemu", 3)),
    "build": (("runner", 3), ("builder", 5)),
    "session": (("runner", 2), ("child", 4), ("qemu", 1)),
    "canary": (("runner", 3), ("child", 3), ("qemu", 5)),
    "test": (("runner", 2), ("child", 2), ("qemu", 4), ("agent", 4)),
    "end": (("runner", 3), ("child", 1)),
}
"""Who is struck in each moment, and how often."""

BLOWS: Mapping[str, tuple[tuple[str, int], ...]] = {
    "runner": (("KILL", 4), ("TERM", 2), ("INT", 2), ("HUP", 2), ("INT INT", 2), ("STOP", 1)),
    "python": (("KILL", 3), ("STOP", 1)),
    "sandbox": (("KILL", 1),),
    "child": (("KILL", 4), ("TERM", 1), ("INT", 1), ("STOP", 1)),
    "qemu": (("KILL", 3), ("STOP", 2)),
    "builder": (("KILL", 1),),
    "agent": (("KILL", 1),),
}
"""What is sent; STOP is followed by CONT."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "python": ("python",),
    "sandbox": ("bwrap",),
    "qemu": ("qemu-system",),
    "builder": ("make", "cc1", "gcc", "as", "bwrap", "ccache", "ld", "x86_64-linux-gn"),
}
"""What a victim's command is called (proc_pid_comm(5))."""


NOBODY = "nobody"
"""The victim of a run to which nothing happens."""


@dataclass(frozen=True)
class Blow:
    """What is done in one run: `blow` to `victim`, `wait` seconds after `moment`."""

    number: int
    moment: str
    wait: float
    victim: str
    blow: str
    share: float
    """Which of several victims, from 0 to 1; for a canary also which one."""

    def __str__(self) -> str:
        return f"run {self.number}: SIG{self.blow} to {self.victim}, {self.wait:.2f} s after {self.moment}"


@dataclass
class Record:
    """How one run ended. `struck` is the time of the fault, 0 if nobody was there to be struck."""

    blow: Blow
    struck: float = 0.0
    status: int | None = None
    seconds: float = 0.0
    """From the fault to the end."""
    verdict: str = ""
    said: str = ""
    wrong: list[str] = field(default_factory=list)


def draw(seed: int, number: int) -> Blow:
    """The fault of one run."""
    dice = random.Random(f"{seed}/{number}")

    def pick(choices: Mapping[str, int] | Sequence[tuple[str, int]]) -> str:
        pairs = list(choices.items() if isinstance(choices, Mapping) else choices)
        return dice.choices([name for name, _ in pairs], [weight for _, weight in pairs])[0]

    moment = pick({name: often for name, (often, _) in MOMENTS.items()})
    victim = pick(VICTIMS[moment])
    return Blow(number, moment, dice.uniform(0, MOMENTS[moment][1]), victim, pick(BLOWS[victim]), dice.random())


class Lane:
    """Runs one after the other; what a run leaves behind is looked for before the next."""

    def __init__(self, folder: Path, cache_home: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        for name in ("home", "tmp"):
            (folder / name).mkdir()
        self.env = {"XDG_CACHE_HOME": str(cache_home), "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}

    def run(self, blow: Blow) -> Record:
        """One run, struck and judged."""
        record = Record(blow)
        cwd = self.folder / f"{blow.number}"
        args = self._args(blow, cwd)
        before = Before.now()
        running = Kharness(cwd, self.env, os.environ.get("KHARNESS_TREE", "")).start_run(*args)
        try:
            record.struck = self._strike(running, blow, cwd)
            start = time.monotonic()
            if blow.moment == "build":
                self._cut_short(running, record)
            done = running.finish(LIMIT)
            record.status, record.seconds = done.status, time.monotonic() - start
            self._judge(record, done, cwd)
        except (subprocess.TimeoutExpired, AssertionError) as error:
            record.wrong.append(f"it hangs: {error}")
        finally:
            running.kill()
        self._look(record, before)
        text = "\n--- stdout\n".join(running.text(name)[-3000:] for name in ("stderr", "stdout"))
        if record.wrong:
            record.said = text
        else:
            shutil.rmtree(cwd)
        return record

    def _args(self, blow: Blow, cwd: Path) -> list[str]:
        suite = cwd / "suite"
        suite.mkdir(parents=True)
        shutil.copy(CHECKOUT / "tests/e2e/suites/short.py", suite / "test_short.py")
        if blow.victim == "agent":
            (suite / "kill-agent-after").write_text(f"{blow.wait / 3:.2f}")
        args = ["--machine", "cpu1", "--guests", "1", "--suite", str(suite)]
        name = f"kharness_stress={self.seed}.{blow.number}"
        if blow.moment == "boot":
            args += ["--cmdline", name]
        if blow.moment == "build":
            (cwd / "my.config").write_text(f'CONFIG_LOCALVERSION="-{name.replace("=", "-")}"\n')
            args += ["--kconfig", str(cwd / "my.config")]
        return args

    # --- the fault ------------------------------------------------------------------------

    def _strike(self, running: Running, blow: Blow, cwd: Path) -> float:
        """Waits for the moment and strikes; 0 when the run was over before anybody could be struck."""
        if not self._moment(running, blow, cwd) or blow.victim == NOBODY:
            return 0.0
        if blow.victim == "agent":  # the test has it done
            return time.time()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(blow.wait)
        end = time.monotonic() + LIMIT
        while running.process.poll() is None and time.monotonic() < end:
            victims = self._victims(running.process.pid, blow.victim)
            if victims and _hit(victims[int(blow.share * len(victims))], blow):
                return time.time()
            time.sleep(0.01)
        return 0.0

    def _moment(self, running: Running, blow: Blow, cwd: Path) -> bool:
        """Waits until it has come; false when the run ended before."""
        canaries = 1 + int(blow.share * 10)
        end = time.monotonic() + LIMIT
        while running.process.poll() is None:
            said = running.text("stderr")
            events = _events(cwd / "out/latest") if blow.moment in ("canary", "test", "end") else []
            if {
                "start": True,
                "boot": "boot x86_64" in said,
                "build": "build of x86_64" in said,
                "session": "tests on x86_64" in said,
                "canary": sum(event.kind is EventKind.CANARY for event in events) >= canaries,
                "test": any(event.kind is EventKind.TEST_START and "test_short" in event.test for event in events),
                "end": any(event.kind is EventKind.SESSION_END for event in events),
            }[blow.moment]:
                return True
            assert time.monotonic() < end, f"{blow.moment} did not come within {LIMIT:.0f} s"
            time.sleep(LOOK_SECONDS)
        return False

    @staticmethod
    def _victims(runner: int, victim: str) -> list[int]:
        if victim == "runner":
            return [runner]
        if victim == "child":
            return with_word(runner, "python", "--kharness-plan")
        return sorted(pid for name in NAMES[victim] for pid in below(runner, name))

    @staticmethod
    def _cut_short(running: Running, record: Record) -> None:
        """Interrupts a build that goes on: what was struck may have been one of make's attempts at what a compiler can."""
        try:
            running.process.wait(GOES_ON)
        except subprocess.TimeoutExpired:
            running.process.send_signal(signal.SIGINT)
            record.blow = replace(record.blow, victim="runner", blow="INT")

    # --- the judgement --------------------------------------------------------------------

    def _judge(self, record: Record, done: Done, cwd: Path) -> None:
        """What the run may not have done, by what was done to it."""
        folder = cwd / "out/latest"
        results = _results(folder)
        record.verdict = str(results.get("verdict", ""))
        passed = record.verdict == Verdict.PASS
        early = done.status == -signal.SIGINT and not folder.exists()
        for complaint, holds in (
            (f"exit status {done.status}", done.status in self._statuses(record, folder)),
            ("it passes without evidence", not passed or _whole(folder)),
            ("status and results differ", done.status < 0 or (done.status == 0) == passed),
            ("the kernel is blamed", record.verdict not in (Verdict.FAIL, Verdict.REGRESSED)),
            # pytest's own are shown; and Python's, of a signal before our first line.
            ("a traceback", record.blow.victim == "child" or early or "Traceback" not in done.stderr),
            ("a bug", "kharness itself failed" not in done.stderr),
            ("not one line of error", _errors(done) == 1 or done.status in (0, 3) or done.status < 0),
        ):
            if not holds:
                record.wrong.append(complaint)

    @staticmethod
    def _statuses(record: Record, folder: Path) -> set[int]:
        """The exit statuses that are right."""
        blow, bad = record.blow, {int(Exit.INCONCLUSIVE), int(Exit.UNJUDGED)}
        harmless = {int(Exit.PASS)}
        if not record.struck or blow.blow == "STOP":
            return harmless
        late = _over(folder, record.struck)
        if blow.victim == "runner":
            first = getattr(signal, f"SIG{blow.blow.split()[0]}")
            ends = {-signal.SIGKILL} if blow.blow == "KILL" else {int(Exit.INTERRUPTED)}
            # Before anything was begun a signal ends Python at once.
            return ends | (harmless if late else set()) | (set() if folder.exists() else {-first})
        if blow.victim == "builder":
            return bad | harmless  # what fails without a word is tried once more
        if blow.victim in ("qemu", "sandbox", "python") and not _begun(folder, record.struck):
            return bad | harmless  # whether KVM works is tried again, and kept guests are none of the evidence
        # Python loses an interrupt that comes within a finalizer (PyErr_WriteUnraisable() in its weakref callbacks).
        lost = blow.victim == "child" and blow.blow == "INT"
        if late or lost or (blow.victim == "qemu" and _between(folder, record.struck)):
            return bad | harmless
        return bad

    def _look(self, record: Record, before: Before) -> None:
        """What is left behind. A runner that is killed leaves its TMPDIR to the next run."""
        killed = record.blow.victim == "runner" and record.blow.blow == "KILL" and record.struck
        nothing = self.folder / "nothing"
        tmp = nothing if killed else self.folder / "tmp"
        record.wrong += before.left_behind(nothing, tmp, self.folder / "home")


def _hit(pid: int, blow: Blow) -> bool:
    try:
        for name in blow.blow.split():
            os.kill(pid, getattr(signal, f"SIG{name}"))
            if name == "STOP":
                time.sleep(0.2 + 1.8 * blow.share)
                os.kill(pid, signal.SIGCONT)
            time.sleep(blow.share / 2 if " " in blow.blow else 0)
    except ProcessLookupError:
        return " " in blow.blow  # it was gone before the second one
    return True


def _errors(done: Done) -> int:
    return sum(line.startswith("kharness: ") for line in done.stderr.splitlines())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _results(folder: Path) -> dict[str, Any]:
    text = _text(folder / "results.json")
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


def _events(folder: Path) -> list[Event]:
    """The events that are whole by now."""
    lines = _text(folder / "events.jsonl").split("\n")[:-1]
    return [decode(json.loads(line), Event) for line in lines]


def _begun(folder: Path, when: float) -> bool:
    """Whether tests were under way then."""
    return any(event.kind is EventKind.SESSION_START and event.time <= when for event in _events(folder))


def _over(folder: Path, when: float) -> bool:
    """Whether all evidence was in by then."""
    return any(event.kind is EventKind.SESSION_END and event.time <= when + GAP for event in _events(folder))


def _between(folder: Path, when: float) -> bool:
    """Whether a guest's part was recorded just then, and its QEMU only had to end."""
    last = [event for event in _events(folder) if event.time <= when + LOOK_SECONDS][-1:]
    ends = (EventKind.CANARY, EventKind.TEST_END)
    return any(event.kind in ends and when - event.time < GAP for event in last)


def _whole(folder: Path) -> bool:
    """Whether the log, judged again, is a pass."""
    try:
        return judge(read(folder / "events.jsonl")).verdict is Verdict.PASS
    except KharnessError:
        return False


# --- many -----------------------------------------------------------------------------------


def lane(numbers: Sequence[int], seed: int, cache_home: Path) -> Iterator[Record]:
    """The runs of one lane, and at their end one to which nothing happens."""
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="kh-", ignore_cleanup_errors=True) as folder:
        own = Lane(Path(folder), cache_home, seed)
        yield from (own.run(draw(seed, number)) for number in numbers)
        yield own.run(Blow(-1, "end", 0.0, NOBODY, "nothing", 0.0))


def start(runs: int, seed: int, lanes: int, cache_home: Path, env: Mapping[str, str]) -> list[subprocess.Popen[str]]:
    """The lanes' processes, each of which prints its records, one JSON object a line."""
    argv = [sys.executable, "-m", "tests.e2e.stress", "--runs", str(runs), "--seed", str(seed), "--lanes", str(lanes)]
    return [
        subprocess.Popen(
            [*argv, "--lane", str(number), "--cache", str(cache_home)],
            cwd=CHECKOUT,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(min(lanes, runs))
    ]


def summary(records: Sequence[Mapping[str, Any]], seconds: float) -> str:
    """The figures of all runs."""
    struck = [record for record in records if record["struck"]]
    ends = Counter(str(record["status"]) for record in records)
    whom = Counter(f"SIG{record['blow']['blow']} to {record['blow']['victim']}" for record in struck)
    slowest = max((record["seconds"] for record in struck), default=0.0)
    wrong = [record for record in records if record["wrong"]]
    return "\n".join(
        (
            f"{len(records)} runs in {seconds:.0f} s; {len(struck)} were struck, {len(wrong)} of all went wrong",
            "exit statuses: " + ", ".join(f"{status}: {many}" for status, many in sorted(ends.items())),
            "faults: " + ", ".join(f"{name}: {many}" for name, many in whom.most_common()),
            f"longest from a fault to the end: {slowest:.0f} s",
        )
    )


def described(record: Mapping[str, Any]) -> str:
    """One record as a line, and with what was said if it went wrong."""
    line = f"{Blow(**record['blow'])}: status {record['status']}, {record['seconds']:.1f} s, {record['verdict'] or '-'}"
    return line if not record["wrong"] else "\n".join((line, *record["wrong"], record["said"]))


def collect(processes: Sequence[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """What all lanes print, shown on stderr as they end."""
    records: list[dict[str, Any]] = []

    def listen(process: subprocess.Popen[str]) -> int:
        assert process.stdout is not None
        for line in process.stdout:
            records.append(json.loads(line))
            print(described(records[-1]), file=sys.stderr, flush=True)
        return process.wait()

    try:
        with ThreadPoolExecutor(len(processes)) as pool:
            statuses = list(pool.map(listen, processes))
    finally:
        for process in processes:
            process.terminate()  # it ends the run that it has under way
    assert not any(statuses), f"lanes ended with {statuses}"
    return records


def _terminated(number: int, frame: object) -> None:
    """Ends as an exception does: what is under way is ended, and the copy of the cache removed."""
    sys.exit(128 + number)


def main() -> None:
    signal.signal(signal.SIGTERM, _terminated)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--lanes", type=int, default=LANES)
    parser.add_argument("--lane", type=int, default=-1)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    if args.lane >= 0:
        out = sys.stdout
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # commands' words go elsewhere
            for record in lane(range(args.lane, args.runs, args.lanes), args.seed, args.cache):
                print(json.dumps(asdict(record)), file=out, flush=True)
        return
    begin = time.monotonic()
    print(f"seed {args.seed}", file=sys.stderr)
    with cloned() as cache_home:
        records = collect(start(args.runs, args.seed, args.lanes, cache_home, os.environ))
    print(summary(records, time.monotonic() - begin))
    sys.exit(any(record["wrong"] for record in records))


if __name__ == "__main__":
    main()
