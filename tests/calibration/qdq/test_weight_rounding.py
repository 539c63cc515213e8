"""Rounding of weights against a loop over channels, and bias corrections against PyTorch's layers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from small_graphs import Builder, constants_of, random_faces, run
from torch.nn import functional

from fer_edge.calibration.qdq.weights import (
    MIN_SCALE,
    output_axis,
    per_channel,
    round_weight,
    shift_biases,
)
from fer_edge.errors import CalibrationError

RNG = np.random.default_rng(3)
AXES = [
    ("Conv", {}, (5, 4, 3, 3), 0),
    ("ConvTranspose", {}, (4, 5, 2, 2), 1),
    ("Gemm", {"transB": 1}, (5, 7), 0),
    ("Gemm", {"transB": 0}, (7, 5), 1),
    ("Gemm", {}, (7, 5), 1),
]


@pytest.mark.parametrize(("op", "attributes", "shape", "axis"), AXES)
def test_rounding_is_that_of_a_loop_over_output_channels(
    op: str, attributes: dict[str, int], shape: tuple[int, ...], axis: int
) -> None:
    weight = (RNG.normal(size=shape) * RNG.uniform(0.01, 10, size=shape)).astype(np.float32)
    assert output_axis(helper.make_node(op, ["x", "w"], ["y"], **attributes)) == axis
    integers, scale = round_weight(weight, axis)
    assert (integers.dtype, scale.dtype, integers.shape, scale.shape) == (np.int8, np.float32, shape, (5,))
    for channel in range(5):
        values = np.take(weight, channel, axis).astype(np.float64).ravel()
        step = float(np.float32(max(values.max(), -values.min()) / 127))
        assert scale[channel] == step
        expected = [int(np.floor(abs(v) / step + 0.5)) * (1 if v > 0 else -1) for v in values]
        found = np.take(integers, channel, axis).ravel()
        assert found.tolist() == expected
        assert np.abs(found.astype(int)).max() == 127


def test_halves_round_to_even_and_minus_128_is_never_used() -> None:
    weight = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5], [-127.0, 126.6, 0, 0, 0, 0]], np.float32)
    integers, scale = round_weight(weight, 0)
    assert scale.tolist() == [1, 1]
    assert integers.tolist() == [[127, 0, 2, 2, 0, -2], [-127, 127, 0, 0, 0, 0]]
    thirds = np.float32(-1 / 3) * np.arange(1, 400, dtype=np.float32)[:, None]  # scales that float32 rounds
    assert (round_weight(thirds, 0)[0] == -127).all()


def test_a_channel_of_zeros_has_a_scale_that_divides() -> None:
    integers, scale = round_weight(np.zeros((2, 3), np.float32), 0)
    assert not integers.any()
    assert scale.tolist() == [np.float32(MIN_SCALE)] * 2


@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1e-9, 1e-3])
@pytest.mark.parametrize("input_scale", [1e-12, 1e-4, 3.0])
def test_a_large_bias_on_tiny_weights_fits_int32(magnitude: float, input_scale: float) -> None:
    weight = np.full((1, 9), magnitude, np.float32)
    bias = np.array([-5.0])
    _, scale = round_weight(weight, 0, bias, input_scale)
    steps = bias / (scale * np.float32(input_scale)).astype(np.float64)
    assert abs(steps[0]) <= 2**30 * (1 + 1e-6)
    alone = round_weight(weight, 0)[1]
    assert scale[0] >= alone[0]
    if 5.0 / (alone[0] * input_scale) < 2**30:
        assert scale[0] == alone[0]


def test_values_broadcast_along_one_axis() -> None:
    assert per_channel(np.arange(3), 4, 1).shape == (1, 3, 1, 1)
    assert per_channel(np.arange(3), 2, 0).shape == (3, 1)


def layers() -> onnx.ModelProto:
    """A convolution without a bias, and two dense layers with a shared bias."""
    b = Builder()
    b.add("Conv", ["input", b.weight("w", 4, 3, 3, 3)], "conv", kernel_shape=[3, 3])
    flat = b.add("Flatten", [b.add("GlobalAveragePool", ["conv"], "mean")], "flat")
    bias = b.weight("shared", 4)
    b.add("Gemm", [flat, b.weight("g1", 4, 4), bias], "dense", transB=1)
    b.add("Gemm", ["dense", b.weight("g2", 4, 4), bias], "logits")
    return b.model("logits")


def test_a_shift_reaches_its_own_layer_alone() -> None:
    model = layers()
    shifts = {"conv": [1.0, -2.0, 3.0, 0.25], "dense": [0.5, 0.0, -0.5, 9.0]}
    before = constants_of(model)
    x = random_faces(4)
    values = {name: torch.tensor(value) for name, value in before.items()}
    conv = functional.conv2d(torch.from_numpy(x), values["w"], torch.tensor(shifts["conv"]))
    dense = functional.linear(
        conv.mean((2, 3)), values["g1"], values["shared"] + torch.tensor(shifts["dense"])
    )
    expected = dense @ values["g2"] + values["shared"]
    shift_biases(model, shifts)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model, x)["logits"], expected, rtol=0, atol=1e-5)


def test_grouped_transposed_convolutions_count_the_channels_of_all_groups() -> None:
    b = Builder()
    b.add("ConvTranspose", ["input", b.weight("w", 3, 2, 2, 2)], "up", group=3, strides=[2, 2])
    model = b.model("up", up=["n", 6, 32, 32])
    before = run(model, random_faces(1))["up"]
    shift = np.arange(6.0)
    shift_biases(model, {"up": shift.tolist()})
    np.testing.assert_allclose(
        run(model, random_faces(1))["up"], before + shift[:, None, None], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("shifts", "message"),
    [
        (
            {"missing": [1.0]},
            "for missing with 1 channels, the model has no such layer. Fix: calibrate again",
        ),
        ({"conv": [1.0] * 5}, "for conv with 5 channels, the model has one with 4 channels"),
        ({"conv": []}, "for conv with 0 channels"),
        ({"mean": [1.0] * 4}, "for mean with 4 channels, the model has no such layer"),
    ],
)
def test_shifts_of_another_network_are_refused(shifts: dict[str, list[float]], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        shift_biases(layers(), shifts)
