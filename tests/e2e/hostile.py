# SPDX-License-Identifier: GPL-2.0-only
"""A tree that is none: a Makefile that answers what kbuild is asked for in a second, and attacks whoever builds it."""

from __future__ import annotations

from pathlib import Path

from harness.core.options import DEFAULT_ARCHES
from tests.e2e.command import CHECKOUT

ARCH = DEFAULT_ARCHES[0]

MAKEFILE = """\
VERSION = 7
PATCHLEVEL = 2
SUBLEVEL = 13
O ?= .
export srctree := $(CURDIR)
image := $(O)/arch/x86/boot/bzImage

tinyconfig:
	@echo 'CONFIG_TINY=y' > $(O)/.config
	@sh $(CURDIR)/scripts/attack.sh $@
olddefconfig:
	@echo 'CONFIG_PAHOLE_VERSION=130' >> $(O)/.config
	@sh $(CURDIR)/scripts/attack.sh $@
vmlinux bzImage:
	@mkdir -p $(dir $(image)) $(O)/include/config
	@echo '  CC      kernel/fork.o'
	@for file in vmlinux System.map Module.symvers; do echo 0 > $(O)/$$file; done
	@echo image > $(image) && echo 7.2.13-fake > $(O)/include/config/kernel.release
	@sh $(CURDIR)/scripts/attack.sh build
modules_prepare: vmlinux
modules: modules_prepare
run-command:
	@cd $(O) && $(KBUILD_RUN_COMMAND)
"""

EXTMOD = """\
#!/bin/sh
mkdir -p "$1/include" && cp Module.symvers "$1/"
sh "$srctree/scripts/attack.sh" extmod "$1"
"""


def tree(folder: Path, attack: str) -> Path:
    """Writes such a tree to `folder`.

    `attack` are lines of shell that run in the build folder each time that make was asked for something: $1 is
    ``tinyconfig``, ``olddefconfig``, ``build`` (vmlinux and the image lie there by then) or ``extmod``.
    """
    fragments = (CHECKOUT / "kconfigs").rglob("*.config")
    symbols = {
        line.partition("=")[0].removeprefix("# ").split()[0].removeprefix("CONFIG_")
        for path in fragments
        for line in path.read_text().splitlines()
        if line.startswith(("CONFIG_", "# CONFIG_"))
    }
    for name, text in {
        "Makefile": MAKEFILE,
        "Kbuild": "",
        "Kconfig": "".join(f"config {symbol}\n\tbool\n\n" for symbol in sorted(symbols)),
        "kernel/sched/core.c": "int core;\n",
        "kernel/fork.c": "int fork;\n",
        "scripts/attack.sh": f"cd /build\n{attack}\n",
        "scripts/package/install-extmod-build": EXTMOD,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return folder
