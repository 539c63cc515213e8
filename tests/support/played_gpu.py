"""A GPU and its compiler for the TensorRT backends, where there is none."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_device import FakeDevice, FakeNetwork
from onnx import TensorProto, helper, numpy_helper

from fer_edge.backends import (
    tensorrt,
)
from fer_edge.backends.tensorrt import TensorRtBackend
from fer_edge.engines import find_or_build
from fer_edge.engines.build import builder
from fer_edge.engines.build.options import EngineOptions
from fer_edge.engines.cache.key import GpuKey
from fer_edge.engines.run.engine import TensorInfo
from fer_edge.errors import EngineError

WEIGHT = np.random.default_rng(2).normal(size=(12, 5)).astype(np.float32)


def save_model(folder: Path) -> Path:
    """Input [N, 3, 2, 2], output logits [N, 5]."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 2, 2])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(WEIGHT, "w")])
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class PlayedGpu:
    """A GPU and its compiler, played: engines hold the name of their model, a fake device runs them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.devices: list[Any] = []
        self.built: list[EngineOptions] = []
        self.dla_cores: list[int | None] = []
        self.gpu = GpuKey((8, 7), "Orin, 8 multiprocessors, 7 GiB", "540.4.0, CUDA 12.6")
        self.version = "10.3.0"
        self.refuse = ""
        monkeypatch.setenv("FER_EDGE_CACHE", str(folder / "cache"))
        monkeypatch.setattr(find_or_build, "identify_gpu", lambda: self.gpu)
        monkeypatch.setattr(tensorrt, "TensorRtDevice", self.open_device)
        monkeypatch.setattr(builder, "build_engine", self.build)
        available = lambda backend: tensorrt.Availability(True, self.version)  # noqa: E731
        monkeypatch.setattr(TensorRtBackend, "available", available)

    def build(self, model: Path, output: Path, options: EngineOptions) -> Any:
        if self.refuse:
            raise EngineError(self.refuse)
        self.built.append(options)
        output.write_bytes(b"engine of " + model.name.encode())
        return types.SimpleNamespace(layers=5, dla_layers=0 if options.dla_core is None else 3)

    def open_device(
        self,
        flavour: str,
        plugin: Path | None = None,
        dla_core: int | None = None,
        plugin_sha256: str | None = None,
    ) -> Any:
        self.dla_cores.append(dla_core)

        def compute(batch: np.ndarray) -> dict[str, np.ndarray]:
            return {"logits": (batch.reshape(len(batch), -1) @ WEIGHT).astype(np.float16)}

        network = FakeNetwork(
            compute,
            TensorInfo("x", np.dtype(np.float32), (3, 2, 2)),
            (TensorInfo("logits", np.dtype(np.float16), (5,)),),
        )
        self.devices.append(FakeDevice(network, lambda: 0.0))
        return self.devices[-1]
