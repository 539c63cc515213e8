"""ONNX files: external data, and the precision of a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from played_gpu import WEIGHT, save_model

from fer_edge._utils.onnx_files import precision_of, read_graph, save_with_external_data
from fer_edge.bundle import open_bundle
from fer_edge.errors import EngineError
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.preprocess import prepare_batch
from fer_edge.synthetic import render_faces


def run(model: Path, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": batch})[0]


def test_the_file_computes_the_same_and_the_model_keeps_its_values(tmp_path: Path) -> None:
    """The shipped network has local functions, and constants that are shapes."""
    bundle = open_bundle(shipped_bundle())
    whole = bundle.model_path("fp32", "cpu")
    model = onnx.load(whole)
    before = model.SerializeToString(deterministic=True)
    save_with_external_data(model, tmp_path / "model.onnx")
    assert model.SerializeToString(deterministic=True) == before
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.data"}
    assert (tmp_path / "model.onnx").stat().st_size < 0.1 * whole.stat().st_size
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    batch = prepare_batch(list(render_faces(3)), bundle.spec)
    np.testing.assert_array_equal(run(tmp_path / "model.onnx", batch), run(whole, batch))


def test_every_type_of_constant_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        str(np.dtype(kind)): (100 * rng.normal(size=(7, 300))).astype(kind)
        for kind in (np.float32, np.float16, np.float64, np.int8, np.uint8, np.int32, np.int64, np.bool_)
    }
    arrays["scalar"], arrays["empty"] = np.array(3, np.int64), np.zeros((0, 4), np.float32)
    typed = helper.make_tensor("fields", onnx.TensorProto.FLOAT, [600], np.arange(600.0).tolist())
    constants = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
    model = helper.make_model(helper.make_graph([], "g", [], [], [*constants, typed]))
    save_with_external_data(model, tmp_path / "model.onnx")
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "model.onnx").graph.initializer}
    np.testing.assert_array_equal(found.pop("fields"), np.arange(600, dtype=np.float32))
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_precision_of_a_file(tmp_path: Path) -> None:
    model = save_model(tmp_path)
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
    with pytest.raises(EngineError, match="it is not an ONNX file"):
        read_graph(tmp_path / "bad.onnx")
