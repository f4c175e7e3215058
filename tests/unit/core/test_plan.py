# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the plan: what the runner gives the workers survives the way through plan.json."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.core import plan, records
from harness.core.errors import HarnessError, UsageError
from harness.core.plan import FaultPlan, KernelRequest, Plan, SavedTarget, Session, SourceRequest, requests
from harness.core.records import Fault, Kernel, Machine, MachineSpec, Role, decode, encode
from harness.session.session import read_session

KERNEL = Kernel(
    "tree-x86_64-1",
    "x86_64",
    Role.TREE,
    "7.2.13",
    "linux-source-7.2 7.2.13-1",
    "",
    "abc",
    False,
    (),
    "/c/config",
    "def",
    "tools",
    "/c/image",
    "/c/vmlinux",
    "/c",
    400.0,
    True,
)
MACHINE = Machine("tree-x86_64-1", "x86_64", MachineSpec("x86_64"), "tcg", "no KVM", 3.0, 0.3, 1.0, "/s")
SESSION = Session(
    "run-1",
    "/out",
    7,
    "/cache",
    "root",
    (SavedTarget(KERNEL, MACHINE, "/i/initramfs", {"tsc_khz": "1"}, "nosmp"),),
    argv=("kharness", "run", "-k", "a b"),
    test_id="t::x[1]",
    kconfig=("/f.config",),
    faults=(FaultPlan("create", Fault("function", ("f",), nth=1, caller="g"), "f.yaml:1"),),
)


def test_a_session_survives_plan_json(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(encode(SESSION)))
    assert read_session(file) == SESSION


def test_a_plan_survives_the_event_log() -> None:
    request = KernelRequest(SourceRequest(tree="/home/x/linux"), "x86_64", Role.PATCHED)
    asked = Plan((request,), seed=3, kconfig=("/f.config",), argv=("kharness", "run"))
    assert decode(json.loads(json.dumps(encode(asked))), Plan) == asked


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", HarnessError, "plan.json"),
        ("{", HarnessError, "plan.json"),
        ("{}", UsageError, "run"),
        (json.dumps({**encode(SESSION), "seed": "seven"}), UsageError, "seed"),
        (json.dumps({**encode(SESSION), "targets": [{}]}), UsageError, "targets"),
    ],
)
def test_a_damaged_plan_is_refused_by_name(tmp_path: Path, text: str, error: type[Exception], says: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(error, match=says):
        read_session(file)


def test_no_plan_at_all_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(HarnessError) as raised:
        read_session(tmp_path / "plan.json")
    assert "kharness run" in raised.value.step


def test_a_source_names_itself() -> None:
    assert str(SourceRequest(tree="/home/x/linux")) == "/home/x/linux"
    assert str(SourceRequest(version="7.2")) == "linux-source-7.2"


def test_the_ground_floor_needs_no_disk_and_no_process() -> None:
    for module in (plan, records):
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text())
        used = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert not used & {"os", "subprocess", "pathlib", "shutil", "socket"}, module.__name__
    assert sys.version_info >= (3, 11)


# --- what is compared with what ---------------------------------------------------------------

TREE = SourceRequest(tree="/linux")


def shown(*args: Any, **more: Any) -> list[tuple[Role, str, tuple[str, ...]]]:
    return [(k.role, k.source.revision, k.patches) for k in requests(TREE, ("x86_64",), *args, **more)]


def test_what_a_run_compares() -> None:
    assert shown() == [(Role.TREE, "", ())]
    assert shown(["a.patch"]) == [(Role.BASE, "", ()), (Role.PATCHED, "", ("a.patch",))]
    assert shown(["a.patch"], base="v7.2") == [(Role.BASE, "v7.2", ()), (Role.PATCHED, "v7.2", ("a.patch",))]
    assert shown(base="v7.2") == [(Role.BASE, "v7.2", ()), (Role.PATCHED, "", ())]
    assert shown(base="v7.2", head="topic") == [(Role.BASE, "v7.2", ()), (Role.PATCHED, "topic", ())]
    both = requests(TREE, ("x86_64", "arm64"), ["a.patch"])
    assert [(k.arch, k.role) for k in both] == [
        ("x86_64", Role.BASE),
        ("x86_64", Role.PATCHED),
        ("arm64", Role.BASE),
        ("arm64", Role.PATCHED),
    ]


@pytest.mark.parametrize(
    ("source", "patches", "base", "head", "says"),
    [
        (TREE, ("a.patch",), "", "topic", "--head and --patch exclude each other"),
        (TREE, (), "", "topic", "--head needs --base"),
        (SourceRequest(version="7.2"), (), "v7.2", "", "--base needs --tree"),
    ],
)
def test_what_does_not_go_together(
    source: SourceRequest, patches: tuple[str, ...], base: str, head: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        requests(source, ("x86_64",), patches, base, head)
    assert caught.value.step
