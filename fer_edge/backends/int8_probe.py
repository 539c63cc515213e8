"""Probe that checks whether a backend computes INT8 exactly on this processor, by Q/DQ models with known results.

x86 processors with AVX2 and without VNNI multiply u8 by s8 with ``VPMADDUBSW``, which adds two products in 16 bits and
saturates: 255·127 + 255·127 becomes 32767. ONNX Runtime does so unless a session entry requests exact arithmetic. The
probe runs models instead of matching processor names, because versions and builds of the backends differ too.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_edge.bundle import ModelFile
from fer_edge.errors import BackendError

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend, Int8Config, SessionOptions

_LOG = logging.getLogger(__name__)
_LOCK = threading.RLock()
#: Standard ONNX operator that every Q/DQ model contains.
_MARK = b"QuantizeLinear"
_EXACT = "exact"
_CHANNELS, _SIDE, _OUTPUTS = 32, 6, 8
_MAX_WEIGHT = 127
#: Dialect → value of every pixel, the largest of its integer type.
_PIXEL = {"cpu": 255, "tensorrt": 127}
#: Quantised level of each exact result; saturating arithmetic yields about half of it.
_LEVEL = 71
_OPSET = 17


@dataclass(frozen=True)
class ProbeResult:
    """Outcome of the probe.

    Attributes
    ----------
    config : Int8Config
        First configuration of the backend that is exact.
    levels : mapping
        Dialect and operator → level with the default configuration of the backend; exact is 71.
    """

    config: Int8Config
    levels: Mapping[str, float]


_results: dict[str, ProbeResult | str] = {}


def _forget() -> None:
    """Reset in a forked process: a thread that does not exist there may hold the lock."""
    global _LOCK
    _LOCK = threading.RLock()
    _results.clear()


os.register_at_fork(after_in_child=_forget)


def holds_int8(model: Path | ModelFile) -> bool:
    """Return whether a model contains Q/DQ operators."""
    if isinstance(model, ModelFile):
        return _MARK in model.content
    try:
        with model.open("rb") as file:
            tail = b""
            while block := file.read(1 << 22):
                if _MARK in tail + block:
                    return True
                tail = block[-len(_MARK) :]
    except OSError:
        pass  # opening the model reports the error
    return False


def with_exact_int8(backend: Backend, model: Path | ModelFile, options: SessionOptions) -> SessionOptions:
    """Return ``options`` with an exact INT8 configuration if ``model`` is INT8.

    Raises
    ------
    BackendError
        If no configuration of the backend computes the probe exactly.
    """
    if not backend.int8_dialects or options.int8_config is not None or not holds_int8(model):
        return options
    return replace(options, int8_config=probe_int8(backend, options).config)


def probe_int8(backend: Backend, options: SessionOptions) -> ProbeResult:
    """Run the probe on ``backend`` in each of its dialects, once per process, and return the result.

    Raises
    ------
    BackendError
        If no configuration is exact; every later call raises it too.
    """
    with _LOCK:
        if backend.name not in _results:
            _results[backend.name] = _probe(backend, options)
        found = _results[backend.name]
    if isinstance(found, str):
        raise BackendError(found)
    return found


def describe_int8(backend: Backend) -> str:
    """Return ``exact``, or the cost of exact INT8 arithmetic of a backend on this processor.

    Raises
    ------
    BackendError
        As :func:`probe_int8`.
    """
    if not backend.int8_dialects:
        return _EXACT
    from fer_edge.backends.base import SessionOptions

    return probe_int8(backend, SessionOptions()).config.note or _EXACT


def _probe(backend: Backend, options: SessionOptions) -> ProbeResult | str:
    first: dict[str, float] = {}
    for config in backend.int8_configs:
        try:
            levels = _run(backend, replace(options, int8_config=config, precision="int8"))
        except BackendError as error:
            if config is backend.int8_configs[0]:
                raise
            _LOG.info(
                "%s does not accept the session entries %s: %s", backend.name, dict(config.entries), error
            )
            continue
        first = first or levels
        if all(abs(level - _LEVEL) <= 1 for level in levels.values()):
            if config.entries:
                _LOG.info(
                    "%s saturates INT8 products on this processor (expected level %d, found %s); %s",
                    backend.name,
                    _LEVEL,
                    _describe(first),
                    config.note,
                )
            return ProbeResult(config, first)
    return (
        f"{backend.name} does not compute INT8 exactly on this processor: expected level {_LEVEL} from the probe, "
        f"found {_describe(first)}. Fix: choose another backend (--backend), or --precision fp32"
    )


def _run(backend: Backend, options: SessionOptions) -> dict[str, float]:
    """Return the level furthest from the exact one, for each dialect and operator."""
    levels: dict[str, float] = {}
    for dialect in backend.int8_dialects:
        model = ModelFile(Path(f"int8-probe.{dialect}.onnx"), probe_model(dialect))
        batch = np.full((1, _CHANNELS, _SIDE, _SIDE), _PIXEL[dialect], np.float32)
        session = backend.open(model, options)
        try:
            outputs = session.run(batch)
        finally:
            session.close()
        levels |= {f"{dialect}.{name}": _worst(values) for name, values in outputs.items()}
    return levels


def _worst(values: np.ndarray) -> float:
    flat = np.asarray(values, np.float64).ravel()
    return float(flat[np.abs(flat - _LEVEL).argmax()])


def _describe(levels: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {level:g}" for name, level in levels.items())


@cache
def probe_model(dialect: str) -> bytes:
    """Return an ONNX model of one Q/DQ dialect whose outputs are 71 if its sums of products are exact.

    Its input ``[B, 32, 6, 6]`` is 255 (``cpu``, uint8 activations) or 127 (``tensorrt``, int8 activations) everywhere.
    Each output is one operator with weights of 127: 3×3, 1×1 and depthwise convolution, and a dense layer.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = np.uint8 if dialect == "cpu" else np.int8
    nodes: list[onnx.NodeProto] = []
    constants = [
        numpy_helper.from_array(np.float32(1), "one"),
        numpy_helper.from_array(kind(0), "zero"),
    ]

    def add(operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def product(
        name: str, operator: str, value: str, shape: tuple[int, ...], terms: int, **attributes: object
    ) -> None:
        weights = np.full(shape, _MAX_WEIGHT, np.int8)
        level = _PIXEL[dialect] * _MAX_WEIGHT * terms / _LEVEL
        constants.append(numpy_helper.from_array(weights, f"{name}.weight"))
        # Not shared: ONNX Runtime's exact mode rewrites the zero points of weights, and fails on a shared one.
        constants.append(numpy_helper.from_array(np.int8(0), f"{name}.zero"))
        constants.append(numpy_helper.from_array(np.float32(level), f"{name}.scale"))
        weight = add("DequantizeLinear", [f"{name}.weight", "one", f"{name}.zero"], f"{name}.w")
        result = add(operator, [value, weight], f"{name}.y", **attributes)
        rounded = add("QuantizeLinear", [result, f"{name}.scale", "zero"], f"{name}.q")
        add("DequantizeLinear", [rounded, f"{name}.scale", "zero"], f"{name}.d")
        add("Div", [f"{name}.d", f"{name}.scale"], name)

    pixels = add("QuantizeLinear", ["input", "one", "zero"], "pixels.q")
    pixels = add("DequantizeLinear", [pixels, "one", "zero"], "pixels")
    rows = add("Flatten", [pixels], "rows.f")
    rows = add("QuantizeLinear", [rows, "one", "zero"], "rows.q")
    rows = add("DequantizeLinear", [rows, "one", "zero"], "rows")
    inside = _CHANNELS * _SIDE * _SIDE
    product("conv3x3", "Conv", pixels, (_OUTPUTS, _CHANNELS, 3, 3), 9 * _CHANNELS)
    product("conv1x1", "Conv", pixels, (_OUTPUTS, _CHANNELS, 1, 1), _CHANNELS)
    product("depthwise", "Conv", pixels, (_CHANNELS, 1, 3, 3), 9, group=_CHANNELS)
    product("dense", "MatMul", rows, (inside, _OUTPUTS), inside)
    outputs = ("conv3x3", "conv1x1", "depthwise", "dense")
    graph = helper.make_graph(
        nodes,
        "int8_probe",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", _CHANNELS, _SIDE, _SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    return bytes(
        onnx.shape_inference.infer_shapes(model, strict_mode=True).SerializeToString(deterministic=True)
    )
