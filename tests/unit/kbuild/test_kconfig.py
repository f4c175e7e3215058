# SPDX-License-Identifier: GPL-2.0-only
"""The tests of Kconfig as a value: what is read, merged, compared and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import HarnessError, UsageError
from harness.kbuild import kconfig
from harness.kbuild.kconfig import Entry, Kconfig, Mismatch

FRAGMENT = """\
# base: a comment, and one that names CONFIG_BUG in passing
CONFIG_BUG=y

CONFIG_LOG_BUF_SHIFT=20
CONFIG_PHYSICAL_START=0x1000000
CONFIG_PANIC_TIMEOUT=-1
CONFIG_CMDLINE="quiet \\"x\\" # no comment"
# CONFIG_VT is not set
CONFIG_EMBEDDED=n # where-known
CONFIG_EXT_SUB_SCHED=y  #where-known
"""


def test_reads_every_form_of_line() -> None:
    config = kconfig.parse(FRAGMENT, "base.config")
    assert config.values() == {
        "BUG": "y",
        "LOG_BUF_SHIFT": "20",
        "PHYSICAL_START": "0x1000000",
        "PANIC_TIMEOUT": "-1",
        "CMDLINE": '"quiet \\"x\\" # no comment"',
        "VT": "n",
        "EMBEDDED": "n",
        "EXT_SUB_SCHED": "y",
    }
    assert [e.symbol for e in config.entries if e.where_known] == ["EMBEDDED", "EXT_SUB_SCHED"]
    assert config.entries[0] == Entry("BUG", "y", "base.config", 2)
    assert config.get("NEVER_HEARD_OF") == "n"


@pytest.mark.parametrize(
    "line",
    [
        "CONFIG_BUG",
        "CONFIG_BUG=",
        "CONFIG_BUG=yes",
        "CONFIG_BUG = y",
        "BUG=y",
        'CONFIG_CMDLINE="open',
        "#CONFIG_VT is not set",
        "# CONFIG_BUG=y",
        "CONFIG_BUG=y # because",
    ],
)
def test_a_malformed_line_is_named(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        kconfig.parse(f"# first\n{line}\n", "my.config")
    assert caught.value.what.startswith("my.config:2: ")
    assert caught.value.step


def test_the_last_line_of_a_file_wins() -> None:
    config = kconfig.parse("CONFIG_A=y\nCONFIG_B=y\nCONFIG_A=n\n", "f")
    assert config.values() == {"A": "n", "B": "y"}


def test_an_unreadable_fragment_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        kconfig.read(tmp_path / "none.config")
    (tmp_path / "binary.config").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        kconfig.read(tmp_path / "binary.config")


def test_our_fragments_must_agree_and_the_users_may_override() -> None:
    one = kconfig.parse("CONFIG_A=y\nCONFIG_B=y\n", "one")
    two = kconfig.parse("CONFIG_A=y\n# CONFIG_B is not set\n", "two")
    user = kconfig.parse("CONFIG_B=n\nCONFIG_C=y\n", "user")
    with pytest.raises(HarnessError, match="CONFIG_B is y at one:2 and n at two:2"):
        kconfig.merge([one, two])
    merged = kconfig.merge([one], [user])
    assert merged.values() == {"A": "y", "B": "n", "C": "y"}
    assert {e.symbol: e.origin for e in merged.entries} == {"A": "one", "B": "user", "C": "user"}


def test_a_firm_request_wins_over_one_that_may_be_left_out() -> None:
    soft = kconfig.parse("CONFIG_A=y # where-known\n", "soft")
    firm = kconfig.parse("CONFIG_A=y\n", "firm")
    for order in ([soft, firm], [firm, soft]):
        assert [e.where_known for e in kconfig.merge(order).entries] == [False]


def test_missing_compares_with_the_final_config() -> None:
    wanted = kconfig.parse("CONFIG_A=y\nCONFIG_N=8\nCONFIG_OFF=n\nCONFIG_GONE=y\nCONFIG_X=n\n", "f.config")
    final = kconfig.parse("CONFIG_A=y\nCONFIG_N=16\nCONFIG_OFF=y\n", ".config")
    assert wanted.missing(final) == [
        Mismatch("N", "8", "16", "f.config", 2),
        Mismatch("OFF", "n", "y", "f.config", 3),
        Mismatch("GONE", "y", "n", "f.config", 4),
    ]
    assert wanted.missing(wanted) == []


def test_the_hash_is_of_what_is_set() -> None:
    one = kconfig.parse("# header of one compiler\nCONFIG_A=y\nCONFIG_B=3\n# CONFIG_C is not set\n", "a")
    same = kconfig.parse("CONFIG_B=3\nCONFIG_A=y\n", "b")
    other = kconfig.parse("CONFIG_B=4\nCONFIG_A=y\n", "b")
    assert one.sha256() == same.sha256() != other.sha256()


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z0-9_]{1,12}", fullmatch=True),
        st.one_of(
            st.sampled_from("ymn"),
            st.integers().map(str),
            st.integers(0, 1 << 64).map(hex),
            st.from_regex(r'"([ -!#-\[\]-~]|\\["\\])*"', fullmatch=True),
        ),
    )
)
def test_what_is_rendered_reads_back(values: dict[str, str]) -> None:
    config = Kconfig(tuple(Entry(symbol, value) for symbol, value in values.items()))
    again = kconfig.parse(config.render(), "again")
    assert again.values() == values
    assert again.sha256() == config.sha256()


@given(st.text())
def test_any_text_is_read_or_refused_with_its_line(text: str) -> None:
    try:
        kconfig.parse(text, "any")
    except UsageError as error:
        assert error.what.startswith("any:")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Kconfig files as a kernel tree has them, two architectures among them."""
    files = {
        "Kconfig": 'mainmenu "Linux"\nsource "init/Kconfig"\n',
        "init/Kconfig": 'config BUG\n\tbool "BUG() support"\n\tdefault y\n\n'
        'config FRAGILE\n\tbool "fragile"\n\tdepends on BUG && \\\n\t\t!TINY\n\tdepends on PCI\n\n'
        "menuconfig MODULES\n\tmodules\n",
        "kernel/Kconfig.preempt": "config SCHED_CLASS_EXT # the class under test\n\tbool\n",
        "arch/x86/Kconfig": "config X86_MPPARSE\n\tbool\n",
        "arch/arm64/Kconfig": "config ARM64_VA_BITS\n\tint\n",
        "Documentation/Kconfig": "config DOCUMENTED\n",
        "scripts/kconfig/tests/Kconfig": "config ONLY_A_TEST\n",
    }
    for name, text in files.items():
        path = tmp_path / "linux" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "linux"


