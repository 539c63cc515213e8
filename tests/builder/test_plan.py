"""The plan of a build is made once, before any work, and without reading a data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import pytest

import fer_edge.builder.faces
import fer_edge.builder.pipeline
import fer_edge.builder.plan
from fer_edge.builder import BuildOptions, build
from fer_edge.builder.fp32 import make_fp32
from fer_edge.builder.plan import make_plan
from fer_edge.builder.splits import Counts
from fer_edge.bundle import open_bundle
from fer_edge.calibration.comparison.bounds import Bounds
from fer_edge.datasets import load_dataset
from fer_edge.errors import UsageError
from fer_edge.synthetic import render_faces
from fer_edge.weights.request import Request


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Twelve faces of two classes to calibrate on, and eight others to compare on."""
    faces = render_faces(20, 31)
    for folder, part in (("mine", faces[:12]), ("theirs", faces[12:])):
        for i, face in enumerate(part):
            path = tmp_path / folder / ("happy", "sad")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), face)
    return tmp_path / "mine", tmp_path / "theirs"


def test_a_build_loads_each_data_set_once_and_after_the_plan(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = folders
    read: list[Path] = []

    def load(path: Path, *arguments: Any, **options: Any) -> Any:
        read.append(path)
        return load_dataset(path, *arguments, **options)

    monkeypatch.setattr(fer_edge.builder.faces, "load_dataset", load)
    options = BuildOptions(
        precision="fp32",
        backend="onnxruntime",
        calibration_data=mine,
        eval_data=theirs,
        output=tmp_path / "a.fer",
    )
    plan = make_plan(options)
    assert read == []
    assert plan.sources is plan.sources
    assert read == [mine, theirs]
    build(options)  # needs both data sets: for ranges, and for a temperature
    assert read == [mine, theirs, mine, theirs]


@pytest.mark.parametrize(
    "option", ["weights", "calibration_data", "eval_data", "canonical_shape", "image_statistics"]
)
def test_the_output_does_not_overwrite_an_input(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle is replaced as a whole, so that an input inside it would be deleted."""
    output = tmp_path / "a.fer"
    (output / "input").mkdir(parents=True)
    (output / "manifest.json").write_text("{}")
    name = output / "input" / "file.npz"
    name.write_bytes(b"x")
    # The file is no checkpoint, which is found out before the outputs are checked.
    monkeypatch.setattr(
        fer_edge.builder.plan, "request_weights", lambda network, *rest: Request(network, "random")
    )
    value = str(name) if option == "weights" else name
    options = dataclasses.replace(BuildOptions(output=output, overwrite=True), **{option: value})
    with pytest.raises(UsageError, match=r"would overwrite the input .*file\.npz"):
        make_plan(options)
    assert name.read_bytes() == b"x"


def test_a_bundle_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    options = BuildOptions(precision="fp32", backend="onnxruntime", output=tmp_path / "a.fer")
    before = build(options).bundle.manifest
    with pytest.raises(UsageError, match=r"a\.fer is a bundle already\. Fix: .*--overwrite"):
        build(dataclasses.replace(options, precision="int8"))
    assert open_bundle(tmp_path / "a.fer").manifest == before
    assert make_plan(dataclasses.replace(options, overwrite=True)).output == tmp_path / "a.fer"


def test_a_bundle_holds_what_the_steps_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make_and_litter(plan: Any, work: Path, on_progress: Any) -> Any:
        (work / "litter.onnx").touch()
        return make_fp32(plan, work, on_progress)

    monkeypatch.setattr(fer_edge.builder.pipeline, "make_fp32", make_and_litter)
    report = build(BuildOptions(precision="fp32", backend="onnxruntime", output=tmp_path / "a.fer"))
    assert list(report.bundle.manifest.files) == ["model.onnx", "ranges.json", "self_test.npz"]


def test_bounds_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Bounds] = []
    monkeypatch.setattr(
        fer_edge.builder.plan, "Bounds", lambda *values: made.append(Bounds(*values)) or made[-1]
    )
    plan = make_plan(BuildOptions(max_drop=0.5, min_agreement=0.9))
    assert made == [Bounds(0.5, None, 0.9)]
    assert plan.int8.bounds is made[0]
    assert make_plan(BuildOptions()).int8.bounds is None
    assert len(made) == 1


def test_random_weights_are_an_attribute_and_not_an_empty_bound() -> None:
    plan = make_plan(BuildOptions(weights="random"))
    assert (plan.timing_only, plan.int8.timing_only, plan.int8.bounds) == (True, True, None)
    assert plan.method == "minmax"
    asked = make_plan(BuildOptions(weights="random", method="mse", min_cosine=0.9))
    assert (asked.method, asked.int8.bounds) == ("mse", Bounds(min_cosine=0.9))
    trained = make_plan(BuildOptions())
    assert (trained.timing_only, trained.int8.timing_only, trained.method) == (False, False, "auto")


DATA = Path("faces")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (BuildOptions(), Counts(0, 0, 128)),  # ranges ship
        (BuildOptions(calibration_data=DATA), Counts(512, 64, 128)),
        (BuildOptions(calibration_data=DATA, method="mse"), Counts(512, 0, 128)),
        (BuildOptions(calibration_data=DATA, calibration_images=9, comparison_images=7), Counts(9, 64, 7)),
        (BuildOptions(weights="random"), Counts(512, 0, 128)),
        (BuildOptions("resmasking", "random", method="auto"), Counts(128, 0, 64)),  # slow
        (BuildOptions(precision="fp32"), Counts(0, 0, 0)),
        (BuildOptions(precision="fp32", eval_data=DATA), Counts(0, 0, 128)),
        (BuildOptions(precision="fp16"), Counts(0, 0, 128)),
        (BuildOptions(precision="fp16", calibration_data=DATA), Counts(512, 64, 128)),
    ],
)
def test_how_many_faces_a_build_needs(options: BuildOptions, expected: Counts) -> None:
    plan = make_plan(options)
    assert plan.counts == expected
    assert (plan.shipped_ranges is None) == (expected.calibrating > 0 or options.precision != "int8")
    assert plan.fp16_faces == (32 if options.model == "resmasking" else 64)
