"""Layers that stay in floating point, on graphs shaped like the networks; and operators that ONNX Runtime fuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from small_graphs import Builder, random_faces, run

from fer_edge.calibration.placement.graph import Graph
from fer_edge.calibration.placement.placement import place
from fer_edge.calibration.placement.rules import FLOAT_RULES
from fer_edge.calibration.qdq.dialects import DIALECTS
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.collect import observe
from fer_edge.errors import CalibrationError

FACES = random_faces(4)


def integer_nodes(model: onnx.ModelProto) -> set[str]:
    return {node.name for node in place(model).integer_nodes}


def check_dialects(model: onnx.ModelProto, folder: Path, tolerance: float = 0.05) -> None:
    """Assert that both dialects are valid and nearly equal FP32 in ONNX Runtime."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    ranges = observe(path, [FACES], {}).ranges("minmax")
    for dialect in DIALECTS:
        quantised = quantise(model, ranges, dialect)
        onnx.checker.check_model(quantised, full_check=True)
        found = run(quantised, FACES)
        for name, expected in run(model, FACES).items():
            assert np.abs(found[name] - expected).max() <= tolerance * np.abs(expected).max(), dialect


def test_nodes_of_one_name_are_refused() -> None:
    b = Builder()
    b.gemm(b.add("Flatten", [b.conv("input", "first", 3, 1)], "flat"), "logits", 256, 5)
    model = b.model("logits")
    model.graph.node[1].name = "first"
    with pytest.raises(CalibrationError, match="found 2 nodes named 'first'"):
        place(model)


def test_a_classifying_convolution_is_a_head(tmp_path: Path) -> None:
    b = Builder()
    b.add("Relu", [b.conv("input", "stem", 3, 8, 3)], "relu")
    b.conv(b.add("GlobalAveragePool", ["relu"], "mean"), "classifier", 8, 5)
    b.add("Flatten", ["classifier"], "logits")
    model = b.model("logits")
    assert integer_nodes(model) == {"stem"}
    check_dialects(model, tmp_path)


def test_the_heads_of_an_ensemble_stay_in_floating_point(tmp_path: Path) -> None:
    b = Builder()
    axis = b.constant("axis", np.array([0]))
    logs = []
    for member in "ab":
        b.add("Relu", [b.conv("input", f"{member}.stem", 3, 8, 3)], f"{member}.relu")
        flat = b.add(
            "Flatten", [b.add("GlobalAveragePool", [f"{member}.relu"], f"{member}.mean")], f"{member}.flat"
        )
        hidden = b.add("Relu", [b.gemm(flat, f"{member}.hidden", 8, 6)], f"{member}.hidden.relu")
        log = b.add("LogSoftmax", [b.gemm(hidden, f"{member}.fc", 6, 5)], f"{member}.log", axis=1)
        logs.append(b.add("Unsqueeze", [log, axis], f"{member}.row"))
    b.add("Concat", logs, "rows", axis=0)
    b.add("ReduceLogSumExp", ["rows", axis], "logits", keepdims=0)
    model = b.model("logits")
    assert integer_nodes(model) == {"a.stem", "a.hidden", "b.stem", "b.hidden"}
    assert not {"rows", "a.log", "a.row"} & set(place(model).groups)
    check_dialects(model, tmp_path)


def test_offsets_behind_geometry_are_heads_and_the_layers_before_are_not(tmp_path: Path) -> None:
    """EmotionalDAN: landmarks are a product of two stages' offsets; a later stage reads both."""
    b = Builder()
    b.add("Relu", [b.conv("input", "conv1", 3, 4, 3)], "relu1")
    flat = b.add("Flatten", [b.add("GlobalAveragePool", ["relu1"], "mean1")], "flat1")
    hidden = b.add("Relu", [b.gemm(flat, "fc1", 4, 6)], "hidden1")
    b.gemm(hidden, "offsets1", 6, 4)
    b.add("Add", ["offsets1", b.constant("shape", np.ones(4, np.float32))], "points1")
    second = b.add("Relu", [b.gemm("points1", "stage2", 4, 6)], "hidden2")
    b.gemm(second, "offsets2", 6, 4)
    b.add(
        "Add",
        [b.add("Mul", ["points1", "points1"], "square"), b.add("Neg", ["offsets2"], "moved")],
        "landmarks",
    )
    b.gemm(second, "logits", 6, 5)
    model = b.model("logits", "landmarks")
    assert integer_nodes(model) == {"conv1", "fc1", "stage2"}
    check_dialects(model, tmp_path)


