"""Hostile ONNX files are rejected before a backend loads them, and those of FER-Edge are accepted."""

from __future__ import annotations

import dataclasses
import random
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_bombs import BOMBS, SIDE, constant, function, model

from fer_edge.backends.onnx_check.check import FOLDABLE, OPERATORS, OWN_DOMAIN, check_contract, check_model
from fer_edge.backends.onnx_check.light import lighten
from fer_edge.bundle import FP32_MODEL, RANGES, open_bundle
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.ranges import load_ranges
from fer_edge.detection.mtcnn.weights import mtcnn_models
from fer_edge.errors import BundleError
from fer_edge.export.checkpoints import random_network
from fer_edge.export.networks import attention_op
from fer_edge.export.onnx.export import export_onnx
from fer_edge.models.catalogue import MODELS_FOLDER

SHIPPED = sorted(MODELS_FOLDER.glob("*.fer/*.onnx"))
WHERE = "x.fer/model.onnx"
node = helper.make_node


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_ships_is_taken(path: Path) -> None:
    check_model(path.read_bytes(), WHERE)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"class_names": ("a", "b", "c", "d", "e")},
        {"input_height": 47},
        {"outputs": ("logits", "landmarks")},
    ],
    ids=str,
)
def test_a_model_gives_what_its_spec_says(change: dict[str, Any]) -> None:
    """Five class names for eight logits would mislabel classes."""
    bundle = open_bundle(SHIPPED[0].parent)
    shapes = check_model(SHIPPED[0].read_bytes(), WHERE)
    check_contract(shapes, bundle.spec, WHERE)
    if change:
        with pytest.raises(
            BundleError, match="does not fit its model spec: expected .* found .*Fix: build the bundle again"
        ):
            check_contract(shapes, dataclasses.replace(bundle.spec, **change), WHERE)


def test_something_ships() -> None:
    assert len(SHIPPED) >= 3


@pytest.mark.parametrize("dialect", ["cpu", "tensorrt"])
@pytest.mark.parametrize("folder", sorted(MODELS_FOLDER.glob("*.fer")), ids=lambda folder: folder.name)
def test_int8_of_what_ships_is_taken(folder: Path, dialect: str) -> None:
    fp32 = folder / FP32_MODEL
    int8 = quantise(onnx.load(fp32), load_ranges(folder / RANGES, fp32), dialect)
    assert any(node.op_type == "QuantizeLinear" for node in int8.graph.node)
    check_model(int8.SerializeToString(), WHERE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "visual-attention-symmetric"])
def test_what_the_export_writes_is_taken(name: str, tmp_path: Path) -> None:
    export_onnx(random_network(name), tmp_path / "model.onnx")
    check_model((tmp_path / "model.onnx").read_bytes(), WHERE)


def test_networks_that_slide_over_an_image_are_taken_at_a_size_that_is_named() -> None:
    contents = mtcnn_models()
    for name in ("rnet", "onet"):
        check_model(contents[name], WHERE)
    with pytest.raises(BundleError, match="all dimensions of its input except the batch must be static"):
        check_model(contents["pnet"], WHERE)
    check_model(contents["pnet"], WHERE, free_side_px=2000)
    with pytest.raises(BundleError, match="bytes per face"):
        check_model(contents["pnet"], WHERE, free_side_px=100_000)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name: str) -> None:
    make, message = BOMBS[name]
    with pytest.raises(BundleError, match=message) as caught:
        check_model(make(), WHERE)
    assert str(caught.value).startswith(f"{WHERE} is rejected: ")
    assert str(caught.value).endswith(
        ". Fix: build the bundle again with fer-edge build, or get it from a trusted source"
    )
    assert len(str(caught.value)) < 700


