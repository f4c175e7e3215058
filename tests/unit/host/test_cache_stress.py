# SPDX-License-Identifier: GPL-2.0-only
"""Many processes on one cache, killed at random: what is given out is whole, and the cache goes on working."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from harness.host.cache import Cache

PROCESSES = 20
SECONDS = 6.0

WORKER = """
import os, random, sys, time
from pathlib import Path
from harness.core.errors import HarnessError
from harness.host.cache import Cache

root, seed, until = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
draw = random.Random(seed)

def fill(folder):
    (folder / "sub").mkdir()
    for name in ("image", "state", "sub/a", "sub/b"):
        (folder / name).write_bytes(folder.name.split("@")[1].encode() * 5000)

def whole(path, key):
    for name in ("image", "state", "sub/a", "sub/b"):
        data = (path / name).read_bytes()
        if data != key.encode() * 5000:
            print(f"{path}/{name} has {len(data)} bytes", flush=True)
            os._exit(7)

while time.monotonic() < until:
    cache = Cache(root, 0)
    key = f"k{draw.randrange(4)}"
    what = draw.randrange(10)
    try:
        if what < 5:
            whole(cache.produce("kernel", key, fill, what=key, say=lambda line: None)[0], key)
        elif what < 7:
            path = cache.get("kernel", key)
            if path is not None:
                whole(path, key)
        elif what < 8:
            cache.prune(None, draw.choice((0, 200_000)))
        elif what < 9:
            cache.entries()
        else:
            with cache.hold("kernel", key) as path:
                whole(path, key)
    except HarnessError as error:
        if not error.what.startswith("no kernel/"):
            raise
    for kind, name in list(cache._held):
        cache.release(kind, name)
"""


def test_processes_that_race_and_are_killed_never_see_half_an_entry(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    draw = random.Random(7)
    until = time.monotonic() + SECONDS
    log = (tmp_path / "log").open("w+")
    root = tmp_path / "c"

    def start(seed: int) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", WORKER, str(root), str(seed), str(until)]
        return subprocess.Popen(argv, env=env, stdout=log, stderr=subprocess.STDOUT)

    running = [start(seed) for seed in range(PROCESSES)]
    kills = 0
    try:
        while time.monotonic() < until:
            time.sleep(draw.uniform(0, 0.3))
            victim = draw.randrange(PROCESSES)
            running[victim].kill()
            running[victim].wait()
            kills += 1
            running[victim] = start(PROCESSES + kills)
    finally:
        statuses = [process.wait(60) for process in running]
    log.seek(0)
    assert set(statuses) == {0}, log.read()[-3000:]
    log.seek(0)
    assert log.read() == ""
    assert kills > 10
    cache = Cache(root, 0)
    cache.prune(None, 0)
    assert cache.entries() == []
    assert os.listdir(root / ".staging") == []
    log.close()
