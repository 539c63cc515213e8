"""The peak is measured in both precisions; the comparison with NNCF runs from end to end."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from places import ROOT

from fer_edge.synthetic.drawn import generate_faces

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peak")


def test_peaks_of_both_precisions_are_measured(peak: ModuleType) -> None:
    peaks = peak.measure_peaks(size=64, runs=2, threads=1)
    assert {"int8", "fp32"} == set(peak.best_peaks(peaks))
    assert all(0 < p.p50_gops <= p.best_gops and p.n == 2 for p in peaks)
    for precision, best in peak.best_peaks(peaks).items():
        assert best.best_gops == max(p.best_gops for p in peaks if p.precision == precision)


def test_the_ratio_of_two_models_is_over_openings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    accuracy = importlib.import_module("accuracy")
    ours, theirs = ("ours", "openvino"), ("theirs", "openvino")
    openings = [{ours: [1.0, 2.0, 90.0], theirs: [4.0, 4.0, 4.0]}, {ours: [8.0], theirs: [4.0]}]
    assert accuracy._time_against(openings, ours, theirs) == {
        "ratio": pytest.approx(1),  # a half, and twice
        "standard_error": pytest.approx(np.log(2)),
        "openings": 2,
    }
    alone = accuracy._time_against(openings[:1], ours, theirs)
    assert (alone["ratio"], alone["standard_error"]) == (pytest.approx(0.5), None)  # NaN is no JSON


@pytest.mark.slow
def test_a_tiny_comparison(tmp_path: Path) -> None:
    if importlib.util.find_spec("nncf") is None:
        pytest.skip("needs NNCF: pip install nncf")
    csv, report = tmp_path / "fer2013.csv", tmp_path / "report.json"
    faces = [cv2.resize(face.mean(axis=2).astype(np.uint8), (48, 48)) for face in generate_faces(12)]
    rows = [
        f"{i % 7},{' '.join(map(str, face.ravel()))},{'Training' if i < 8 else 'PublicTest'}"
        for i, face in enumerate(faces)
    ]
    csv.write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    arguments = ["--model", "visual-attention", "--calibration-images", "4", "--batch", "1", "--runs", "2"]
    arguments += ["--openings", "2", "--peak-size", "64", "--peak-runs", "1", "--threads", "1"]
    arguments += ["--json", str(report)]
    command = [sys.executable, str(BENCHMARKS / "accuracy.py"), str(csv), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    content = json.loads(report.read_text())
    assert content["record"]["cores"] >= 1
    (result,) = content["models"]
    rows_by_model = {(row["model"], row["backend"]): row for row in result["rows"]}
    assert list(rows_by_model) == [
        ("FP32", "onnxruntime"), ("FP32", "openvino"),
        ("FER-Edge INT8", "onnxruntime"), ("FER-Edge INT8", "openvino"), ("NNCF INT8", "openvino"),
    ]  # fmt: skip
    assert result["faces"].endswith("4 faces")
    reference = rows_by_model["FP32", "onnxruntime"]
    assert (reference["agreement"], round(reference["logit_cosine"], 5)) == (1, 1)
    assert rows_by_model["FP32", "openvino"]["latency"][0]["speed_against_baseline"] == pytest.approx(
        1, rel=0.01
    )
    for (model, _), row in rows_by_model.items():
        assert (row["bytes"] < reference["bytes"] / 2) is ("INT8" in model)
        assert (row["logit_cosine"] < 1 - 1e-7) is ("INT8" in model)  # integers leave a trace
        (timed,) = row["latency"]
        assert timed["n"] == 2 * 2
        best = max(
            p["best_gops"]
            for p in result["peaks"]
            if p["precision"] == ("int8" if "INT8" in model else "fp32")
        )
        rate = 2 * result["multiply_adds"] / (timed["p50_ms"] * 1e6)
        assert timed["share_of_peak"] == pytest.approx(rate / best, rel=0.01)
    (ratio,) = result["time_against_nncf"]
    assert (ratio["nncf"], ratio["batch"], ratio["openings"]) == ("NNCF INT8", 1, 2)
    assert ratio["ratio"] > 0
    assert ratio["standard_error"] >= 0
    bad = subprocess.run(
        [*command[:3], "--model", "no-such"], capture_output=True, text=True, timeout=300, check=False
    )
    assert bad.returncode == 1
    assert "unknown model 'no-such'" in bad.stderr
    assert "Traceback" not in bad.stderr
