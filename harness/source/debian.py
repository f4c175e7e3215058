# SPDX-License-Identifier: GPL-2.0-only
"""Owns kernel sources from Debian: the newest linux-source of a series, fetched by apt with a private state.

Everything runs inside the toolchain root; apt's own signatures vouch for what comes. The answer of the
archive is remembered for a day, a fetched source for as long as the cache keeps it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, UsageError
from harness.host.cache import Cache, write_atomically
from harness.host.process import Done
from harness.host.progress import Progress
from harness.host.toolchain import Bind, Toolchain
from harness.source.tree import Tree, kernel_version

SUITES = ("sid", "trixie-backports", "trixie")
FRESH_SECONDS = 24 * 3600.0
FETCH_SECONDS = 1800.0
_PACKAGE = re.compile(r"linux-source-(\d+\.\d+)")
_EXPIRED = re.compile(r"[Rr]elease file .*(expired|not valid)")


@dataclass(frozen=True)
class Offer:
    """One version of a linux-source package that the archive has."""

    series: str
    version: str

    @property
    def package(self) -> str:
        return f"linux-source-{self.series}"


def fetch(version: str, toolchain: Toolchain, cache: Cache, progress: Progress) -> Tree:
    """The source of a series (``7.2``: the newest there is) or of one version (``7.2.12-1~bpo13+1``).

    Raises UsageError listing what there is for an unknown version, HarnessError when the archive is out
    of reach and nothing fitting is in the cache.
    """
    if not re.fullmatch(r"\d+\.\d+[A-Za-z0-9.+~-]*", version):
        raise UsageError(f"not a kernel version: {version!r}", step="say for instance --kernel 7.2")
    place = cache.folder("debian")
    with cache.locked("debian", "state", what=f"Linux {version} from Debian", say=progress.say):
        archive = _Archive(place, toolchain, cache, progress)
        held = archive.held()
        # A point release stays usable after it has left the mirror.
        offer = next((known for known in held if known.version == version), None)
        offer = offer or _offered(version, archive, held, progress)
        key = held.get(offer) or archive.download(offer)
        path = cache.get("source", key)
        if path is None:
            raise HarnessError(
                f"{offer.package} {offer.version} vanished from the cache", step="run it again"
            )
    origin = f"{offer.package} {offer.version}"
    return Tree(path, key, "", False, origin, kernel_version(path))


def lacking(
    versions: Sequence[str], toolchain: Toolchain, cache: Cache, progress: Progress
) -> tuple[list[str], list[str]]:
    """Which of `versions` (as :func:`fetch` takes them) cannot be had, and what can be: in the archive or the cache.

    Raises HarnessError when the archive is out of reach and the cache has not all of them.
    """
    place = cache.folder("debian")
    with cache.locked("debian", "state", what="Debian's kernel sources", say=progress.say):
        archive = _Archive(place, toolchain, cache, progress)
        held = list(archive.held())
        if all(choose(version, held) for version in versions):
            return [], [offer.version for offer in held]
        offers, trouble = archive.offers()
        absent = [version for version in versions if choose(version, [*offers, *held]) is None]
        if absent and archive.told_from_memory:
            offers, trouble = archive.offers(anew=True)
            absent = [version for version in versions if choose(version, [*offers, *held]) is None]
        if absent and trouble is not None:
            raise trouble
    return absent, list(dict.fromkeys(offer.version for offer in [*offers, *held]))


def _offered(version: str, archive: _Archive, held: dict[Offer, str], progress: Progress) -> Offer:
    """What the archive (or, out of its reach, the cache) has for `version`; raises as :func:`fetch` does."""
    offers, trouble = archive.offers()
    offer = choose(version, offers)
    if offer is None and archive.told_from_memory:
        offers, trouble = archive.offers(anew=True)  # it may have appeared since
        offer = choose(version, offers)
    if trouble is not None:
        return _without_archive(version, offer, held, trouble, progress)
    offer = offer or choose(version, list(held))
    if offer is None:
        there = ", ".join(dict.fromkeys(known.version for known in [*offers, *held])) or "none"
        raise UsageError(f"Debian has no kernel source {version}", step=f"there is: {there}")
    return offer


def choose(version: str, offers: list[Offer]) -> Offer | None:
    """The offer meant by `version`: a whole version, else the newest of that series or upstream version.

    `offers` come newest first within a series, as apt sorts them.
    """
    whole = [offer for offer in offers if offer.version == version]
    series = [offer for offer in offers if offer.series == version]
    upstream = [offer for offer in offers if offer.version.rpartition("-")[0] == version]
    return next(iter([*whole, *series, *upstream]), None)


def parse_madison(text: str) -> list[Offer]:
    """The offers in the output of ``apt-cache madison``: ``package | version | where``, newest first."""
    offers: dict[Offer, None] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        match = _PACKAGE.fullmatch(cells[0])
        if match and len(cells) == 3 and not cells[2].endswith("Sources"):
            offers[Offer(match[1], cells[1])] = None
    return list(offers)


def parse_sources(text: str, suite: str) -> list[str]:
    """The mirrors of `suite` in apt's one-line or deb822 source lists, as ``[options] URI``."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+.*\bmain\b.*", line.strip())
        if match and match[3] == suite:
            found[f"{match[1] or ''}{match[2]}"] = None
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^(\S+):[ \t]*(.*)$", stanza, re.MULTILINE))
        if "deb" in fields.get("Types", "").split() and suite in fields.get("Suites", "").split():
            key = fields.get("Signed-By", "").strip()
            option = f"[signed-by={key}] " if key.startswith("/") else ""
            for uri in fields.get("URIs", "").split():
                found[f"{option}{uri}"] = None
    return list(found)


