# SPDX-License-Identifier: GPL-2.0-only
"""Tests of files that users hand on: whatever lies in them, the answer is one line, and nothing of them is run."""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.bisect import rows
from harness.cli import main
from harness.core import allow, definition, given
from harness.core.checkout import CHECKOUT
from harness.core.errors import Exit, KharnessError, UsageError
from harness.core.plan import SELFTESTS, Plan
from harness.core.records import SCHEMA
from harness.faults import plans
from harness.run import planning, runner
from harness.run.replay import replay as replay_file
from harness.session import replay_file as replay
from harness.suite import loader

HUGE = "9" * 5000
ODD_YAML = {
    "digits": f"seed: {HUGE}",
    "digits after a sign": f"jobs: -{HUGE}",
    "hexadecimal": f"seed: 0x{'f' * 5000}",
    "sixties": f"seed: {'1:' * 5000}1",
    "beyond 64 bits": "seed: 99999999999999999999",
    "many jobs": "jobs: 1000000000",
    "a tag for a number": "seed: !!int x",
    "an empty number": "seed: !!int ''",
    "a tag for a truth": "full: !!bool perhaps",
    "a tag of Python's": "seed: !!python/object/apply:os.system ['touch ran']",
    "an escape beyond Unicode": 'tree: "\\U99999999"',
    "half a pair": 'tree: "\\ud800"',
    "a NUL": 'tree: "a\\0b"',
    "deep": "tree: " + "[" * 100_000,
    "deep mappings": "tree: " + "{a: " * 20_000,
    "in itself": "tree: &a [*a]",
    "laughs": "a: &a [x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)),
    "merged": "<<: {tree: x}",
    "version": f"%YAML {HUGE}.1\n---\ntree: x",
    "large": "# " + "x" * given.YAML_BYTES,
    "a date": "out: [2020-01-01]",
    "nothing but a number": HUGE,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(call: Callable[[], object]) -> str:
    """The line of the UsageError that a call raises."""
    start = time.monotonic()
    with pytest.raises(UsageError) as raised:
        call()
    assert time.monotonic() - start < 60
    assert not Path("ran").exists()
    line = raised.value.line()
    assert "\n" not in line and "Traceback" not in line
    return line


def file(text: str | bytes, name: str = "mine.yaml") -> Path:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", ODD_YAML)
def test_an_odd_plan_is_one_line(name: str) -> None:
    path = file(ODD_YAML[name] + "\n")
    assert "mine.yaml" in refused(lambda: planning.request(planning.gather(str(path), {}), ()))


@pytest.mark.parametrize(
    "text", [*ODD_YAML.values(), f"- {HUGE}", f"- signature: {HUGE}", f"- {{nth: {HUGE}, operation: create}}"]
)
def test_odd_lists_are_one_line(text: str) -> None:
    path = file(text + "\n")
    assert "mine.yaml" in refused(lambda: allow.read(path, datetime.date(2026, 1, 1)))
    assert "mine.yaml" in refused(lambda: plans.read(path, ("create",)))


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\0x", b"tree: \xe9\n", b"\0" * 100, b"\xc0\x80", "tree: \ud800".encode("utf-8", "surrogatepass")]
)
def test_bytes_that_are_no_text(data: bytes) -> None:
    path = file(data)
    assert "mine.yaml" in refused(lambda: planning.read(path))
    assert "mine.yaml" in refused(lambda: given.value(path, "it", "step"))


@drawn(
    st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
)
def test_any_bytes_at_all(data: bytes) -> None:
    """As any file that people write by hand, or that a run wrote."""
    path = file(data)
    readers: list[Callable[[], object]] = [
        lambda: planning.gather(str(path), {}),
        lambda: plans.read(path, ("create",)),
        lambda: replay.read(path),
        lambda: allow.read(path, datetime.date(2026, 1, 1)),
        lambda: given.value(path, "it", "step"),
    ]
    for reader in readers:
        try:
            reader()
        except KharnessError as error:
            assert isinstance(error, UsageError)


@pytest.mark.parametrize("name", ["/dev/zero", "/proc/self/mem", "/", "/nowhere/x", "/dev/null/x", "x" * 300])
def test_what_is_no_file(name: str) -> None:
    """One without an end is not read to it."""
    refused(lambda: planning.read(Path(name)))
    refused(lambda: replay.read(Path(name)))
    refused(lambda: rows.read(Path(name)))


# --- JSON -----------------------------------------------------------------------------------

ODD_JSON = {
    "deep": "[" * 200_000,
    "deep mappings": '{"a":' * 100_000,
    "digits": f'{{"schema": {SCHEMA}, "seed": {HUGE}}}',
    "beyond 64 bits": f'{{"schema": {SCHEMA}, "seed": 999999999999999999999}}',
    "infinite": f'{{"schema": {SCHEMA}, "seed": 1e999}}',
    "none": f'{{"schema": {SCHEMA}, "seed": NaN}}',
    "half a pair": f'{{"schema": {SCHEMA}, "test": "\\ud800"}}',
    "a list": "[1]",
    "null": "null",
    "a text": '"x"',
    "of another type": f'{{"schema": {SCHEMA}, "kernel": [], "test": {{}}}}',
    "nothing": "",
}


