# SPDX-License-Identifier: GPL-2.0-only
"""The percpu suite on kernels that are broken for it, one defect each: is it found, and the right function named?

Some four minutes each where the compiler's cache is warm, most of them the run of the whole suite.
"""

from __future__ import annotations

import pytest

from tests.e2e.command import Kharness
from tests.e2e.mutants import Mutant
from tests.e2e.test_mutants import ARCH, named
from tests.e2e.trees import UserTree

BROKEN = {
    "kernel/bpf/hashtab.c": Mutant(
        "map-forgets-its-count",
        "htab_map_alloc",
        "free_elem_count:\n\tbpf_map_free_elem_count(&htab->map);\n",
        "free_elem_count:\n",
        ("bpf_map_init_elem_count", "htab_map_alloc"),
    ),
    "kernel/cgroup/cgroup.c": Mutant(
        "cgroup-forgets-its-statistics",
        "cgroup_create",
        "out_stat_exit:\n\tcss_rstat_exit(&cgrp->self);\n",
        "out_stat_exit:\n",
        ("css_rstat_init", "cgroup_create"),
    ),
    "fs/namespace.c": Mutant(
        "null-check",
        "alloc_vfsmnt",
        "\t\tif (!mnt->mnt_pcp)\n\t\t\tgoto out_free_devname;\n",
        "\t\tif (IS_ERR(mnt))\n\t\t\tgoto out_free_devname;\n",
        ("alloc_vfsmnt",),
    ),
}
"""By the file that is broken: an unwinding that is left out, twice, and a check for NULL."""


@pytest.mark.full
@pytest.mark.parametrize("name", BROKEN, ids=lambda name: BROKEN[name].name)
def test_is_caught_and_named(kharness: Kharness, user_tree: UserTree, name: str) -> None:
    mutant = BROKEN[name]
    with user_tree.edited(name, mutant.function, mutant.old, mutant.new):
        done = kharness("run", "--suite", "percpu", "--arch", ARCH, "--tree", str(user_tree.folder), timeout=3000)
    print(done.stdout[-6000:])
    done.expect(1)
    found = [finding for row in done.results["tests"] for finding in row["findings"] if not finding["expected"]]
    right = [finding for finding in found if named(finding, mutant.blamed)]
    assert right, "\n".join(f"{f['oracle']} {f['kind']}: {f['title']} in {f['function']}" for f in found)
    # The site itself is not reported of a guest that dies of its fault: who failed alloc_percpu() is asked afterwards.
    assert any(f["operation"] and f["fault"] for f in right), "no finding tells under which fault"
