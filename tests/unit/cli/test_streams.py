# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the command line whose streams are closed, full, of another encoding, or read by nobody; real processes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from harness.core.errors import Exit
from harness.core.records import Outcome
from harness.host import streams
from harness.report import results
from harness.verdict import judge
from tests.unit.cli.test_main import ROOT
from tests.unit.report.eventlog import CREATE, LEAK, Log, kernel, result

Before = Callable[[], object]

FULL = "/dev/full"


def saved(folder: Path, title: str = "") -> Path:
    """The folder of a run that passed, or failed with a finding of this title."""
    tree = kernel()
    found = {"findings": (LEAK,)} if title else {}
    test = result(tree, CREATE, Outcome.FAIL if title else Outcome.PASS, **found)
    folder.mkdir()
    path = results.write(judge(Log(tree).put(test).events()), folder)
    if title:
        data = json.loads(path.read_text())
        for row in data["tests"]:
            for finding in row["findings"]:
                finding["title"] = title
        path.write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("streams") / "pass")


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("streams") / "fail", "Größe ‘falsch’ \u202e")


def kharness(
    *args: object, before: Before = lambda: None, cwd: Path | None = None, env: Mapping[str, str | None] = {}
) -> subprocess.CompletedProcess[bytes]:
    own: dict[str, str | None] = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": None, **env}
    return subprocess.run(
        [sys.executable, "-m", "harness", *map(str, args)],
        cwd=cwd,
        preexec_fn=before,
        timeout=300,
        env={name: value for name, value in own.items() if value is not None},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )


def closes(*descriptors: int) -> Before:
    def before() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return before


def fills(*descriptors: int) -> Before:
    return lambda: [os.dup2(os.open(FULL, os.O_WRONLY), descriptor) for descriptor in descriptors]


def breaks(*descriptors: int) -> Before:
    """A pipe that nobody reads."""

    def before() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        for descriptor in descriptors:
            os.dup2(writer, descriptor)

    return before


def goes_away(*descriptors: int) -> Before:
    """A terminal that is no more: EIO."""

    def before() -> None:
        master, slave = os.openpty()
        for descriptor in descriptors:
            os.dup2(slave, descriptor)
        os.close(slave)
        os.close(master)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    return before


STREAMS = {
    "no stdin": closes(0),
    "no stdout": closes(1),
    "no stderr": closes(2),
    "none": closes(0, 1, 2),
    "stdout full": fills(1),
    "stderr full": fills(2),
    "both full": fills(1, 2),
    "stdout's reader gone": breaks(1),
    "stderr's reader gone": breaks(2),
    "both readers gone": breaks(1, 2),
    "terminal gone": goes_away(0, 1, 2),
}
ENCODINGS: dict[str, dict[str, str]] = {
    "ascii": {"PYTHONIOENCODING": "ascii:strict"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "unbuffered": {"PYTHONUNBUFFERED": "1"},
    "odd terminal": {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "0", "LINES": "-1"},
    "no number": {"COLUMNS": "\N{SUPERSCRIPT TWO}", "LINES": "9" * 5000, "FORCE_COLOR": "1"},
}


@pytest.mark.parametrize("name", STREAMS)
def test_no_stream_changes_a_verdict(passed: Path, failed: Path, name: str) -> None:
    for folder, status in ((passed, Exit.PASS), (failed, Exit.FAIL)):
        done = kharness("report", folder, before=STREAMS[name])
        assert done.returncode == status
        assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
        if "stderr" in name or "stdin" in name:
            assert b"verdict: " in done.stdout


@pytest.mark.parametrize("name", ENCODINGS)
def test_no_encoding_and_no_terminal_changes_a_verdict(passed: Path, failed: Path, name: str) -> None:
    for folder, status in ((passed, Exit.PASS), (failed, Exit.FAIL)):
        done = kharness("report", folder, env=ENCODINGS[name])
        assert (done.returncode, done.stderr) == (status, b"")
        assert b"verdict: " in done.stdout.splitlines()[-1]
    assert b"\\u202e" in done.stdout
    if name in ("ascii", "C"):
        assert done.stdout.isascii() and b"Gr\\xf6\\xdfe \\u2018falsch\\u2019" in done.stdout
    assert "Größe" in (failed / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("args", [("doctor",), ("cache", "list"), ("run", "--print-plan"), ("--help",)])
def test_a_command_whose_purpose_is_its_output(tmp_path: Path, args: tuple[str, ...]) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path)}
    done = kharness(*args, env=env, cwd=tmp_path)
    assert b"Traceback" not in done.stderr and done.stdout
    lost = kharness(*args, env=env, cwd=tmp_path, before=fills(1))
    assert lost.returncode == Exit.UNJUDGED
    assert lost.stderr.startswith(b"kharness: the output is lost: No space left on device; ")
    assert lost.stderr.count(b"\n") == 1
    unread = kharness(*args, env=env, cwd=tmp_path, before=breaks(1))
    assert (unread.returncode, unread.stderr) == (done.returncode, b"")


