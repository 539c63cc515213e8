"""The choice of a calibration: its logic with synthetic figures, and the figures on the shipped network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import Builder, count_rules, run

from fer_edge._utils.files import sha256_of
from fer_edge._utils.progress import Progress
from fer_edge.backends import BACKENDS
from fer_edge.bundle import open_bundle
from fer_edge.calibration.algorithms.search import Choice, choose_calibration
from fer_edge.calibration.algorithms.trial import Trial
from fer_edge.calibration.calibrate import calibrate
from fer_edge.calibration.placement.placement import DEFAULT_PLACEMENT, place
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.collect import observe
from fer_edge.calibration.ranges.methods import AUTO_METHOD, METHODS
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.datasets import FaceDataset
from fer_edge.errors import UsageError
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import ModelSpec
from fer_edge.synthetic import render_faces

SPEC = ModelSpec("net", 16, 16, "rgb", 3, (0.0,) * 3, (1.0,) * 3, tuple("abcde"))
FACES = FaceDataset("rendered", render_faces(6), None, (), are_crops=True)
BATCH = prepare_batch(list(FACES), SPEC)
REFERENCE = np.random.default_rng(0).normal(size=(len(FACES), 5))
NOISE = np.random.default_rng(1).normal(size=(len(FACES), 5))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two convolutions that can be equalised."""
    b = Builder()
    b.add("Relu", [b.conv("input", "conv1", 3, 8, 3)], "relu1")
    b.add("Relu", [b.conv("relu1", "conv2", 8, 8, 3)], "relu2")
    b.gemm(b.add("Flatten", [b.add("GlobalAveragePool", ["relu2"], "mean")], "flat"), "logits", 8, 5)
    return saved(b, tmp_path)


