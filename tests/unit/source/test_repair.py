# SPDX-License-Identifier: GPL-2.0-only
"""Tests of diffs that the tree made whole: their line numbers, for git to take them anywhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness.source import repair
from harness.source.diffs import Patch
from harness.source.fit import fits
from harness.source.hunks import read

BASE = "".join(f"int number_{number}(void);\n" for number in range(1, 31))
PAGE = """\
--- a/kernel/a.c
+++ b/kernel/a.c
@@ -9,3 +9,4 @@ f
int number_9(void);
int number_10(void);
+int more(void);
int number_11(void);
@@ -20,3 +21,2 @@
int number_20(void);
-int number_21(void);
int number_22(void);
--- /dev/null
+++ b/kernel/new.c
@@ -0,0 +1,1 @@
+int new_one(void);
"""


def test_what_is_made_goes_in_and_out_again(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    file = tmp_path / "kernel/a.c"
    file.write_text("int before;\n" + BASE)
    patch = Patch("x", PAGE.encode(), ())
    made = repair.missing(patch, fits(read(PAGE), tmp_path), "x")
    assert made.paths == ("kernel/a.c", "kernel/new.c")
    env = {"PATH": "/usr/bin:/bin", "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    done = subprocess.run(["git", "apply", "-v", "-"], cwd=tmp_path, input=made.data, env=env, capture_output=True)
    assert done.returncode == 0 and b"offset" not in done.stderr
    assert "int more(void);\n" in file.read_text() and "number_21" not in file.read_text()
    assert (tmp_path / "kernel/new.c").read_text() == "int new_one(void);\n"
