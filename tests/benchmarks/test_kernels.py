"""The table of the kernels equals values computed by hand, and is labelled as an estimate."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from places import ROOT

from fer_edge.engines.build.builder import build_engine

BENCHMARKS = ROOT / "benchmarks"
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run kernels on the CPU")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("kernels")


@pytest.fixture
def kernel_work(benchmark: ModuleType) -> ModuleType:
    return importlib.import_module("kernel_work")


@pytest.fixture
def on_gpu(benchmark: ModuleType) -> ModuleType:
    return importlib.import_module("kernels_on_gpu")


def test_the_pool_by_hand_and_in_words(benchmark: ModuleType) -> None:
    pool = benchmark.derive_pool()
    weights, features, hidden = 66 * 128 + 66 + 66 + 1, 128 * 63, 66 * 63
    assert pool.bytes_by_launches[1] == 2 * (weights + features + 63 + 128)
    assert pool.bytes_by_launches[4] - pool.bytes_by_launches[1] == 2 * (2 * hidden + 3 * 63 + features)
    assert pool.bytes_by_launches[6] - pool.bytes_by_launches[4] == 2 * (2 * hidden + 2 * 63)
    assert pool.operations == 2 * 63 * (66 * 128 + 66 + 128)
    assert pool.network_launches == 10 + 4 + 1
    one, four, six = (pool.bytes_by_launches[n] for n in (1, 4, 6))
    nano = benchmark.BOARDS["Orin Nano 8 GB"]
    words = " ".join(benchmark.__doc__.split())
    assert (
        f"{(four - one) / 1e3:.0f} KB of FP16 traffic per face ({(six - one) / 1e3:.0f} KB of six)" in words
    )
    assert f"{nano.time_us(0, four - one):.1f} µs ({nano.time_us(0, six - one):.1f}) of an Orin Nano" in words
    assert f"{nano.time_us(pool.network_operations, pool.network_bytes):.0f} µs that the network" in words
    assert f"3 launches of {pool.network_launches + 4}" in words


def test_multiply_adds_of_the_network_are_those_of_pytorch(benchmark: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from fer_edge.export.networks.visual_attention import VisualAttention

    network = VisualAttention().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.features(torch.zeros(1, 1, 144, 112))
    assert benchmark.derive_pool().network_operations == counter.get_total_flops()


@needs_compiler
@pytest.mark.slow
def test_the_command_says_what_its_figures_are(tmp_path: Path) -> None:
    output = tmp_path / "kernels.json"
    command = [sys.executable, str(BENCHMARKS / "kernels.py"), "--batch", "1", "--json", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("roofline estimate, not measured") == 2
    written = json.loads(output.read_text())
    assert written["label"] == "roofline estimate, not measured"
    assert len(written["work"]) == 4
    assert set(written["work"][0]["times_us"]) == {
        "Orin Nano 8 GB",
        "Orin NX 16 GB",
        "AGX Orin 64 GB",
        "Thor T5000",
    }
    if not written["measured"]:
        assert "Not measured: " in done.stdout


@pytest.mark.parametrize("batch", ["0", "-1", "37"])
def test_batches_that_fit_no_frame_are_refused(batch: str) -> None:
    command = [sys.executable, str(BENCHMARKS / "kernels.py"), "--batch", batch]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--batch must be from 1 to 36. Fix:" in done.stderr


def test_the_model_to_compare_with_computes_attention(on_gpu: ModuleType, tmp_path: Path) -> None:
    import onnxruntime
    import torch

    from fer_edge.export.networks.attention_op import attend

    onnx.save(on_gpu.attention_model(36, 128), tmp_path / "attention.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "attention.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    tensors = [rng.standard_normal((3, rows, 36)).astype(np.float16) for rows in (16, 16, 128, 128)]
    names = ("query", "key", "value", "residual")
    (out,) = session.run(["out"], dict(zip(names, tensors, strict=True)))
    expected = attend(*(torch.from_numpy(t).float() for t in tensors), torch.tensor(on_gpu.GAMMA)).numpy()
    np.testing.assert_allclose(out, expected, atol=2e-2)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="needs TensorRT-RTX: pip install 'fer-edge[rtx]'",
)
def test_the_engine_to_compare_with_has_no_plugin(on_gpu: ModuleType, tmp_path: Path) -> None:
    onnx.save(on_gpu.attention_model(784, 128), tmp_path / "attention.onnx")
    options = on_gpu.engine_options("tensorrt-rtx", 4, compute_capability=(8, 6))
    report = build_engine(tmp_path / "attention.onnx", tmp_path / "attention.engine", options)
    assert report.plugin is None
    assert report.size_bytes > 0


@pytest.mark.gpu
def test_everything_is_timed(kernel_work: ModuleType, on_gpu: ModuleType, tmp_path: Path) -> None:
    from fer_edge.cuda.kernels import availability

    state = availability()
    if not state.ok:
        pytest.skip(state.reason)
    work = kernel_work.count_attention(kernel_work.Emulation(tmp_path), "conv-attention 48×48", 1)
    rows = on_gpu.measure([work])
    assert {"fer_edge", "cuBLAS + softmax + cuBLAS", "scaled_dot_product_attention"} <= {
        r.method for r in rows
    }
    assert all(0 < row.p50_us <= row.p99_us and 0 < row.tensor_percent < 100 for row in rows)
