# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what decides a .config: an edit that cannot change one costs no configuration, any other costs one."""

from __future__ import annotations

import pytest

from harness.kbuild import configure
from tests.unit.fakes.tree import World


def configured(world: World) -> int:
    """How many configurations there are once the tree, as it is, has one."""
    configure.configure(world.request(), world.toolchain, world.cache, world.progress())
    return sum(entry.kind == "config" for entry in world.cache.entries())


@pytest.mark.parametrize(
    ("name", "text", "anew"),
    [
        ("kernel/dsq.c", "int other;\n", False),
        ("kernel/new.c", "int new;\n", False),
        ("Documentation/x.rst", "text\n", False),
        ("kernel/Kconfig.more", "config OTHER\n\tbool\n", True),
        ("kernel/Makefile", "obj-y += dsq.o\n", True),
        ("scripts/basic/x.c", "int main;\n", True),
        ("arch/x86/tools/check.sh", "true\n", True),
        ("kernel/configs/tiny.config", "CONFIG_TINY=y\n", True),
    ],
)
def test_an_edit_costs_a_configuration_where_it_may_change_it(world: World, name: str, text: str, anew: bool) -> None:
    assert configured(world) == 1
    world.write(f"linux/{name}", text)
    assert configured(world) == (2 if anew else 1)


@pytest.mark.parametrize(
    "line", ['source "drivers/options"\n', "config A\n\tdef_bool $(shell,cat $(srctree)/net/on)\n"]
)
def test_a_kconfig_file_that_names_others_makes_the_whole_tree_count(world: World, line: str) -> None:
    world.write("linux/Kconfig.odd", line)
    world.write("linux/drivers/options", "")
    assert configured(world) == 1
    world.write("linux/kernel/dsq.c", "int other;\n")
    assert configured(world) == 2


def test_what_is_built_is_another_kernel_all_the_same(world: World) -> None:
    first = world.build()
    world.write("linux/kernel/dsq.c", "int other;\n")
    second = world.build()
    assert (first.config_sha256, first.id == second.id) == (second.config_sha256, False)