@pytest.mark.parametrize("name", ODD_JSON)
def test_odd_json_is_one_line(name: str) -> None:
    path = file(ODD_JSON[name], "bisect.json")
    assert "bisect.json" in refused(lambda: replay.read(path))
    refused(lambda: rows.read(Path(".")))


# --- what a file must not choose --------------------------------------------------------------

CODE = "open('ran', 'w').write('')\n"


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A suite that somebody sent with a plan; whoever collects it runs it."""
    folder = tmp_path / "suite"
    folder.mkdir()
    for name in ("conftest.py", "test_x.py", "__init__.py"):
        (folder / name).write_text(CODE)
    return folder


def planned(*arguments: str) -> Plan:
    """The plan that `run` comes to."""
    done: list[Plan] = []

    def conduct(plan: Plan) -> Exit:
        done.append(plan)
        return Exit.PASS

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "conduct", conduct)
        result = CliRunner().invoke(main.app, ["run", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return done[0]


@pytest.mark.parametrize("form", ["{suite}", "{relative}", "suite", "./suite", "{link}", "{dots}"])
def test_a_plan_names_no_suite_of_its_own(evil: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "link").symlink_to(evil)
    dots = os.path.relpath(evil, CHECKOUT)
    text = form.format(suite=evil, relative=evil.name, link=tmp_path / "link", dots=dots)
    path = file(f"suite: {text}\n")
    line = refused(lambda: planned(str(path)))
    assert "mine.yaml: suite: " in line and "--suite" in line
    assert planned(str(path), "--suite", str(evil)).suite == str(evil), "the user's own word"


@pytest.mark.parametrize("name", ["conftest.py", "__init__.py", "suite.py", "allow.yaml", "optional.yaml"])
def test_nobody_else_adds_to_a_suite(evil: Path, tmp_path: Path, name: str) -> None:
    """The suite is the user's, who typed it; what lies above it in a folder like /tmp is anybody's."""
    (tmp_path / "shared").mkdir()
    suite = evil.rename(tmp_path / "shared/suite")
    whole = "from harness.suite.interface import Suite\nSUITE = Suite('mine')\n" if name == "suite.py" else ""
    (tmp_path / "shared" / name).write_text("" if name.endswith("yaml") else f"{CODE}\n{whole}")
    assert planned("--suite", str(suite)).suite == str(suite), "in a folder of one's own"
    Path("ran").unlink(missing_ok=True)  # one's own suite.py was loaded; it must not be again
    loader.load.cache_clear()
    (tmp_path / "shared").chmod(0o777)
    assert name in refused(lambda: planned("--suite", str(suite)))
    (tmp_path / "shared" / name).unlink()
    assert planned("--suite", str(suite)).suite == str(suite)


@pytest.mark.parametrize(
    "suite", ["tests/kernel", "tests/kernel/sched_ext/test_many.py", SELFTESTS, f"{CHECKOUT}/tests/kernel"]
)
def test_a_plan_may_choose_among_ours(suite: str) -> None:
    assert planned(str(file(f"suite: {suite}\n"))).suite


def test_a_plan_does_not_open_the_host() -> None:
    path = file("toolchain: host\n")
    assert "--toolchain host" in refused(lambda: planned(str(path)))
    assert planned(str(path), "--toolchain", "host").options.toolchain == "host"
    assert planned(str(path), "--toolchain", "root").options.toolchain == "root"


def replayed(**more: Any) -> Path:
    """A replay file that is right but for `more`."""
    kernel = {
        "id": "k",
        "arch": "x86_64",
        "role": "tree",
        "release": "7.2",
        "source": "/nowhere",
        "commit": "",
        "tree": "0" * 40,
        "dirty": False,
        "patches": [],
        "config": "",
        "config_sha256": "",
        "toolchain": "",
        "image": "",
        "vmlinux": "",
        "path": "",
        "build_seconds": 0.0,
        "cached": True,
    }
    whole = {
        "schema": SCHEMA,
        "kernel": kernel | more.pop("kernel", {}),
        "test": "t",
        "machine": "default",
        "seed": 1,
        "signatures": [],
        "scenario": {"machine": "default", "operations": [], "seed": 1},
    }
    return file(json.dumps(whole | more), "replay.json")


def test_a_replay_file_names_no_suite_of_its_own(evil: Path) -> None:
    path = replayed(suite=str(evil))
    line = refused(lambda: replay_file(path, {"out": "out"}))
    assert "replay.json: suite: " in line and f"--suite {evil}" in line
    assert not Path("out").exists()


def test_a_nul_in_a_replay_file() -> None:
    assert "NUL" in refused(lambda: replay.read(replayed(suite="a\0b")))


@pytest.mark.parametrize("arch", ["/tmp/evil", "../evil", "x86_64/../x86_64", "./x86_64", "", ".", "x86_64\0"])
def test_an_architecture_is_a_name(tmp_path: Path, arch: str) -> None:
    """A definition names QEMU's binary: one beside the plan would be a program of its author's."""
    real = (definition.VM_FOLDER / "x86_64.yaml").read_text()
    (tmp_path / "evil.yaml").write_text(real)
    assert "no machine definition" in refused(lambda: definition.load(arch))
    refused(lambda: definition.load(str(tmp_path / "evil")))
    relative = os.path.relpath(tmp_path / "evil", definition.VM_FOLDER)
    refused(lambda: definition.load(relative))
    refused(lambda: planned(str(file(f"arch: {relative}\n"))))