def test_what_makes_and_reads_the_picture_of_the_next_stage_stays_in_floating_point(tmp_path: Path) -> None:
    """EmotionalDAN: one convolution reads the warped face and an image made by a dense layer."""
    b = Builder()
    b.add("Relu", [b.conv("input", "conv1", 3, 4, 3)], "relu1")
    flat = b.add("Flatten", [b.add("GlobalAveragePool", ["relu1"], "mean1")], "flat1")
    hidden = b.add("Relu", [b.gemm(flat, "fc1", 4, 6)], "hidden1")
    image = b.add("Relu", [b.gemm(hidden, "feature", 6, 64)], "image")
    square = b.add("Reshape", [image, b.constant("square", np.array([-1, 1, 8, 8]))], "square_image")
    grid = b.add(
        "Reshape", [b.gemm(hidden, "points", 6, 128), b.constant("grid", np.array([-1, 8, 8, 2]))], "places"
    )
    moved = b.add("GridSample", ["input", b.add("Tanh", [grid], "bounded")], "moved")
    b.add("Concat", [moved, square], "picture", axis=1)
    second = b.add("Relu", [b.conv("picture", "stage2.conv1", 4, 8, 3)], "relu2")
    third = b.add("Relu", [b.conv(second, "stage2.conv2", 8, 8, 3)], "relu3")
    b.gemm(b.add("Flatten", [b.add("GlobalAveragePool", [third], "mean2")], "flat2"), "logits", 8, 5)
    model = b.model("logits")
    assert integer_nodes(model) == {"conv1", "fc1", "stage2.conv2"}
    found = {node.name for node in FLOAT_RULES["stage input"].find(Graph(model))}
    assert found == {"feature", "points", "stage2.conv1"}
    check_dialects(model, tmp_path)


def test_gates_stay_in_floating_point_and_silu_is_no_gate(tmp_path: Path) -> None:
    """CBAM's channel gate shares one perceptron; squeeze and excitation has a SiLU inside; then a spatial gate."""
    b = Builder()
    axes, channels = b.constant("axes", np.array([2, 3])), b.constant("channels", np.array([1]))
    b.silu(b.conv("input", "stem", 3, 8, 3), "x")
    sides = []
    for kind in ("ReduceMean", "ReduceMax"):
        pooled = b.add(kind, ["x", axes], kind, keepdims=0)
        sides.append(
            b.gemm(b.add("Relu", [b.gemm(pooled, f"{kind}.1", 8, 4)], f"{kind}.r"), f"{kind}.2", 4, 8)
        )
    weights = b.add("Sigmoid", [b.add("Add", sides, "both")], "weights")
    b.add("Mul", ["x", b.add("Unsqueeze", [weights, axes], "wide")], "gated")
    inner = b.silu(b.conv(b.add("ReduceMean", ["gated", axes], "squeezed", keepdims=1), "se1", 8, 2), "inner")
    b.add("Mul", ["gated", b.add("Sigmoid", [b.conv(inner, "se2", 2, 8)], "excited")], "scaled")
    pair = [
        b.add(kind, ["scaled", channels], f"plane.{kind}", keepdims=1) for kind in ("ReduceMax", "ReduceMean")
    ]
    b.add("Sigmoid", [b.conv(b.add("Concat", pair, "pair", axis=1), "spatial", 2, 1, 7)], "place")
    b.add("Mul", ["scaled", "place"], "placed")
    b.add("Add", [b.conv("placed", "last", 8, 8), "x"], "residual")
    flat = b.add("Flatten", [b.add("GlobalAveragePool", ["residual"], "mean")], "flat")
    b.gemm(flat, "logits", 8, 5)
    model = b.model("logits")
    assert integer_nodes(model) == {"stem", "last", "residual"}
    check_dialects(model, tmp_path)


