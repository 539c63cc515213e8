"""The comparison with NNCF runs from end to end; multiply-adds are those that PyTorch counts."""

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
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fer_edge.errors import UsageError
from fer_edge.synthetic_faces import generate_faces

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SHAPES = {
    "w": (6, 2, 3, 3), "up": (6, 4, 2, 2), "dense": (5, 4 * 8 * 12), "square": (5, 5),
}  # fmt: skip


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peak")


def small_network(reshape: tuple[int, int] = (-1, 4 * 8 * 12)) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["a", "up"], ["b"], strides=[2, 2]),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        helper.make_node("Gemm", ["c", "dense"], ["d"], transB=1),
        helper.make_node("MatMul", ["d", "square"], ["logits"]),
    ]
    constants = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in SHAPES.items()]
    constants.append(numpy_helper.from_array(np.array(reshape, np.int64), "shape"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("input", onnx.TensorProto.FLOAT, ("batch", 4, 8, 12))],
        [value("logits", onnx.TensorProto.FLOAT, ("batch", 5))],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_multiply_adds_are_those_that_pytorch_counts(peak: ModuleType) -> None:
    w, up, dense, square = (torch.ones(shape) for shape in SHAPES.values())
    with FlopCounterMode(display=False) as counter:
        x = functional.conv2d(torch.ones(1, 4, 8, 12), w, stride=2, padding=1, groups=2)
        x = functional.conv_transpose2d(x, up, stride=2)
        functional.linear(x.flatten(1), dense) @ square
    assert 2 * peak.multiply_adds(small_network(), (4, 8, 12)) == counter.get_total_flops()


def test_an_unknown_shape_is_an_error_and_not_a_zero(peak: ModuleType) -> None:
    model = small_network()
    del model.graph.initializer[-1]
    model.graph.input.append(helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, (2,)))
    with pytest.raises(UsageError, match="the shape of d does not follow"):
        peak.multiply_adds(model, (4, 8, 12))


def test_peaks_of_both_precisions_are_measured(peak: ModuleType) -> None:
    peaks = peak.measure_peaks(size=64, runs=2, threads=1)
    assert {"int8", "fp32"} == set(peak.best_peaks(peaks))
    assert all(0 < p.p50_gops <= p.best_gops and p.n == 2 for p in peaks)
    for precision, best in peak.best_peaks(peaks).items():
        assert best.best_gops == max(p.best_gops for p in peaks if p.precision == precision)


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
    arguments += ["--peak-size", "64", "--peak-runs", "1", "--threads", "1", "--json", str(report)]
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
        best = max(
            p["best_gops"]
            for p in result["peaks"]
            if p["precision"] == ("int8" if "INT8" in model else "fp32")
        )
        rate = 2 * result["multiply_adds"] / (timed["p50_ms"] * 1e6)
        assert timed["share_of_peak"] == pytest.approx(rate / best, rel=0.01)
    bad = subprocess.run(
        [*command[:3], "--model", "no-such"], capture_output=True, text=True, timeout=300, check=False
    )
    assert bad.returncode == 1
    assert "unknown model 'no-such'" in bad.stderr
    assert "Traceback" not in bad.stderr
