"""Every registered network compiles to an engine in FP16 and INT8, with weights in that type, without a GPU."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fer_edge.calibration.fp16 import ALWAYS_FLOAT, to_half
from fer_edge.calibration.placement.families import placement_of
from fer_edge.calibration.placement.placement import place
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.collect import observe
from fer_edge.engines.build.builder import build_engine
from fer_edge.engines.build.options import EngineOptions, estimate_memory_bytes
from fer_edge.export.checkpoints import random_network
from fer_edge.export.networks import NETWORKS
from fer_edge.export.onnx.export import export_onnx
from fer_edge.preprocess import prepare_batch
from fer_edge.synthetic.drawn import generate_faces

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="needs TensorRT-RTX: pip install 'fer-edge[rtx]'",
)

#: Left out by default, and why.
LARGE = {
    "resmasking-ensemble": "takes minutes and 8 GB of memory",
    "resmasking-nodropout": "exports to the same graph as resmasking",
    "resnet101": "has more of the blocks of resnet50-vggface, no others",
    "feratt-2019": "has the layers of feratt",
    "emotionaldan-1stage": "is the first stage of emotionaldan",
}
#: Small ones, one of each of our own kinds and one with residual blocks.
QUICK = ("conv-attention", "visual-attention", "resnet18")
NAMES = [
    pytest.param(
        name,
        marks=[
            pytest.mark.skipif(
                name in LARGE and "FER_EDGE_LARGE_TESTS" not in os.environ,
                reason=f"{LARGE.get(name)}: set FER_EDGE_LARGE_TESTS=1",
            ),
            *([pytest.mark.slow] if name not in QUICK else []),
        ],
    )
    for name in NETWORKS
]


@pytest.mark.parametrize("name", NAMES)
def test_engines_of_half_and_of_integers(name: str, tmp_path: Path) -> None:
    fp32, int8 = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    trained = random_network(name)
    export_onnx(trained, fp32, generate_faces(4) if name.startswith("emotionaldan") else generate_faces(1))
    faces = prepare_batch(list(generate_faces(2)), trained.spec)
    del trained
    proto = onnx.load(fp32)
    placed = place(proto, placement_of(name))
    ranges = observe(fp32, [faces], {}, placed).ranges("minmax")
    onnx.save(quantise(proto, ranges, "tensorrt", placed), int8)
    half = tmp_path / "fp16.onnx"
    onnx.save(to_half(proto, ALWAYS_FLOAT), half)
    del proto

    options = EngineOptions("tensorrt-rtx", "fp16", compute_capability=(8, 6))
    report = build_engine(half, tmp_path / "net.engine", options)
    assert report.weights_memory_bytes is not None
    assert report.weights_memory_bytes < 0.55 * fp32.stat().st_size + (1 << 20)  # a head in FP32

    options = EngineOptions("tensorrt-rtx", "int8", compute_capability=(8, 6))
    report = build_engine(int8, tmp_path / "net.engine", options)

    assert report.weights_memory_bytes is not None
    in_fp32 = fp32.stat().st_size
    share = integer_weights(int8) * 4 / in_fp32
    assert report.weights_memory_bytes < 1.1 * (1 - 0.75 * share) * in_fp32
    if share > 0.9:
        assert report.weights_memory_bytes < 0.35 * in_fp32
    # Nothing is left out either. Equal constants are stored once: random weights hold blocks of zeros.
    assert report.weights_memory_bytes > 0.9 * distinct_bytes(int8)
    assert report.peak_memory_bytes < estimate_memory_bytes(int8.stat().st_size)


def integer_weights(path: Path) -> int:
    """Return the number of int8 weights of a Q/DQ file."""
    tensors = onnx.load(path).graph.initializer
    return sum(int(np.prod(t.dims)) for t in tensors if t.data_type == onnx.TensorProto.INT8)


def distinct_bytes(path: Path) -> int:
    """Bytes of the constants of a file, equal ones counted once."""
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    return sum({(a.shape, hashlib.sha256(a.tobytes()).digest()): a.nbytes for a in arrays}.values())
