"""Fixtures for machines with an NVIDIA GPU; without one, every test here is skipped and says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from gpu_arrays import HEAD, SHAPE, WEIGHT, Gpu
from onnx import TensorProto, helper, numpy_helper

from fer_edge.backends import BACKENDS
from fer_edge.backends.tensorrt import TensorRtBackend

FLAVOURS = ("tensorrt", "tensorrt-rtx")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a GPU."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(params=FLAVOURS)
def backend(request: pytest.FixtureRequest) -> TensorRtBackend:
    """Each compiler that can be used here."""
    chosen = BACKENDS[request.param]
    state = chosen.available()
    if not state.ok:
        pytest.skip(f"{state.reason}. Fix: {state.fix}")
    assert isinstance(chosen, TensorRtBackend)
    return chosen


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines of the tests are kept for the run, apart from the user's."""
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path_factory.getbasetemp() / "engines"))


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    """The first GPU."""
    from fer_edge.cuda.gpus import require_gpu
    from fer_edge.errors import EngineError

    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python: pip install cuda-python")
    try:
        require_gpu()
    except EngineError as error:
        pytest.skip(str(error))
    opened = Gpu()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convolution, ReLU, mean, linear: input [N, 3, 16, 16]; outputs logits [N, 5] and features [N, 8, 16, 16]."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["features"]),
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "h"], ["logits"]),
    ]
    make = helper.make_tensor_value_info
    outputs = [
        make("logits", TensorProto.FLOAT, ["N", 5]),
        make("features", TensorProto.FLOAT, ["N", 8, 16, 16]),
    ]
    tensors = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(HEAD, "h")]
    graph = helper.make_graph(nodes, "g", [make("x", TensorProto.FLOAT, ["N", *SHAPE])], outputs, tensors)
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