@pytest.mark.parametrize("name", ["none", "both full", "both readers gone", "stderr's reader gone"])
def test_a_mistyped_flag_stays_the_callers_mistake(tmp_path: Path, name: str) -> None:
    assert kharness("run", "--nope", cwd=tmp_path, before=STREAMS[name]).returncode == Exit.USAGE


def test_a_file_never_takes_the_place_of_a_closed_stream(passed: Path) -> None:
    assert kharness("report", passed, before=closes(0, 1, 2)).returncode == Exit.PASS
    assert (passed / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert "\nverdict: " not in (passed / "report.html").read_text(encoding="utf-8")


def test_a_descriptor_that_does_not_block_is_waited_for() -> None:
    """Another program on the same pipe or terminal may have made it non-blocking."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += os.write(writer, b"x" * 4096)
    raised: list[OSError] = []

    def send() -> None:
        try:
            streams.send(writer, b"y" * 200_000)
        except OSError as error:
            raised.append(error)
        finally:
            os.close(writer)

    thread = threading.Thread(target=send)
    thread.start()
    with os.fdopen(reader, "rb") as file:
        assert file.read(filled) == b"x" * filled
        assert file.read() == b"y" * 200_000
    thread.join()
    assert not raised


def test_names_of_files_are_utf_8_whatever_the_locale(passed: Path, tmp_path: Path) -> None:
    """Else ``ö`` would be two bytes that nobody can read again."""
    shutil.copytree(passed, tmp_path / "größe")
    done = kharness("report", "größe", cwd=tmp_path, env=ENCODINGS["C"])
    assert (done.returncode, done.stderr) == (Exit.PASS, b"")
    assert done.stdout.rstrip().endswith(b"  gr\\xf6\\xdfe/report.html")


# --- faults of the host ----------------------------------------------------------------------


def one_line(done: subprocess.CompletedProcess[bytes], status: Exit, says: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"kharness: "), done.stderr
    assert says in done.stderr.decode()
    assert "; " in done.stderr.decode(), "there is no next step"


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()

    def leave() -> None:
        os.chdir(gone)
        gone.rmdir()

    one_line(kharness("report", "out", before=leave), Exit.UNJUDGED, "the current folder cannot be used")


def test_no_home(tmp_path: Path) -> None:
    done = kharness("cache", "list", env={"HOME": None, "XDG_CACHE_HOME": None}, cwd=tmp_path)
    assert done.returncode in (Exit.PASS, Exit.UNJUDGED) and b"Traceback" not in done.stderr
    (tmp_path / "file").touch()
    one_line(
        kharness("cache", "list", env={"HOME": f"{tmp_path}/file", "XDG_CACHE_HOME": None}, cwd=tmp_path),
        Exit.UNJUDGED,
        "cannot use the cache folder",
    )


def test_few_descriptors_and_a_strict_umask(tmp_path: Path, passed: Path) -> None:
    def poor() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        os.umask(0o077)

    assert kharness("report", passed, before=poor).returncode == Exit.PASS
    assert kharness("cache", "list", before=poor, env={"XDG_CACHE_HOME": str(tmp_path / "c")}).returncode == Exit.PASS


def test_files_of_no_size(tmp_path: Path, passed: Path) -> None:
    """ulimit -f: Python ignores SIGXFSZ, and the system says EFBIG."""
    done = kharness("report", passed, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)))
    one_line(done, Exit.UNJUDGED, "report.html: File too large")


DEEP = "[" * 100_000 + "]" * 100_000
LONG = f'{{"schema": {"9" * 5000}}}'


@pytest.mark.parametrize("text", [DEEP, LONG], ids=["deep", "long number"])
def test_results_that_nobody_wrote(tmp_path: Path, text: str) -> None:
    for name in ("results.json", "bisect.json"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(text)
        one_line(kharness("report", folder, cwd=tmp_path), Exit.USAGE, "give the folder of")
    (tmp_path / "replay.json").write_text(text)
    one_line(
        kharness("replay", tmp_path / "replay.json", cwd=tmp_path), Exit.USAGE, "give a file from the replay folder"
    )


PROGRAM = """
import sys
from harness.cli import main as cli
from harness.run import runner as run
def conduct(plan):
    raise {raised}
run.conduct = conduct
sys.argv = ["kharness", "run"]
cli.main()
"""


def ended(folder: Path, raised: str, cache: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    (folder / "program.py").write_text(PROGRAM.format(raised=raised))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache or folder / "cache")}
    argv = [sys.executable, "program.py"]
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, timeout=300)


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        ("MemoryError()", "out of memory; free memory"),
        (f"OSError({errno.ENOSPC}, 'No space left on device', '/x')", "/x: No space left on device; free space"),
        (f"OSError({errno.EMFILE}, 'Too many open files')", "Too many open files; raise the limit"),
        (f"OSError({errno.EROFS}, 'Read-only file system', b'/y')", "/y: Read-only file system; make it writable"),
        (f"OSError({errno.ENAMETOOLONG}, 'File name too long')", "File name too long; choose shorter names"),
        (f"BlockingIOError({errno.EAGAIN}, 'Resource temporarily unavailable')", "unavailable; raise the limit"),
        (f"BrokenPipeError({errno.EPIPE}, 'Broken pipe')", "kharness itself failed: BrokenPipeError: [Errno 32]"),
        ("EOFError()", "kharness itself failed: EOFError"),
        ("RecursionError('maximum recursion depth exceeded')", "itself failed: RecursionError: maximum"),
        ("RuntimeError('\\x1b[2J\\n::error::x\\n' + 9999 * 'y')", "RuntimeError: \\x1b[2J\\x0a::error::x\\x0ayyyy"),
        ("UnicodeDecodeError('utf-8', b'x', 0, 1, 'odd')", "kharness itself failed: UnicodeDecodeError"),
    ],
)
def test_what_nobody_expected_is_one_line_and_never_the_kernels(tmp_path: Path, raised: str, says: str) -> None:
    done = ended(tmp_path, raised)
    one_line(done, Exit.UNJUDGED, says)
    assert len(done.stderr) < 1000
    if b"itself failed" in done.stderr:
        place = Path(done.stderr.decode().rpartition("report it with ")[2].strip())
        assert place.is_relative_to(tmp_path / "cache") and "Traceback" in place.read_text()
        assert "\x1b" not in place.read_text()


def test_a_library_that_exits_is_no_verdict(tmp_path: Path) -> None:
    assert ended(tmp_path, "SystemExit(1)").returncode == Exit.UNJUDGED
    assert ended(tmp_path, "SystemExit('words')").returncode == Exit.UNJUDGED


def test_the_traceback_is_shown_where_it_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = ended(tmp_path, "RuntimeError('\\x1b]0;x\\x07')", tmp_path / "file")
    first, *rest = done.stderr.decode().splitlines()
    assert done.returncode == Exit.UNJUDGED
    assert first == "kharness: kharness itself failed: RuntimeError: \\x1b]0;x\\x07; report it with the lines below"
    assert rest[0] == "| Traceback (most recent call last):" and all(line.startswith("| ") for line in rest)


def test_evidence_is_marked_as_such(tmp_path: Path) -> None:
    done = ended(
        tmp_path,
        "__import__('harness.core.errors').core.errors.GuestError('gone: \\x1b[2J\\nverdict: PASS', detail='\\x1b]0;x\\x07\\n::set-output name=x::y\\nverdict: PASS')",
    )
    assert done.returncode == Exit.INCONCLUSIVE
    assert done.stderr.decode().splitlines() == [
        "kharness: gone: \\x1b[2J\\x0averdict: PASS",
        "| \\x1b]0;x\\x07",
        "| \\x3a:set-output name=x::y",
        "| verdict: PASS",
    ]


def test_who_has_no_home_gets_the_cache_folder_named(tmp_path: Path) -> None:
    """HOME is not set, and passwd(5) does not know the user; as root such a folder could be made."""
    program = (
        "import os, sys, pathlib\nfrom harness.cli import main as cli\n"
        "def nowhere(cls):\n"
        "    if 'HOME' not in os.environ: raise RuntimeError('Could not determine home directory.')\n"
        "    return cls(os.environ['HOME'])\n"
        "pathlib.Path.home = classmethod(nowhere)\n"
        f"cli.NO_HOME = '{tmp_path}/file'\n"
        "sys.argv = ['kharness', 'cache', 'list']\ncli.main()\n"
    )
    (tmp_path / "file").touch()
    (tmp_path / "program.py").write_text(program)
    for home in (None, "", "relative"):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": home or ""}
        for name in ("XDG_CACHE_HOME", *(["HOME"] if home is None else [])):
            env.pop(name, None)
        argv = [sys.executable, "program.py"]
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, timeout=300)
        one_line(done, Exit.UNJUDGED, f"cannot use the cache folder {tmp_path}/file/.cache/kharness")
        assert not (tmp_path / "relative").exists()


def test_a_library_that_is_missing_is_not_the_kernels_failure(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ImportError('broken \\x1b[2J')\n")
    done = kharness("cache", "list", env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}, cwd=tmp_path)
    one_line(done, Exit.UNJUDGED, "cannot start: ImportError: 'broken \\x1b[2J'; see")
