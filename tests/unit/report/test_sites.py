# SPDX-License-Identifier: GPL-2.0-only
"""The tests of how fault sites are shown, in words, on the page, on the terminal and to a CI."""

from __future__ import annotations

import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import replace

import pytest

from harness.core.records import FaultSite, FaultSummary, Frame, Role
from harness.faults.optional import Declared
from harness.report import html, junit, sites, terminal
from harness.verdict import Results, SiteRow, judge
from harness.verdict.sites import is_bad
from tests.unit.report.eventlog import CREATE, FAULTY, POOL, SITE, SPLAT, Log, kernel, many_sites, result
from tests.unit.report.test_html import Page

TREE, ARM = kernel(), kernel(arch="arm64")


def swept(number: int = 60) -> Results:
    """A sweep on two architectures, of which one leaks."""
    found = many_sites(number)
    summary = FaultSummary(0, 1, 1, found)
    log = Log(TREE, ARM).put(
        result(TREE, CREATE, faults=summary, findings=(FAULTY,), replay="r.json"),
        result(ARM, CREATE, faults=replace(summary, sites=found[1:])),
    )
    log.argv = ["./kharness", "run", "--tree", "a b", "-k", "sweep", "--arch", "x86_64,arm64", "--out", "o"]
    log.optional = [Declared(("no_such_function",), "a reason", place="optional.yaml:7")]
    return judge(log.events())


# --- words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chain", "name"),
    [
        (
            "slab_alloc_node < __kmalloc_cache_node_noprof < _kmalloc_node_noprof < scx_bpf_create_dsq < bpf < g",
            "scx_bpf_create_dsq < bpf",
        ),
        (" < ".join((*POOL, "init_dsq", "f")), "mem_pool_alloc < init_dsq < f"),
        (
            "prepare_alloc_pages < __alloc_frozen_pages_noprof < alloc_slab_page < allocate_slab < new_slab < refill_objects"
            " < refill_sheaf < __pcs_replace_empty_main < alloc_from_pcs < slab_alloc_node < kmem_cache_alloc_noprof < __kernfs_new_node",
            "__kernfs_new_node",
        ),
        ("__alloc_pages_noprof < pcpu_populate_chunk < pcpu_alloc_noprof < init_dsq < a < b < c", "init_dsq < a < b"),
        ("__kmalloc_noprof", "__kmalloc_noprof"),
        ("bpf < f", "bpf < f"),
        ("", ""),
    ],
)
def test_a_site_is_called_by_who_wanted_the_memory(chain: str, name: str) -> None:
    assert sites.called(chain.split(" < ")) == name


@pytest.mark.parametrize(
    ("outcomes", "injected", "words"),
    [
        ({"handled": 3}, 3, "handled"),
        ({"handled": 2, "leaked": 1, "splat": 0}, 3, "1 leaked, 2 handled"),
        ({}, 0, "never injected"),
        ({}, 3, "not attributed"),
        ({"of a later version": 1, "crash": 1}, 2, "1 of a later version, 1 crash"),
    ],
)
def test_how_the_faults_of_a_site_ended(outcomes: Mapping[str, int], injected: int, words: str) -> None:
    assert sites.outcome(FaultSite("create", "page", ("f",), injected=injected, outcomes=outcomes)) == words


def test_answers_are_errno_names_and_sizes_have_units() -> None:
    site = FaultSite("create", "page", ("f",), 3, 0xCC0, answers={"0": 1, "-12": 5, "exit -ENOMEM": 2})
    assert sites.answers(site) == "-ENOMEM 5, exit -ENOMEM 2, 0 1"
    assert sites.answers(replace(site, answers={"-99999": 5})) == "-99999"
    assert sites.size(site) == "order 3"
    assert sites.size(replace(site, type="failslab")) == "3 B"
    assert sites.flags(site) == "0xcc0"
    assert sites.flags(replace(site, flags="GFP_KERNEL")) == "GFP_KERNEL"


def test_the_frames_begin_where_the_chain_does() -> None:
    raw = tuple(Frame(name) for name in ("0xffff1234", "should_failslab", "kmalloc.isra.0", "f", "do_syscall_64"))
    site = FaultSite("create", "failslab", ("kmalloc", "f"), frames=raw)
    assert [frame.function for frame in sites.frames(site)] == ["kmalloc.isra.0", "f", "do_syscall_64"]
    assert sites.frames(replace(site, stack=("other",))) == raw
    assert sites.frames(replace(site, stack=())) == raw
    assert sites.frames(SITE) == ()


def test_only_what_is_handled_or_declared_is_good() -> None:
    absorbed = FaultSite("create", "page", ("f",), injected=1, outcome="absorbed")
    declared = replace(absorbed, optional="it has a pool")
    assert is_bad(absorbed) and not is_bad(declared)
    assert not is_bad(SITE) and not is_bad(replace(SITE, outcome="none"))
    for word in ("leaked", "splat", "wrong errno", "hang", "crash", "of a later version"):
        assert is_bad(replace(declared, outcome=word)), word
    assert sites.summary([SITE, absorbed, declared, replace(SITE, outcome="leaked")]) == (
        "4 sites, 1 leaked, 1 absorbed, 1 handled, 1 absorbed as declared"
    )


# --- the page -----------------------------------------------------------------------------


def test_a_table_a_kernel_and_the_worst_first() -> None:
    made = sites.tables(swept())
    assert [(table.arch, table.number) for table in made] == [("x86_64", 60 + 1), ("arm64", 59 + 1)]
    assert [group.operation for group in made[0].groups] == ["create", "attach, enabler", "attach, loader"]
    assert made[0].groups[0].sites[0].outcome == "leaked"
    enabler = [list(reversed(site.stack)) for site in made[0].groups[1].sites]
    assert enabler == sorted(enabler)
    assert made[0].reasons == ("kmemleak has a pool",)


