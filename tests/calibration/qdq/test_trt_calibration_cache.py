"""TensorRT 10's calibration cache: the text of the shipped model, of public files, and hostile text."""

from __future__ import annotations

import dataclasses
import struct

import onnx
import pytest
from onnx import numpy_helper

from fer_edge.bundle import RANGES, open_bundle
from fer_edge.calibration.placement.placement import place
from fer_edge.calibration.qdq.trt_calibration_cache import read_calibration_cache, write_calibration_cache
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.observers import TensorRange
from fer_edge.calibration.ranges.ranges import Ranges, load_ranges
from fer_edge.errors import CalibrationError
from fer_edge.models.catalogue import shipped_bundle

HEADER = "TRT-100300-EntropyCalibration2"


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(open_bundle(shipped_bundle()).model_path("fp32", "tensorrt"))


@pytest.fixture(scope="module")
def ranges() -> Ranges:
    bundle = open_bundle(shipped_bundle())
    return load_ranges(bundle.path / RANGES, bundle.model_path("fp32", "tensorrt"))


def test_scales_are_those_of_the_q_dq_model(model: onnx.ModelProto, ranges: Ranges) -> None:
    scales = read_calibration_cache(write_calibration_cache(ranges, model))
    constants = {
        t.name: numpy_helper.to_array(t) for t in quantise(model, ranges, "tensorrt").graph.initializer
    }
    stored = {name: value for name, value in constants.items() if name.removesuffix(".scale") in scales}
    assert stored
    for name, value in stored.items():
        assert scales[name.removesuffix(".scale")] == float(value), name


def test_a_line_is_what_nvidias_own_translator_writes(model: onnx.ModelProto, ranges: Ranges) -> None:
    """float_to_hex of NVIDIA/Deep-Learning-Accelerator-SW, tools/qdq-translator/utils.py (MIT)."""
    header, *lines = write_calibration_cache(ranges, model).splitlines()
    assert header == HEADER
    by_name = dict(line.rsplit(": ", 1) for line in lines)
    scale = max(abs(ranges.tensors["input"].low), abs(ranges.tensors["input"].high)) / 127
    assert by_name["input"] == hex(struct.unpack("<I", struct.pack("<f", scale))[0])[2:]


def test_every_name_is_a_tensor_of_the_model(model: onnx.ModelProto, ranges: Ranges) -> None:
    known = {value.name for value in model.graph.input} | {
        n for node in model.graph.node for n in node.output
    }
    scales = read_calibration_cache(write_calibration_cache(ranges, model))
    assert scales.keys() <= known
    assert scales.keys() >= place(model, ranges.placement).groups.keys()


def test_the_tensor_in_front_of_a_relu_has_the_scale_behind_it(
    model: onnx.ModelProto, ranges: Ranges
) -> None:
    scales = read_calibration_cache(write_calibration_cache(ranges, model))
    pairs = [(n.input[0], n.output[0]) for n in model.graph.node if n.op_type == "Relu"]
    shared = [pair for pair in pairs if pair[1] in scales]
    assert shared
    assert all(scales[front] == scales[behind] for front, behind in shared if front not in ranges.tensors)


def test_the_header_is_that_of_the_version(model: onnx.ModelProto, ranges: Ranges) -> None:
    text = write_calibration_cache(ranges, model, (10, 14, 1))
    assert text.splitlines()[0] == "TRT-101401-EntropyCalibration2"
    with pytest.raises(CalibrationError, match=r"for TensorRT 10, found version 11.0.0"):
        write_calibration_cache(ranges, model, (11, 0, 0))


def test_a_missing_range_is_named(model: onnx.ModelProto, ranges: Ranges) -> None:
    tensors = dict(ranges.tensors)
    name = sorted(tensors)[0]
    del tensors[name]
    with pytest.raises(CalibrationError, match=name):
        write_calibration_cache(dataclasses.replace(ranges, tensors=tensors), model)


def test_names_that_would_break_the_text_are_refused(model: onnx.ModelProto, ranges: Ranges) -> None:
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    name = "evil: 3f800000\ninput"
    renamed.graph.input[0].name = name
    for node in renamed.graph.node:
        node.input[:] = [name if value == "input" else value for value in node.input]
    tensors = {**ranges.tensors, name: TensorRange(0, 1, 0, 1)}
    with pytest.raises(CalibrationError, match="cannot be written"):
        write_calibration_cache(dataclasses.replace(ranges, tensors=tensors), renamed)


def test_public_files_are_read() -> None:
    """Lines as TensorRT wrote them: of DeepStream's detector (TensorRT 10.3) and of a ResNet (TensorRT 8.2)."""
    found = read_calibration_cache(
        f"{HEADER}\ninput_1:0: 3c010a14\nconv1/convolution:0: 3d0b7086\n(Unnamed Layer* 4) [Fully Connected]_output: 3d65992f\n"
    )
    assert found["input_1:0"] == pytest.approx(1 / 127, rel=1e-3)
    assert found["conv1/convolution:0"] == pytest.approx(0.03404, rel=1e-3)
    assert len(found) == 3
    assert read_calibration_cache("TRT-8203-EntropyCalibration2\n167: 3c009976") == {
        "167": pytest.approx(0.00785, rel=1e-3)
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the header"),
        ("input: 3c010a14\n", "expected the header"),
        ("TRT-8XXX-EntropyCalibration2\ninput: 3c010a14\n", "expected the header"),
        (f" {HEADER}\n", "expected the header"),
        (f"{HEADER}\na: 3c010a14\na: 3c010a14\n", "line 3 .* repeats a. Fix: "),
        (f"{HEADER}\na: 3c010a1\n", "8 hexadecimal digits' in line 2"),
        (f"{HEADER}\na: 3c010a1g\n", "line 2"),
        (f"{HEADER}\na: 3c 10a14\n", "line 2"),
        (f"{HEADER}\na: ３c010a14\n", "line 2"),
        (f"{HEADER}\na: 3c010a14 \n", "line 2"),
        (f"{HEADER}\na:3c010a14\n", "line 2"),
        (f"{HEADER}\n: 3c010a14\n", "line 2"),
        (f"{HEADER}\na: 3c010a14\n\n", "line 3"),
        (f"{HEADER}\r\na: 3c010a14\r\n", "expected the header"),
        (f"{HEADER}\na: 7f800000\n", "positive scale of a .* found inf"),
        (f"{HEADER}\na: 7fc00000\n", "positive scale of a .* found nan"),
        (f"{HEADER}\na: bc010a14\n", "positive scale of a .* found -0.007"),
        (f"{HEADER}\na: 00000000\n", "positive scale of a .* found 0.0"),
        ("\0" * 100_000, "expected the header"),
    ],
)
def test_hostile_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        read_calibration_cache(text)
