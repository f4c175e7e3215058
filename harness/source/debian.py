# SPDX-License-Identifier: GPL-2.0-only
"""Kernel sources from Debian: the newest linux-source of a series, fetched by apt with a private state.

Everything runs inside the toolchain root; apt's own signatures vouch for what comes. The answer of the
archive is remembered for a day, a fetched source for as long as the cache keeps it.

A signature does not say how old a file is: a mirror with an old Release file makes an old source the newest. Stale
mirrors are too common to be refused, so such an answer is taken, and shown with its dates in each run's report.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HarnessError, UsageError
from harness.host.cache import Cache, write_atomically
from harness.host.process import Done
from harness.host.progress import Progress
from harness.host.toolchain import Bind, Toolchain
from harness.source.tree import Tree, kernel_version

SUITES = ("sid", "trixie-backports", "trixie")
FRESH_SECONDS = 24 * 3600.0
FETCH_SECONDS = 1800.0
_PACKAGE = re.compile(r"linux-source-(\d+\.\d+)")
_EXPIRED = re.compile(r"[Rr]elease file .* expired")
_EARLY = re.compile(r"[Rr]elease file .* not valid yet")


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
        cached = archive.cached()
        # A point release stays usable after it has left the mirror.
        offer = next((known for known in cached if known.version == version), None)
        remark = ""
        if offer is None:
            offer = _offered(version, archive, cached, progress)
            remark = archive.remark and f" ({archive.remark})"
        key = cached.get(offer) or archive.download(offer)
        path = cache.get("source", key)
        if path is None:
            raise HarnessError(f"{offer.package} {offer.version} vanished from the cache", step="run it again")
    origin = f"{offer.package} {offer.version}"
    return Tree(path, key, "", False, f"{origin}{remark}", kernel_version(path))


def lacking(
    versions: Sequence[str], toolchain: Toolchain, cache: Cache, progress: Progress
) -> tuple[list[str], list[str]]:
    """Which of `versions` (as :func:`fetch` takes them) cannot be had, and what can be: in the archive or the cache.

    Raises HarnessError when the archive is out of reach and the cache has not all of them.
    """
    place = cache.folder("debian")
    with cache.locked("debian", "state", what="Debian's kernel sources", say=progress.say):
        archive = _Archive(place, toolchain, cache, progress)
        cached = list(archive.cached())
        if all(choose(version, cached) for version in versions):
            return [], [offer.version for offer in cached]
        offers, trouble = archive.offers()
        absent = [version for version in versions if choose(version, [*offers, *cached]) is None]
        if absent and archive.from_memory:
            offers, trouble = archive.offers(refresh=True)
            absent = [version for version in versions if choose(version, [*offers, *cached]) is None]
        if absent and trouble is not None:
            raise trouble
    return absent, list(dict.fromkeys(offer.version for offer in [*offers, *cached]))


def _offered(version: str, archive: _Archive, cached: dict[Offer, str], progress: Progress) -> Offer:
    """The offer of the archive (of the cache, when it is out of reach) for `version`; raises as :func:`fetch` does."""
    offers, trouble = archive.offers()
    offer = choose(version, offers)
    if offer is None and archive.from_memory:
        offers, trouble = archive.offers(refresh=True)  # it may have appeared since
        offer = choose(version, offers)
    if trouble is not None:
        return _without_archive(version, offer, cached, trouble, progress)
    offer = offer or choose(version, list(cached))
    if offer is None:
        there = ", ".join(dict.fromkeys(known.version for known in [*offers, *cached])) or "none"
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
    version: str, offer: Offer | None, cached: dict[Offer, str], trouble: HarnessError, progress: Progress
) -> Offer:
    """The offer to use when the archive is out of reach: one that is in the cache. Reports it as progress."""
    if offer is None or offer not in cached:
        offer = choose(version, list(cached))
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
        self.from_memory = False
        self.remark = ""
        """What is odd about the dates of the answer."""
        self.memory = place / "offers.json"
        for name in ("lists/partial", "cache/archives/partial"):
            (place / "apt" / name).mkdir(parents=True, exist_ok=True)

    def offers(self, refresh: bool = False) -> tuple[list[Offer], HarnessError | None]:
        """What the archive has, and the error if it could not be asked (then the last known offers, maybe none)."""
        known = self._recall()
        self.from_memory = not refresh and known is not None and known[0]
        self.remark = known[2] if known is not None else ""
        if known is not None and self.from_memory:
            return known[1], None
        try:
            offers, self.remark = self._ask()
        except HarnessError as error:
            return (known[1] if known else []), error
        rows = [[offer.series, offer.version] for offer in offers]
        write_atomically(self.memory, json.dumps({"time": time.time(), "offers": rows, "remark": self.remark}))
        return offers, None

    def _recall(self) -> tuple[bool, list[Offer], str] | None:
        """Whether the remembered answer is fresh, the answer, and what is odd about it; None if there is none."""
        try:
            data = json.loads(self.memory.read_text())
            offers = [Offer(str(series), str(version)) for series, version in data["offers"]]
            return 0 <= time.time() - float(data["time"]) < FRESH_SECONDS, offers, str(data.get("remark", ""))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # absent or damaged: the archive is asked

    def _ask(self) -> tuple[list[Offer], str]:
        """What the archive has now, and what is odd about the dates of its Release files."""
        with self.progress.phase("asking Debian for its kernel sources", "apt update") as phase:
            self._write_sources()
            update = ["apt-get", "-o", "APT::Update::Error-Mode=any", "update"]

            def show(line: str) -> None:
                phase.step(note=line[:60])

            done = self._apt(update, "apt-get update", on_line=show, check=False)
            said = done.stdout + done.stderr
            remark = ""
            checks = {"Acquire::Check-Valid-Until": _EXPIRED, "Acquire::Check-Date": _EARLY}
            relaxed = [f"{check}=false" for check, sign in checks.items() if sign.search(said)]
            if done.status != 0 and relaxed:
                options = [word for check in relaxed for word in ("-o", check)]
                self._apt([*update, *options], "apt-get update", on_line=show)
                remark = odd_dates(self._releases(), time.time()) or "Debian's archive has a Release of odd dates"
                self.progress.say(f"{remark}; taking it all the same (signatures are still checked)")
            elif done.status != 0:
                raise HarnessError(_complaint(said), step="check the network", detail=said)
            names = self._apt(["apt-cache", "pkgnames", "linux-source-"], "listing kernel sources").stdout.split()
            series = sorted((n for n in names if _PACKAGE.fullmatch(n)), key=_numbers, reverse=True)
            if not series:
                raise HarnessError("apt knows no linux-source package", step="use --tree DIR")
            offers = parse_madison(self._apt(["apt-cache", "madison", *series], "listing kernel sources").stdout)
            return offers, remark

    def _releases(self) -> list[str]:
        """The Release files that apt took, signed or with their signature beside them."""
        files = sorted((self.place / "apt/lists").glob("*Release"))
        return [file.read_text(errors="replace") for file in files]

    def _write_sources(self) -> None:
        """Write a sources list of our suites on the mirror that the root itself was made from."""
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
            # Set explicitly: an apt configuration may have other values.
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
            what=what,
            binds=(state, *binds),
            cwd=cwd,
            on_line=on_line,
            check=check,
            deadline=FETCH_SECONDS,
            network=True,
        )

    # --- fetched sources ---------------------------------------------------------------------

    def cached(self) -> dict[Offer, str]:
        """The sources in the cache, newest first, with their keys."""
        found = {}
        for file in (self.place / "held").glob("*.json"):
            with contextlib.suppress(
                ValueError, KeyError, TypeError, UsageError
            ):  # one that a power cut left incomplete
                data = json.loads(file.read_text())
                if self.cache.has("source", data["tree"]):
                    found[Offer(data["series"], data["version"])] = str(data["tree"])
                    continue
            file.unlink()
        return dict(sorted(found.items(), key=lambda item: _numbers(item[0].version), reverse=True))

    def download(self, offer: Offer) -> str:
        """Fetch and unpack an offer; returns its cache key, the SHA-256 of the source tarball."""
        name = f"{offer.package} {offer.version}"
        with self.cache.scratch("debian", "state") as folder:
            with self.progress.phase(f"fetching {name} (about 165 MB)", "fetch source"):
                self._apt(
                    ["apt-get", "download", f"{offer.package}={offer.version}"],
                    f"fetching {name}",
                    binds=(Bind(folder, "/work", writable=True),),
                    cwd="/work",
                )
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
        done = self.toolchain.run(["sh", "-c", script, tar], what=f"opening {name}", binds=[work], cwd="/work")
        key = done.stdout.split()[0]

        def maker(staging: Path) -> None:
            inside = [work, Bind(staging, "/out", writable=True)]
            self.toolchain.run(
                ["tar", "-xf", tar, "-C", "/out", "--strip-components=1", "--no-same-owner"],
                what=f"unpacking {name}",
                binds=inside,
                cwd="/work",
            )
            kernel_version(staging)

        self.cache.produce("source", key, maker, what=f"unpacking {name}", say=self.progress.say)
        return key


def odd_dates(releases: Sequence[str], now: float) -> str:
    """Which Release files have dates that do not fit the time `now`, with all the dates; empty where all fit."""
    today = time.strftime("%Y-%m-%d", time.gmtime(now))
    for text in releases:
        fields = dict(re.findall(r"^(Suite|Date|Valid-Until): *(.+)$", text, re.MULTILINE))
        made, until = _seconds(fields.get("Date", "")), _seconds(fields.get("Valid-Until", ""))
        day = time.strftime("%Y-%m-%d", time.gmtime(made))
        name = f"the Release file of Debian's {fields.get('Suite', 'archive')}"
        if until is not None and until < now:
            end = time.strftime("%Y-%m-%d", time.gmtime(until))
            return (
                f"{name}, of {day}, is past its Valid-Until date, {end}, and this machine's clock says {today}: "
                "an old copy, or the clock is wrong"
            )
        if made is not None and made > now:
            return f"{name} is of {day}, and this machine's clock says {today}: the clock is wrong"
    return ""


def _seconds(date: str) -> float | None:
    """A date of a Release file, in seconds since the epoch."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _complaint(said: str) -> str:
    """The line of apt's output that says why a signature or a download was refused, else its last line."""
    for start in ("W: GPG error", "E: ", "Err:", "W: "):
        for line in said.splitlines():
            if line.startswith(start):
                return line.removeprefix("E: ").removeprefix("W: ")[:200]
    return "apt-get gave no reason"
