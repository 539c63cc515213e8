"""A DLA of a Jetson computes what ONNX Runtime computes, or TensorRT says that it does not take the network."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from gpu_arrays import SHAPE

from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.calibration.fp16 import ALWAYS_FLOAT, to_half
from fer_edge.errors import BackendError

pytestmark = pytest.mark.jetson


@pytest.fixture
def half_model(small_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "half.onnx"
    onnx.save(to_half(onnx.load(small_model), ALWAYS_FLOAT), path)
    return path


@pytest.fixture
def cores() -> int:
    """Number of DLAs of this board, by TensorRT."""
    state = BACKENDS["tensorrt"].available()
    if not state.ok:
        pytest.skip(f"{state.reason}. Fix: {state.fix}")
    trt = importlib.import_module("tensorrt")
    return int(trt.Builder(trt.Logger(trt.Logger.ERROR)).num_DLA_cores)


def test_a_board_without_one_says_so(cores: int, half_model: Path) -> None:
    options = SessionOptions(precision="fp16", dla_core=cores, gpu_fallback=True)
    with pytest.raises(BackendError, match=f"DLA {cores} does not exist, .* finds {cores} here"):
        BACKENDS["tensorrt"].open(half_model, options)


def test_a_dla_agrees_with_onnx_runtime(cores: int, half_model: Path, small_model: Path) -> None:
    if not cores:
        pytest.skip("TensorRT finds no DLA here")
    batch = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    expected = BACKENDS["onnxruntime"].open(small_model, SessionOptions()).run(batch)
    options = SessionOptions(precision="fp16", dla_core=cores - 1, gpu_fallback=True)
    session = BACKENDS["tensorrt"].open(half_model, options)
    try:
        for name, values in session.run(batch).items():
            bound = 2e-2 * max(float(np.abs(expected[name]).max()), 1.0)
            np.testing.assert_allclose(values, expected[name], rtol=0, atol=bound, err_msg=name)
    finally:
        session.close()
