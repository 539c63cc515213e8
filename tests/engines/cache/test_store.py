"""Keys, headers and the cache, with untrusted content in its folder."""

from __future__ import annotations

import dataclasses
import fcntl
import getpass
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fer_edge.engines.cache.header import read_header
from fer_edge.engines.cache.key import EngineKey, PluginKey, describe_difference
from fer_edge.engines.cache.store import CachedEngine, EngineCache
from fer_edge.engines.run.engine import EngineFile
from fer_edge.errors import EngineError, UsageError

ENGINE = bytes(range(256)) * 64
ORIN = EngineKey(
    onnx_sha256="a" * 64,
    precision="int8",
    batches=(1, 8, 16),
    flavour="tensorrt",
    flavour_version="10.3",
    compute_capability=(8, 7),
    gpu="Orin, 8 multiprocessors, 7 GiB",
    driver="540.4.0, CUDA 12.6",
    plugin=PluginKey("fer_edge", "1", "c" * 64),
    options={"workspace_bytes": 1 << 30, "builder_level": None},
)
#: One change in every part of a key → the words that say so.
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "precision": ({"precision": "fp16"}, "built for 10.3 sm87 int8, here 10.3 sm87 fp16"),
    "batches": (
        {"batches": (1, 4, 8)},
        "built for 10.3 sm87 batches 1/8/16, here 10.3 sm87 batches 1/4/8",
    ),
    "version": ({"flavour_version": "10.13"}, "built for 10.3 sm87, here 10.13 sm87"),
    "device": ({"compute_capability": (11, 0)}, "built for 10.3 sm87, here 10.3 sm110"),
    "flavour": (
        {"flavour": "tensorrt-rtx"},
        "built for 10.3 sm87 tensorrt, here 10.3 sm87 tensorrt-rtx",
    ),
    "driver": (
        {"driver": None},
        "built for 10.3 sm87 driver 540.4.0, CUDA 12.6, here 10.3 sm87 driver none",
    ),
    "gpu": (
        {"gpu": "Orin, 16 multiprocessors, 61 GiB"},
        "built for 10.3 sm87 on Orin, 8 multiprocessors, 7 GiB, here 10.3 sm87 on Orin, 16 multiprocessors, 61 GiB",
    ),
    "any-gpu": (
        {"gpu": None},
        "built for 10.3 sm87 on Orin, 8 multiprocessors, 7 GiB, here 10.3 sm87 on any GPU",
    ),
    "plugin": (
        {"plugin": None},
        "built for 10.3 sm87 plugin fer_edge 1 (cccccccc), here 10.3 sm87 no plugin",
    ),
    "plugin-file": (
        {"plugin": PluginKey("fer_edge", "1", "e" * 64)},
        "built for 10.3 sm87 plugin fer_edge 1 (cccccccc), here 10.3 sm87 plugin fer_edge 1 (eeeeeeee)",
    ),
    "option": (
        {"options": {"workspace_bytes": 1 << 30, "builder_level": 5}},
        "built for 10.3 sm87 builder_level=None, here 10.3 sm87 builder_level=5",
    ),
    "option-left-out": (
        {"options": {"workspace_bytes": 1 << 30}},
        "built for 10.3 sm87 builder_level=None, here 10.3 sm87 option builder_level not set",
    ),
}


class Builder:
    """Counts its calls."""

    def __init__(self, data: bytes = ENGINE) -> None:
        self.data, self.calls = data, 0

    def __call__(self, part: Path) -> None:
        self.calls += 1
        part.write_bytes(self.data)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def fill(cache: EngineCache, key: EngineKey = ORIN) -> CachedEngine:
    return cache.get_or_build(key, Builder())


def new(cache: EngineCache, key: EngineKey) -> CachedEngine:
    return CachedEngine(
        cache.folder / f"{key.digest()}.engine", hashlib.sha256(ENGINE).hexdigest(), built=True
    )


def header_of(cache: EngineCache, key: EngineKey = ORIN) -> Path:
    return cache.folder / f"{key.digest()}.json"


def test_an_engine_is_built_once_and_found_again(cache: EngineCache) -> None:
    build = Builder()
    first = cache.get_or_build(ORIN, build)
    assert first == new(cache, ORIN)
    assert first.path.read_bytes() == ENGINE
    again = EngineCache(cache.folder).get_or_build(ORIN, build)
    assert again == CachedEngine(first.path, first.sha256)
    assert build.calls == 1
    header = json.loads(header_of(cache).read_text())
    assert header["sha256"] == hashlib.sha256(ENGINE).hexdigest()
    assert header["size"] == len(ENGINE)
    assert header["key"] == json.loads(json.dumps(dataclasses.asdict(ORIN)))
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_the_default_folder_is_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path))
    assert EngineCache().folder == tmp_path / "engines"


