# SPDX-License-Identifier: GPL-2.0-only
"""What a run may find around it: odd names, odd environments, little of everything, other clocks, a damaged cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.core.records import EventKind
from harness.host.cache import Cache
from tests.e2e.clone import cloned
from tests.e2e.command import CHECKOUT, Done, Kharness
from tests.e2e.conftest import place
from tests.e2e.test_host import needs_root, tight
from tests.e2e.test_killed import QUICK_RUN, happened

ODD = 'o\'d "d" $ö\N{SNOWMAN}'
"""A name with blanks, quotes, and what is no ASCII."""

PASS = "verdict: PASS"


@pytest.fixture(scope="module")
def own_home(cache_home: Path, passed: Done) -> Iterator[Path]:
    """XDG_CACHE_HOME, oddly named, of a cache that tests may damage: no other test sees it."""
    with cloned(Cache(cache_home / "kharness", 0), ODD) as home:
        yield home


@pytest.fixture
def own(own_home: Path) -> Iterator[Kharness]:
    """kharness on that cache."""
    yield from place(own_home)


def namespaces(*lines: str, net: bool = False) -> list[str]:
    """What a command is started through: mounts of its own, made by `lines` of shell, and with `net` no network."""
    script = " && ".join((*lines, 'exec "$@"'))
    return [
        "unshare",
        "--mount",
        *(["--net"] if net else []),
        "--propagation",
        "private",
        "--",
        "sh",
        "-c",
        script,
        "sh",
    ]


# --- names and environments ---------------------------------------------------------------


def test_everything_odd_at_once(own: Kharness, suite: Callable[[str], str]) -> None:
    """Cached, it needs no network, no HOME, no writable checkout, no terminal, no UTF-8, no kindness of the names.

    What would have Python or pytest do something else is not for us, and neither is what lies in the current folder.
    """
    (cwd := own.cwd / ODD).mkdir()
    (tmp := own.cwd.parent / "tmp" / "t 'ö").mkdir()
    for name in ("yaml", "rich", "typer", "pytest", "harness", "msgspec", "sitecustomize", "qemu", "json"):
        (cwd / f"{name}.py").write_text(f"open({str(own.cwd / 'imported')!r}, 'a').write('{name}')\n")
    odd = {
        "TMPDIR": str(tmp),
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
        "PYTEST_ADDOPTS": "-k nothing -x",
        "PYTEST_PLUGINS": "no_such_plugin",
        "PYTHONSTARTUP": "/no/such",
        "COLUMNS": "20",
        "TERM": "no-such",
        "NO_COLOR": "",
        "MAKEFLAGS": "-n",
        "CDPATH": "/",
        "GIT_DIR": "/no/such",
        "LD_LIBRARY_PATH": "/no/such",
        "LC_TIME": "ar_EG",
        "TZ": "no/where",
        "GREP_OPTIONS": "-v",
    }
    readonly = f"mount --bind {CHECKOUT} {CHECKOUT} && mount -o remount,bind,ro {CHECKOUT}"
    before = namespaces(readonly, net=True) if os.geteuid() == 0 else ["sh", "-c", 'exec "$@"', "sh"]
    script = 'umask 077; unset HOME; exec "$@" <&- >"$0" 2>&1'
    before += ["sh", "-c", script, "said"]
    args = [*QUICK_RUN, "--suite", suite("short"), "--out", f"out {ODD}"]
    done = own.start_run(*args, env=odd, before=before, cwd=cwd).finish(300)
    said = (cwd / "said").read_text()
    assert done.status == 0, said
    assert PASS in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not (own.cwd / "imported").exists(), (own.cwd / "imported").read_text()
    folder = cwd / f"out {ODD}"
    assert (folder / "report.html").exists()
    assert not (folder / "results.json").stat().st_mode & 0o077
    tmp.rmdir()  # it is empty


def test_python_optimized(kharness: Kharness, passed: Done, suite: Callable[[str], str]) -> None:
    """Assertions that are left out judge nothing: refused, or as if it had not been asked for."""
    done = kharness.run(
        *QUICK_RUN, "--suite", suite("wrong"), "-k", "duplicate", env={"PYTHONOPTIMIZE": "1"}, timeout=300
    )
    assert done.status in (1, 4), "the test fails on every right kernel"
    assert done.status == 1 or "PYTHONOPTIMIZE" in done.error


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"], ids=["stdout", "stderr", "all"])
@pytest.mark.full
def test_closed_streams(kharness: Kharness, passed: Done, suite: Callable[[str], str], closed: str) -> None:
    before = ("sh", "-c", f'exec "$@" {closed}', "sh")
    done = kharness.start_run(*QUICK_RUN, "--suite", suite("short"), before=before).finish(300).expect(0)
    assert done.results["verdict"] == "pass"


@pytest.mark.parametrize(
    ("limit", "statuses"),
    [
        pytest.param("--nofile=64", (0, 4), marks=pytest.mark.full),
        ("--nofile=12", (4,)),
        pytest.param("--fsize=1048576", (4,), marks=pytest.mark.full),
        ("--fsize=0", (4,)),
        pytest.param("--nproc=1", (0, 4), marks=pytest.mark.full),
    ],
    ids=["64-files", "12-files", "files-of-a-mib", "empty-files", "no-process"],
)
def test_limits(
    kharness: Kharness, passed: Done, suite: Callable[[str], str], limit: str, statuses: tuple[int, ...]
) -> None:
    """``ulimit``: one line says what there is too little of, and it is not the kernel's fault."""
    args = [*QUICK_RUN, "--suite", suite("short"), "--cmdline", f"kharness_e2e{limit}"]
    done = kharness.start_run(*args, before=("prlimit", limit, "--")).finish(300)
    assert done.status in statuses, done.stderr
    assert "Traceback" not in done.stderr
    if done.status:
        assert done.error and PASS not in done.stdout


