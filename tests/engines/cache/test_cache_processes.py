"""Engine cache with real processes: concurrent ones, and ones killed at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cache_worker
import pytest
from cache_worker import Builder, content, make_key

from fer_edge.engines.cache.store import EngineCache
from fer_edge.errors import EngineError

WORKER = Path(cache_worker.__file__)
SEED = 20261


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(output)


def test_twenty_processes_build_every_engine_once(tmp_path: Path) -> None:
    processes = [start("get", tmp_path, i % 4) for i in range(20)]
    (tmp_path / "go").touch()
    results = [finish(process) for process in processes]
    assert all(result["same"] for result in results)
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    events = Counter((event, digest) for event, digest, _ in log)
    digests = [make_key(i).digest() for i in range(4)]
    assert events == {(event, digest): 1 for event in ("start", "end") for digest in digests}
    builders = {result["pid"] for result in results if result["built"]}
    assert builders == {int(pid) for _, _, pid in log}
    assert len(builders) == 4
    names = {path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")}
    assert names == {f"{digest}.{suffix}" for digest in digests for suffix in ("engine", "json")}


@pytest.mark.slow
def test_kill_at_random_moments_leaves_a_whole_engine_or_none(tmp_path: Path) -> None:
    counts = finish(start("kill", tmp_path, 200, SEED))
    # All that can happen did happen, else the moments are chosen badly.
    assert counts["died"] > 50
    assert counts["none"] > 10
    assert counts["whole"] > 10
    assert counts["survived"] > 50
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sum(event == "start" for event, _, _ in log) > sum(event == "end" for event, _, _ in log)
    for number in range(50):  # what the kills left does not disturb later builds
        key = make_key(number)
        engine = EngineCache(tmp_path / "cache").get_or_build(key, Builder(key, tmp_path / "log"))
        assert engine.path.read_bytes() == content(key)
        assert not list((tmp_path / "cache").glob(f".{key.digest()}.*.part.*"))


def test_a_waiting_process_says_for_whom_and_gives_up(tmp_path: Path) -> None:
    key = make_key(0)
    code = (
        "import sys, time; from pathlib import Path; from cache_worker import make_key\n"
        "from fer_edge.engines.cache.store import EngineCache\n"
        "def build(part): print('building', flush=True); time.sleep(60)\n"
        f"EngineCache(Path({str(tmp_path)!r})).get_or_build(make_key(0), build)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(WORKER.parent)},
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "building\n"
        seen: list[tuple[str, int, int]] = []
        with pytest.raises(EngineError) as caught:
            EngineCache(tmp_path, wait_limit_s=0.3).get_or_build(
                key, Builder(key, tmp_path / "log"), lambda *what: seen.append(what)
            )
        assert str(caught.value) == (
            f"process {holder.pid} has been building this engine for more than 0.3 s. Fix: wait for that process, or end it"
        )
        assert seen[0] == (f"process {holder.pid} is building this engine", 0, 0)
        # Another engine is not kept waiting, and the lock ends with its process.
        other = make_key(1)
        assert (
            EngineCache(tmp_path, wait_limit_s=0).get_or_build(other, Builder(other, tmp_path / "log")).built
        )
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert EngineCache(tmp_path).get_or_build(key, Builder(key, tmp_path / "log")).built
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