def test_attention_scores_stay_in_floating_point_and_what_they_weigh_does_not(tmp_path: Path) -> None:
    """Sun et al.: the weighted features are an output, and the convolution that makes them is still integer."""
    b = Builder()
    b.add("Relu", [b.conv("input", "features", 3, 8, 3)], "relu")
    hidden = b.add("Tanh", [b.conv("relu", "score1", 8, 6)], "tanh1")
    b.add("Tanh", [b.conv(hidden, "score2", 6, 1)], "tanh2")
    flat = b.add("Reshape", ["tanh2", b.constant("flat", np.array([-1, 256]))], "scores")
    soft = b.add("Softmax", [flat], "soft", axis=1)
    b.add("Reshape", [soft, b.constant("square", np.array([-1, 1, 16, 16]))], "map")
    b.add("Mul", ["relu", "map"], "weighted")
    b.add("ReduceSum", ["weighted", b.constant("axes", np.array([2, 3]))], "embedding", keepdims=0)
    b.gemm("embedding", "logits", 8, 5)
    model = b.model("logits", "embedding")
    assert integer_nodes(model) == {"features"}
    check_dialects(model, tmp_path)


@pytest.mark.parametrize(("mode", "integer"), [("nearest", True), ("linear", False)])
def test_resize_passes_integers_where_onnx_runtime_has_a_kernel(
    mode: str, integer: bool, tmp_path: Path
) -> None:
    b = Builder()
    b.add("Relu", [b.conv("input", "conv1", 3, 8, 3)], "relu1")
    scales = b.constant("scales", np.array([1, 1, 2, 2], np.float32))
    coordinates = "asymmetric" if integer else "half_pixel"
    b.add(
        "Resize", ["relu1", "", scales], "large",
        mode=mode, coordinate_transformation_mode=coordinates, nearest_mode="floor",
    )  # fmt: skip
    b.add("Relu", [b.conv("large", "conv2", 8, 8, 3)], "relu2")
    b.gemm(b.add("Flatten", [b.add("GlobalAveragePool", ["relu2"], "mean")], "flat"), "logits", 8, 5)
    model = b.model("logits")
    groups = place(model).groups
    assert (groups["large"] == groups["relu1"]) is integer
    check_dialects(model, tmp_path)
    operators = optimised_operators(model, tmp_path)
    assert operators["QLinearConv"] == 2
    assert operators["QuantizeLinear"] == (1 if integer else 2)


def test_leaky_relu_runs_in_integers_beside_its_convolution(tmp_path: Path) -> None:
    b = Builder()
    b.add("LeakyRelu", [b.conv("input", "conv1", 3, 8, 3)], "leaky", alpha=0.2)
    b.add("Relu", [b.conv("leaky", "conv2", 8, 8, 3)], "relu")
    b.gemm(b.add("Flatten", [b.add("GlobalAveragePool", ["relu"], "mean")], "flat"), "logits", 8, 5)
    model = b.model("logits")
    check_dialects(model, tmp_path)
    operators = optimised_operators(model, tmp_path)
    assert (operators["QLinearConv"], operators["QLinearLeakyRelu"], operators["Conv"]) == (2, 1, 0)


def test_normalisation_between_relu_and_pool_is_computed_in_floating_point(tmp_path: Path) -> None:
    b = Builder()
    b.add("Relu", [b.conv("input", "conv1", 3, 8, 3)], "relu1")
    numbers = [
        b.constant(n, np.linspace(0.5, 1.5, 8).astype(np.float32)) for n in ("gamma", "beta", "mu", "var")
    ]
    b.add("BatchNormalization", ["relu1", *numbers], "norm")
    b.add("MaxPool", ["norm"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    b.add("Relu", [b.conv("pool", "conv2", 8, 8, 3)], "relu2")
    b.gemm(b.add("Flatten", [b.add("GlobalAveragePool", ["relu2"], "mean")], "flat"), "logits", 8, 5)
    model = b.model("logits")
    assert integer_nodes(model) == {"conv1", "conv2"}
    check_dialects(model, tmp_path)


def optimised_operators(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Return the operators into which ONNX Runtime fuses the cpu dialect."""
    onnx.save(model, folder / "model.onnx")
    quantised = quantise(model, observe(folder / "model.onnx", [FACES], {}).ranges("minmax"), "cpu")
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(folder / "optimised.onnx")
    settings.log_severity_level = 3
    onnxruntime.InferenceSession(quantised.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)
