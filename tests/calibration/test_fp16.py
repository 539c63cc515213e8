"""FP16 copies: against PyTorch in half precision, types of every tensor, overflow on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from fer_edge.builder import BuildOptions, build
from fer_edge.builder.faces import generated_faces
from fer_edge.bundle import open_bundle
from fer_edge.calibration.fp16 import make_half, overflowing_layers, to_half
from fer_edge.calibration.placement.graph import Graph, infer_values
from fer_edge.calibration.ranges.activations import run_model
from fer_edge.datasets import FaceDataset
from fer_edge.errors import GateError
from fer_edge.export.weights import load_weights
from fer_edge.models.catalogue import SHIPPED, shipped_bundle
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import ModelSpec

SPEC = ModelSpec(
    network="mine", input_height=8, input_width=8, color="rgb", channels=3,
    mean=(0.0,) * 3, std=(1.0,) * 3, class_names=("happy", "sad", "neutral"),
)  # fmt: skip
FACES = FaceDataset(
    "noise", np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8), None, (), True
)


def small_model(gain: float = 1.0) -> onnx.ModelProto:
    """Conv → ReLU → times ``gain`` → mean → divided by ``gain`` → Gemm."""
    rng = np.random.default_rng(1)
    arrays = {
        "w": rng.normal(size=(4, 3, 3, 3)) * 0.3, "b": rng.normal(size=4), "gain": np.array(gain),
        "back": np.array(1 / gain), "v": rng.normal(size=(3, 4)), "axes": np.array([2, 3]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["input", "w", "b"], ["conv"], "conv", pads=[1] * 4),
        helper.make_node("Relu", ["conv"], ["relu"], "relu"),
        helper.make_node("Mul", ["relu", "gain"], ["loud"], "loud"),
        helper.make_node("ReduceMean", ["loud", "axes"], ["mean"], "mean", keepdims=0),
        helper.make_node("Mul", ["mean", "back"], ["quiet"], "quiet"),
        helper.make_node("Gemm", ["quiet", "v"], ["logits"], "fc", transB=1),
    ]
    values = [
        numpy_helper.from_array(a.astype(np.int64 if n == "axes" else np.float32), n)
        for n, a in arrays.items()
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        values,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    return {value.name: value.type.tensor_type.elem_type for value in infer_values(model)}


def test_everything_is_half_but_the_head_and_the_ends() -> None:
    half = to_half(small_model(), ("head",))
    onnx.checker.check_model(half, full_check=True)
    types = types_of(half)
    assert {types[name] for name in ("input", "logits")} == {TensorProto.FLOAT}
    assert {types[name] for name in ("conv", "relu", "loud", "mean", "quiet")} == {TensorProto.FLOAT16}
    assert {t.data_type for t in half.graph.initializer} == {
        TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64,
    }  # fmt: skip
    (gemm,) = (node for node in half.graph.node if node.op_type == "Gemm")
    assert [types[name] for name in gemm.input] == [TensorProto.FLOAT] * 2


def test_layers_that_overflow_are_found_and_stay_in_fp32(tmp_path: Path) -> None:
    model = small_model(gain=1e6)
    assert overflowing_layers(model, FACES, SPEC) == {"loud", "mean"}
    assert overflowing_layers(small_model(), FACES, SPEC) == set()
    onnx.save(model, tmp_path / "m.onnx")
    report = make_half(tmp_path / "m.onnx", tmp_path / "half.onnx", SPEC, FACES)
    assert report.overflowing == ("loud", "mean")
    assert report.fidelity.logit_cosine > 0.9999
    types = types_of(onnx.load(tmp_path / "half.onnx"))
    assert types["conv"] == TensorProto.FLOAT16
    assert types["loud"] == types["mean"] == TensorProto.FLOAT


def test_a_model_that_half_precision_ruins_is_refused(tmp_path: Path) -> None:
    model = small_model()
    for tensor in model.graph.initializer:
        if tensor.name in ("w", "b"):  # below the smallest number of FP16
            values = numpy_helper.to_array(tensor) * np.float32(1e-9)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(GateError, match="mine does not work in FP16: its logits on 6 faces"):
        make_half(tmp_path / "m.onnx", tmp_path / "half.onnx", SPEC, FACES)
    assert not (tmp_path / "half.onnx").exists()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_give_the_logits_of_pytorch_in_half_precision(name: str, tmp_path: Path) -> None:
    bundle = open_bundle(shipped_bundle(name))
    faces = generated_faces(12)
    report = make_half(bundle.model_path("fp32", "cpu"), tmp_path / "half.onnx", bundle.spec, faces)
    assert report.fidelity.logit_cosine > 0.9999
    batch = prepare_batch(list(faces), bundle.spec)
    ((_, found),) = run_model(onnx.load(tmp_path / "half.onnx"), [batch])
    module = load_weights(shipped_bundle(name).with_suffix(".safetensors")).module
    with torch.inference_mode():
        exact = module(torch.from_numpy(batch))
        rounded = module.half()(torch.from_numpy(batch).half())
    exact, rounded = (np.asarray(v[0] if isinstance(v, tuple) else v, np.float64) for v in (exact, rounded))
    unit = np.abs(rounded - exact).max()  # error of PyTorch in half precision
    assert np.abs(found["logits"] - exact).max() < 2 * unit + 1e-3


def test_fp16_bundle_by_name(tmp_path: Path) -> None:
    bundle = build(BuildOptions(precision="fp16", output=tmp_path / "h.fer")).bundle
    assert bundle.manifest.precision == "fp16"
    half, full = (bundle.model_path(p, "cpu") for p in ("fp16", "fp32"))
    assert half.stat().st_size < 0.55 * full.stat().st_size
    assert bundle.manifest.metrics["fp16"]["float_rules"] == ("head", "geometry")
    assert "SelfAttention" in {n.op_type for n in Graph(onnx.load(half)).nodes}
