# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the mail for the list."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.records import (
    SCHEMA,
    Canary,
    HunkState,
    Operation,
    Outcome,
    Patches,
    PatchFate,
    PatchHow,
    PatchHunk,
    Role,
    Scenario,
    decode,
    encode,
)
from harness.coverage.claims import Claim, Kind
from harness.coverage.coverage import Coverage
from harness.coverage.lines import PatchLine, State
from harness.report import mail
from harness.report.columns import WIDTH
from harness.report.mail import Bisected
from harness.session import replay_file
from harness.session.replay_file import Replay
from harness.verdict import Results, judge
from tests.unit.report.eventlog import CREATE, DESTROY, LEAK, MACHINE, SPLAT, Log, kernel, result
from tests.unit.report.test_columns import HOSTILE, TRAILER

TREE = kernel()
SERIES = ("sched_ext: Add per-CPU data to DSQs", "sched_ext: Use it")
PAIR = (kernel(Role.BASE), kernel(Role.PATCHED, patches=SERIES))
UNDER = replace(
    LEAK,
    operation="create",
    site="pcpu_alloc_noprof < cgroup_create < cgroup_mkdir",
    fault="{operation: create, what: failslab, nth: 3}",
)


def failing(**more: Any) -> Results:
    return judge(Log(TREE).put(result(TREE, CREATE, Outcome.FAIL, findings=(LEAK,), **more)).events())


def compared() -> Results:
    log = Log(*PAIR).put(result(PAIR[0], DESTROY, Outcome.FAIL, findings=(SPLAT,)))
    return judge(log.put(result(PAIR[1], CREATE, Outcome.FAIL, findings=(UNDER,))).events())


def section(text: str, name: str) -> str:
    """The text below a heading, empty where there is none."""
    found = re.search(rf"\n{name}\n-+\n\n(.*?)(?=\n\n[A-Z][^\n]*\n-+\n|\Z)", text, re.DOTALL)
    return found[1] if found else ""


def test_a_failure_has_its_stack_its_tests_and_a_command() -> None:
    text = mail.mail(failing(replay="/o/replay/x.json"))
    found = section(text, "Found")
    assert text.startswith("Subject: percpu leak in init_dsq() on Linux 7.2.13\n\nFAIL: 1 of ")
    assert "1. percpu leak: unreferenced percpu object of 8 bytes, 50 times\n" in found
    assert "    alloc_helper (kernel/sched/ext/ext.c:4709) [inlined]\n" in found
    assert "    init_dsq (kernel/sched/ext/ext.c:4711)\n" in found
    assert "    ? scx_bpf_create_dsq (kernel/sched/ext/ext.c:8001)\n" in found
    assert "  | unreferenced object (percpu) 0x607e03c2\n" in found
    assert f"   Seen in 1 test:\n     {CREATE} (x86_64 default)\n" in found
    assert "     kharness replay /o/replay/x.json" in found


def test_a_finding_of_many_tests_is_one_cause() -> None:
    log = Log(TREE).put(*(result(TREE, test, Outcome.FAIL, findings=(LEAK,)) for test in (CREATE, DESTROY)))
    text = mail.mail(judge(log.events()))
    assert "Seen in 2 tests:" in text and "\n2. " not in text


def test_what_left_no_replay_file_is_run_again_with_its_seed() -> None:
    assert "     kharness run --tree linux --seed 42\n" in mail.mail(failing())


def test_what_was_tested_is_said() -> None:
    built = kernel(commit="c" * 40, dirty=True, compiler="gcc (Debian) 14.2.0", fragments=("base", "x86_64"))
    tested = section(mail.mail(judge(Log(built).events())), "What was tested")
    plain = " ".join(tested.split())
    for part in (
        "Linux 7.2.13, linux-source-7.2, commit cccccccccccc with uncommitted edits, content 0123456789abcdef",
        "x86_64: sha256 abababababababab, tinyconfig with base x86_64",
        "x86_64: gcc (Debian) 14.2.0, toolchain cdcdcdcdcdcdcdcd",
        "x86_64 default: 2 of 2 CPUs, 1 node, 1024 MiB; QEMU, tcg",
        "4 of dsq: 4 pass",
        "100 injected at 1 site, 100 handled",
        "3 of 3 planted defects caught: dmesg, kmemleak, percpu",
        "seed 42",
        "kharness run --tree linux",
    ):
        assert part in plain, part