def test_a_user_without_privileges(tmp_path: Path) -> None:
    """`doctor` says what protects a run, and what is missing."""
    python = Path(sys.executable).resolve()
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    if os.geteuid() != 0:
        pytest.skip("this is one: the whole suite shows it")
    path = os.pathsep.join(entry for entry in sys.path if entry.endswith("-packages"))
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": f"{CHECKOUT}:{path}", "LC_ALL": "C.UTF-8"}
    tried = subprocess.run(
        [*nobody, str(python), "-c", "import harness.cli.main"], cwd="/", env=env, stderr=subprocess.DEVNULL
    )
    if tried.returncode:
        pytest.skip(f"nobody can read {python}, {path} or {CHECKOUT}")
    os.chown(tmp_path, 65534, 65534)
    done = subprocess.run(
        [*nobody, str(python), "-m", "harness", "doctor"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode in (0, 4)
    assert "Traceback" not in done.stderr
    assert "sandbox" in done.stdout or "bwrap" in done.stdout


# --- the cache ----------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    """The file as a power cut may leave it. A new one: the old one is linked to from elsewhere."""
    data = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "zeros": b"\0" * len(data)}[how])


def entries(cache: Path, kind: str, name: str) -> list[Path]:
    """Files called `name` in the entries of one kind."""
    return sorted((cache / kind).glob(f"*/{name}"))


@pytest.mark.parametrize(
    "how", ["empty", *(pytest.param(how, marks=pytest.mark.full) for how in ("half", "zeros", "gone"))]
)
def test_power_cut(own: Kharness, own_home: Path, suite: Callable[[str], str], how: str) -> None:
    """Entries whose files were never written, though their names were: made again, and the kernel is not blamed."""
    kinds = ("config", "programs", "module", "initramfs", "snapshot")
    for kind in kinds:
        files = [path for path in entries(own_home / "kharness", kind, "*") if path.is_file() and path.stat().st_size]
        assert files
        for path in files:
            damage(path, how)
    done = own.run(*QUICK_RUN, "--suite", suite("short"), timeout=600).expect(0)
    assert done.verdict.startswith(PASS)
    for kind in kinds:
        assert f"cache entry {kind}/" in done.stderr, "it was not said that it is made again"


@pytest.mark.full
def test_power_cut_kernel(own: Kharness, own_home: Path, suite: Callable[[str], str]) -> None:
    """The image, the symbols and the description of a kernel: it is built again."""
    for name in ("image", "meta.json"):
        for path in entries(own_home / "kharness", "kernel", name):
            damage(path, "empty")
        own.run(*QUICK_RUN, "--suite", suite("short")).expect(0)


@pytest.fixture
def emptied_home(cache_home: Path, passed: Done) -> Iterator[Path]:
    """XDG_CACHE_HOME of a cache that one test may empty."""
    with cloned(Cache(cache_home / "kharness", 0)) as home:
        yield home


@pytest.fixture
def emptied(emptied_home: Path) -> Iterator[Kharness]:
    yield from place(emptied_home)