def _without_archive(
    version: str, offer: Offer | None, held: dict[Offer, str], trouble: HarnessError, progress: Progress
) -> Offer:
    """What to use when the archive is out of reach: only what is in the cache, said aloud."""
    if offer is None or offer not in held:
        offer = choose(version, list(held))
    if offer is None:
        raise HarnessError(
            f"Linux {version} is not in the cache, and Debian's archive cannot be reached: {trouble.what}",
            step="check the network, or use --tree DIR",
            detail=trouble.detail,
        )
    progress.say(f"Debian's archive is out of reach; using {offer.package} {offer.version} from the cache")
    return offer


class _Archive:
    """Debian's archive as apt sees it from inside the toolchain, with all its state below `place`."""

    def __init__(self, place: Path, toolchain: Toolchain, cache: Cache, progress: Progress) -> None:
        self.place = place
        self.toolchain = toolchain
        self.cache = cache
        self.progress = progress
        self.told_from_memory = False
        self.memory = place / "offers.json"
        for name in ("lists/partial", "cache/archives/partial"):
            (place / "apt" / name).mkdir(parents=True, exist_ok=True)

    def offers(self, anew: bool = False) -> tuple[list[Offer], HarnessError | None]:
        """What the archive has, and the trouble if it could not be asked (then from memory, maybe empty)."""
        known = self._recall()
        self.told_from_memory = not anew and known is not None and known[0]
        if known is not None and self.told_from_memory:
            return known[1], None
        try:
            offers = self._ask()
        except HarnessError as error:
            return (known[1] if known else []), error
        rows = [[offer.series, offer.version] for offer in offers]
        write_atomically(self.memory, json.dumps({"time": time.time(), "offers": rows}))
        return offers, None

    def _recall(self) -> tuple[bool, list[Offer]] | None:
        """Whether the remembered answer is fresh, and the answer; None if there is none."""
        try:
            data = json.loads(self.memory.read_text())
            offers = [Offer(str(series), str(version)) for series, version in data["offers"]]
            return 0 <= time.time() - float(data["time"]) < FRESH_SECONDS, offers
        except (OSError, ValueError, KeyError, TypeError):
            return None  # absent or damaged: the archive is asked

    def _ask(self) -> list[Offer]:
        with self.progress.phase("asking Debian for its kernel sources", "apt update") as phase:
            self._write_sources()
            update = ["apt-get", "-o", "APT::Update::Error-Mode=any", "update"]

            def show(line: str) -> None:
                phase.step(note=line[:60])

            done = self._apt(update, "apt-get update", on_line=show, check=False)
            said = done.stdout + done.stderr
            if done.status != 0 and _EXPIRED.search(said):
                self.progress.say(
                    "the archive's Release file is past its Valid-Until date by this machine's clock; "
                    "taking it all the same (signatures are still checked)"
                )
                relaxed = ["-o", "Acquire::Check-Valid-Until=false", "-o", "Acquire::Check-Date=false"]
                self._apt([*update, *relaxed], "apt-get update", on_line=show)
            elif done.status != 0:
                raise HarnessError(_complaint(said), step="check the network", detail=said)
            names = self._apt(
                ["apt-cache", "pkgnames", "linux-source-"], "listing kernel sources"
            ).stdout.split()
            series = sorted((n for n in names if _PACKAGE.fullmatch(n)), key=_numbers, reverse=True)
            if not series:
                raise HarnessError("apt knows no linux-source package", step="use --tree DIR")
            return parse_madison(
                self._apt(["apt-cache", "madison", *series], "listing kernel sources").stdout
            )

    def _write_sources(self) -> None:
        """Names our suites on the mirror that the root itself was made from."""
        script = (
            "cd /etc/apt; cat sources.list sources.list.d/*.list 2>/dev/null; "
            "for f in sources.list.d/*.sources; do echo; [ -e $f ] && cat $f; done; "
            '. /etc/os-release; echo; echo "kharness-suite $ID ${VERSION_CODENAME:-}"'
        )
        done = self.toolchain.run(["sh", "-c", script], what="reading the toolchain's package sources")
        text, _, suite = done.stdout.rpartition("kharness-suite ")
        system, _, codename = suite.strip().partition(" ")
        mirrors = parse_sources(text, codename)
        if system != "debian" or not mirrors:
            raise HarnessError(
                "the toolchain does not know a Debian mirror to fetch kernel source from",
                step="use --tree DIR, or leave --toolchain host away",
            )
        lines = [f"deb {mirror} {suite} main\n" for suite in SUITES for mirror in mirrors]
        write_atomically(self.place / "apt" / "sources.list", "".join(lines))

    def _apt(
        self,
        argv: list[str],
        what: str,
        *,
        binds: tuple[Bind, ...] = (),
        cwd: str = "/",
        on_line: Callable[[str], None] | None = None,
        check: bool = True,
    ) -> Done:
        """apt with a state of its own. The lists stay compressed: those of sid are 100 MB otherwise."""
        settings = {
            "Dir::Etc::SourceList": "/apt/sources.list",
            "Dir::Etc::SourceParts": "/nonexistent",
            "Dir::State::Lists": "/apt/lists",
            "Dir::Cache": "/apt/cache",
            "APT::Sandbox::User": "root",
            # Said outright, for an apt configuration may have them otherwise.
            "Acquire::Check-Valid-Until": "true",
            "Acquire::Check-Date": "true",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::Languages": "none",
            "Acquire::GzipIndexes": "true",
            "Acquire::Retries": "3",
            "Acquire::http::Timeout": "30",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        script = 'a=$(dpkg --print-architecture) && exec "$@" -o "APT::Architectures=$a"'
        state = Bind(self.place / "apt", "/apt", writable=True)
        return self.toolchain.run(
            ["sh", "-c", script, "sh", argv[0], *options, *argv[1:]],
            what=what, binds=(state, *binds), cwd=cwd, on_line=on_line, check=check, deadline=FETCH_SECONDS,
        )  # fmt: skip

    # --- fetched sources ---------------------------------------------------------------------

    def held(self) -> dict[Offer, str]:
        """The sources that lie in the cache, newest first, with their keys."""
        found = {}
        for file in (self.place / "held").glob("*.json"):
            data = json.loads(file.read_text())
            if self.cache.has("source", data["tree"]):
                found[Offer(data["series"], data["version"])] = str(data["tree"])
            else:
                file.unlink()
        return dict(sorted(found.items(), key=lambda item: _numbers(item[0].version), reverse=True))

    def download(self, offer: Offer) -> str:
        """Fetches and unpacks an offer; its cache key, the SHA-256 of the source tarball."""
        name = f"{offer.package} {offer.version}"
        with self.cache.scratch("debian", "state") as folder:
            with self.progress.phase(f"fetching {name} (about 165 MB)", "fetch source"):
                self._apt(
                    ["apt-get", "download", f"{offer.package}={offer.version}"], f"fetching {name}",
                    binds=(Bind(folder, "/work", writable=True),), cwd="/work",
                )  # fmt: skip
            with self.progress.phase(f"unpacking {name}", "unpack source"):
                key = self._unpack(folder, offer)
        record = {"series": offer.series, "version": offer.version, "tree": key}
        write_atomically(self.place / "held" / f"{key}.json", json.dumps(record))
        return key

    def _unpack(self, folder: Path, offer: Offer) -> str:
        work = Bind(folder, "/work", writable=True)
        tar = f"{offer.package}.tar.xz"
        name = f"{offer.package} {offer.version}"
        script = (
            "set -e; dpkg-deb --fsys-tarfile ./*.deb > deb.tar; rm ./*.deb; "
            'tar -xf deb.tar --no-same-owner --transform="s,.*/,," "./usr/src/$0"; rm deb.tar; sha256sum "$0"'
        )
        done = self.toolchain.run(
            ["sh", "-c", script, tar], what=f"opening {name}", binds=[work], cwd="/work"
        )
        key = done.stdout.split()[0]

        def maker(staging: Path) -> None:
            inside = [work, Bind(staging, "/out", writable=True)]
            self.toolchain.run(
                ["tar", "-xf", tar, "-C", "/out", "--strip-components=1", "--no-same-owner"],
                what=f"unpacking {name}", binds=inside, cwd="/work",
            )  # fmt: skip
            kernel_version(staging)

        self.cache.produce("source", key, maker, what=f"unpacking {name}", say=self.progress.say)
        return key


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _complaint(said: str) -> str:
    """The line of apt's that tells most: why a signature or a download was refused, else its last word."""
    for start in ("W: GPG error", "E: ", "Err:", "W: "):
        for line in said.splitlines():
            if line.startswith(start):
                return line.removeprefix("E: ").removeprefix("W: ")[:200]
    return "apt-get gave no reason"
