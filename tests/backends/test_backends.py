"""Backends: equal outputs of all backends, and error messages."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_edge.backends import (
    BACKENDS,
    Backend,
    SessionOptions,
    available_backends,
    choose_backend,
    load_session,
)
from fer_edge.backends.openvino import OpenVinoSession
from fer_edge.bundle import Manifest, write_bundle
from fer_edge.errors import BackendError, UsageError
from fer_edge.spec import ModelSpec

RNG = np.random.default_rng(5)
WEIGHT = RNG.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
BIAS = RNG.normal(0, 0.3, 4).astype(np.float32)
HEAD = RNG.normal(0, 0.3, (4, 5)).astype(np.float32)
OPSETS = [helper.make_opsetid("", 17)]


def value(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray] | None = None,
    functions: list[onnx.FunctionProto] | None = None,
    domain: str | None = None,
) -> Path:
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    opsets = OPSETS + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets, functions=functions or [], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Convolution, ReLU, mean, linear: input [N, 3, 8, 8], outputs logits [N, 5] and features."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["features"]),
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "h"], ["logits"]),
    ]
    outputs = [value("logits", ["N", 5]), value("features", ["N", 4, 4, 4])]
    weights = {"w": WEIGHT, "b": BIAS, "h": HEAD}
    return save(tmp_path / "net.onnx", nodes, [value("x", ["N", 3, 8, 8])], outputs, weights)


def reference(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    padded = np.pad(batch.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    features = np.empty((len(batch), 4, 4, 4))
    for i, j in np.ndindex(4, 4):
        window = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        features[:, :, i, j] = np.maximum(np.einsum("nchw,kchw->nk", window, WEIGHT) + BIAS, 0)
    return features.mean(axis=(2, 3)) @ HEAD, features


@pytest.fixture(params=available_backends("cpu"))
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


ONE_THREAD = SessionOptions(threads=1)


@pytest.mark.parametrize("size", [1, 3])
def test_the_numbers_are_those_of_numpy(network: Path, backend: Backend, size: int) -> None:
    batch = RNG.normal(0, 1, (size, 3, 8, 8)).astype(np.float32)
    session = backend.open(network, ONE_THREAD)
    outputs = session.run(batch)
    logits, features = reference(batch)
    assert list(outputs) == ["logits", "features"]
    assert outputs["logits"].dtype == np.float32
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(outputs["features"], features, atol=1e-5)
    session.close()


def test_batches_of_different_sizes_on_one_session(network: Path, backend: Backend) -> None:
    session = backend.open(network, SessionOptions())
    batch = RNG.normal(0, 1, (3, 3, 8, 8)).astype(np.float32)
    together = session.run(batch)["logits"]
    alone = [session.run(batch[i : i + 1])["logits"][0] for i in range(3)]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together, reference(batch)[0], atol=1e-5)  # not overwritten by later runs
    session.close()


@pytest.mark.parametrize("most", [1, 2])
def test_more_than_the_largest_batch_runs_in_parts(network: Path, backend: Backend, most: int) -> None:
    batch = RNG.normal(0, 1, (3, 3, 8, 8)).astype(np.float32)
    session = backend.open(network, SessionOptions(max_batch=most))
    for rows in (batch, batch[:1]):
        outputs, (logits, features) = session.run(rows), reference(rows)
        assert list(outputs) == ["logits", "features"]
        np.testing.assert_allclose(outputs["logits"], logits, atol=1e-5)
        np.testing.assert_allclose(outputs["features"], features, atol=1e-5)
    session.close()


def test_openvino_compiles_for_single_faces_where_batches_hold_one(network: Path) -> None:
    pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'fer-edge[openvino]'")
    for most, batch in ((1, "1"), (None, "?"), (8, "?")):
        session = BACKENDS["openvino"].open(network, SessionOptions(max_batch=most))
        assert isinstance(session, OpenVinoSession)
        with session._request as request:
            (entry,) = request.get_compiled_model().inputs
        assert str(entry.partial_shape) == f"[{batch},3,8,8]"


def test_views_that_are_not_contiguous(network: Path, backend: Backend) -> None:
    batch = RNG.normal(0, 1, (2, 3, 8, 8)).astype(np.float32)[:, ::-1, :, ::-1]
    session = backend.open(network, ONE_THREAD)
    np.testing.assert_allclose(session.run(batch)["logits"], reference(batch)[0], atol=1e-5)
    session.close()


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 3, 8, 8)),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((3, 8, 8), np.float32),
        np.zeros((0, 3, 8, 8), np.float32),
        np.zeros((1, 1, 8, 8), np.float32),
        np.zeros((1, 3, 8, 9), np.float32),
        np.zeros((1, 8, 8, 3), np.float32),
    ],
    ids=lambda b: f"{b.dtype}{b.shape}",
)
def test_batches_that_do_not_fit(network: Path, backend: Backend, batch: np.ndarray) -> None:
    session = backend.open(network, ONE_THREAD)
    with pytest.raises(BackendError, match=r"\(" + ", ".join(map(str, batch.shape))):
        session.run(batch)
    good = np.zeros((1, 3, 8, 8), np.float32)
    np.testing.assert_allclose(session.run(good)["logits"], reference(good)[0], atol=1e-5)
    session.close()


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 100, "truncated"], ids=ascii)
def test_files_that_are_no_model(
    network: Path, tmp_path: Path, backend: Backend, content: bytes | str | None
) -> None:
    path = tmp_path / "bad.onnx"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.write_bytes(network.read_bytes()[:-50])
    with pytest.raises(BackendError, match=rf"{backend.name} cannot load .*bad\.onnx"):
        backend.open(path, ONE_THREAD)


def test_an_operator_that_nobody_knows(tmp_path: Path, backend: Backend) -> None:
    node = helper.make_node("Mystery", ["x"], ["y"], domain="a.b")
    shape = ["N", 3, 4, 4]
    path = save(tmp_path / "m.onnx", [node], [value("x", shape)], [value("y", shape)], domain="a.b")
    with pytest.raises(BackendError, match="cannot load"):
        backend.open(path, ONE_THREAD)


@pytest.mark.parametrize("inputs", [0, 2])
def test_models_without_exactly_one_input(tmp_path: Path, backend: Backend, inputs: int) -> None:
    shape: list[int | str] = [1, 3, 4, 4]
    node = helper.make_node("Add", ["a", "b"], ["y"])
    names = ["a", "b"]
    weights = {name: np.ones((1, 3, 4, 4), np.float32) for name in names[inputs:]}
    given = [value(name, shape) for name in names[:inputs]]
    path = save(tmp_path / "m.onnx", [node], given, [value("y", shape)], weights)
    with pytest.raises(BackendError, match=f"expected 1 input, found {inputs}"):
        backend.open(path, ONE_THREAD)


def test_an_operator_with_a_function_body(tmp_path: Path, backend: Backend) -> None:
    nodes = [helper.make_node("Mul", ["a", "a"], ["s"]), helper.make_node("Sub", ["s", "a"], ["b"])]
    function = helper.make_function("our.domain", "Square", ["a"], ["b"], nodes, OPSETS)
    calls = [
        helper.make_node("Square", ["x"], ["m"], domain="our.domain"),
        helper.make_node("Square", ["m"], ["y"], domain="our.domain"),
    ]
    ends = [value("x", ["N", 3, 4, 4])], [value("y", ["N", 3, 4, 4])]
    path = save(tmp_path / "m.onnx", calls, *ends, functions=[function], domain="our.domain")
    batch = RNG.normal(0, 1, (3, 3, 4, 4)).astype(np.float32)
    once = batch.astype(np.float64) ** 2 - batch
    session = backend.open(path, ONE_THREAD)
    np.testing.assert_allclose(session.run(batch)["y"], once**2 - once, rtol=1e-4, atol=1e-5)
    session.close()


def test_a_closed_session(network: Path, backend: Backend) -> None:
    session = backend.open(network, ONE_THREAD)
    session.close()
    session.close()
    with pytest.raises(BackendError, match="this session is closed"):
        session.run(np.zeros((1, 3, 8, 8), np.float32))


def test_values_that_are_not_finite_come_through(tmp_path: Path, backend: Backend) -> None:
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    ends = [value("x", ["N", 3, 4, 4])], [value("y", ["N", 3, 4, 4])]
    path = save(tmp_path / "m.onnx", [node], *ends, {"w": np.full(1, 2, np.float32)})
    batch = np.ones((3, 3, 4, 4), np.float32)
    batch[1:] = np.array([np.inf, np.nan], np.float32)[:, None, None, None]
    session = backend.open(path, ONE_THREAD)
    np.testing.assert_array_equal(session.run(batch)["y"], batch * 2)
    session.close()


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**9])
def test_thread_counts_that_make_no_sense(threads: int) -> None:
    with pytest.raises(
        UsageError, match=f"threads must be None or a whole number from 1 to 1024, found {threads}"
    ):
        SessionOptions(threads=threads)


@pytest.mark.parametrize("name", available_backends())
def test_a_backend_by_name(name: str) -> None:
    assert choose_backend(name).name == name
    assert BACKENDS[name].available().version


def test_unknown_names_say_what_was_meant() -> None:
    with pytest.raises(UsageError, match="unknown backend 'onnxruntme'.*did you mean 'onnxruntime'"):
        choose_backend("onnxruntme")


def test_auto_takes_the_first_that_is_available() -> None:
    first = next(name for name, backend in BACKENDS.items() if backend.available().ok)
    assert choose_backend().name == choose_backend("auto").name == first


def test_a_backend_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    hide = lambda name, *rest: None if name == "openvino" else real(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    with pytest.raises(
        BackendError, match=r"openvino is not installed. Fix: \S+ -m pip install 'openvino>=2024.6'"
    ):
        choose_backend("openvino")
    assert choose_backend("auto").name == "onnxruntime"


def test_load_session_opens_the_model_of_the_bundle(network: Path, backend: Backend) -> None:
    spec = ModelSpec("net", 8, 8, "rgb", 3, (0.0,) * 3, (1.0,) * 3, tuple("abcde"))
    bundle = write_bundle(
        network.parent / "net.fer",
        Manifest(dataclasses.replace(spec, outputs=("logits", "features")), "fp32", {}),
        {"model.onnx": network},
    )
    batch = RNG.normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
    session = load_session(bundle, backend)
    np.testing.assert_allclose(session.run(batch)["logits"], reference(batch)[0], atol=1e-5)
    session.close()


def rounded(name: str, scale: float) -> list[onnx.NodeProto]:
    """Q and DQ of the tensor ``name``, to ``name.dq``."""
    zero = numpy_helper.from_array(np.array(100, np.uint8))
    return [
        helper.make_node("Constant", [], [f"{name}.scale"], value_float=scale),
        helper.make_node("Constant", [], [f"{name}.zero"], value=zero),
        helper.make_node("QuantizeLinear", [name, f"{name}.scale", f"{name}.zero"], [f"{name}.q"]),
        helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.scale", f"{name}.zero"], [f"{name}.dq"]),
    ]


READERS = {
    "LeakyRelu": lambda read: [helper.make_node("LeakyRelu", [read], ["logits"])],
    "SiLU": lambda read: [
        helper.make_node("Sigmoid", [read], ["s"]),
        helper.make_node("Mul", [read, "s"], ["logits"]),
    ],
    "Reshape": lambda read: [
        helper.make_node("Constant", [], ["to"], value_ints=[0, 4, 64]),
        helper.make_node("Reshape", [read, "to"], ["flat"]),
        helper.make_node("Softmax", ["flat"], ["logits"]),
    ],
    "Sigmoid": lambda read: [helper.make_node("Sigmoid", [read], ["logits"])],
    "LeakyRelu and integers": lambda read: [
        helper.make_node("LeakyRelu", [read], ["logits"]),
        helper.make_node("MaxPool", [read], ["pooled"], kernel_shape=[2, 2]),
    ],
}


@pytest.mark.parametrize(
    ("readers", "rounds"),
    [
        ("LeakyRelu", False),
        ("SiLU", False),
        ("Reshape", False),
        ("Sigmoid", True),
        ("LeakyRelu and integers", True),
    ],
)
def test_openvino_rounds_only_what_gains_by_it(tmp_path: Path, readers: str, rounds: bool) -> None:
    """An integer convolution with coarse output quantisation, consumed by ``readers``."""
    pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'fer-edge[openvino]'")
    # Drawn for itself: a value half-way between two integers may be rounded either way, and this draw has none.
    batch = np.random.default_rng(1).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)
    weights = {
        "w.q": np.clip(np.rint(WEIGHT / 0.01), -127, 127).astype(np.int8),
        "w.scale": np.float32(0.01),
        "w.zero": np.int8(0),
        "b": BIAS,
    }

    def make(read: str) -> Path:
        nodes = [
            *rounded("x", 0.03),
            helper.make_node("DequantizeLinear", ["w.q", "w.scale", "w.zero"], ["w"]),
            helper.make_node("Conv", ["x.dq", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            *rounded("c", 0.2),
            *READERS[readers](read),
        ]
        shape: list[int | str] = ["N", 4, 64] if readers == "Reshape" else ["N", 4, 8, 8]
        outputs = [value("logits", shape)]
        if "integers" in readers:
            outputs.append(value("pooled", ["N", 4, 7, 7]))
        return save(tmp_path / f"{read}.onnx", nodes, [value("x", ["N", 3, 8, 8])], outputs, weights)

    expected = {
        read: BACKENDS["onnxruntime"].open(make(read), ONE_THREAD).run(batch)["logits"]
        for read in ("c", "c.dq")
    }
    found = BACKENDS["openvino"].open(make("c.dq"), ONE_THREAD).run(batch)["logits"]
    step = np.abs(expected["c"] - expected["c.dq"]).max()
    assert step > 1e-3
    np.testing.assert_allclose(found, expected["c.dq" if rounds else "c"], atol=0.01 * step)
