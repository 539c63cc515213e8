"""Bundles: round trip, damage, hostile manifests, and atomic writes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fer_edge.bundle import (
    FP32_MODEL,
    MANIFEST,
    RANGES,
    SELF_TEST,
    Manifest,
    int8_model,
    open_bundle,
    write_bundle,
)
from fer_edge.errors import BundleError
from fer_edge.manifest import SelfTestRecord
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


@pytest.mark.parametrize("bad", [0, -1.0, 0.009, 101, 1e300, float("nan"), float("inf"), "2", None])
def test_a_temperature_that_is_none_is_refused(bundle: Path, bad: object) -> None:
    edit(bundle, lambda m: m.update(temperature=bad))
    with pytest.raises(BundleError, match="the temperature must be a number from 0.01 to 100"):
        open_bundle(bundle)


def test_random_weights_are_for_timing_only(tmp_path: Path) -> None:
    assert open_bundle(make(tmp_path / "a.fer", provenance={"weights": "random"})).manifest.timing_only


def test_model_path_names_the_command(tmp_path: Path) -> None:
    name = int8_model("cpu")
    opened = open_bundle(make(tmp_path / "a.fer", {FP32_MODEL: b"a", name: b"b"}, "int8"))
    assert opened.model_path("int8", "cpu").read_bytes() == b"b"
    with pytest.raises(BundleError, match="run fer-edge build --model net --weights FILE --int8"):
        opened.model_path("int8", "tensorrt")
    with pytest.raises(BundleError, match="unknown precision 'fp8'. Fix: choose from fp32, fp16, int8"):
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


@pytest.mark.parametrize("version", [0, 3, "1", None, [1], True, 1.0, "x" * 10_000])
def test_other_format_versions(bundle: Path, version: Any) -> None:
    edit(bundle, lambda value: value.update(format_version=version))
    with pytest.raises(BundleError, match="has format version .{1,60} reads 1 and 2. Fix: build it again"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "name",
    ["../x", "engines/../../x", "/etc/hostname", "..", "a\0b", "x" * 300, "\ud800", "loop", "", "."],
    ids=ascii,
)  # fmt: skip
def test_names_that_are_no_file_of_the_bundle(bundle: Path, name: str) -> None:
    (bundle.parent / "x").write_bytes(b"outside")
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
    with pytest.raises(BundleError, match="is not a bundle. Fix: choose another"):
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


def test_links_are_followed_and_the_hash_decides(bundle: Path, tmp_path: Path) -> None:
    """Symbolic links as created by colcon's symlink install, Hugging Face's cache, DVC and Nix."""
    store = tmp_path / "blobs"
    store.mkdir()
    for i, name in enumerate([*CONTENT, MANIFEST]):
        (bundle / name).rename(store / str(i))
        (bundle / name).symlink_to(store / str(i))
    assert open_bundle(bundle).read(RANGES) == CONTENT[RANGES]
    linked = tmp_path / "linked.fer"
    linked.symlink_to(bundle)
    assert open_bundle(linked).read_model("fp32", "cpu").content == CONTENT[FP32_MODEL]
    (bundle / RANGES).unlink()
    (bundle / RANGES).symlink_to(store / "0")
    with pytest.raises(BundleError, match=f"altered: {RANGES}"):
        open_bundle(bundle)


def test_a_linked_folder_is_searched_and_a_loop_ends(bundle: Path, tmp_path: Path) -> None:
    (bundle / "engines").rename(tmp_path / "engines")
    (bundle / "engines").symlink_to(tmp_path / "engines")
    open_bundle(bundle)
    (tmp_path / "engines" / "up").symlink_to(bundle)
    with pytest.raises(BundleError, match="engines/up/.*, which its manifest does not name"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["model.onnx.data", "engines/b.engine", "engines/b.json", "deep/er/x"])
def test_files_that_the_manifest_does_not_name_are_refused(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"weights")
    with pytest.raises(
        BundleError, match=f"holds '{name}', which its manifest does not name. Fix: remove it"
    ):
        open_bundle(bundle)


def test_hidden_files_of_file_managers_and_version_control_are_passed_over(bundle: Path) -> None:
    (bundle / ".DS_Store").write_bytes(b"x")
    (bundle / ".git").mkdir()
    (bundle / ".git" / "config").write_text("x")
    open_bundle(bundle)


def test_a_folder_with_too_many_files_is_refused(bundle: Path) -> None:
    for i in range(4100):
        (bundle / f".{i}").touch()
    with pytest.raises(BundleError, match="more than 4096 files"):
        open_bundle(bundle)


@pytest.mark.parametrize("change", [b"A model", b"the model and more", b"the", None])
def test_a_file_that_is_swapped_after_the_check_is_not_loaded(bundle: Path, change: bytes | None) -> None:
    opened = open_bundle(bundle)
    (bundle / FP32_MODEL).unlink()
    if change is not None:
        (bundle / FP32_MODEL).write_bytes(change)
    with pytest.raises(BundleError, match="was altered|cannot be read"):
        opened.read_model("fp32", "cpu")


def test_the_bytes_that_are_loaded_are_the_bytes_that_were_hashed(bundle: Path) -> None:
    opened = open_bundle(bundle)
    model = opened.read_model("fp32", "cpu")
    (bundle / FP32_MODEL).write_bytes(b"swapped")
    assert model.content == CONTENT[FP32_MODEL]
    assert model.sha256 == opened.manifest.files[FP32_MODEL].sha256
    assert model.engines == {bundle / "engines/a.engine": opened.manifest.files["engines/a.engine"].sha256}
    with pytest.raises(BundleError, match="holds no other"):
        opened.read("other")


def as_version_1(bundle: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["format_version"] = 1
        for name in ("class_frequencies", "logit_prior", "default_prior", "self_test"):
            value.pop(name)

    edit(bundle, change)


def test_version_1_is_read(bundle: Path) -> None:
    as_version_1(bundle)
    manifest = open_bundle(bundle).manifest
    assert manifest.format_version == 1
    assert (manifest.class_frequencies, manifest.logit_prior, manifest.self_test) == (None, None, None)


def test_version_1_has_none_of_the_new_fields(bundle: Path) -> None:
    as_version_1(bundle)
    edit(bundle, lambda value: value.update(logit_prior="training"))
    with pytest.raises(BundleError, match="format version 1 has no logit_prior"):
        open_bundle(bundle)


def test_writers_write_version_2(bundle: Path, tmp_path: Path) -> None:
    as_version_1(bundle)
    old = open_bundle(bundle)
    files = {name: bundle / name for name in old.manifest.files}
    write_bundle(tmp_path / "new.fer", old.manifest, files)
    assert json.loads((tmp_path / "new.fer" / MANIFEST).read_text())["format_version"] == 2


FREQUENCIES = {"sad": 0.25, "happy": 0.75}


def test_priors_and_self_test_are_kept(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.fer",
        {**CONTENT, SELF_TEST: b"x"},
        class_frequencies=FREQUENCIES,
        logit_prior="training",
        default_prior="balanced",
        self_test=SelfTestRecord(("int8.cpu",), {"fp32": 1e-4}),
    )
    manifest = open_bundle(path).manifest
    assert list((manifest.class_frequencies or {}).items()) == [("happy", 0.75), ("sad", 0.25)]
    assert (manifest.logit_prior, manifest.default_prior) == ("training", "balanced")
    assert manifest.self_test == SelfTestRecord(("int8.cpu",), {"fp32": 1e-4})


@pytest.mark.parametrize(
    "change",
    [
        {"class_frequencies": {"happy": 1.0}},
        {"class_frequencies": {"happy": 0.5, "sad": 0.4}},
        {"class_frequencies": {"happy": 1.0, "sad": 0.0}},
        {"class_frequencies": {"happy": 2.0, "sad": -1.0}},
        {"class_frequencies": {"happy": float("nan"), "sad": 0.5}},
        {"class_frequencies": [0.5, 0.5]},
        {"class_frequencies": {"happy": 1.0, "sad": 5e-324}},
        {"class_frequencies": {"happy": True, "sad": 0.5}},
        {"logit_prior": "balanced"},
        {"logit_prior": ["training"]},
        {"self_test": {"insensitive": [], "tolerances": {}}},  # without self_test.npz
        {"self_test": {"insensitive": "int8.cpu"}},
        {"self_test": {"tolerances": {"fp32": 0}}},
        {"self_test": {"tolerances": {"fp32": float("nan")}}},
        {"self_test": [1]},
        {"self_test": {"other": 1}},
    ],
    ids=str,
)
def test_priors_and_self_tests_that_say_the_impossible(bundle: Path, change: dict[str, Any]) -> None:
    edit(bundle, lambda value: value.update(change))
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(bundle)


def test_names_reach_no_terminal_raw(bundle: Path) -> None:
    edit(bundle, lambda value: value["files"].update({"\x1b[31m\n": {"size": 7, "sha256": "0" * 64}}))
    with pytest.raises(BundleError, match="is incomplete") as found:
        open_bundle(bundle)
    assert str(found.value).isprintable()
