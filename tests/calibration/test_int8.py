"""INT8 from a file on disk: bounds met by mixed precision or refused, every dialect, reproducible."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from int8_builds import FACES, make
from small_graphs import constants_of, count_rules, nodes_of, run

from fer_edge.bundle import Bundle, int8_model
from fer_edge.calibration.comparison.bounds import Bounds
from fer_edge.calibration.comparison.paired import compare_paired
from fer_edge.calibration.int8 import (
    COLLAPSED_COSINE,
    MIN_LABELLED_FACES,
    Int8Attempt,
    Int8Options,
    Int8Result,
    outcome_of,
)
from fer_edge.calibration.placement.macs import multiply_adds
from fer_edge.calibration.qdq.dialects import DIALECTS
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.collect import observe
from fer_edge.calibration.ranges.observers import TensorRange
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.calibration.report.report import report_of
from fer_edge.errors import GateError
from fer_edge.preprocess import prepare_batch


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (v - v.mean(axis=1, keepdims=True) for v in (a.astype(float), b.astype(float)))
    return float(np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]))


def test_both_dialects_are_measured(bundle: Bundle, plain: tuple[Int8Result, Path]) -> None:
    int8, work = plain
    assert {path.name for path in work.iterdir()} == {int8_model(dialect) for dialect in DIALECTS}
    batch = prepare_batch(list(FACES), bundle.spec)
    fp32 = run(onnx.load(bundle.model_path("fp32", "cpu")), batch)["logits"]
    cpu, tensorrt = (run(onnx.load(work / int8_model(d)), batch)["logits"] for d in ("cpu", "tensorrt"))
    assert int8.comparison.logit_cosine == pytest.approx(cosine(fp32, cpu), abs=1e-5)
    assert int8.simulated.keys() == {"tensorrt"}
    assert int8.simulated["tensorrt"].logit_cosine == pytest.approx(cosine(fp32, tensorrt), abs=1e-5)
    assert int8.simulated["tensorrt"].agreement == (fp32.argmax(1) == tensorrt.argmax(1)).mean()
    assert (int8.mixed, int8.sensitivity) == (None, ())


def test_the_integer_share_is_that_of_layers_with_integer_weights(
    bundle: Bundle, plain: tuple[Int8Result, Path]
) -> None:
    int8, work = plain
    work_of = multiply_adds(onnx.load(bundle.model_path("fp32", "cpu")))
    stored = {
        n.removesuffix(".weight.q")
        for n in constants_of(onnx.load(work / int8_model("cpu")))
        if n.endswith(".weight.q")
    }
    expected = sum(work_of[name] for name in stored) / sum(work_of.values())
    assert int8.integer_share == pytest.approx(expected)
    assert int8.integer_share > 0.9


def test_every_dialect_comes_from_one_calibration(
    bundle: Bundle, ranges: Ranges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges need no second run of the FP32 model."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("ranges were computed again")

    monkeypatch.setattr("fer_edge.calibration.ranges.observers.Observer.update", refuse)
    looked = count_rules(monkeypatch)
    int8 = make(bundle, ranges, tmp_path, Int8Options(Bounds(100), sensitivity=True, sensitivity_images=2))
    assert int8.ranges == ranges
    assert looked == dict.fromkeys(ranges.placement.rules, 1)
    scales = {dialect: constants_of(onnx.load(tmp_path / int8_model(dialect))) for dialect in DIALECTS}
    r = ranges.tensors["input"]
    assert scales["tensorrt"]["input.scale"] == pytest.approx(max(-r.low, r.high) / 127)
    assert scales["cpu"]["input.scale"] == pytest.approx((max(r.high, 0) - min(r.low, 0)) / 255)


def test_the_same_twice_byte_for_byte(bundle: Bundle, tmp_path: Path) -> None:
    model = bundle.model_path("fp32", "cpu")
    batches = [prepare_batch(list(FACES.subset(range(i, i + 4))), bundle.spec) for i in (0, 4)]
    for name in ("first", "second"):
        found = observe(model, iter(batches), {"name": "rendered"}).ranges("entropy")
        found.save(tmp_path / f"{name}.json")
        for dialect in DIALECTS:
            onnx.save(quantise(onnx.load(model), found, dialect), tmp_path / f"{name}.{dialect}")
    for suffix in ("json", *DIALECTS):
        assert (tmp_path / f"first.{suffix}").read_bytes() == (tmp_path / f"second.{suffix}").read_bytes()


# --- bounds -------------------------------------------------------------------------------------------


def test_mixed_precision_meets_the_bound_and_says_what_it_left_out(
    bundle: Bundle, mixed: tuple[Int8Result, Path, Bounds]
) -> None:
    int8, work, bounds = mixed
    assert int8.mixed is not None
    left = int8.mixed.found.float_layers
    assert 1 <= len(left) < len(int8.sensitivity)
    assert outcome_of(int8.comparison).meets(bounds)
    assert not int8.mixed.found.steps[0].passed
    assert int8.ranges.placement.float_layers == set(left)
    assert int8.integer_share >= 0.5
    assert {path.name for path in work.iterdir()} == {int8_model(dialect) for dialect in DIALECTS}
    original = nodes_of(onnx.load(bundle.model_path("fp32", "cpu")))
    for dialect in DIALECTS:
        quantised = onnx.load(work / int8_model(dialect))
        nodes = nodes_of(quantised)
        for layer in left:
            if len(original[layer].input) > 1 and original[layer].op_type != "Add":
                assert nodes[layer].input[1] == original[layer].input[1], dialect  # unchanged FP32 weights
        assert any(n.endswith(".weight.q") for n in constants_of(quantised))
    batch = prepare_batch(list(FACES), bundle.spec)
    fp32 = run(onnx.load(bundle.model_path("fp32", "cpu")), batch)["logits"]
    assert (
        cosine(fp32, run(onnx.load(work / int8_model("cpu")), batch)["logits"])
        >= (bounds.min_cosine or 1) - 1e-6
    )


def test_a_bound_that_cannot_be_met_is_an_error(bundle: Bundle, ranges: Ranges, tmp_path: Path) -> None:
    options = Int8Options(Bounds(min_cosine=1 - 1e-12), sensitivity_images=2)
    with pytest.raises(GateError, match=r"INT8 cannot meet a logit cosine.*tried 0 layers") as raised:
        make(bundle, ranges, tmp_path, options)
    tried = raised.value.tried
    assert isinstance(tried, Int8Attempt)
    assert len(tried.steps) > 2
    assert not any(step.passed for step in tried.steps)
    assert tried.int8.comparison.faces == len(FACES)
    assert tried.int8.sensitivity


def test_a_drop_is_not_judged_on_a_few_labelled_faces(plain: tuple[Int8Result, Path]) -> None:
    """With one labelled face, which is still correct, the share of all faces whose class changes is judged."""
    comparison = plain[0].comparison
    names = ("a", "b", "c")
    for labelled in (MIN_LABELLED_FACES - 1, MIN_LABELLED_FACES):
        right = np.zeros(labelled, np.int64)
        paired = compare_paired(right, right, right, names)
        found = outcome_of(dataclasses.replace(comparison, agreement=0.75, paired=paired))
        assert (found.labelled, found.drop_pp) == ((True, 0) if labelled >= 16 else (False, 25))


def collapse(ranges: Ranges) -> Ranges:
    """Ranges as from constant images: only the smallest values are kept."""
    return dataclasses.replace(
        ranges,
        tensors={
            name: TensorRange(r.min, r.max, r.low / 200, r.high / 200) for name, r in ranges.tensors.items()
        },
    )


def test_what_has_collapsed_is_refused_unless_it_is_for_timing(
    bundle: Bundle, ranges: Ranges, tmp_path: Path
) -> None:
    collapsed = rf"INT8 has collapsed on rendered.*at least {COLLAPSED_COSINE}"
    with pytest.raises(GateError, match=collapsed) as raised:
        make(bundle, collapse(ranges), tmp_path)
    assert raised.value.tried.int8.comparison.logit_cosine < COLLAPSED_COSINE
    int8 = make(bundle, collapse(ranges), tmp_path, Int8Options(timing_only=True))
    assert int8.comparison.logit_cosine < COLLAPSED_COSINE
    assert report_of(int8, (), Int8Options(timing_only=True))["gate"] == {"passed": True, "bounds": []}


def test_sensitivity_is_measured_where_it_is_asked_for(
    bundle: Bundle, ranges: Ranges, tmp_path: Path
) -> None:
    int8 = make(bundle, ranges, tmp_path, Int8Options(sensitivity=True, sensitivity_images=2))
    assert int8.mixed is None
    assert int8.sensitivity
    assert {row["precision"] for row in report_of(int8, (), Int8Options())["sensitivity"]} == {"int8"}
