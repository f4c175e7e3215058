# SPDX-License-Identifier: GPL-2.0-only
"""Tests of kernel source from Debian: real apt and dpkg-deb on a tiny archive in a folder."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import Exit, HarnessError, UsageError
from harness.core.records import Role
from harness.host.cache import Cache
from harness.host.process import Done
from harness.host.progress import Progress
from harness.host.toolchain import Bind, HostToolchain
from harness.report.text import kernel_line
from harness.source import debian
from harness.source.debian import Offer, choose, fetch, parse_madison, parse_sources
from harness.verdict import KernelRow

from . import kernel_trees as trees

needs_apt = pytest.mark.skipif(
    not all(map(shutil.which, ("apt-get", "dpkg-deb", "bwrap", "gpg"))), reason="needs apt-get, bwrap and gpg"
)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A GnuPG home with one key; its public half is in ``public.gpg``. Its agent lives until all have signed: a signature
    that met one that was just being ended failed once."""
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet"]
    subprocess.run([*gpg, "--passphrase", "", "--quick-gen-key", "t", "ed25519"], check=True, capture_output=True)
    subprocess.run([*gpg, "--export", "-o", str(home / "public.gpg")], check=True, capture_output=True)
    yield home
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


class Archive:
    """A signed archive at `folder` with one linux-source package a version, all in sid or elsewhere."""

    def __init__(self, folder: Path, signer: Path) -> None:
        self.folder = folder
        self.signer = signer
        self.key = shutil.copy(signer / "public.gpg", folder / "key.gpg")
        self.packages: dict[str, list[str]] = {suite: [] for suite in debian.SUITES}
        self.valid_until: float | None = None
        self.date = time.time() - 9999

    def add(self, suite: str, version: str) -> str:
        """A package; returns the SHA-256 of its tarball."""
        series = ".".join(version.split(".")[:2])
        name = f"linux-source-{series}"
        build = self.folder / "build"
        top = trees.write_tree(build / name, {**trees.FILES, "version": version})
        inside = build / "deb" / "usr" / "src"
        inside.mkdir(parents=True)
        with tarfile.open(inside / f"{name}.tar.xz", "w:xz") as tar:
            tar.add(top, name)
        digest = hashlib.sha256((inside / f"{name}.tar.xz").read_bytes()).hexdigest()
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: t <t@t>\nDescription: x\n"
        (build / "deb" / "DEBIAN").mkdir()
        (build / "deb" / "DEBIAN" / "control").write_text(control)
        file = f"pool/{name}_{version}_all.deb"
        (self.folder / "pool").mkdir(exist_ok=True)
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-b", build / "deb", self.folder / file], check=True, capture_output=True
        )
        data = (self.folder / file).read_bytes()
        self.packages[suite].append(
            f"{control}Filename: {file}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
        shutil.rmtree(build)
        return digest

    def publish(self) -> None:
        arch = subprocess.run(
            ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for suite, packages in self.packages.items():
            lists = self.folder / "dists" / suite / "main" / f"binary-{arch}"
            lists.mkdir(parents=True, exist_ok=True)
            plain = "\n".join(packages).encode()
            packed = gzip.compress(plain)
            (lists / "Packages.gz").write_bytes(packed)
            until = (
                f"Valid-Until: {email.utils.formatdate(self.valid_until, usegmt=True)}\n" if self.valid_until else ""
            )
            (self.folder / "dists" / suite / "Release").write_text(
                f"Origin: t\nSuite: {suite}\nCodename: {suite}\nArchitectures: {arch}\nComponents: main\n"
                f"Date: {email.utils.formatdate(self.date, usegmt=True)}\n{until}"
                f"SHA256:\n {hashlib.sha256(packed).hexdigest()} {len(packed)} main/binary-{arch}/Packages.gz\n"
                # apt takes an index only for one whose uncompressed form is listed too
                f" {hashlib.sha256(plain).hexdigest()} {len(plain)} main/binary-{arch}/Packages\n"
            )
            self._sign(self.folder / "dists" / suite)

    def _sign(self, suite: Path) -> None:
        gpg = ["gpg", "--homedir", str(self.signer), "--batch", "--quiet", "--yes"]
        argv = [*gpg, "--clearsign", "-o", str(suite / "InRelease"), str(suite / "Release")]
        subprocess.run(argv, check=True, capture_output=True)


class Tools(HostToolchain):
    """The host's own apt, whose sources name the archive in `folder`; counts apt-get's runs."""

    def __init__(self, place: Path, folder: Path) -> None:
        self.folder = folder
        self.calls: list[str] = []
        super().__init__(Cache(place, 0))

    def run(self, argv: Sequence[str], **options: Any) -> Done:
        text = " ".join(argv)
        if "kharness-suite" in text:
            sources = f"deb [signed-by={self.folder}/key.gpg] file:{self.folder} trixie main\n\nkharness-suite debian trixie\n"
            return Done(tuple(argv), 0, sources, "", 0.0)
        self.calls += [word for word in ("update", "download") if f" {word}" in text]
        options["binds"] = [*options.get("binds", ()), Bind(self.folder)]
        return super().run(argv, **options)


@pytest.fixture
def archive(tmp_path: Path, signer: Path) -> Archive:
    (tmp_path / "archive").mkdir()
    return Archive(tmp_path / "archive", signer)


@pytest.fixture
def tools(tmp_path: Path, archive: Archive) -> Tools:
    (tmp_path / "place").mkdir()
    try:
        return Tools(tmp_path / "place", archive.folder)
    except HarnessError as error:
        pytest.skip(error.what)


@needs_apt
def test_newest_of_a_series_over_the_suites(archive: Archive, tools: Tools, cache: Cache, progress: Progress) -> None:
    archive.add("trixie-backports", "7.2.9-1~bpo13+1")
    digest = archive.add("sid", "7.2.13-1")
    archive.add("sid", "7.3.1-1")
    archive.publish()
    tree = fetch("7.2", tools, cache, progress)
    assert trees.contents(tree.path) == {**trees.FILES, "version": "7.2.13-1"}
    assert (tree.tree, tree.commit, tree.dirty) == (digest, "", False)
    assert (tree.origin, tree.version) == ("linux-source-7.2 7.2.13-1", "7.2.13")
    assert tools.calls == ["update", "download"]
    assert list((cache.root / ".staging").iterdir()) == []


@needs_apt
def test_second_time_asks_nobody(archive: Archive, tools: Tools, cache: Cache, progress: Progress) -> None:
    archive.add("sid", "7.2.13-1")
    archive.publish()
    first = fetch("7.2", tools, cache, progress)
    shutil.rmtree(archive.folder)
    assert fetch("7.2", tools, cache, progress) == first
    assert fetch("7.2.13-1", tools, cache, progress) == first
    assert tools.calls == ["update", "download"]


@needs_apt
def test_exact_and_upstream_versions(archive: Archive, tools: Tools, cache: Cache, progress: Progress) -> None:
    archive.add("trixie-backports", "7.2.9-1~bpo13+1")
    archive.add("sid", "7.2.13-1")
    archive.publish()
    for wanted in ("7.2.9-1~bpo13+1", "7.2.9"):
        tree = fetch(wanted, tools, cache, progress)
        assert (tree.path / "version").read_text() == "7.2.9-1~bpo13+1"


@needs_apt
def test_unknown_version_lists_what_there_is(archive: Archive, tools: Tools, cache: Cache, progress: Progress) -> None:
    archive.add("sid", "7.2.13-1")
    archive.add("trixie", "6.12.107-1")
    archive.publish()
    with pytest.raises(UsageError) as caught:
        fetch("9.9", tools, cache, progress)
    assert caught.value.line() == "Debian has no kernel source 9.9; there is: 7.2.13-1, 6.12.107-1"
    assert caught.value.exit is Exit.USAGE
    with pytest.raises(UsageError, match="not a kernel version"):
        fetch("linux", tools, cache, progress)


@needs_apt
def test_version_that_appeared_since_is_found(archive: Archive, tools: Tools, cache: Cache, progress: Progress) -> None:
    archive.add("sid", "7.2.13-1")
    archive.publish()
    fetch("7.2", tools, cache, progress)
    archive.add("sid", "7.3.1-1")
    archive.publish()
    assert (fetch("7.3", tools, cache, progress).path / "version").read_text() == "7.3.1-1"


@needs_apt
def test_expired_release_file_is_taken_and_said(
    archive: Archive, tools: Tools, cache: Cache, progress: Progress, said: io.StringIO
) -> None:
    archive.add("sid", "7.2.13-1")
    archive.valid_until = time.time() - 3600
    archive.publish()
    taken = fetch("7.2", tools, cache, progress)
    assert taken.version == "7.2.13"
    assert "past its Valid-Until date" in said.getvalue()
    assert tools.calls == ["update", "update", "download"]
    # In the report of this run, and of those that rest on the same answer.
    assert taken.origin.startswith("linux-source-7.2 7.2.13-1 (") and "past its Valid-Until date" in taken.origin
    assert fetch("7.2", tools, cache, progress).origin == taken.origin
    kernel = KernelRow(
        "k", Role.TREE, "x86_64", "7.2.13", "", taken.tree, False, (), "", "", 1.0, True, source=taken.origin
    )
    assert kernel_line(kernel).endswith(taken.origin.partition(" (")[2].removesuffix(")"))
    assert fetch("7.2.13-1", tools, cache, progress).origin == "linux-source-7.2 7.2.13-1", "it was asked for by name"


@needs_apt
def test_a_clock_that_is_wrong_is_told_with_both_dates(
    archive: Archive, tools: Tools, cache: Cache, progress: Progress, said: io.StringIO
) -> None:
    archive.add("sid", "7.2.13-1")
    before = time.time()
    archive.date = before + 365 * 24 * 3600
    archive.valid_until = archive.date + 7 * 24 * 3600
    archive.publish()
    taken = fetch("7.2", tools, cache, progress)
    days = [time.strftime("%Y-%m-%d", time.gmtime(when)) for when in (archive.date, before, time.time())]
    assert days[0] in taken.origin
    assert days[1] in taken.origin or days[2] in taken.origin, "it may be midnight"
    assert "the clock is wrong" in taken.origin


def test_dates_of_release_files() -> None:
    now = 1_800_000_000.0

    def release(made: float, until: float | None) -> str:
        end = f"Valid-Until: {email.utils.formatdate(until, usegmt=True)}\n" if until else ""
        return f"Suite: unstable\nDate: {email.utils.formatdate(made, usegmt=True)}\n{end}"

    fine = release(now - 1000, now + 1000)
    assert debian.odd_dates([fine, release(now - 1000, None)], now) == ""
    assert "past its Valid-Until date" in debian.odd_dates([fine, release(now - 1000, now - 1)], now)
    assert "clock is wrong" in debian.odd_dates([fine, release(now + 1000, now + 2000)], now)
    assert debian.odd_dates(["Date: nonsense\nValid-Until: 99999999999\n"], now) == ""


@needs_apt
def test_valid_release_file_is_not_spoken_of(
    archive: Archive, tools: Tools, cache: Cache, progress: Progress, said: io.StringIO
) -> None:
    archive.add("sid", "7.2.13-1")
    archive.valid_until = time.time() + 3600
    archive.publish()
    fetch("7.2", tools, cache, progress)
    assert "Valid-Until" not in said.getvalue()


@needs_apt
def test_archive_out_of_reach(
    archive: Archive, tools: Tools, cache: Cache, progress: Progress, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HarnessError) as caught:
        fetch("7.2", tools, cache, progress)
    assert "cannot be reached" in caught.value.what
    assert "--tree" in caught.value.step
    archive.add("sid", "7.2.13-1")
    archive.publish()
    first = fetch("7.2", tools, cache, progress)
    shutil.rmtree(archive.folder / "dists")
    monkeypatch.setattr(debian, "FRESH_SECONDS", 0.0)
    assert fetch("7.2", tools, cache, progress) == first
    assert "out of reach; using linux-source-7.2 7.2.13-1 from the cache" in said.getvalue()
    with pytest.raises(HarnessError, match="is not in the cache"):
        fetch("7.3", tools, cache, progress)


@needs_apt
def test_a_point_release_that_left_the_mirror_is_still_used(
    archive: Archive, tools: Tools, cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add("sid", "7.2.12-1")
    archive.publish()
    first = fetch("7.2.12-1", tools, cache, progress)
    archive.packages["sid"].clear()
    archive.add("sid", "7.3.1-1")
    archive.publish()
    monkeypatch.setattr(debian, "FRESH_SECONDS", 0.0)
    for wanted in ("7.2.12-1", "7.2.12", "7.2"):
        assert fetch(wanted, tools, cache, progress) == first
    with pytest.raises(UsageError) as caught:
        fetch("7.2.13", tools, cache, progress)
    assert caught.value.step == "there is: 7.3.1-1, 7.2.12-1"


@needs_apt
def test_damaged_package_is_refused(archive: Archive, tools: Tools, cache: Cache, progress: Progress) -> None:
    archive.add("sid", "7.2.13-1")
    archive.publish()
    (package,) = (archive.folder / "pool").iterdir()
    package.write_bytes(package.read_bytes()[:-1] + b"x")
    with pytest.raises(HarnessError, match="fetching linux-source-7.2"):
        fetch("7.2", tools, cache, progress)
    assert cache.entries() == []
    assert list((cache.root / ".staging").iterdir()) == []


@needs_apt
def test_archive_signed_by_another_is_refused(archive: Archive, tools: Tools, cache: Cache, progress: Progress) -> None:
    archive.add("sid", "7.2.13-1")
    archive.publish()
    file = archive.folder / "dists/sid/InRelease"
    file.write_text(file.read_text().replace("Origin: t", "Origin: x"))
    with pytest.raises(HarnessError, match="GPG error|not signed|invalid"):
        fetch("7.2", tools, cache, progress)
    assert cache.entries() == []


@needs_apt
def test_pruned_source_is_fetched_again(archive: Archive, tools: Tools, cache: Cache, progress: Progress) -> None:
    archive.add("sid", "7.2.13-1")
    archive.publish()
    first = fetch("7.2", tools, cache, progress)
    cache.release("source", first.tree)
    assert len(cache.prune(None, 0)) == 1
    assert fetch("7.2", tools, cache, progress) == first
    assert tools.calls == ["update", "download", "download"]


@needs_apt
@pytest.mark.parametrize("left", ["", "{", "[]", '{"tree": 5}', "\0" * 200])
def test_cached_sources_are_named_by_files_that_a_power_cut_may_tear(
    archive: Archive, tools: Tools, cache: Cache, progress: Progress, left: str
) -> None:
    archive.add("sid", "7.2.13-1")
    archive.publish()
    first = fetch("7.2", tools, cache, progress)
    (file,) = (cache.folder("debian") / "held").glob("*.json")
    file.write_text(left)
    assert fetch("7.2", tools, cache, progress) == first
    assert file.read_text().startswith('{"series": "7.2"')


@needs_apt
def test_a_source_that_a_power_cut_tore_is_fetched_again(
    archive: Archive, tools: Tools, cache: Cache, progress: Progress
) -> None:
    archive.add("sid", "7.2.13-1")
    archive.publish()
    first = fetch("7.2", tools, cache, progress)
    text = (first.path / "Makefile").read_text()
    (first.path / "Makefile").write_text("")
    assert fetch("7.2", tools, cache, progress) == first
    assert (first.path / "Makefile").read_text() == text


def test_parse_madison() -> None:
    text = (
        "linux-source-7.2 | 7.2.13-1 | http://mirror/debian sid/main amd64 Packages\n"
        "linux-source-7.2 | 7.2.12-1~bpo13+1 | http://mirror/debian trixie-backports/main amd64 Packages\n"
        "linux-source-7.2 | 7.2.13-1 | http://mirror/debian sid/main Sources\n"
        "linux-source-rt | 7.2.13-1 | http://mirror/debian sid/main amd64 Packages\nnoise\n"
    )
    assert parse_madison(text) == [Offer("7.2", "7.2.13-1"), Offer("7.2", "7.2.12-1~bpo13+1")]


def test_choose_prefers_a_whole_version() -> None:
    offers = [Offer("7.2", "7.2.13-1"), Offer("7.2", "7.2.12-2"), Offer("7.2", "7.2.12-1~bpo13+1")]
    assert choose("7.2", offers) == offers[0]
    assert choose("7.2.12", offers) == offers[1]
    assert choose("7.2.12-1~bpo13+1", offers) == offers[2]
    assert choose("7.2.1", offers) is None


def test_parse_sources_of_both_styles() -> None:
    lines = (
        "deb http://mirror/debian trixie main\ndeb http://mirror/debian trixie-updates main\n"
        "# deb http://old/debian trixie main\ndeb [signed-by=/k.gpg] http://other/debian trixie main contrib\n"
        "deb-src http://src/debian trixie main\n"
    )
    assert parse_sources(lines, "trixie") == ["http://mirror/debian", "[signed-by=/k.gpg] http://other/debian"]
    stanza = "Types: deb\nURIs: http://mirror/debian\nSuites: trixie trixie-updates\nSigned-By: /k.gpg\n"
    assert parse_sources(stanza, "trixie") == ["[signed-by=/k.gpg] http://mirror/debian"]
    assert parse_sources(stanza, "sid") == []
