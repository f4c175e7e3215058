# SPDX-License-Identifier: GPL-2.0-only
"""Tests of patches that are not simply applied: repaired by the tree, or in the tree already."""

from __future__ import annotations

import io
import random
import re
import subprocess
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.core.records import HunkState, PatchHow
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.source.local import snapshot
from harness.source.patched import DoesNotApply
from harness.source.series import gather
from harness.source.settle import Settled, settle

from . import kernel_trees as trees
from .letters import NAME

OLD = """\
// a file in the kernel's style
static int first(struct thing *thing, int number)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct part *part = per_cpu_ptr(thing->parts, cpu);

		if (part->number != number)
			continue;
		part->count--;
	}

	return 0;
}

static const char *const names[] = {
	"one",
	"two",
	"three",
	"four",
	"five",
};

static void second(struct thing *thing)
{
	lock(thing);
	remove(thing, "by name");
	unlock(thing);
}

int third(struct thing *thing)
{
	second(thing);
	return first(thing, 3);
}
"""
NEW = (
    OLD.replace(
        "	return 0;\n}\n",
        "	if (!thing->last)\n		return -ENOMEM;\n\n	/*\n	 * What is behind\n	 * goes as well.\n	 */\n"
        "	thing->last = make(thing, number,\n			   GFP_KERNEL);\n	return 0;\n\nerr_free:\n	drop(thing);\n	return -EINVAL;\n}\n",
        1,
    )
    .replace("static void second(struct thing *thing)", "static void second(struct thing *thing, bool all)")
    .replace("	second(thing);\n", "	second(thing, true);\n")
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = trees.git_tree(tmp_path / "linux")
    (folder / NAME).write_text(OLD)
    trees.git(folder, "commit", "-q", "-a", "-m", "old")
    return folder


def mail_of(tree: Path, new: str = NEW) -> str:
    """What git format-patch makes of the step to another text; the tree stays as it is."""
    (tree / NAME).write_text(new)
    trees.git(tree, "commit", "-q", "-a", "-m", "thing: more")
    text = trees.git(tree, "format-patch", "-1", "--stdout")
    trees.git(tree, "reset", "-q", "--hard", "HEAD^")
    return text


def page_of(mail: str) -> str:
    """A mail as a web archive's page leaves it: the subject as a title, white space squeezed and lost at line starts."""
    body = mail.partition("\n\n")[2]
    rows = [
        re.sub(r"^([+-]?)[ \t]+", lambda found: f"{found[1]} " if found[1] else "", row) for row in body.split("\n")
    ]
    return "[PATCH 1/1] thing: more\n\nFrom: A <a@xxxxxxx>\n\n" + "\n".join(re.sub(r"[ \t]+", " ", row) for row in rows)


def settled(tree: Path, text: str | bytes, cache: Cache, progress: Progress) -> Settled:
    file = tree.parent / "given.txt"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return settle(snapshot(tree, cache, progress), gather([str(file)]).patches, cache, progress)


def test_a_page_of_an_archive_is_repaired_by_the_tree(
    tree: Path, cache: Cache, progress: Progress, said: io.StringIO
) -> None:
    done = settled(tree, page_of(mail_of(tree)), cache, progress)
    assert (done.patched.path / NAME).read_text() == NEW
    assert done.base is not None and (done.base.path / NAME).read_text() == OLD
    assert [(fate.name, fate.how) for fate in done.fates] == [("thing: more", PatchHow.REPAIRED)]
    assert "was repaired: each hunk fits in one place" in said.getvalue()
    # What was repaired is a patch like any other.
    subprocess.run(["git", "apply", "--check", "-"], cwd=tree, input=done.patches[0].data, check=True)


def test_a_page_in_html(tree: Path, cache: Cache, progress: Progress) -> None:
    text = mail_of(tree).partition("\n\n")[2].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    html = (
        f"<!DOCTYPE html><html><head><style>--- a\n+++ b</style></head><body><h1>x</h1><pre>{text}</pre></body></html>"
    )
    assert (settled(tree, html, cache, progress).patched.path / NAME).read_text() == NEW
    with pytest.raises(UsageError, match="no diff"):
        settled(tree, "<html><body><p>No such message</p></body></html>", cache, progress)


@pytest.mark.parametrize("signed", [True, False])
def test_tabs_that_became_blanks_are_tabs_again(tree: Path, cache: Cache, progress: Progress, signed: bool) -> None:
    body = mail_of(tree).partition("\n\n")[2]
    rows = [row.expandtabs(8) if signed else row[:1] + row[1:].expandtabs(8) for row in body.split("\n")]
    done = settled(tree, "\n".join(rows), cache, progress)
    assert (done.patched.path / NAME).read_text() == NEW and done.fates[0].how is PatchHow.REPAIRED


def test_a_hunk_that_fits_in_two_places_is_refused(tree: Path, cache: Cache, progress: Progress) -> None:
    twice = OLD + OLD.replace("first", "fourth").replace("third", "fifth").replace("a file", "a second")
    (tree / NAME).write_text("// one\n// two\n// three\n" + twice)
    page = '--- a/{0}\n+++ b/{0}\n@@ -18,3 +18,4 @@\nlock(thing);\nremove(thing, "by name");\n+ more(thing);\nunlock(thing);\n'
    with pytest.raises(DoesNotApply, match=r"1 of 1 hunk, the first .*fits in 2 places, at lines 30, 66"):
        settled(tree, page.format(NAME), cache, progress)


def test_what_has_no_place_is_refused_hunk_by_hunk(tree: Path, cache: Cache, progress: Progress) -> None:
    page = page_of(mail_of(tree))
    (tree / NAME).write_text(
        OLD.replace("return first(thing, 3)", "return second(thing)").replace("return 0", "return 1")
    )
    before = trees.fingerprint(tree)
    with pytest.raises(
        DoesNotApply, match=r"patch 1 of 1, 'thing: more', does not apply to .*hunks, the first kernel"
    ) as caught:
        settled(tree, page, cache, progress)
    assert len(re.findall(r"^kernel/sched/core.c, hunk \d of \d: ", caught.value.detail, re.MULTILINE)) >= 2
    assert trees.fingerprint(tree) == before


def test_lines_for_a_makefile_need_their_white_space(tree: Path, cache: Cache, progress: Progress) -> None:
    (tree / "scripts/Makefile").write_text("all:\n\tone\n\ttwo\n\tthree\n")
    page = "--- a/scripts/Makefile\n+++ b/scripts/Makefile\n@@ -1,4 +1,5 @@\nall:\none\n+ more\ntwo\nthree\n"
    with pytest.raises(
        UsageError, match="what it adds to scripts/Makefile has lost its white space, which counts there"
    ):
        settled(tree, page, cache, progress)


# --- in the tree already ----------------------------------------------------------------------


@pytest.mark.parametrize("page", [False, True])
def test_what_is_there_is_taken_out_for_the_base(
    tree: Path, cache: Cache, progress: Progress, said: io.StringIO, page: bool
) -> None:
    mail = mail_of(tree)
    (tree / NAME).write_text("// moved\n" + NEW)
    done = settled(tree, page_of(mail) if page else mail, cache, progress)
    assert done.base is not None and (done.base.path / NAME).read_text() == "// moved\n" + OLD
    assert (done.patched.path / NAME).read_text() == "// moved\n" + NEW
    assert done.patches == () and done.fates[0].how is PatchHow.TAKEN_OUT
    assert {hunk.state for hunk in done.fates[0].hunks} == {HunkState.CONTAINED}
    assert "base is without, patched as it is" in said.getvalue()


def test_what_was_merged_in_other_words_is_tested_as_it_is(
    tree: Path, cache: Cache, progress: Progress, said: io.StringIO
) -> None:
    mail = mail_of(tree)
    (tree / NAME).write_text(NEW.replace("second(thing, true)", "thing_second(thing, true)"))
    done = settled(tree, page_of(mail), cache, progress)
    assert (done.base, done.patches, done.fates[0].how) == (None, (), PatchHow.AS_IT_IS)
    (differs,) = [hunk for hunk in done.fates[0].hunks if hunk.state is HunkState.DIFFERS]
    assert ("+ second(thing, true);", "    thing_second(thing, true);") in differs.beside()
    assert "is tested as it is: the patch cannot be taken out of it" in said.getvalue()


def test_a_file_that_was_moved_is_looked_into(tree: Path, cache: Cache, progress: Progress) -> None:
    mail = mail_of(tree)
    (tree / "kernel/sched/core").mkdir()
    (tree / NAME).rename(tree / "kernel/sched/core/core.c")
    (tree / "kernel/sched/core/core.c").write_text(NEW)
    done = settled(tree, mail, cache, progress)
    assert done.base is not None and (done.base.path / "kernel/sched/core/core.c").read_text() == OLD
    assert {hunk.path for hunk in done.fates[0].hunks} == {"kernel/sched/core/core.c"}


def test_what_the_tree_lacks_of_a_patch_is_applied(tree: Path, cache: Cache, progress: Progress) -> None:
    mail = mail_of(tree)
    part = OLD.replace("	second(thing);\n", "	second(thing, true);\n")
    part = part.replace("static void second(struct thing *thing)", "static void second(struct thing *thing, bool all)")
    (tree / NAME).write_text(part)
    done = settled(tree, mail, cache, progress)
    assert (done.patched.path / NAME).read_text() == NEW and done.fates[0].how is PatchHow.COMPLETED
    assert done.base is not None and (done.base.path / NAME).read_text() == part


def test_a_patch_that_is_there_before_others_of_its_series(tree: Path, cache: Cache, progress: Progress) -> None:
    first = mail_of(tree)
    (tree / NAME).write_text(NEW)
    trees.git(tree, "commit", "-q", "-a", "-m", "one")
    second = mail_of(tree, NEW.replace('"by name"', '"by number"'))
    done = settled(tree, f"{first}\n\n{second}\n\n", cache, progress)
    assert [fate.how for fate in done.fates] == [PatchHow.TAKEN_OUT, PatchHow.APPLIED]
    assert done.base is not None and (done.base.path / NAME).read_text() == NEW
    assert '"by number"' in (done.patched.path / NAME).read_text()


@pytest.mark.parametrize("seed", range(6))
def test_random_patches_come_back_from_a_page(tree: Path, cache: Cache, progress: Progress, seed: int) -> None:
    """Lines taken out, doubled under another name, or added: what a page left of it gives the same C again."""
    draw = random.Random(seed)
    rows = OLD.split("\n")
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(4, len(rows) - 2)
        if draw.random() < 0.4 and rows[at].endswith(";"):
            del rows[at]
        else:
            lead = re.match(r"\s*", rows[at])
            rows.insert(at, f"{lead[0] if lead else ''}call_{draw.randrange(1000)}(thing);")
    new = "\n".join(rows)
    done = settled(tree, page_of(mail_of(tree, new)), cache, progress)

    def bare(text: str) -> list[str]:
        return ["".join(row.split()) for row in text.split("\n")]

    assert bare((done.patched.path / NAME).read_text()) == bare(new)
