# SPDX-License-Identifier: GPL-2.0-only
"""Tests of threads: which mails are the series, in which order, and what is left out."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.source import threads
from harness.source.series import Given, Wanted, gather

from . import letters
from .letters import Letter, box, diff, patch, reply

RANDOM = 12


def given(tmp_path: Path, mails: list[Letter], wanted: Wanted | None = None) -> Given:
    (tmp_path / "t.mbox").write_bytes(box(mails))
    return gather([str(tmp_path / "t.mbox")], wanted)


def names(found: Given) -> list[str]:
    return [patch.name for patch in found.patches]


ONE = patch("1", "[PATCH] core: one", diff(2, "int second;"))
SERIES = [
    Letter("0", "[PATCH 0/2] core: both", f"Both.\n\n {letters.NAME} | 2 +-\n 1 file changed, 2 insertions(+)\n"),
    patch("1", "[PATCH 1/2] core: one", diff(2, "int second;"), "0"),
    patch("2", "[PATCH 2/2] core: two", diff(2, "int zwei;", "int second;"), "0"),
]


def test_patches_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    found = given(tmp_path, SERIES[::-1])
    assert names(found) == ["core: one", "core: two"]
    assert found.remarks == (f"{tmp_path}/t.mbox: 3 mails: v1, 2 patches; left out: the cover letter",)


def test_a_diff_in_a_reply_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    answer = reply("r", "[PATCH] core: one", f"> Why.\n\nAnd so?\n\n{diff(20, 'int twenty;')}", "1")
    found = given(tmp_path, [ONE, answer])
    assert names(found) == ["core: one"]
    assert "left out: 1 reply, a diff in a reply, 'Re: [PATCH] core: one' (--replies applies it)" in found.remarks[0]
    found = given(tmp_path, [answer, ONE], Wanted(replies=True))
    assert [b"twenty" in one.data for one in found.patches] == [False, True]
    assert "1 diff of replies after them" in found.remarks[0]


def test_a_damaged_diff_in_a_reply_does_not_matter(tmp_path: Path) -> None:
    wrapped = diff(20, "int twenty;").replace("@@\n", "@@ a context that\nwas wrapped\n")
    answer = reply("r", "[PATCH] core: one", f"Untested:\n\n{wrapped}", "1")
    assert names(given(tmp_path, [ONE, answer])) == ["core: one"]
    (_, asked) = given(tmp_path, [ONE, answer], Wanted(replies=True)).patches
    assert re.search(r"t.mbox, mail 2 .*is damaged: line \d+: 'was wrapped'", asked.damage)


def test_trailers_of_replies_are_taken(tmp_path: Path) -> None:
    tag = "Reviewed-by: B Person <b@example.org>"
    found = given(tmp_path, [ONE, reply("r", "[PATCH] core: one", f"> Why.\n\n{tag}\n", "1")])
    assert found.patches[0].message == f"Why.\n\nSigned-off-by: A Person <a@example.org>\n{tag}"
    assert "1 trailer of replies" in found.remarks[0]
    # One that somebody else wrote into his mail is not.
    found = given(tmp_path, [ONE, reply("r", "[PATCH] core: one", f"{tag}\n", "1", "Mallory <m@example.net>")])
    assert tag not in found.patches[0].message


def test_what_a_reply_says_behind_its_trailer_is_kept(tmp_path: Path) -> None:
    tag = "Tested-by: B Person <b@example.org> # arm64, with KASAN"
    found = given(tmp_path, [ONE, reply("r", "[PATCH] core: one", f"{tag}\n", "1")])
    assert found.patches[0].message.endswith(f"\n{tag}")


def test_what_stands_above_scissors_is_no_part_of_a_patch(tmp_path: Path) -> None:
    body = f"What about this?\n\n-- >8 --\nSubject: core: real\n\n{ONE.body}"
    found = given(tmp_path, [Letter("1", "[PATCH] a try", body), reply("r", "[PATCH] a try", "Yes.\n", "1")])
    assert names(found) == ["core: real"]
    assert found.patches[0].message.startswith("Why.")


def test_the_newest_version_or_the_one_asked_for(tmp_path: Path) -> None:
    second = patch("3", "[PATCH v2] core: better", diff(2, "int better;"), "1", day=5)
    found = given(tmp_path, [second, ONE])
    assert names(found) == ["core: better"] and "v2 of v1, v2, 1 patch" in found.remarks[0]
    assert names(given(tmp_path, [second, ONE], Wanted(version=1))) == ["core: one"]
    with pytest.raises(UsageError, match="there is no v3 of the series, but v1, v2"):
        given(tmp_path, [second, ONE], Wanted(version=3))


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="v1 lacks 1/2") as caught:
        given(tmp_path, [SERIES[0], SERIES[2]])
    assert caught.value.step == "fetch the whole thread"
    # One mail alone is what the user chose.
    assert names(given(tmp_path, [SERIES[2]])) == ["core: two"]


def test_patches_that_are_no_part_of_the_series_are_left_out(tmp_path: Path) -> None:
    fix = Letter("f", "[PATCH] a fixup", SERIES[1].body, "1", "B Person <b@example.org>", day=3)
    found = given(tmp_path, [*SERIES, fix])
    assert names(found) == ["core: one", "core: two"] and "the patch '[PATCH] a fixup'" in found.remarks[0]
    found = given(tmp_path, [ONE, fix])
    assert names(found) == ["core: one"] and "the patch '[PATCH] a fixup'" in found.remarks[0]


def test_a_first_patch_without_a_number_is_the_first_of_those_that_answer_it(tmp_path: Path) -> None:
    two = patch("2", "[PATCH 2/2] core: two", diff(20, "int twenty;"), "1", day=2)
    fixup = patch("3", "[PATCH] core: fixup", diff(30, "int x;"), "2", day=3)
    assert names(given(tmp_path, [two, fixup, ONE])) == ["core: one", "core: two"]
    # One that answers the series instead is none of it.
    with pytest.raises(UsageError, match="v1 lacks 1/2"):
        given(tmp_path, [two, fixup])


def test_a_patch_that_was_sent_again_counts_once(tmp_path: Path) -> None:
    again = patch("9", "[PATCH RESEND] core: one", diff(2, "int second;"), day=9)
    assert names(given(tmp_path, [ONE, again])) == ["core: one"]


def test_a_new_try_without_a_version_counts_whatever_the_order(tmp_path: Path) -> None:
    old = Letter("1", "[PATCH] core: one", ONE.body)
    new = patch("9", "[PATCH] core: one", diff(2, "int better;"), "1", day=9)
    for mails in ([old, new], [new, old]):
        (found,) = given(tmp_path, mails).patches
        assert b"int better;" in found.data
    # What does not call itself a patch is not counted on by b4; it took both.
    plain = [Letter(one.id, "core: one", one.body, one.to, day=one.day) for one in (old, new)]
    (found,) = given(tmp_path, plain).patches
    assert b"int better;" in found.data


def test_what_somebody_makes_of_a_series_is_no_version_of_it(tmp_path: Path) -> None:
    second = [patch("4", "[PATCH v2 1/2] core: one", diff(2, "int b;"), "0", day=3)]
    second += [patch("5", "[PATCH v2 2/2] core: two", diff(20, "int b;"), "0", day=3)]
    late = Letter("m", "merge with mm", f"As I have it:\n\n{diff(9, 'int m;')}", "5", "C Person <c@example.org>", day=9)
    found = given(tmp_path, [*SERIES, *second, late])
    assert names(found) == ["core: one", "core: two"] and "v2 of v1, v2" in found.remarks[0]
    assert "the patch 'merge with mm'" in found.remarks[0]
    # Also where it answers the cover letter, and that is not there.
    late = patch("m", "[PATCH] mm: as well", diff(9, "int m;"), "0", day=9)
    found = given(tmp_path, [*second, late])
    assert names(found) == ["core: one", "core: two"] and "the patch '[PATCH] mm: as well'" in found.remarks[0]


def test_a_part_that_its_author_replaced_counts_as_sent_again(tmp_path: Path) -> None:
    better = patch("7", "[PATCH v1.1 2/2] core: two, better", diff(2, "int besser;", "int second;"), "2", day=4)
    found = given(tmp_path, [*SERIES, better])
    assert names(found) == ["core: one", "core: two, better"]
    assert "the patch '[PATCH 2/2] core: two'" in found.remarks[0]
    better = patch("7", "[PATCH v1b] core: two", diff(2, "int besser;", "int second;"), "2", day=4)
    assert b"int besser;" in given(tmp_path, [*SERIES, better]).patches[1].data
    better = patch("8", "[PATCH] core: one", diff(2, "int besser;"), "3", day=7)
    found = given(tmp_path, [ONE, patch("3", "[PATCH v2] core: one", diff(2, "int b;"), "1", day=5), better])
    assert names(found) == ["core: one"] and b"int besser;" in found.patches[0].data
    better = Letter("7", "[PATCH v1.1 2/2] core: two, better", better.body, "2", day=4)
    # Where another author did it, it is not known which is meant.
    other = Letter("7", better.subject, better.body, "2", "B Person <b@example.org>", day=4)
    with pytest.raises(UsageError, match=r"several series: '\[PATCH 2/2\] core: two', '\[PATCH v1.1 2/2\] core: two, "):
        given(tmp_path, [*SERIES, other])


def test_a_version_that_sends_one_part_again_has_the_rest_of_the_one_before(tmp_path: Path) -> None:
    third = patch("3", "[PATCH 3/2] core: three", diff(30, "int drei;"), "0", day=2)
    again = patch("4", "[PATCH v2 2/2] core: two", diff(20, "int zwanzig;"), "2", day=3)
    found = given(tmp_path, [*SERIES, third, again])
    assert names(found) == ["core: one", "core: two"]
    assert b"int zwanzig;" in found.patches[1].data
    assert "2 patches (what v2 does not send again is of the version before)" in found.remarks[0]
    assert "the patch '[PATCH 3/2] core: three'" in found.remarks[0]


def test_two_series_in_one_mailbox_are_both_named(tmp_path: Path) -> None:
    others = [
        patch("8", "[PATCH 1/2] mm: one", diff(30, "int mm;")),
        patch("9", "[PATCH 2/2] mm: two", diff(20, "int mm;"), "8"),
    ]
    with pytest.raises(UsageError, match=r"several series: '\[PATCH 1/2\] core: one', '\[PATCH 1/2\] mm: one'"):
        given(tmp_path, [*SERIES, *others])


def test_single_patches_of_several_threads_are_applied_as_they_lie(tmp_path: Path) -> None:
    two = patch("5", "[PATCH] mm: two", diff(20, "int mm;"), day=4)
    assert names(given(tmp_path, [two, ONE])) == ["mm: two", "core: one"]


def test_only_replies_have_a_diff(tmp_path: Path) -> None:
    mails = [Letter("0", "A question", "Why?\n"), reply("r", "A question", diff(2, "int x;"), "0")]
    with pytest.raises(UsageError, match="only replies have a diff, as 'Re: A question'"):
        given(tmp_path, mails)
    assert len(given(tmp_path, mails, Wanted(replies=True)).patches) == 1


def test_the_base_commit_is_read(tmp_path: Path) -> None:
    base = "0123456789abcdef0123456789abcdef01234567"
    one = patch("1", "[PATCH] core: one", diff(2, "int second;"), note=f"base-commit: {base}\n")
    assert given(tmp_path, [one]).base_commit == base
    assert given(tmp_path, [one, reply("r", "[PATCH] core: one", "Fine.\n", "1")]).base_commit == base


def test_git_and_b4_see_nothing_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.gitconfig").write_text("[b4]\n\tattestation-policy = hardfail\n[core]\n\tpager = false\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert names(given(tmp_path, SERIES)) == ["core: one", "core: two"]
    assert os.listdir(tmp_path / "home") == [".gitconfig"]


def test_without_a_network_a_message_id_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"^<1@example.org> cannot be fetched: ") as caught:
        threads.fetch("<1@example.org>", tmp_path)
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize("seed", range(RANDOM))
def test_random_threads(tmp_path: Path, seed: int) -> None:
    mails, expected = letters.random_thread(random.Random(seed))
    if expected.missing:
        with pytest.raises(UsageError, match="lacks"):
            given(tmp_path, mails)
        return
    found = given(tmp_path, mails)
    assert tuple(names(found)) == expected.subjects
    assert all(b"reply" not in one.data and f"v{expected.version}_".encode() in one.data for one in found.patches)
    got = [row for one in found.patches for row in one.message.splitlines() if row.startswith("Reviewed-by")]
    assert tuple(sorted(got)) == expected.trailers
