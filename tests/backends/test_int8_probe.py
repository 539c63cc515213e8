"""Arithmetic probe: exact backends pass, saturating ones are reconfigured or rejected, and every INT8 session is probed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fer_edge.backends import BACKENDS, SessionOptions, available_backends
from fer_edge.backends import int8_probe as probe
from fer_edge.backends.base import DEFAULT_INT8, Int8Config, Session
from fer_edge.backends.int8_probe import holds_int8, probe_int8, probe_model, with_exact_int8
from fer_edge.backends.onnxruntime import EXACT_INT8, OnnxRuntimeSession
from fer_edge.bundle import ModelFile
from fer_edge.errors import BackendError
from fer_edge.system.availability import Availability

CPU_BACKENDS = available_backends("cpu")
CURE = Int8Config({"cure": "1"}, "slower")


class Saturating:
    """ONNX Runtime whose sums of two products saturate at 32767 unless the entry ``cure`` is set."""

    name = "saturating"
    dialect = "cpu"
    int8_dialects = ("cpu",)
    computes_tf32 = False

    def __init__(self, *configs: Int8Config) -> None:
        self.int8_configs = configs
        self.opened: list[Int8Config | None] = []

    def available(self) -> Availability:
        return Availability(True)

    def open(self, model: Path | ModelFile, options: SessionOptions) -> Session:
        options = with_exact_int8(self, model, options)
        self.opened.append(options.int8_config)
        if options.int8_config == CURE:  # which this processor may need too
            return OnnxRuntimeSession(model, replace(options, int8_config=EXACT_INT8))
        if options.int8_config != DEFAULT_INT8:
            raise BackendError("unknown entry")
        assert isinstance(model, ModelFile)
        proto = onnx.load_model_from_string(model.content)
        for tensor in proto.graph.initializer:
            if tensor.name.endswith(".weight"):  # 32767 / (2 · 255) in place of 127
                weights = np.full(tensor.dims, 64, np.int8)
                tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
        return OnnxRuntimeSession(ModelFile(model.path, proto.SerializeToString()), options)


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_results", {})


def exact_results(content: bytes) -> Mapping[str, np.ndarray]:
    """Compute the probe in integer arithmetic from the constants of its file."""
    proto = onnx.load_model_from_string(content)
    tensors = {t.name: numpy_helper.to_array(t).astype(np.int64) for t in proto.graph.initializer}
    scales = {t.name: float(numpy_helper.to_array(t)) for t in proto.graph.initializer if not t.dims}
    pixel = 255 if proto.graph.initializer[1].data_type == onnx.TensorProto.UINT8 else 127
    found = {}
    for name in (output.name for output in proto.graph.output):
        weights = tensors[f"{name}.weight"]
        axes = (1, 2, 3) if weights.ndim == 4 else 0
        found[name] = np.rint(pixel * weights.sum(axis=axes) / scales[f"{name}.scale"])
    return found


@pytest.mark.parametrize("dialect", ["cpu", "tensorrt"])
def test_the_expected_level_is_that_of_whole_numbers(dialect: str) -> None:
    results = exact_results(probe_model(dialect))
    assert set(results) == {"conv3x3", "conv1x1", "depthwise", "dense"}
    for values in results.values():
        assert (values == 71).all()


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_backends_of_the_cpu_compute_int8_exactly_here(name: str) -> None:
    result = probe_int8(BACKENDS[name], SessionOptions(threads=1))
    assert result.config in BACKENDS[name].int8_configs
    if result.config == DEFAULT_INT8:
        assert set(result.levels.values()) <= {70.0, 71.0, 72.0}


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_every_configuration_but_the_default_is_exact_on_every_processor(name: str) -> None:
    model = ModelFile(Path("probe.onnx"), probe_model("cpu"))
    batch = np.full((3, 32, 6, 6), 255, np.float32)
    for config in BACKENDS[name].int8_configs[1:]:
        session = BACKENDS[name].open(model, SessionOptions(threads=1, int8_config=config))
        for values in session.run(batch).values():
            assert (np.abs(values - 71) < 1.01).all()
        session.close()


def test_a_backend_that_saturates_is_cured(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    backend = Saturating(DEFAULT_INT8, Int8Config({"other": "1"}), CURE)
    result = probe_int8(backend, SessionOptions())
    assert result.config == CURE
    assert result.levels == {f"cpu.{name}": 36 for name in ("conv3x3", "conv1x1", "depthwise", "dense")}
    assert "saturating saturates INT8 products" in caplog.text
    assert "slower" in caplog.text


def test_a_backend_that_cannot_be_cured_refuses_int8_each_time() -> None:
    backend = Saturating(DEFAULT_INT8)
    model = ModelFile(Path("any.onnx"), probe_model("cpu"))
    for _ in range(2):
        with pytest.raises(
            BackendError,
            match=r"does not compute INT8 exactly .* expected level 71 from the probe, found cpu.conv3x3 36",
        ):
            backend.open(model, SessionOptions())
    assert backend.opened == [DEFAULT_INT8]  # the probe ran once


def test_the_probe_runs_once_and_its_configuration_is_used() -> None:
    backend = Saturating(DEFAULT_INT8, CURE)
    model = ModelFile(Path("any.onnx"), probe_model("cpu"))
    backend.open(model, SessionOptions())
    backend.open(model, SessionOptions(threads=1))
    assert backend.opened == [DEFAULT_INT8, CURE, CURE, CURE]


def test_a_floating_point_model_needs_no_probe(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["b", 1, 2, 2]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "relu.onnx")
    assert not holds_int8(tmp_path / "relu.onnx")
    backend = Saturating(DEFAULT_INT8)
    assert with_exact_int8(backend, tmp_path / "relu.onnx", SessionOptions()).int8_config is None


@pytest.mark.parametrize("offset", [0, (1 << 22) - 7, (1 << 22) + 5])
def test_an_operator_is_found_wherever_it_stands(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(offset) + b"QuantizeLinear" + bytes(100))
    assert holds_int8(path)
    assert holds_int8(ModelFile(path, path.read_bytes()))
    path.write_bytes(bytes(offset) + b"QuantizeLinea" + bytes(100))
    assert not holds_int8(path)


def test_the_entries_reach_onnx_runtime() -> None:
    model = ModelFile(Path("probe.onnx"), probe_model("cpu"))
    session = OnnxRuntimeSession(model, SessionOptions(int8_config=EXACT_INT8))
    with session._session as opened:
        options = opened.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
