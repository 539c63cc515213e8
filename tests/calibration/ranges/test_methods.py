"""Calibration methods against ONNX Runtime, and against independent implementations of their definitions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from onnxruntime.quantization import calibrate
from small_graphs import observe

from fer_edge.bundle import open_bundle
from fer_edge.calibration.ranges.activations import activations
from fer_edge.calibration.ranges.methods import (
    METHODS,
    entropy_range,
    minmax_range,
    mse_range,
    percentile_range,
)
from fer_edge.calibration.ranges.observers import BINS
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.preprocess import prepare_batch
from fer_edge.synthetic.drawn import generate_faces


@pytest.fixture(scope="module")
def tensors() -> Mapping[str, list[np.ndarray]]:
    """Activations of the shipped network for three batches of faces: input, inner tensors and output."""
    bundle = open_bundle(shipped_bundle())
    faces = prepare_batch(list(generate_faces(12)), bundle.spec)
    names = ["c1.2/Relu", "c3.5/Relu"]
    seen: dict[str, list[np.ndarray]] = {}
    for _, values in activations(bundle.model_path("fp32", "cpu"), names, np.split(faces, 3)):
        for name in names:
            seen.setdefault(name, []).append(values[name])
    return seen


def onnxruntime_range(batches: list[np.ndarray], method: str) -> tuple[float, float]:
    collector = calibrate.HistogramCollector(
        method=method,
        symmetric=True,
        num_bins=2 * BINS,
        num_quantized_bins=128,
        percentile=99.99,
        scenario="same",
    )
    collector.collect({"tensor": batches})
    result = collector.compute_collection_result()
    low, high = (result.data if hasattr(result, "data") else result)["tensor"][:2]
    return float(low), float(high)


def test_percentile_is_that_of_onnxruntime(
    tensors: Mapping[str, list[np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, batches in tensors.items():
        observer = observe(*batches)
        found = percentile_range(observer)
        _, high = onnxruntime_range(batches, "percentile")
        bins = 2 * observer.span / BINS
        assert found.high == pytest.approx(high, abs=bins), name
        everything = np.abs(np.concatenate([b.ravel() for b in batches]))
        exact = np.quantile(everything, 0.9999, method="higher")  # values are sparse in the tail
        assert found.high == pytest.approx(exact, abs=bins), name
        assert found.high < found.max
    capsys.readouterr()  # the other implementation prints


def test_minmax_keeps_what_onnxruntime_keeps(tensors: Mapping[str, list[np.ndarray]]) -> None:
    for batches in tensors.values():
        found = minmax_range(observe(*batches))
        everything = np.concatenate([b.ravel() for b in batches])
        assert (found.low, found.high) == (found.min, found.max) == (everything.min(), everything.max())


def test_mse_beats_every_other_threshold_on_the_values_themselves() -> None:
    """Error of a symmetric 8-bit tensor over a fine grid of thresholds, without a histogram."""
    rng = np.random.default_rng(4)
    values = np.append(rng.laplace(size=100_000), [25.0, -30.0]).astype(np.float32)

    def loss(threshold: float) -> float:
        step = threshold / 127
        return float(np.mean((values - np.clip(np.rint(values / step), -127, 127) * step) ** 2))

    found = mse_range(observe(*np.array_split(values, 5)))
    grid = np.linspace(0.05, 1, 400) * np.abs(values).max()
    assert loss(found.high) < 1.02 * min(map(loss, grid))
    assert loss(found.high) < 0.8 * loss(np.abs(values).max())
    assert found.low == pytest.approx(-found.high, rel=1e-6)


def reference_threshold(counts: np.ndarray, span: float, stride: int) -> float:
    """The entropy calibration of TensorRT, with plain loops over groups."""
    counts = counts.astype(np.float64).copy()
    counts[0] = counts[1]
    used = int(np.nonzero(counts)[0].max()) + 1
    best, threshold = np.inf, used
    for stop in sorted({*range(128, used, stride), used}):
        p = counts[:stop].copy()
        p[-1] += counts[stop:].sum()
        q = np.zeros(stop)
        groups = [[i for i in range(stop) if min(i * 128 // stop, 127) == g] for g in range(128)]
        for group in groups:
            filled = [i for i in group if counts[i] > 0]
            for i in filled:
                q[i] = sum(counts[j] for j in group) / len(filled)
        p, q = p / p.sum(), q / q.sum()
        divergence = sum(a * np.log(a / max(b, 1e-6 / stop)) for a, b in zip(p, q, strict=True) if a > 0)
        if divergence < best:
            best, threshold = divergence, stop
    return threshold * span / len(counts)


def test_entropy_matches_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    values = np.abs(rng.laplace(size=50_000)).astype(np.float32)
    values[:3] = 30.0
    observer = observe(values)
    # Coarser bins keep the loops of the reference short.
    observer.counts = observer.counts.reshape(-1, 8).sum(axis=1)
    monkeypatch.setattr("fer_edge.calibration.ranges.methods.BINS", len(observer.counts))
    threshold = reference_threshold(observer.counts, observer.span, 16)
    assert entropy_range(observer).high == pytest.approx(threshold, rel=1e-9)


def test_entropy_matches_the_definition_on_activations(
    tensors: Mapping[str, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = BINS // 8
    monkeypatch.setattr("fer_edge.calibration.ranges.methods.BINS", coarse)
    for name, batches in tensors.items():
        observer = observe(*batches)
        observer.counts = observer.counts.reshape(coarse, -1).sum(axis=1)
        threshold = reference_threshold(observer.counts, observer.span, 16)
        assert entropy_range(observer).high == pytest.approx(min(threshold, observer.maximum), rel=1e-9), name


def test_entropy_clips_outliers_as_onnxruntime_does(capsys: pytest.CaptureFixture[str]) -> None:
    """With a two-sided histogram and a stride of one bin the thresholds agree within 4 % of the span.

    Behind a ReLU they do not: ONNX Runtime counts the zeros, and clips at a third of the defined threshold.
    """
    values = np.append(np.random.default_rng(0).normal(size=200_000), [20.0, -25.0]).astype(np.float32)
    observer = observe(values)
    collector = calibrate.HistogramCollector(
        method="entropy",
        symmetric=True,
        num_bins=BINS + 1,
        num_quantized_bins=255,
        percentile=None,
        scenario="same",
    )
    collector.collect({"tensor": [values]})
    result = collector.compute_collection_result()
    _, high = (result.data if hasattr(result, "data") else result)["tensor"][:2]
    assert entropy_range(observer).high == pytest.approx(float(high), abs=0.04 * observer.span)
    capsys.readouterr()  # the other implementation prints


def test_entropy_clips_outliers_and_never_widens() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=200_000).astype(np.float32)
    values[0] = 60.0
    r = entropy_range(observe(values))
    assert r.max == 60.0
    assert 2.0 < r.high < 20.0
    assert r.low == pytest.approx(values.min(), abs=2.5)
    assert r.low >= values.min()


def test_few_distinct_values_are_kept_whole() -> None:
    observer = observe(np.zeros(50, np.float32))
    assert all(choose(observer).high == 0 for choose in METHODS.values())
    two = observe(np.array([0.0, 1.0, 1.0], np.float32))
    assert all(choose(two).high == 1 for choose in METHODS.values())
