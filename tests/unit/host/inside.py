# SPDX-License-Identifier: GPL-2.0-only
"""A sandbox to try to get out of: as root, and as an ordinary user, whoever runs the tests."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.host.cache import Cache
from harness.host.process import Done, run
from harness.host.sandbox import Bind
from harness.host.toolchain import HostToolchain

NOBODY = 65534


@dataclass
class Inside:
    """The host's tools in their sandbox. `user` is who enters it, `folder` is theirs."""

    tools: HostToolchain
    folder: Path
    user: int

    def python(
        self,
        code: str,
        *arguments: str,
        binds: Sequence[Bind] = (),
        network: bool = False,
        kvm: bool = False,
        before: Sequence[str] = (),
    ) -> Done:
        """Runs a program inside; `before` is what starts bubblewrap."""
        program = ["/usr/bin/python3", "-I", "-c", code, *arguments]
        argv = self.tools.argv(program, binds=binds, network=network, kvm=kvm)
        return run([*before, *self.lowered(argv)], what="trying", check=False, deadline=120)

    def lowered(self, argv: list[str]) -> list[str]:
        """The argv as `user`, who cannot open what this process has open: it lies in files of his."""
        if os.geteuid() == self.user:
            return argv
        low = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        return [*low, *argv[:2], re.sub(r"/proc/\d+/fd/\d+", self._copy, argv[2]), *argv[3:]]

    def _copy(self, opened: re.Match[str]) -> str:
        copy = self.folder / f"fd-{Path(opened[0]).name}"
        shutil.copyfile(opened[0], copy)
        return str(copy)


@pytest.fixture(params=["root", "user"])
def inside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    """A sandbox, entered by root and by a user without privileges."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    root = os.geteuid() == 0
    if request.param == "root" and not root:
        pytest.skip("the tests do not run as root")
    user = 0 if request.param == "root" else NOBODY if root else os.geteuid()
    monkeypatch.setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    with tempfile.TemporaryDirectory(prefix="kharness-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with monkeypatch.context() as patch:
            if user:
                patch.setattr("harness.host.sandbox._ways", lambda: (False,))
            tools = HostToolchain(Cache(folder / "cache", 0))
        os.chown(folder, user, user if root else -1)
        yield Inside(tools, folder, user)