def test_the_page_shows_every_site() -> None:
    results = swept(300)
    page = Page(results)
    text = html.render(results)
    assert text.count('<td class="site">') == len(results.sites) == 301 + 300
    for words in ("1 leaked, 14 handled", "order 2", "168 B", "GFP_KERNEL HIGHMEM", "exit -ENOMEM", "mem_pool_alloc"):
        assert words in page.text, words
    assert "slab_alloc_node+0x10/0x20 (mm/slub.c:99)" in page.text
    assert "during create, fault at init_dsq < scx_bpf_create_dsq < bpf" in page.text
    assert "Remark: optional.yaml:7: no site of this run fits" in page.text
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert all(link is not None and link[1:] in ids for link in page.values("href"))
    row = re.search(r"1 leaked, 14 handled</td>.*?</tr>", text, re.DOTALL)
    assert row and re.search(r'<a href="#t\d+-f1">percpu leak</a>', row[0]), "the finding is a link"
    assert "<script" not in text


def test_a_name_out_of_a_guest_is_no_markup() -> None:
    site = replace(SITE, operation="<b>", stack=("<i>x", "y"), optional="<u>", flags="<s>", findings=("<q>",))
    page = Page(judge(Log(TREE).put(result(TREE, CREATE, faults=FaultSummary(1, 1, 1, (site,)))).events()))
    assert not page.tags & {"i", "u", "s", "q"}
    assert "<i>x" in page.text


def test_without_sites_there_is_no_section() -> None:
    log = Log(TREE)
    log.results = [replace(done, faults=FaultSummary()) for done in log.results]
    assert 'id="sites"' not in html.render(judge(log.events()))


# --- terminal and CI ----------------------------------------------------------------------


def test_the_summary_counts_by_operation_and_names_what_is_bad() -> None:
    text = terminal.render(swept())
    assert "          during create, fault at init_dsq < scx_bpf_create_dsq < bpf\n" in text
    words = " ".join(text.split())
    assert (
        "sites x86_64 create: 2 sites, 1 leaked, 1 handled; attach: 59 sites, 30 handled, 29 absorbed as declared"
    ) in words
    assert "sites arm64 attach: 59 sites, 30 handled, 29 absorbed as declared; create: 1 site, 1 handled" in words
    assert "declared nowhere" not in text
    lines = text.splitlines()
    assert len(lines) <= 24 and all(len(line) <= 80 or "kharness" in line for line in lines[:-1])


def test_an_undeclared_site_without_a_finding_is_named() -> None:
    site = replace(SITE, stack=("__kmalloc_noprof", "f", "g"), outcome="absorbed", outcomes={"absorbed": 50})
    more = replace(site, type="page")
    results = judge(Log(TREE).put(result(TREE, CREATE, faults=FaultSummary(1, 1, 1, (site, more)))).events())
    text = " ".join(terminal.render(results).split())
    assert "absorbed, declared nowhere: create, fault at f < g (and 1 more)" in text
    shown = judge(
        Log(TREE).put(result(TREE, CREATE, faults=FaultSummary(1, 1, 1, (replace(site, findings=("s",)),)))).events()
    )
    assert "declared nowhere" not in terminal.render(shown)


def test_many_operations_are_added_up() -> None:
    fine = [SiteRow(f"call-{n}", "page", ("f",), injected=1, outcome="handled") for n in range(6)]
    assert sites.by_operation(fine[:4], 3) == [f"call-{n}: 1 site, 1 handled" for n in range(4)]
    many = replace(fine[5], operation="call-5, helper")
    bad = replace(fine[4], stack=("g",), outcome="leaked")
    assert sites.by_operation([*fine, many, bad], 3) == [
        "call-4: 2 sites, 1 leaked, 1 handled",
        "call-5: 2 sites, 2 handled",
        "call-0: 1 site, 1 handled",
        "3 more operations: 3 sites, 3 handled",
    ]


def test_base_is_left_out_of_the_summary() -> None:
    results = judge(Log(kernel(Role.BASE), kernel(Role.PATCHED)).events())
    assert len(sites.tables(results)) == 2
    assert terminal.render(results).count("sites     x86_64") == 1


def test_many_faulty_findings_stay_on_one_screen() -> None:
    many = tuple(replace(FAULTY, signature=f"s{n}", title=f"leak {n}") for n in range(40))
    lines = terminal.render(judge(Log(TREE).put(result(TREE, CREATE, findings=many)).events())).splitlines()
    assert sum("--faults" in line for line in lines) == 1
    assert len(lines) <= 30


def test_the_fault_alone_can_be_made_again() -> None:
    results = swept()
    test = next(test for test in results.tests if test.findings)
    line = sites.fault_line(results, test, FAULTY)
    assert line.startswith("printf '%s\\n' '- {operation: create, what: page, nth: 3}' > fault.yaml; kharness run ")
    assert shlex.split(line.partition("; ")[2]) == [
        "kharness",
        "run",
        "--tree",
        "a b",
        "--arch",
        "x86_64",
        "--machine",
        "default",
        "--faults",
        "fault.yaml",
        "-k",
        "plan",
    ]
    assert line in terminal.render(results)
    assert line in Page(results).text
    assert sites.fault_line(results, test, SPLAT) == ""


def test_junit_has_the_fault_and_its_command() -> None:
    failure = ET.fromstring(junit.render(swept()).encode()).find(".//failure[@type='percpu leak']")
    assert failure is not None and failure.text is not None
    assert "during create, fault at init_dsq < scx_bpf_create_dsq < bpf" in failure.text
    assert "--faults fault.yaml" in failure.text
