"""What is looked up in an ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from played_gpu import WEIGHT, save_model

from fer_edge.backends.onnx_file import precision_of, read_graph
from fer_edge.errors import EngineError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path)


def test_the_precision_of_a_file(model: Path, tmp_path: Path) -> None:
    assert precision_of(read_graph(model)) == "fp32"
    graph = onnx.load(model)
    half = onnx.load(model)
    half.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHT.astype(np.float16), "w"))
    onnx.save(half, tmp_path / "half.onnx")
    assert precision_of(read_graph(tmp_path / "half.onnx")) == "fp16"
    graph.graph.node.append(helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]))
    onnx.save(graph, tmp_path / "q.onnx")
    assert precision_of(read_graph(tmp_path / "q.onnx")) == "int8"
    (tmp_path / "bad.onnx").write_bytes(b"garbage")
    with pytest.raises(EngineError, match="it is no ONNX file"):
        read_graph(tmp_path / "bad.onnx")
