"""Bundles: round trip, damage, hostile manifests, and writes that are whole or absent."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fer_edge.bundle import FP32_MODEL, MANIFEST, RANGES, Manifest, int8_model, open_bundle, write_bundle
from fer_edge.errors import BundleError
from fer_edge.spec import ModelSpec

SPEC = ModelSpec("net", 8, 8, "gray", 1, (0.0,), (1.0,), ("happy", "sad"))
CONTENT = {FP32_MODEL: b"the model", RANGES: b"{}", "engines/a.engine": b"an engine", "empty": b""}


def make(
    path: Path, content: dict[str, bytes] | None = None, precision: str = "fp32", **manifest: Any
) -> Path:
    sources = path.parent / f"sources-{path.name}"
    files = {}
    for i, (name, data) in enumerate((content or CONTENT).items()):
        sources.mkdir(parents=True, exist_ok=True)
        files[name] = sources / str(i)
        files[name].write_bytes(data)
    write_bundle(path, Manifest(SPEC, precision, manifest.pop("provenance", {}), **manifest), files)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make(tmp_path / "a.fer", provenance={"weights": "abc"}, metrics={"accuracy": 0.5})


def edit(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads((bundle / MANIFEST).read_text())
    change(value)
    (bundle / MANIFEST).write_text(json.dumps(value))


def test_round_trip(bundle: Path) -> None:
    opened = open_bundle(str(bundle))
    assert opened.spec == SPEC
    assert opened.manifest.metrics == {"accuracy": 0.5}
    assert not opened.manifest.timing_only
    assert {name: (bundle / name).read_bytes() for name in opened.manifest.files} == CONTENT
    assert sorted(p.name for p in bundle.iterdir()) == ["empty", "engines", MANIFEST, FP32_MODEL, RANGES]
    assert opened.model_path("fp32", "cpu") == bundle / FP32_MODEL


def test_the_temperature_is_kept_and_is_one_where_the_manifest_has_none(bundle: Path, tmp_path: Path) -> None:
    assert open_bundle(make(tmp_path / "b.fer", temperature=1.5)).manifest.temperature == 1.5
    edit(bundle, lambda m: m.pop("temperature"))
    assert open_bundle(bundle).manifest.temperature == 1


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "2", None])
def test_a_temperature_that_is_none_is_refused(bundle: Path, bad: object) -> None:
    edit(bundle, lambda m: m.update(temperature=bad))
    with pytest.raises(BundleError, match="the temperature must be a number above 0"):
        open_bundle(bundle)


def test_random_weights_are_for_timing_only(tmp_path: Path) -> None:
    assert open_bundle(make(tmp_path / "a.fer", provenance={"weights": "random"})).manifest.timing_only


def test_model_path_names_the_command(tmp_path: Path) -> None:
    name = int8_model("cpu")
    opened = open_bundle(make(tmp_path / "a.fer", {FP32_MODEL: b"a", name: b"b"}, "int8"))
    assert opened.model_path("int8", "cpu").read_bytes() == b"b"
    with pytest.raises(BundleError, match="run fer-edge build --model net --int8"):
        opened.model_path("int8", "tensorrt")
    with pytest.raises(BundleError, match="unknown precision 'fp8': choose from fp32, fp16, int8"):
        opened.model_path("fp8", "cpu")


@pytest.mark.parametrize("name", [n for n, data in CONTENT.items() if data])
@pytest.mark.parametrize("position", [0, -1])
def test_a_flipped_byte_is_found(bundle: Path, name: str, position: int) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[position] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"altered: {name}"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", list(CONTENT))
def test_a_longer_file_is_found(bundle: Path, name: str) -> None:
    with (bundle / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=f"altered: {name}"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", list(CONTENT))
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"incomplete: {name} is missing"):
        open_bundle(bundle)


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_other_format_versions(bundle: Path, version: Any) -> None:
    edit(bundle, lambda value: value.update(format_version=version))
    with pytest.raises(BundleError, match="has format version .* reads 1"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "name",
    ["../x", "engines/../../x", "/etc/hostname", "..", "link", "linked/x", "a\0b", "x" * 300, "\ud800", "loop", ""],
    ids=ascii,
)  # fmt: skip
def test_names_that_are_no_file_of_the_bundle(bundle: Path, name: str) -> None:
    (bundle.parent / "x").write_bytes(b"outside")
    (bundle / "link").symlink_to(bundle.parent / "x")
    (bundle / "linked").symlink_to(bundle.parent)
    (bundle / "loop").symlink_to("loop")
    edit(bundle, lambda value: value["files"].update({name: {"size": 7, "sha256": "0" * 64}}))
    with pytest.raises(BundleError, match="outside the bundle|cannot be read|incomplete"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x"])
def test_a_file_outside_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="outside the bundle"):
        make(tmp_path / "out" / "a.fer", {FP32_MODEL: b"", name: b"x"})
    assert not list((tmp_path / "out").glob("a.fer*"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(extra=1),
        lambda v: v["spec"].update(extra=1),
        lambda v: v["spec"].update(std=[0]),
        lambda v: v.pop("spec"),
        lambda v: v.pop("files"),
        lambda v: v.pop("precision"),
        lambda v: v.update(precision="fp8"),
        lambda v: v.update(precision=["fp32"]),
        lambda v: v.update(files=[]),
        lambda v: v.update(files={}),
        lambda v: v["files"].pop(FP32_MODEL),
        lambda v: v["files"].update({RANGES: []}),
        lambda v: v["files"].update({RANGES: {"size": 2}}),
        lambda v: v["files"].update({RANGES: {"size": float("inf"), "sha256": ""}}),
        lambda v: v["files"].update({RANGES: {"size": float("nan"), "sha256": ""}}),
        lambda v: v.update(provenance=None),
        lambda v: v.update(provenance=["random"]),
        lambda v: v.update(metrics="none"),
        lambda v: v.update(tools=3),
    ],
)
def test_manifests_with_wrong_fields(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "not JSON",
        "[]",
        '"text"',
        "3",
        "null",
        "{}",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"format_version": ' + "9" * 5000 + "}",
        " " * ((4 << 20) + 1),
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_what_is_no_manifest(bundle: Path, text: str) -> None:
    (bundle / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=MANIFEST):
        open_bundle(bundle)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_manifest(bundle: Path, part: float) -> None:
    data = (bundle / MANIFEST).read_bytes()
    (bundle / MANIFEST).write_bytes(data[: int(len(data) * part)])
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(bundle)


def test_a_manifest_that_is_no_text(bundle: Path) -> None:
    (bundle / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(bundle)


def test_nesting_is_refused_or_can_be_written_again(bundle: Path) -> None:
    for depth in (50, 300, 600, 900):
        nested = '{"a":' * depth + "1" + "}" * depth
        text = (bundle / MANIFEST).read_text()
        (bundle / MANIFEST).write_text(text.replace('"accuracy": 0.5', f'"accuracy": {nested}'))
        try:
            manifest = open_bundle(bundle).manifest
        except BundleError:
            assert depth > 50
        else:
            json.dumps(manifest.to_dict())
        (bundle / MANIFEST).write_text(text)


@pytest.mark.parametrize("kind", ["missing", "file", "folder"])
def test_what_is_no_bundle(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "file":
        path.write_text("hello")
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(BundleError, match="does not exist" if kind == "missing" else "is not a bundle"):
        open_bundle(path)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_bundle_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    with pytest.raises(BundleError, match="is not a bundle: choose another"):
        make(path)
    assert (path if kind == "file" else path / "mine.txt").read_text() == "mine"


def test_a_new_bundle_replaces_the_old(bundle: Path) -> None:
    make(bundle, {FP32_MODEL: b"newer"})
    assert (bundle / FP32_MODEL).read_bytes() == b"newer"
    assert not (bundle / RANGES).exists()
    assert [p.name for p in bundle.parent.glob("a.fer*")] == ["a.fer"]


def test_a_link_to_a_bundle_stays_a_link(bundle: Path) -> None:
    link = bundle.parent / "link.fer"
    link.symlink_to(bundle)
    make(link, {FP32_MODEL: b"newer"})
    assert link.is_symlink()
    assert (bundle / FP32_MODEL).read_bytes() == b"newer"


@pytest.mark.parametrize(
    "failure", [{"metrics": {"accuracy": float("nan")}}, {"precision": "fp8"}, {"content": {"other": b""}}], ids=str
)  # fmt: skip
def test_a_failing_write_keeps_the_old_bundle(bundle: Path, failure: dict[str, Any]) -> None:
    before = {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    with pytest.raises((BundleError, ValueError)):
        make(bundle, **failure)
    assert {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()} == before
    assert [p.name for p in bundle.parent.glob("a.fer*")] == ["a.fer"]


def test_a_failing_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_bundle(
            tmp_path / "out" / "a.fer", Manifest(SPEC, "fp32", {}), {FP32_MODEL: tmp_path / "missing"}
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_concurrent_writers_leave_one_whole_bundle(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(4)

    def write(number: int) -> None:
        source = tmp_path / f"model{number}"
        source.write_bytes(bytes([number]) * 1000)
        try:
            start.wait()
            for _ in range(10):
                write_bundle(tmp_path / "a.fer", Manifest(SPEC, "fp32", {}), {FP32_MODEL: source})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    opened = open_bundle(tmp_path / "a.fer")
    assert len(set((opened.path / FP32_MODEL).read_bytes())) == 1
    assert [p.name for p in tmp_path.glob("a.fer*")] == ["a.fer"]