def test_the_network_that_the_bombs_change_is_taken() -> None:
    """The change alone causes the rejection."""
    own = [("", 18), ("fer_edge", 1)]
    call = node("F", ["x"], ["z"], domain="fer_edge")
    body = [node("Relu", ["a"], ["t"]), node("Neg", ["t"], ["b"])]
    good = [
        model(),
        model([call], functions=[function("F", body)], opsets=own, last="z"),
        model(
            [node("Expand", ["one", "n"], ["c"])], [constant("one", [1], np.float32), constant("n", [2**20])]
        ),
        model([node("Tile", ["x", "n"], ["z"])], [constant("n", [1, 1, 64, 64])], last="z"),
        model(constants=[TensorProto(name="c", data_type=1, dims=[2], float_data=[1, 2])]),
        model(constants=[constant("c", np.zeros((1000, 1000)), np.float32), constant("e", [], np.float32)]),
        model([node("Constant", [], ["c"], value_ints=[2, 3]), node("Constant", [], ["d"], value_float=1.0)]),
        model(
            [node("Slice", ["x", "a", "b", "axes"], ["z"])],
            [constant("a", [0]), constant("b", [2**63 - 1]), constant("axes", [2])],
            last="z",
        ),
    ]
    for made in good:
        check_model(made.SerializeToString(), WHERE)


def test_our_own_operator_is_the_one_of_the_export() -> None:
    assert attention_op.DOMAIN == OWN_DOMAIN


def test_every_operator_is_known_and_holds_no_graph() -> None:
    for name in OPERATORS:
        attributes = onnx.defs.get_schema(name, 18, "").attributes.values()
        kinds = {attribute.type for attribute in attributes}
        assert not kinds & {onnx.defs.OpSchema.AttrType.GRAPH, onnx.defs.OpSchema.AttrType.GRAPHS}
    assert FOLDABLE < OPERATORS


def test_the_light_copy_is_the_file_without_large_data(tmp_path: Path) -> None:
    content = SHIPPED[0].read_bytes()
    whole = onnx.ModelProto.FromString(content)
    light = lighten(content)
    found = onnx.ModelProto.FromString(light.content)
    assert len(light.raw_bytes) == len(whole.graph.initializer)
    for tensor, raw_bytes in zip(whole.graph.initializer, light.raw_bytes, strict=True):
        if raw_bytes is not None:
            assert raw_bytes == len(tensor.raw_data) > 4000
            tensor.ClearField("raw_data")
    assert found == whole
    assert len(light.content) < len(content) / 20


def test_a_large_file_is_not_copied() -> None:
    """All weights are in one constant of 64 MB; the peak memory of the check is a fraction of that."""
    content = model(constants=[constant("c", np.zeros((4000, 4000)), np.float32)]).SerializeToString()
    check_model(content, WHERE)  # imports
    tracemalloc.start()
    check_model(content, WHERE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(content) / 50


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("source", ["shipped", "bomb"])
def test_damaged_files_are_refused_or_harmless(seed: int, source: str) -> None:
    """Flipped bits and truncation raise no other error, and accepted files can be loaded."""
    draw = random.Random(f"{source}{seed}")
    if source == "shipped":
        light = lighten(SHIPPED[-1].read_bytes()).content  # damage is to hit the graph, not the weights
        check = 100
    else:
        light = model(
            [
                node("F", ["x"], ["u"], domain="fer_edge"),
                node("Expand", ["c", "n"], ["d"]),
                node("Add", ["u", "d"], ["z"]),
            ],
            [constant("c", np.ones((1, 3, 1, 1)), np.float32), constant("n", [1, 3, SIDE, SIDE])],
            functions=[function("F", [node("Relu", ["a"], ["b"])])],
            opsets=(("", 18), ("fer_edge", 1)),
            last="z",
        ).SerializeToString()
        check_model(light, WHERE)
        check = 400
    refused = 0
    for _ in range(check):
        content = bytearray(light)
        for _ in range(draw.choice([1, 1, 1, 2, 8])):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        if draw.random() < 0.2:
            del content[draw.randrange(len(content)) :]
        try:
            check_model(bytes(content), WHERE)
        except BundleError:
            refused += 1
        else:
            _load(bytes(content))
    assert refused > check / 10


def _load(content: bytes) -> None:
    """Load an accepted file in ONNX Runtime, which may reject it but must return."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with suppress(Exception):  # its exception classes share no public base
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
