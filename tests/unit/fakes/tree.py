# SPDX-License-Identifier: GPL-2.0-only
"""A tiny fake kernel tree, with a Makefile, a conf and a compiler of its own, and all that a build of it needs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import platform
from pathlib import Path
from typing import Any

from harness.core import definition
from harness.core.records import Kernel, Role
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import HostToolchain
from harness.kbuild import kbuild
from harness.kbuild.make import BuildRequest
from harness.source.tree import Tree

# Answers the targets that kbuild.py asks for, the way the kernel's own Makefile does: out of tree,
# short output on stdout, errors on stderr. Every configuration target goes to conf.sh.
MAKEFILE = """\
VERSION = 7
PATCHLEVEL = 2
SUBLEVEL = 13
export srctree := $(CURDIR)
export HOSTCC = gcc
export O
KBUILD_OUT := $(O)
objs := $(patsubst %.c,$(O)/%.o,$(sort $(wildcard kernel/*.c)))
image := $(O)/arch/$(ARCH)/boot/bzImage

tinyconfig olddefconfig:
	@sh scripts/conf.sh $@ $(O)/.config
$(O)/%.o: %.c
	@echo '  CC      $*.o'
	@mkdir -p $(@D) && sh scripts/cc.sh $< $@
$(O)/vmlinux: $(objs)
	@echo '  LD      vmlinux'
	@cat $^ > $@ && env > $(O)/System.map
	@test -z '$(CFLAGS_GCOV)' || echo '$(GCOV_PROFILE_dsq.o) $(CFLAGS_GCOV)' > $(O)/kernel/dsq.gcno
vmlinux: $(O)/vmlinux
	@mkdir -p $(O)/include/config && echo 7.2.13-fake > $(O)/include/config/kernel.release
bzImage: vmlinux
	@mkdir -p $(dir $(image)) && echo 'image $(EXTRA)' > $(image)
modules_prepare:
	@echo '  CALL    checksyscalls'
modules: modules_prepare vmlinux
	@echo '0x0 init_dsq vmlinux EXPORT_SYMBOL' > $(O)/Module.symvers
run-command:
	@cd $(O) && $(KBUILD_RUN_COMMAND)
"""

# Keeps what it knows; FRAGILE stays only with BASIS, as "depends on" does it.
CONF_SH = """\
if [ "$1" = tinyconfig ]; then printf '# CONFIG_BUG is not set\\nCONFIG_TINY=y\\n' > "$2"; exit; fi
grep -q '^CONFIG_BASIS=y' "$2" || sed -i 's/^CONFIG_FRAGILE=.*/# CONFIG_FRAGILE is not set/' "$2"
echo 'CONFIG_PAHOLE_VERSION=130' >> "$2"
"""

# A compiler whose fate is written in the source; the fates print what gcc prints.
CC_SH = """\
if n=$(grep -n '#error' "$1"); then
    echo "$srctree/$1:${n%%:*}:2: error: ${n#*error }" >&2; exit 1
fi
grep -q '#killed' "$1" && { echo 'gcc: fatal error: Killed signal terminated program cc1' >&2; exit 1; }
grep -q '#mute' "$1" && exit 1
grep -q '#once' "$1" && { test -e "$O/tried" || { touch "$O/tried"; exit 1; }; }
grep -q '#full' "$1" && { cat "$1" > /dev/full; exit 1; }
grep -q '#scribble' "$1" && { echo x > "$srctree/scribble" || exit 1; }
cp "$1" "$2"
"""

EXTMOD_SH = """\
#!/bin/sh
set -e
mkdir -p "$1/include" && cp "$srctree/Makefile" Module.symvers "$1/" && echo "$CC" > "$1/cc"
"""

KCONFIG = "".join(f"config {name}\n\tbool\n\n" for name in ("BUG", "TINY", "BASIS", "MODULES", "MORE")) + (
    "config FRAGILE\n\tbool\n\tdepends on BASIS\n"
)

ARCH = dataclasses.replace(
    definition.load("x86_64"),
    host_arch=platform.machine(),
    kernel=definition.KernelBuild("x86", "", "bzImage", "arch/x86/boot/bzImage", ("base",)),
)
"""x86_64 with one fragment of ours, as if this machine were one."""


def with_kernel(**changes: Any) -> definition.Definition:
    """ARCH, its kernel built in another way."""
    return dataclasses.replace(ARCH, kernel=dataclasses.replace(ARCH.kernel, **changes))


BASE = "CONFIG_BUG=y\nCONFIG_MODULES=y\nCONFIG_NOT_THERE=y # where-known\n"


@dataclasses.dataclass
class World:
    """A fake tree with everything that a build needs; `build` builds it."""

    folder: Path
    toolchain: HostToolchain
    cache: Cache
    output: io.StringIO

    @property
    def tree(self) -> Path:
        return self.folder / "linux"

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def digest(self) -> str:
        files = sorted(path for path in self.tree.rglob("*") if path.is_file())
        text = "".join(f"{path.relative_to(self.tree)}\0{path.read_text()}\0" for path in files)
        return hashlib.sha256(text.encode()).hexdigest()

    def request(self, base: str = BASE, user: str | None = None, **changes: object) -> BuildRequest:
        tree = Tree(self.tree, self.digest(), "c0ffee", False, "fake", "7.2.13")
        users = () if user is None else (self.write("user.config", user),)
        folder = self.write("base.config", base).parent
        request = BuildRequest(tree, ARCH, users, jobs=2, kconfigs=folder)
        return dataclasses.replace(request, **changes)  # type: ignore[arg-type]

    def progress(self) -> Progress:
        return Progress(self.cache.root, stream=self.output, every=0.01)

    def build(self, request: BuildRequest | None = None, role: Role = Role.TREE) -> Kernel:
        return kbuild.build(request or self.request(), self.toolchain, self.cache, self.progress(), role)

    def leftovers(self) -> list[Path]:
        return [path for kind in ("kernel", ".staging") for path in (self.cache.root / kind).glob("*")]


def fill(world: World) -> None:
    """Writes the tree: two sources, and all that builds them."""
    for name, text in {
        "Makefile": MAKEFILE,
        "Kconfig": KCONFIG,
        "scripts/conf.sh": CONF_SH,
        "scripts/cc.sh": CC_SH,
        "scripts/package/install-extmod-build": EXTMOD_SH,
        "kernel/fork.c": "int fork;\n",
        "kernel/dsq.c": "int dsq;\n",
    }.items():
        world.write(f"linux/{name}", text).chmod(0o755)