def test_known_symbols_are_those_an_architecture_sees(tree: Path) -> None:
    common = {"BUG", "FRAGILE", "MODULES", "SCHED_CLASS_EXT"}
    assert kconfig.known_symbols(tree, "x86") == common | {"X86_MPPARSE"}
    assert kconfig.known_symbols(tree) == common | {"X86_MPPARSE", "ARM64_VA_BITS"}


def test_depends_on_joins_lines_of_one_symbol_only(tree: Path) -> None:
    shown = kconfig.depends_on(tree, ["FRAGILE", "BUG", "NOWHERE"])
    assert shown == {
        "FRAGILE": "init/Kconfig: depends on BUG && !TINY && PCI",
        "BUG": "init/Kconfig: no 'depends on' of its own",
    }


def test_a_users_unknown_symbol_is_refused_with_near_names(tree: Path) -> None:
    user = kconfig.parse("CONFIG_BUG=y\nCONFIG_SCHED_CLAS_EXT=y\nCONFIG_ARM64_VA_BITS=48\n", "my.config")
    with pytest.raises(UsageError) as caught:
        kconfig.refuse_unknown([user], tree, "x86")
    assert caught.value.what == (
        "my.config:2: this kernel tree has no symbol CONFIG_SCHED_CLAS_EXT; near: CONFIG_SCHED_CLASS_EXT (and 1 more)"
    )
    other = "my.config:3: CONFIG_ARM64_VA_BITS exists only for architectures other than x86"
    assert other in caught.value.detail


def test_where_known_is_asked_for_only_where_it_is(tree: Path) -> None:
    user = kconfig.parse("CONFIG_BUG=y # where-known\nCONFIG_NEWER=y # where-known\n", "my.config")
    kconfig.refuse_unknown([user], tree, "x86")
    assert list(user.only_known(kconfig.known_symbols(tree)).values()) == ["BUG"]


@pytest.mark.parametrize(("from_user", "kind"), [(True, kconfig.Refused), (False, HarnessError)])
def test_a_refusal_lists_every_symbol(tree: Path, from_user: bool, kind: type[Exception]) -> None:
    lost = [Mismatch("FRAGILE", "y", "n", "base.config", 3), Mismatch("GHOST", "y", "n", "base.config", 4)]
    error = kconfig.refusal(lost, tree, "x86", from_user=from_user)
    assert type(error) is kind
    assert error.what == (
        "2 requested symbols did not make it into the final .config: "
        "CONFIG_FRAGILE (wanted y, got n, base.config:3), CONFIG_GHOST (wanted y, got n, base.config:4)"
    )
    assert error.detail.splitlines()[0].endswith("init/Kconfig: depends on BUG && !TINY && PCI")
    assert error.detail.splitlines()[1].endswith("no such symbol in this tree")


def test_our_own_fragments_are_readable() -> None:
    folder = Path(__file__).parents[3] / "kconfigs"
    found = sorted(folder.glob("*.config"))
    assert found
    for path in found:
        assert kconfig.read(path).entries, path