def test_pruned_while_in_use(emptied: Kharness, emptied_home: Path, suite: Callable[[str], str]) -> None:
    """All of the cache is pruned while guests run from it; an entry that is a link leads nowhere."""
    own, cache = emptied, emptied_home / "kharness"
    precious = own.cwd / "precious"
    precious.mkdir()
    (precious / "thesis").write_text("precious")
    (cache / "snapshot/0000").symlink_to(precious)
    running = own.start_run(*QUICK_RUN, "--suite", suite("short"))
    running.wait_until("a guest is tested", happened(own.cwd, EventKind.CANARY))
    pruned = own("cache", "prune", "--to", "0", timeout=120).expect(0)
    done = running.finish(300).expect(0)
    assert done.verdict.startswith(PASS)
    assert (precious / "thesis").read_text() == "precious"
    assert "Traceback" not in pruned.stderr


@needs_root
@pytest.mark.parametrize(
    "left", ["100k", *(pytest.param(size, marks=pytest.mark.full) for size in ("0", "1m", "8m", "40m"))]
)
def test_disk_full_at_each_write(
    kharness: Kharness, passed: Done, cache: Path, suite: Callable[[str], str], left: str
) -> None:
    """The cache is a file system of 300 MB with so much left: what is made again does not fit, sooner or later."""
    before = tight(cache, kharness.cwd.parent, "300m", left)
    args = [*QUICK_RUN, "--suite", suite("short"), "--cmdline", f"kharness_e2e={left}"]
    done = kharness.start_run(*args, before=before).finish(300).expect(4)
    assert "space" in done.error and str(cache) in done.error
    assert PASS not in done.stdout
    assert done.results["verdict"] == "inconclusive"


def test_a_foreign_cache_is_refused(kharness: Kharness, tmp_path: Path) -> None:
    """One that everybody may write to: what lies there is run."""
    (folder := tmp_path / "kharness").mkdir()
    folder.chmod(0o777)
    done = kharness.run("-k", "lifecycle", env={"XDG_CACHE_HOME": str(tmp_path)}, timeout=60)
    assert done.status in (2, 4)
    assert str(folder) in done.error
    assert not list(folder.iterdir())


# --- the clock ----------------------------------------------------------------------------

CLOCK = """
import runpy, sys, time
jump = float(sys.argv[1]) * 365 * 86400
sys.argv = ["kharness", *sys.argv[sys.argv.index("harness") + 1 :]]
began, real, real_ns = time.monotonic(), time.time, time.time_ns
late = lambda: jump if time.monotonic() - began > 3 else 0.0
time.time = lambda: real() + late()
time.time_ns = lambda: real_ns() + int(late() * 1e9)
runpy.run_module("harness", run_name="__main__", alter_sys=False)
"""
"""kharness whose clock jumps by so many years, three seconds after it was started."""


@pytest.mark.parametrize("years", ["1", pytest.param("-1", marks=pytest.mark.full)], ids=["forward", "back"])
def test_the_clock_jumps(own: Kharness, own_home: Path, suite: Callable[[str], str], years: str) -> None:
    """In the middle of a run: deadlines do not see it, the log may go back in time, and the cache is still there."""
    before = (sys.executable, "-c", CLOCK, years)
    kernels = sorted((own_home / "kharness/kernel").iterdir())
    done = own.start_run(*QUICK_RUN, "--suite", suite("short"), before=before).finish(300).expect(0)
    assert done.verdict.startswith(PASS)
    assert done.results["run"]["seconds"] >= 0
    assert sorted((own_home / "kharness/kernel").iterdir()) == kernels


# --- the guest ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flooded(cache_home: Path, passed: Done, suite: Callable[[str], str]) -> Iterator[Done]:
    """One run of guests that talk without end, watched for the memory that the harness needs for it."""
    for started in place(cache_home):
        limit = ("prlimit", f"--data={3 << 30}", "--")
        yield started.start_run(*QUICK_RUN, "--suite", suite("flood"), before=limit).finish(900)


@pytest.mark.full
def test_a_guest_that_floods_is_no_pass(flooded: Done) -> None:
    """What is lost is said; a log that was read as a whole may pass. No flood is a hang, and each ends in its time."""
    flooded.expect(3)
    floods = {row["id"].rpartition("::")[2]: row for row in flooded.results["tests"] if "test_floods" in row["id"]}
    assert len(floods) == 4
    assert {row["outcome"] for row in floods.values()} <= {"inconclusive", "pass"}
    assert floods["test_floods_the_agent_s_port"]["outcome"] == "inconclusive"
    assert all(row["seconds"] < 300 for row in floods.values())


@pytest.mark.full
def test_a_guest_that_floods_changes_nothing_for_the_next_one(flooded: Done) -> None:
    assert flooded.test("test_quiet")["outcome"] == "pass"
    assert sum(path.stat().st_size for path in (flooded.cwd / "out").rglob("*") if path.is_file()) < 256 << 20
