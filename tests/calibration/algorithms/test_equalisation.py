"""Cross-layer equalisation keeps the function and narrows the spread of channel ranges; pairs are found correctly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import Builder, constants_of, copy_of, random_faces, run, tapped

from fer_edge.calibration.algorithms.equalisation import channel_maxima, equalise, find_pairs
from fer_edge.calibration.placement.placement import DEFAULT_PLACEMENT, Placement, place

FACES = random_faces(6)


def finish(b: Builder, source: str, channels: int, *more: str) -> onnx.ModelProto:
    flat = b.add("Flatten", [b.add("GlobalAveragePool", [source], "mean")], "flat")
    b.gemm(flat, "logits", channels, 5)
    return b.model("logits", *more, **{name: ["n", channels, None, None] for name in more})


def pairs_of(model: onnx.ModelProto, placement: Placement = DEFAULT_PLACEMENT) -> set[tuple[str, str]]:
    return {(pair.front.name, pair.back.name) for pair in find_pairs(place(model, placement))}


def chain() -> onnx.ModelProto:
    """Convolutions with a max-pool, a leaky ReLU or nothing in between; spread and dead channels."""
    b = Builder()
    b.conv("input", "conv1", 3, 8, 3)
    b.add(
        "MaxPool",
        [b.add("Relu", ["conv1"], "relu1")],
        "pool",
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1] * 4,
    )
    b.add("LeakyRelu", [b.conv("pool", "conv2", 8, 8, 3)], "leaky", alpha=0.2)
    weights = [b.weight("up.w", 8, 6, 2, 2), b.weight("up.b", 6)]
    b.add("Conv", ["leaky", b.weight("conv3.w", 8, 8, 1, 1)], "conv3")
    b.add("Relu", [b.add("ConvTranspose", ["conv3", *weights], "up", strides=[2, 2])], "relu4")
    b.add("Relu", [b.conv("relu4", "conv5", 6, 8, 3)], "relu5")
    for tensor in b.constants:
        if tensor.name in ("conv1.w", "conv1.b", "conv2.w", "conv2.b", "conv3.w"):
            values = constants_of_tensor(tensor) * np.geomspace(0.02, 5, 8).reshape(
                -1, *[1] * (len(tensor.dims) - 1)
            )
            if tensor.name.startswith("conv1"):
                values[3] = 0 if tensor.name.endswith("w") else -1  # never active behind the ReLU
            if tensor.name == "conv2.w":
                values[:, 5] = 0  # channel 5 has no consumer
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return finish(b, "relu5", 8)


def constants_of_tensor(tensor: onnx.TensorProto) -> np.ndarray:
    return onnx.numpy_helper.to_array(tensor)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return chain()


@pytest.fixture(scope="module")
def equalised(model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(model, path)
    pairs = find_pairs(place(model))
    assert len(pairs) == 3
    maxima = channel_maxima(path, [pair.tensor for pair in pairs], [FACES[:4], FACES[4:]])
    copy = copy_of(model)
    equalise(copy, pairs, maxima)
    return copy


def test_pairs_are_found_through_what_a_positive_scale_passes(model: onnx.ModelProto) -> None:
    assert pairs_of(model) == {("conv1", "conv2"), ("conv2", "conv3"), ("up", "conv5")}
    kept = Placement(float_layers=frozenset({"conv3", "conv1"}))
    assert pairs_of(model, kept) == {
        ("conv1", "conv2"),
        ("up", "conv5"),
    }  # the first layer may be in floating point


def test_maxima_are_those_of_each_channel(model: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "model.onnx")
    found = channel_maxima(tmp_path / "model.onnx", ["leaky", "input", "leaky"], [FACES[:1], FACES[1:]])
    values = run(tapped(model, "leaky"), FACES)["leaky"]
    assert found.keys() == {"leaky", "input"}
    np.testing.assert_allclose(found["leaky"], [np.abs(values[:, c]).max() for c in range(8)], rtol=1e-6)
    np.testing.assert_array_equal(found["input"], [FACES[:, c].max() for c in range(3)])


def test_the_function_is_the_same_within_rounding(model: onnx.ModelProto, equalised: onnx.ModelProto) -> None:
    onnx.checker.check_model(equalised, full_check=True)
    assert constants_of(equalised).keys() == constants_of(model).keys()
    for name in ("relu5", "logits"):
        expected, found = (run(tapped(m, name), FACES)[name] for m in (model, equalised))
        assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max(), name
    changed = {n for n, v in constants_of(model).items() if not np.array_equal(v, constants_of(equalised)[n])}
    assert changed == {"conv1.w", "conv1.b", "conv2.w", "conv2.b", "conv3.w", "up.w", "up.b", "conv5.w"}


@pytest.mark.parametrize("tensor", ["pool", "leaky"])
def test_channels_of_the_tensor_between_come_together(
    model: onnx.ModelProto, equalised: onnx.ModelProto, tensor: str
) -> None:
    def spread(m: onnx.ModelProto) -> float:
        largest = np.abs(run(tapped(m, tensor), FACES)[tensor]).max(axis=(0, 2, 3))
        return float(largest.max() / largest[largest > 1e-9].min())

    assert spread(equalised) < 0.5 * spread(model)


def test_a_channel_is_scaled_by_its_range_and_by_its_share_of_the_weights_that_read_it(
    model: onnx.ModelProto, equalised: onnx.ModelProto
) -> None:
    """Xiao et al., Eq. 4 with α = 0.75, except for the common factor; dead and unread channels are unchanged."""
    before, after = constants_of(model), constants_of(equalised)
    activation = run(tapped(model, "pool"), FACES)["pool"].max(axis=(0, 2, 3))
    weight = np.abs(before["conv2.w"])
    reading = (weight / weight.max(axis=(1, 2, 3), keepdims=True)).max(axis=(0, 2, 3))
    live = [0, 1, 2, 4, 6, 7]
    assert (activation[3], reading[5]) == (0, 0)
    np.testing.assert_array_equal(after["conv1.w"][[3, 5]], before["conv1.w"][[3, 5]])
    np.testing.assert_array_equal(after["conv1.b"][[3, 5]], before["conv1.b"][[3, 5]])
    factors = before["conv1.b"][live] / after["conv1.b"][live]
    expected = activation[live] ** 0.75 / reading[live] ** 0.25
    within = (factors > 1 / 15.9) & (factors < 15.9)
    ratio = factors[within] / expected[within]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    assert within.sum() >= 3
    assert ((factors > 1 / 16.01) & (factors < 16.01)).all()
    columns = after["conv2.w"][0, live, 1, 1] / before["conv2.w"][0, live, 1, 1]
    scales = columns / columns[0]
    np.testing.assert_allclose(scales, factors / factors[0], rtol=1e-4)


def norms() -> onnx.ModelProto:
    """As in EmotionalDAN: convolution → ReLU → norm → max-pool → convolution, with a scale of either sign."""
    b = Builder()
    b.add("Relu", [b.conv("input", "conv1", 3, 8, 3)], "relu1")
    spread = np.geomspace(0.05, 4, 8)
    parameters = {
        "scale": spread * np.array([1, -1] * 4),
        "shift": spread[::-1] - 1,
        "mean": spread / 2,
        "var": spread,
    }
    names = [b.constant(f"norm.{name}", values.astype(np.float32)) for name, values in parameters.items()]
    b.add("BatchNormalization", ["relu1", *names], "norm")
    b.add("MaxPool", ["norm"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    b.add("Relu", [b.conv("pool", "conv2", 8, 8, 3)], "relu2")
    return finish(b, "relu2", 8)


def test_a_norm_is_a_layer_on_either_side(tmp_path: Path) -> None:
    model = norms()
    onnx.save(model, tmp_path / "model.onnx")
    pairs = find_pairs(place(model))
    assert {(pair.front.name, pair.back.name, pair.tensor) for pair in pairs} == {
        ("conv1", "norm", "relu1"),
        ("norm", "conv2", "pool"),
    }
    equal = copy_of(model)
    maxima = channel_maxima(tmp_path / "model.onnx", ["relu1", "pool"], [FACES])
    equalise(equal, pairs, maxima)
    expected, found = (run(tapped(m, "relu2"), FACES) for m in (model, equal))
    for name, values in expected.items():
        assert np.abs(found[name] - values).max() < 5e-6 * np.abs(values).max(), name
    # In front of a norm α is 1: all live channels get the same range, within the bound.
    largest = run(tapped(equal, "relu1"), FACES)["relu1"].max(axis=(0, 2, 3))
    factors = constants_of(equal)["norm.scale"] / constants_of(model)["norm.scale"]
    free = (largest > 0) & (factors > 1 / 15.9) & (factors < 15.9)
    assert free.sum() >= 4
    np.testing.assert_allclose(largest[free], largest[free][0], rtol=1e-5)
    before, after = (
        np.abs(run(tapped(m, "norm"), FACES)["norm"]).max(axis=(0, 2, 3)) for m in (model, equal)
    )
    assert after.max() / after.min() < 0.5 * before.max() / before.min()


def test_a_norm_behind_a_layer_in_floating_point_is_left_alone() -> None:
    kept = Placement(DEFAULT_PLACEMENT.rules, frozenset({"conv1"}))
    assert pairs_of(norms(), kept) == {("norm", "conv2")}


def read_twice(b: Builder) -> onnx.ModelProto:
    b.add("Relu", [b.conv("input", "a", 3, 8)], "relu")
    b.add(
        "Relu",
        [b.add("Concat", [b.conv("relu", "b", 8, 4), b.conv("relu", "c", 8, 4)], "cat", axis=1)],
        "last",
    )
    return finish(b, "last", 8)


def read_twice_before_the_activation(b: Builder) -> onnx.ModelProto:
    b.add("Relu", [b.conv("input", "a", 3, 8)], "relu")
    b.add("Mul", [b.add("Sigmoid", ["a"], "gate"), b.conv("relu", "b", 8, 8)], "last")
    return finish(b, "last", 8)


def graph_output(b: Builder) -> onnx.ModelProto:
    b.add("Relu", [b.conv("input", "a", 3, 8)], "relu")
    return finish(b, b.conv("relu", "b", 8, 8), 8, "relu")


def residual(b: Builder) -> onnx.ModelProto:
    b.add("Add", [b.conv("input", "a", 3, 8), b.conv("input", "s", 3, 8)], "sum")
    return finish(b, b.conv(b.add("Relu", ["sum"], "relu"), "b", 8, 8), 8)


def not_homogeneous(b: Builder) -> onnx.ModelProto:
    b.add("Tanh", [b.conv("input", "a", 3, 8)], "tanh")
    b.silu(b.conv("tanh", "b", 8, 8), "silu")
    return finish(b, b.conv("silu", "c", 8, 8), 8)


def clipped(b: Builder) -> onnx.ModelProto:
    limits = [b.constant("low", np.float32(0)), b.constant("high", np.float32(6))]
    b.add("Clip", [b.conv("input", "a", 3, 8), *limits], "relu6")
    return finish(b, b.conv("relu6", "b", 8, 8), 8)


def grouped_behind(b: Builder) -> onnx.ModelProto:
    b.add("Relu", [b.conv("input", "a", 3, 8)], "relu")
    return finish(b, b.add("Conv", ["relu", b.weight("w", 8, 4, 1, 1)], "b", group=2), 8)


def grouped_in_front(b: Builder) -> onnx.ModelProto:
    b.add("Relu", [b.add("Conv", ["input", b.weight("w", 9, 1, 1, 1)], "a", group=3)], "relu")
    return finish(b, b.conv("relu", "b", 9, 8), 8)


def dense_behind(b: Builder) -> onnx.ModelProto:
    b.add("Relu", [b.conv("input", "a", 3, 8)], "relu")
    flat = b.add("Flatten", [b.add("GlobalAveragePool", ["relu"], "pooled")], "flattened")
    hidden = b.add("Relu", [b.gemm(flat, "hidden", 8, 8)], "hidden.relu")
    b.gemm(hidden, "logits", 8, 5)
    return b.model("logits")


def bias_of_two_layers(b: Builder) -> onnx.ModelProto:
    bias = b.weight("bias", 8)
    b.add("Relu", [b.add("Conv", ["input", b.weight("a.w", 8, 3, 1, 1), bias], "a")], "relu")
    return finish(b, b.add("Conv", ["relu", b.weight("b.w", 8, 8, 1, 1), bias], "b"), 8)


def weight_of_two_layers(b: Builder) -> onnx.ModelProto:
    weight = b.weight("tied", 8, 8, 1, 1)
    b.add("Relu", [b.add("Conv", [b.conv("input", "a", 3, 8), weight], "b")], "relu")
    return finish(b, b.add("Conv", ["relu", weight], "c"), 8)


@pytest.mark.parametrize(
    "build",
    [
        read_twice,
        read_twice_before_the_activation,
        graph_output,
        residual,
        not_homogeneous,
        clipped,
        grouped_behind,
        grouped_in_front,
        dense_behind,
        bias_of_two_layers,
        weight_of_two_layers,
    ],
)
def test_no_pair_where_a_scale_would_change_the_function(build) -> None:
    assert pairs_of(build(Builder())) == set()