@pytest.mark.parametrize("part", CHANGES)
def test_every_part_of_the_key_makes_another_engine_and_the_reason_names_it(
    part: str, cache: EngineCache
) -> None:
    changes, words = CHANGES[part]
    other = dataclasses.replace(ORIN, **changes)
    assert other.digest() != ORIN.digest()
    fill(cache)
    result = fill(cache, other)
    assert result.rebuilt_because == words == describe_difference(ORIN, other)
    assert cache.find(ORIN) is not None


def test_every_field_of_the_key_is_changed_above() -> None:
    changed = {name for changes, _ in CHANGES.values() for name in changes}
    assert changed == {field.name for field in dataclasses.fields(EngineKey)} - {"onnx_sha256"}


def test_an_engine_of_another_model_is_no_reason(cache: EngineCache) -> None:
    fill(cache, dataclasses.replace(ORIN, onnx_sha256="f" * 64))
    assert fill(cache) == new(cache, ORIN)


def test_the_nearest_engine_is_named(cache: EngineCache) -> None:
    fill(cache, dataclasses.replace(ORIN, flavour_version="8.6", driver="35.4.1", precision="fp16"))
    fill(cache, dataclasses.replace(ORIN, flavour_version="10.4"))
    fill(cache, dataclasses.replace(ORIN, flavour_version="8.6", batches=(1, 1, 1)))
    assert fill(cache).rebuilt_because == "built for 10.4 sm87, here 10.3 sm87"