def test_a_folder_of_the_senders_is_not_named() -> None:
    assert "/home/me" not in mail.mail(judge(Log(kernel(source="/home/me/linux")).events()))


def test_a_replay_file_is_named_as_it_is_typed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "     kharness replay out/x.json\n" in mail.mail(failing(replay=str(tmp_path / "out/x.json")))


def test_a_program_is_shown_where_one_stands_alone(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    scenario = Scenario("default", (Operation("fork"),), 1)
    replay_file.write(file, Replay(SCHEMA, TREE, CREATE, "default", 1, (SPLAT.signature,), scenario))
    log = Log(TREE).put(result(TREE, CREATE, Outcome.FAIL, findings=(SPLAT,), replay=str(file)))
    text = mail.mail(judge(log.events()))
    assert "As a C program, which was not run, to be built with gcc" in text
    assert "\n    static void during(void)\n    {\n            child();\n    }\n" in text
    file.unlink()
    assert "No program shows it without kharness: its test's replay file" in mail.mail(judge(log.events()))


def test_base_and_patched_are_compared_by_test() -> None:
    text = mail.mail(compared())
    assert text.startswith("Subject: Re: [PATCH 1/2] sched_ext: Add per-CPU data to DSQs\n\nREGRESSED: ")
    against = section(text, "Against the base")
    assert f"  regressed     {CREATE} (x86_64)\n" in against
    assert f"  fixed         {DESTROY} (x86_64)" in against
    assert "          1/2 sched_ext: Add per-CPU data to DSQs\n" in text


def test_the_version_of_a_series_is_in_the_names_of_its_files() -> None:
    names = ("v3-0001-sched_ext-Add-data.patch", "v3-0002-more.patch")
    log = Log(PAIR[0], kernel(Role.PATCHED, patches=names))
    text = mail.mail(judge(log.events()))
    assert text.startswith("Subject: Re: [PATCH v3 1/2] sched_ext Add data\n")
    assert "series    2 patches, version 3\n" in text


def test_a_patch_that_the_tree_has_is_told() -> None:
    hunks = (PatchHunk("a.c", 1, 2, HunkState.CONTAINED), PatchHunk("a.c", 2, 2, HunkState.DIFFERS))
    fate = PatchFate("sched_ext: Use it", PatchHow.AS_IT_IS, hunks)
    text = mail.mail(replace(judge(Log(TREE).events()), patches=Patches((fate,))))
    assert text.startswith("Subject: PASS on Linux 7.2.13, which has 'sched_ext: Use it'\n")
    assert "with this kernel, which has the patch" in " ".join(text.split())
    tested = " ".join(section(text, "What was tested").split())
    assert "patch sched_ext: Use it: in the tree already, and cannot be taken out" in tested
    assert "(2 hunks: 1 there, 1 there in other words)" in tested


def test_a_diff_without_a_title_is_called_by_its_file() -> None:
    log = Log(PAIR[0], kernel(Role.PATCHED, patches=("mine.diff",)))
    assert mail.mail(judge(log.events())).startswith("Subject: PASS on Linux 7.2.13 with mine.diff\n")


def test_a_fault_is_said_with_the_command_that_makes_it_again() -> None:
    plain = " ".join(section(mail.mail(compared()), "Found").split())
    assert (
        "It came during the operation 'create' after an allocation was made to fail, in cgroup_create < cgroup_mkdir."
        in plain
    )
    assert "printf '%s\\n' '{operation: create, what: failslab, nth: 3}' > fault.yaml; kharness run" in plain


def test_what_did_not_run_is_said_with_reasons() -> None:
    log = Log(TREE).put(result(TREE, DESTROY, Outcome.SKIP, why="needs 2 nodes"))
    log.canaries[1] = Canary("kmemleak", TREE.id, False, "disabled itself", MACHINE)
    text = mail.mail(judge(log.events()))
    missing = section(text, "What did not run")
    assert text.splitlines()[2].startswith("INCONCLUSIVE: nothing is said for or against this kernel: ")
    assert f"1 test skipped: needs 2 nodes\n    {DESTROY} (x86_64 default)\n" in missing
    assert "The planted defect kmemleak was not seen on tree-x86_64: disabled itself\n" in missing
    assert "What would settle it:\n" in missing


def test_lines_of_the_patch_that_never_ran_are_said() -> None:
    line = PatchLine("kernel/fork.c", 7, "\tgoto out;", State.NEVER, why="nothing failed there")
    judged = replace(compared(), coverage=(Coverage(PAIR[1].id, "x86_64", 3, patch=(line,)),))
    missing = " ".join(section(mail.mail(judged), "What did not run").split())
    assert "kernel/fork.c:7 never ran: goto out; (nothing failed there)" in missing


def test_claims_of_the_patch_are_said_with_what_showed_them() -> None:
    claim = Claim(Kind.HANDLED, "dup", "kernel/fork.c", 7, "ret = dup(p);", "fork", times=8, tests=1, named=("t::one",))
    judged = replace(compared(), coverage=(Coverage(PAIR[1].id, "x86_64", 3, claims=(claim,)),))
    claimed = " ".join(section(mail.mail(judged), "What the patch claims").split())
    assert "fork() handles a failure of dup() (kernel/fork.c:7): 8 times in 1 test (one)" in claimed


# --- tags -----------------------------------------------------------------------------------


def test_tags_are_suggestions_that_no_tool_collects() -> None:
    tags = section(mail.mail(failing()), "Tags")
    assert "  | Reported-by: YOUR NAME <YOUR ADDRESS>\n  | Closes: " in tags and "Fixes:" not in tags
    passed = section(mail.mail(judge(Log(TREE).events())), "Tags")
    assert "  | # Tested-by: YOUR NAME <YOUR ADDRESS>" in passed
    assert "Reported-by" not in passed and "Closes" not in passed
    for line in (tags + passed).splitlines():
        assert not TRAILER.match(line)


def test_only_a_bisection_names_a_commit_and_by_twelve_digits() -> None:
    bisected = Bisected(("culprit: it",), "0123456789abcdef0123456789abcdef01234567", "sched: break it")
    text = mail.mail(failing(), bisected)
    assert '  | Fixes: 0123456789ab ("sched: break it")\n  | Reported-by:' in text
    assert section(text, "Bisected") == "- culprit: it"


def test_an_inconclusive_run_suggests_no_tag() -> None:
    log = Log(TREE)
    log.canaries[1] = Canary("kmemleak", TREE.id, False, "disabled itself", MACHINE)
    assert section(mail.mail(judge(log.events())), "Tags") == ""


# --- hostile text ---------------------------------------------------------------------------


def filled(value: Any, text: str) -> Any:
    """A decoded JSON value with the text added to each string that is a guest's, a tree's or a patch's."""
    if isinstance(value, dict):
        return {key: item if key in ENUMS else filled(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, text) for item in value]
    return value + text if isinstance(value, str) else value


ENUMS = {"outcome", "role", "verdict", "id", "kernel", "change", "what"}


@given(HOSTILE, st.sampled_from([failing, compared]))
def test_no_guest_makes_a_wide_line_a_control_character_or_a_trailer(text: str, made: Any) -> None:
    judged = decode(filled(encode(made()), text), Results)
    for line in mail.lines(judged, Bisected((text,), "0" * 40, text)):
        assert line.whole or len(line.text) <= WIDTH
        assert line.text.isprintable()
        assert not TRAILER.match(line.text)


def test_a_run_of_a_thousand_findings_stays_a_mail() -> None:
    many = tuple(replace(SPLAT, signature=f"s{n}", title=f"WARNING {n}", log=("x",) * 500) for n in range(1000))
    text = mail.mail(judge(Log(TREE).put(result(TREE, CREATE, Outcome.FAIL, findings=many)).events()))
    assert text.count("\n") < 2000 and "more causes:" in text