def saved(b: Builder, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(b.model("logits"), path)
    return path


@dataclass(frozen=True)
class Invented(Trial):
    """A trial whose logits have the ``noise`` given for each candidate: a method, corrected, equalised."""

    noise: Mapping[str, float | None] = field(default_factory=dict)
    sha256: str = ""

    def fp32_logits(self, faces: FaceDataset, on_faces: Callable[[int], None] = print) -> np.ndarray:
        return REFERENCE

    def logits(
        self,
        ranges: Ranges,
        faces: FaceDataset,
        model: Path | None = None,
        on_faces: Callable[[int], None] = print,
    ) -> np.ndarray:
        found = sha256_of(model or self.model)
        assert ranges.model_sha256 == found
        name = ranges.method + " + bias" * bool(ranges.bias_shifts) + " + equal" * (found != self.sha256)
        on_faces(len(faces))
        if (snr_db := self.noise.get(name, 0)) is None:
            return REFERENCE
        signal, noise = (v - v.mean(axis=1, keepdims=True) for v in (REFERENCE, NOISE))
        return REFERENCE + noise * np.linalg.norm(signal) / np.linalg.norm(noise) * 10 ** (-snr_db / 20)


def choose(
    model: Path, noise: Mapping[str, float | None], on_progress: Progress = lambda stage, done, total: None
) -> Choice:
    trial = Invented(model, BACKENDS["onnxruntime"], SPEC, place(onnx.load(model)), noise, sha256_of(model))
    observations = observe(model, [BATCH], {"name": "test"}, trial.placed)
    return choose_calibration(trial, observations, FACES, FACES, on_progress)


def names(choice: Choice) -> list[str]:
    return [candidate.name for candidate in choice.candidates]


def chosen(choice: Choice) -> str:
    (name,) = (candidate.name for candidate in choice.candidates if candidate.chosen)
    assert choice.ranges.method == name
    return name


@pytest.mark.parametrize(
    ("noise", "expected", "corrected", "replaced"),
    [
        ({"minmax": 30, "mse": 31, "mse + bias": 31.19, "mse + equal": 31.19, "mse + bias + equal": 31.19}, "mse", False, False),
        ({"minmax": 31, "mse": 31, "minmax + bias": 20, "minmax + equal": 20, "minmax + bias + equal": 20}, "minmax", False, False),
        ({"minmax": 30, "mse": 31, "mse + bias": 31.25, "mse + bias + equal": 31.3}, "mse + bias correction", True, False),
        (
            {"minmax": 30, "mse": 20, "minmax + bias": 34, "minmax + bias + equal": 36},
            "minmax + bias correction + equalisation", True, True,
        ),
        (
            {"minmax": 30, "mse": 20, "minmax + bias": 30.1, "minmax + equal": 30.5, "minmax + bias + equal": 30.6},
            "minmax + equalisation", False, True,
        ),
        (
            {"minmax": 30, "mse": 20, "minmax + bias": 30.1, "minmax + equal": 30.5, "minmax + bias + equal": 31},
            "minmax + equalisation + bias correction", True, True,
        ),
        (
            {"minmax": 30, "mse": 20, "minmax + bias": 30.1, "minmax + equal": 30.1, "minmax + bias + equal": 30.3},
            "minmax + equalisation + bias correction", True, True,
        ),
        (
            {"minmax": 30, "mse": None, "mse + bias": None, "mse + equal": None, "mse + bias + equal": None},
            "mse", False, False,
        ),
        ({"minmax": 30, "mse": 20, "minmax + bias": None, "minmax + bias + equal": None}, "minmax + bias correction", True, False),
    ],
)  # fmt: skip
def test_what_is_more_work_is_kept_if_it_is_worth_it(
    model: Path, noise: Mapping[str, float | None], expected: str, corrected: bool, replaced: bool
) -> None:
    before = model.read_bytes()
    choice = choose(model, noise)
    assert chosen(choice) == expected
    assert bool(choice.ranges.bias_shifts) is corrected
    assert (model.read_bytes() != before) is replaced
    assert list(model.parent.iterdir()) == [model]
    assert choice.ranges.model_sha256 == sha256_of(model)
    method = expected.split(" + ")[0]
    expected_ranges = observe(model, [BATCH], {}).ranges(method).tensors
    assert choice.ranges.tensors == expected_ranges  # of all faces, on the current file
    assert choice.ranges.images == len(FACES)
    quantise(onnx.load(model), choice.ranges, "cpu")
    measured = {c.name: c.snr_db for c in choice.candidates}
    assert [measured.pop(n) for n in METHODS] == [pytest.approx(noise.get(n, 0), abs=1e-9) for n in METHODS]
    others = [noise[n] for n in noise if n not in METHODS]
    assert list(measured.values()) == [v if v is None else pytest.approx(v) for v in others]


def test_the_equalised_file_computes_the_same(model: Path) -> None:
    before = onnx.load(model)
    choose(
        model,
        {"minmax": 30, "mse": 20, "minmax + bias": 30, "minmax + equal": 40, "minmax + bias + equal": 40},
    )
    expected, found = (run(m, BATCH)["logits"] for m in (before, onnx.load(model)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_network_without_pairs_has_one_candidate_fewer(tmp_path: Path) -> None:
    b = Builder()
    b.add("Relu", [b.conv("input", "conv1", 3, 8, 3)], "relu1")
    b.gemm(b.add("Flatten", [b.add("GlobalAveragePool", ["relu1"], "mean")], "flat"), "logits", 8, 5)
    model = saved(b, tmp_path)
    counted: list[tuple[str, int, int]] = []
    choice = choose(model, {}, lambda *progress: counted.append(progress))
    assert names(choice) == [*METHODS, "entropy + bias correction"]
    told = [(done, total) for stage, done, total in counted if stage == "choosing a calibration"]
    assert told == [(6 * i, 6 * 5) for i in range(1, 6)]


def test_a_failure_leaves_the_model_as_it_was(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model.read_bytes()

    def fail(trial: Trial, ranges: Ranges, faces: FaceDataset, path: Path, on_faces: object) -> np.ndarray:
        if path != model:
            raise RuntimeError("no memory left")
        return REFERENCE

    monkeypatch.setattr(Invented, "logits", fail)
    with pytest.raises(RuntimeError, match="no memory left"):
        choose(model, {})
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


# --- the shipped network ------------------------------------------------------------------------------


def logits_of(model: onnx.ModelProto, faces: FaceDataset, spec: object) -> np.ndarray:
    return run(model, prepare_batch(list(faces), spec))["logits"]  # type: ignore[arg-type]


def snr_db(reference: np.ndarray, found: np.ndarray) -> float:
    """Noise by hand: logits minus their mean over the classes of a face."""
    signal = reference - reference.mean(axis=1)[:, None]
    noise = found - found.mean(axis=1)[:, None] - signal
    return float(10 * np.log10((signal**2).sum() / (noise**2).sum()))


def test_on_the_shipped_network_the_figures_are_what_its_models_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = count_rules(monkeypatch)
    bundle = open_bundle(shipped_bundle())
    model = Path(shutil.copyfile(bundle.model_path("fp32", "cpu"), tmp_path / "model.onnx"))
    reference_model = onnx.load(model)
    images = render_faces(32)
    faces, held_out = (
        FaceDataset("rendered", part, None, (), are_crops=True) for part in (images[:20], images[20:])
    )
    stages: list[tuple[str, int, int]] = []
    choice = calibrate(
        model,
        bundle.spec,
        BACKENDS["onnxruntime"],
        faces,
        held_out,
        AUTO_METHOD,
        {"name": "rendered"},
        lambda *progress: stages.append(progress),
    )
    assert looked == dict.fromkeys(choice.ranges.placement.rules, 1)
    assert names(choice)[: len(METHODS)] == list(METHODS)
    assert choice.ranges.images == 20
    measured = {c.name: c.snr_db for c in choice.candidates}
    assert all(isinstance(value, float) and value > 15 for value in measured.values())
    best = chosen(choice)
    plain = [measured[name] for name in METHODS]
    assert measured[best] >= max(plain)
    ranges = choice.ranges
    reference = logits_of(reference_model, held_out, bundle.spec)
    found = logits_of(quantise(onnx.load(model), ranges, "cpu"), held_out, bundle.spec)
    assert snr_db(reference, found) == pytest.approx(measured[best], abs=1.5)
    assert list(tmp_path.iterdir()) == [model]
    assert ("calibrating", 20, 20) in stages
    done = [(d, t) for stage, d, t in stages if stage == "choosing a calibration"]
    assert done == sorted(done)
    assert done[-1][0] == done[-1][1]
    assert DEFAULT_PLACEMENT.rules != ranges.placement.rules  # the placement of the family


def test_an_unknown_method_is_refused_before_a_face_is_run() -> None:
    bundle = open_bundle(shipped_bundle())
    model, faces = bundle.model_path("fp32", "cpu"), FaceDataset("none", [], None, (), are_crops=True)
    with pytest.raises(UsageError, match="unknown calibration method 'minmx'.*'minmax'"):
        calibrate(model, bundle.spec, BACKENDS["onnxruntime"], faces, faces, "minmx", {}, lambda *_: None)


def test_one_method_is_taken_as_it_is() -> None:
    bundle = open_bundle(shipped_bundle())
    model = bundle.model_path("fp32", "cpu")
    faces = FaceDataset("rendered", render_faces(6), None, (), are_crops=True)
    choice = calibrate(
        model, bundle.spec, BACKENDS["onnxruntime"], faces, faces, "mse", {}, lambda *progress: None
    )
    batch = prepare_batch(list(faces), bundle.spec)
    expected = observe(model, [batch], {}, place(onnx.load(model), choice.ranges.placement)).ranges("mse")
    assert choice.candidates == ()
    for name, r in choice.ranges.tensors.items():
        assert r.high == pytest.approx(expected.tensors[name].high, rel=1e-2), name