def test_digests_do_not_follow_the_order_of_options_and_stay_as_they_are() -> None:
    reordered = dataclasses.replace(ORIN, options={"builder_level": None, "workspace_bytes": 1 << 30})
    assert reordered.digest() == ORIN.digest()
    # Engines on users' devices are named by it: a change here rebuilds them all.
    text = json.dumps([2, json.loads(json.dumps(dataclasses.asdict(ORIN)))], sort_keys=True)
    assert ORIN.digest() == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {"onnx_sha256": "A" * 64},
        {"onnx_sha256": "a" * 63},
        {"onnx_sha256": None},
        {"gpu": "Orin\x1b[2J"},
        {"gpu": ""},
        {"precision": "int8\x1b[2J"},
        {"precision": ""},
        {"flavour_version": "1" * 81},
        {"flavour_version": 10},
        {"driver": "540\n"},
        {"batches": (1, 8)},
        {"batches": [1, 8, 16]},
        {"batches": (1, 8, -1)},
        {"batches": (True, 8, 16)},
        {"batches": (1, 8, 1 << 60)},
        {"compute_capability": (8.7, 0)},
        {"options": {"level": float("nan")}},
        {"options": {"level": [5]}},
        {"options": {"level\r": 5}},
        {"options": {f"o{i}": i for i in range(33)}},
        {"options": None},
    ],
)
def test_keys_that_are_no_keys(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        dataclasses.replace(ORIN, **changes)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def link(path: Path) -> None:
    """Replace a file by a link to an identical one elsewhere."""
    elsewhere = path.parent.parent / path.name
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").touch()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [cut, flip, empty, Path.unlink, link, dangle, loop, make_folder, pipe]


@pytest.mark.parametrize("suffix", ["engine", "json"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_files_are_built_again(
    damage: Callable[[Path], None], suffix: str, cache: EngineCache
) -> None:
    fill(cache)
    damage(cache.folder / f"{ORIN.digest()}.{suffix}")
    assert cache.find(ORIN) is None
    build = Builder()
    result = cache.get_or_build(ORIN, build)
    assert (result.built, build.calls) == (True, 1)
    assert result.rebuilt_because is not None
    assert result.rebuilt_because.startswith("the engine ")
    assert result.path.read_bytes() == ENGINE
    assert not result.path.is_symlink()
    assert cache.get_or_build(ORIN, build).built is False


def test_a_link_is_not_written_through(cache: EngineCache, tmp_path: Path) -> None:
    fill(cache)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for suffix in ("engine", "json"):
        path = cache.folder / f"{ORIN.digest()}.{suffix}"
        path.unlink()
        path.symlink_to(victim)
    assert fill(cache).built
    assert victim.read_text() == "precious"


def nest(depth: int) -> str:
    return "[" * depth + "]" * depth


HOSTILE: dict[str, Callable[[dict[str, Any]], str]] = {
    "not-json": lambda h: "engine\x00\xff",
    "nested": lambda h: nest(30_000),
    "nested-key": lambda h: json.dumps(h).replace('"10.3"', nest(30_000)),
    "huge": lambda h: json.dumps({**h, "padding": "x" * (1 << 20)}),
    "huge-number": lambda h: json.dumps(h).replace('"size": 16384', '"size": ' + "9" * 60_000),
    "array": lambda h: "[]",
    "null": lambda h: "null",
    "no-format": lambda h: json.dumps({k: v for k, v in h.items() if k != "format"}),
    "next-format": lambda h: json.dumps({**h, "format": 3}),
    "size-is-text": lambda h: json.dumps({**h, "size": "16384"}),
    "size-is-a-float": lambda h: json.dumps({**h, "size": 16384.0}),
    "size-is-true": lambda h: json.dumps({**h, "size": True}),
    "negative-size": lambda h: json.dumps({**h, "size": -1}),
    "sha-is-a-list": lambda h: json.dumps({**h, "sha256": [h["sha256"]]}),
    "sha-is-short": lambda h: json.dumps({**h, "sha256": h["sha256"][:32]}),
    "key-is-null": lambda h: json.dumps({**h, "key": None}),
    "key-lacks-a-part": lambda h: json.dumps({**h, "key": {k: v for k, v in h["key"].items() if k != "driver"}}),
    "key-has-more": lambda h: json.dumps({**h, "key": {**h["key"], "__class__": "x"}}),
    "plugin-is-text": lambda h: json.dumps({**h, "key": {**h["key"], "plugin": "fer_edge"}}),
    "plugin-has-more": lambda h: json.dumps(
        {**h, "key": {**h["key"], "plugin": {**h["key"]["plugin"], "path": "/tmp/evil.so"}}}
    ),
    "batches-is-a-number": lambda h: json.dumps({**h, "key": {**h["key"], "batches": 8}}),
    "options-is-a-list": lambda h: json.dumps({**h, "key": {**h["key"], "options": [1]}}),
    "control-characters": lambda h: json.dumps({**h, "key": {**h["key"], "flavour_version": "\x1b[31m"}}),
    "nan": lambda h: json.dumps({**h, "size": float("nan")}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_as_good_as_none(name: str, cache: EngineCache) -> None:
    fill(cache)
    path = header_of(cache)
    text = HOSTILE[name](json.loads(path.read_text()))
    assert text != path.read_text()
    path.write_text(text, encoding="latin-1")
    assert read_header(path) is None
    # Neither as the wanted engine nor as the nearest one.
    assert fill(cache, dataclasses.replace(ORIN, flavour_version="11.0")).rebuilt_because is None
    assert fill(cache).rebuilt_because == (
        "the engine has no valid header, because its build was interrupted or the file was changed"
    )


def test_an_engine_under_a_wrong_name_is_not_used(cache: EngineCache) -> None:
    other = dataclasses.replace(ORIN, compute_capability=(8, 6))
    fill(cache, other)
    for suffix in ("engine", "json"):
        (cache.folder / f"{other.digest()}.{suffix}").rename(cache.folder / f"{ORIN.digest()}.{suffix}")
    assert fill(cache).rebuilt_because == (
        "the engine has the file name of another one: built for 10.3 sm86, here 10.3 sm87"
    )


def test_a_bundle_brings_engines(tmp_path: Path) -> None:
    bundle = EngineCache(tmp_path / "net.fer" / "engines")
    shipped = fill(bundle)
    cache = EngineCache(tmp_path / "engines", also=[bundle.folder])
    assert cache.get_or_build(ORIN, Builder()) == CachedEngine(shipped.path, shipped.sha256)
    assert not cache.folder.exists()
    flip(shipped.path)
    result = fill(cache)
    assert result.rebuilt_because == "the engine does not match its sha256"
    assert result.path.parent == cache.folder
    assert fill(cache).built is False
    newer = dataclasses.replace(ORIN, flavour_version="11.4")
    shutil.rmtree(cache.folder)
    assert fill(cache, newer).rebuilt_because == "built for 10.3 sm87, here 11.4 sm87"


class Failure(Exception):
    pass


@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt, SystemExit])
def test_a_failed_build_leaves_nothing_and_can_be_repeated(
    error: type[BaseException], cache: EngineCache
) -> None:
    def fail(part: Path) -> None:
        part.write_bytes(ENGINE[:100])
        raise error

    with pytest.raises(error):
        cache.get_or_build(ORIN, fail)
    assert [path.name for path in cache.folder.iterdir()] == [f".{ORIN.digest()}.lock"]
    assert fill(cache) == new(cache, ORIN)


@pytest.mark.parametrize("build", [lambda part: None, Path.touch, Path.mkdir])
def test_a_builder_that_writes_nothing(build: Callable[[Path], None], cache: EngineCache) -> None:
    with pytest.raises(EngineError, match="without writing an engine|engines cannot be written"):
        cache.get_or_build(ORIN, build)
    assert cache.find(ORIN) is None


def age(cache: EngineCache, key: EngineKey, seconds: float) -> None:
    moment = time.time() - seconds
    for path in cache.folder.glob(f"*{key.digest()}*"):
        os.utime(path, (moment, moment), follow_symlinks=False)


def test_what_was_not_used_longest_goes_first(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, size_limit_bytes=int(3.5 * len(ENGINE)))
    keys = [dataclasses.replace(ORIN, batches=(1, 1, 1 + i)) for i in range(5)]
    foreign = tmp_path / "notes.txt"
    foreign.write_bytes(ENGINE * 10)
    for i, key in enumerate(keys[:3]):
        fill(cache, key)
        age(cache, key, 10_000 - 1000 * i)
    assert cache.get_or_build(keys[0], Builder()).built is False  # used now
    fill(cache, keys[3])
    kept = [key for key in keys if cache.find(key) is not None]
    assert kept == [keys[0], keys[2], keys[3]]
    assert not list(tmp_path.glob(f"*{keys[1].digest()}*"))
    assert foreign.exists()


def test_engines_in_use_are_kept_over_the_limit(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, size_limit_bytes=0)
    others = [dataclasses.replace(ORIN, batches=(1, 1, 1 + i)) for i in range(3)]
    for key in others:
        fill(cache, key)
    assert all(cache.find(key) for key in others)


def test_leftovers_of_killed_builds_are_deleted(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    other = dataclasses.replace(ORIN, precision="fp16")
    for name in (f".{other.digest()}.0123abcd.part.engine", f"{other.digest()}.engine"):
        (tmp_path / name).write_bytes(ENGINE)
    own = tmp_path / f".{ORIN.digest()}.0123abcd.part.engine"
    own.write_bytes(ENGINE)
    fill(cache)
    assert not own.exists()
    assert len(list(tmp_path.glob(f"*{other.digest()}*"))) >= 2  # it may be a build that is under way
    age(cache, other, 10_000)
    fill(cache, dataclasses.replace(ORIN, precision="fp32"))
    assert not list(tmp_path.glob(f"*{other.digest()}*"))


@pytest.fixture
def without_privileges() -> Iterator[Path]:
    """A read-only folder, for a process without root privileges."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    user = os.geteuid()
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_folder_that_can_only_be_read(without_privileges: Path) -> None:
    folder = without_privileges
    fill(EngineCache(folder / "engines"))
    for path in (folder / "engines").iterdir():
        path.chmod(0o444)
    (folder / "engines").chmod(0o555)
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    cache = EngineCache(folder / "engines")
    assert fill(cache).built is False  # what is there can be used
    for target in (cache, EngineCache(folder / "new")):
        with pytest.raises(EngineError) as caught:
            fill(target, dataclasses.replace(ORIN, precision="fp16"))
        assert str(caught.value) == (
            f"engines cannot be written to {target.folder} (Permission denied). "
            "Fix: set FER_EDGE_CACHE to a writable folder with free space"
        )


@pytest.mark.parametrize("place", ["/proc/engines", "{file}/engines", "{loop}/engines"])
def test_a_folder_that_cannot_be(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    folder = Path(place.format(file=tmp_path / "file", loop=tmp_path / "loop"))
    with pytest.raises(EngineError, match="Fix: set FER_EDGE_CACHE to a writable folder"):
        fill(EngineCache(folder))


@pytest.mark.parametrize("where", ["folder", "engine", "json"])
def test_an_engine_that_others_could_place_is_neither_used_nor_replaced(
    cache: EngineCache, where: str
) -> None:
    """An engine is code: only the user may restore the mode."""
    fill(cache)
    path = cache.folder if where == "folder" else header_of(cache).with_suffix(f".{where}")
    assert stat.S_IMODE(path.stat().st_mode) == (0o700 if where == "folder" else 0o600)
    path.chmod(0o777)
    build = Builder()
    for ask in (cache.find, lambda key: cache.get_or_build(key, build)):
        with pytest.raises(EngineError) as caught:
            ask(ORIN)
        assert str(caught.value) == (
            f"{path} (owner {getpass.getuser()}, mode 0777) can be written by every user, but files loaded from "
            f"there run as code. Fix: run chmod go-w '{path}', or set FER_EDGE_CACHE to a folder of your own"
        )
    assert not build.calls
    path.chmod(0o755)
    assert cache.get_or_build(ORIN, build).built is False


def test_nothing_is_built_into_a_folder_of_all(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    build = Builder()
    with pytest.raises(EngineError, match="mode 0777.* can be written by every user"):
        EngineCache(tmp_path / "engines").get_or_build(ORIN, build)
    assert not build.calls


@pytest.mark.parametrize("umask", [0o000, 0o002])
def test_what_is_new_is_its_users_alone_under_any_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        cache = EngineCache(tmp_path / "a" / "engines")
        fill(cache)
    finally:
        os.umask(before)
    assert fill(cache).built is False
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert set(modes.values()) == {0o700, 0o600}


def test_a_folder_behind_a_link(tmp_path: Path) -> None:
    """The link is resolved once: its later target is another, unchecked folder."""
    (tmp_path / "real").mkdir()
    (tmp_path / "other").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    cache = EngineCache(link)
    engine = fill(cache)
    assert engine.path.parent == tmp_path / "real"
    link.unlink()
    link.symlink_to(tmp_path / "other")
    assert fill(cache) == CachedEngine(engine.path, engine.sha256)


def test_what_is_loaded_is_what_was_checked(cache: EngineCache) -> None:
    """A file that is replaced between the check and the load is not deserialised."""
    fill(cache)
    engine = cache.find(ORIN)
    assert engine is not None
    file = EngineFile(engine.path, engine.sha256)
    assert file.read() == ENGINE
    flip(engine.path)
    with pytest.raises(
        EngineError, match=r"was changed after it was checked, expected sha256 \w{12}…, found"
    ):
        file.read()
    assert EngineFile(engine.path).read() != ENGINE


def test_a_full_disk(cache: EngineCache) -> None:
    with pytest.raises(EngineError, match="No space left on device"):
        cache.get_or_build(ORIN, lambda part: Path("/dev/full").write_bytes(ENGINE) and None)
    assert cache.find(ORIN) is None


def test_a_lock_that_is_a_link_is_not_followed(cache: EngineCache, tmp_path: Path) -> None:
    cache.folder.mkdir()
    (cache.folder / f".{ORIN.digest()}.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(EngineError, match="engines cannot be written to"):
        fill(cache)
    assert not (tmp_path / "victim").exists()


def test_a_lock_that_was_deleted_meanwhile_is_none(tmp_path: Path) -> None:
    """Eviction deletes locks: a process that waited for a deleted one must wait for its successor."""
    cache = EngineCache(tmp_path, wait_limit_s=0.5)
    lock = tmp_path / f".{ORIN.digest()}.lock"
    first, second, build, seen = lock.open("w"), None, Builder(), []
    fcntl.flock(first, fcntl.LOCK_EX)

    def exchange(*what: object) -> None:
        nonlocal second
        if second is None:
            lock.unlink()
            second = lock.open("w")
            fcntl.flock(second, fcntl.LOCK_EX)
            first.close()
        seen.append(what)

    with pytest.raises(
        EngineError, match="another process has been building this engine for more than 0.5 s"
    ):
        cache.get_or_build(ORIN, build, exchange)
    assert second is not None
    second.close()
    assert len(seen) > 2
    assert not build.calls


def test_an_engine_is_not_lost_where_another_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EngineCache(tmp_path, size_limit_bytes=0)
    other = dataclasses.replace(ORIN, precision="fp16")
    fill(cache, other)
    age(cache, other, 10_000)

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if other.digest() in self.name:
            raise PermissionError(1, "Operation not permitted")
        unlink(self, missing_ok)

    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", refuse)
    assert fill(cache).built
    assert cache.find(ORIN) is not None
    assert (tmp_path / f"{other.digest()}.engine").exists()
