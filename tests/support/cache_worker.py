"""Processes that share an engine cache: run by test_cache_processes.py, without pytest in them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from fer_edge.engines.cache.key import EngineKey
from fer_edge.engines.cache.store import EngineCache

CHUNKS, CHUNK_BYTES, PAUSE_S = 8, 16 << 10, 0.002


def make_key(number: int) -> EngineKey:
    return EngineKey("a" * 64, "int8", (1, 8, 16), "tensorrt", "10.3.0", (8, 7), options={"number": number})


def content(key: EngineKey) -> bytes:
    """Return the content of an engine of ``key``, computed without the cache."""
    block = hashlib.sha512(repr(sorted(key.options.items())).encode()).digest()
    return block * (CHUNKS * CHUNK_BYTES // len(block))


class Builder:
    """Writes an engine slowly, and what it does to a log that is only ever appended to."""

    def __init__(self, key: EngineKey, log: Path) -> None:
        self._key, self._log = key, log

    def __call__(self, part: Path) -> None:
        self._note("start")
        whole = content(self._key)
        with part.open("wb", buffering=0) as file:
            for i in range(CHUNKS):
                file.write(whole[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES])
                time.sleep(PAUSE_S)
        self._note("end")

    def _note(self, event: str) -> None:
        handle = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{event} {self._key.digest()} {os.getpid()}\n".encode())
        os.close(handle)


def get(folder: Path, number: int) -> None:
    """Wait for the start signal, take one engine, and say what came of it."""
    while not (folder / "go").exists():
        time.sleep(0.005)
    key = make_key(number)
    engine = EngineCache(folder / "cache").get_or_build(key, Builder(key, folder / "log"))
    same = engine.path.read_bytes() == content(key)
    print(json.dumps({"number": number, "built": engine.built, "same": same, "pid": os.getpid()}))


def kill_rounds(folder: Path, rounds: int, seed: int) -> None:
    """Two processes want one engine; one or both are killed; then the cache has a whole engine or none."""
    chance = random.Random(seed)
    counts = {"whole": 0, "none": 0, "survived": 0, "died": 0, "killed_too_late": 0}
    for i in range(rounds):
        key = make_key(i // 4)  # what a round left is met again by the next ones
        if chance.random() < 0.3:
            damage(folder / "cache", key, chance)
        children = [_fork(folder, key) for _ in range(2)]
        time.sleep(chance.uniform(0, 0.05))
        victims = children if chance.random() < 0.5 else children[:1]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        for pid in victims:
            _, status = os.waitpid(pid, 0)
            counts["died" if os.WIFSIGNALED(status) else "killed_too_late"] += 1
        if len(victims) == len(children):
            counts["whole" if _is_whole_or_none(folder, key) else "none"] += 1
        for pid in children[len(victims) :]:
            _, status = os.waitpid(pid, 0)
            assert status == 0, f"round {i}: a survivor ended with {status}"
            assert _is_whole_or_none(folder, key), f"round {i}: the survivor left no engine"
            counts["survived"] += 1
    print(json.dumps(counts))


def damage(cache: Path, key: EngineKey, chance: random.Random) -> None:
    """Cut off, flip or empty one of the files, where there are any."""
    path = cache / f"{key.digest()}.{chance.choice(['engine', 'json'])}"
    if not path.exists():
        return
    data = bytearray(path.read_bytes())
    kind = chance.randrange(3)
    if kind == 0:
        data = data[: chance.randrange(len(data) + 1) // 2]
    elif kind == 1 and data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    else:
        data = bytearray()
    path.write_bytes(data)


def _fork(folder: Path, key: EngineKey) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            engine = EngineCache(folder / "cache").get_or_build(key, Builder(key, folder / "log"))
            status = 0 if engine.path.read_bytes() == content(key) else 2
        finally:
            os._exit(status)
    return pid


def _is_whole_or_none(folder: Path, key: EngineKey) -> bool:
    engine = EngineCache(folder / "cache").find(key)
    if engine is None:
        return False
    assert engine.path.read_bytes() == content(key), "the cache gave an engine that is not whole"
    return True


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "get":
        get(Path(arguments[0]), int(arguments[1]))
    else:
        kill_rounds(Path(arguments[0]), int(arguments[1]), int(arguments[2]))
