"""Times of the kernels on the GPU of this machine, compared with PyTorch and TensorRT.

Used by kernels.py. It has not been run on a GPU yet.

Self-attention in FP16: the fused kernel; cuBLAS, softmax, cuBLAS (PyTorch); scaled-dot-product attention, whose
kernel PyTorch chooses; and an engine of the operator's function body, which TensorRT fuses by itself, where TensorRT
is installed. Twenty calls are one CUDA graph, as in the product's runner, timed by CUDA events. The percentages compare the
minimum bytes and operations of the task with the rates that this GPU reaches on a copy of 256 MB and on a product of
4096 × 4096 matrices.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from kernel_work import ATTENTION_SHAPES, Work

from fer_edge.commands.base import make_table
from fer_edge.cuda import kernels
from fer_edge.engines.build.builder import build_engine
from fer_edge.engines.build.options import EngineOptions
from fer_edge.engines.flavours import FLAVOURS
from fer_edge.errors import EngineError, UsageError
from fer_edge.export.networks.attention_op import DOMAIN, attend, function_text

GAMMA = 0.7
_WARM_UP, _RUNS, _CALLS_PER_RUN = 20, 50, 20
_COPY_BYTES, _MATRIX_SIDE = 256 << 20, 4096
_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Measured:
    """Times of one method for one task.

    Attributes
    ----------
    method, shape : str
        Method, and the network whose shape it has.
    batch : int
        Faces.
    p50_us, p99_us : float
        Per call, over runs of 20 calls each.
    bandwidth_percent, tensor_percent : float
        Percentage of the rates of a copy and of a large product.
    """

    method: str
    shape: str
    batch: int
    p50_us: float
    p99_us: float
    bandwidth_percent: float
    tensor_percent: float


def attention_model(positions: int, channels: int) -> onnx.ModelProto:
    """Return self-attention alone as an FP16 network with a dynamic batch; γ is a constant."""
    depth = channels // 8
    model = onnx.parser.parse_model(f"""
<ir_version: 9, opset_import: ["" : 18, "{DOMAIN}" : 1]>
attention (float16[b, {depth}, {positions}] query, float16[b, {depth}, {positions}] key,
           float16[b, {channels}, {positions}] value, float16[b, {channels}, {positions}] residual)
    => (float16[b, {channels}, {positions}] out)
{{
    single = Constant <value_float = {GAMMA}> ()
    gamma = Cast <to = {onnx.TensorProto.FLOAT16}> (single)
    out = {DOMAIN}.SelfAttention (query, key, value, residual, gamma)
}}
""")
    model.functions.append(onnx.parser.parse_function(function_text()))
    onnx.checker.check_model(model, full_check=True)
    return model


def measure(works: Sequence[Work]) -> list[Measured]:
    """Time every method for the self-attention among ``works``.

    Raises
    ------
    UsageError
        If PyTorch has no CUDA, or a method differs from PyTorch in single precision.
    """
    import torch

    if not torch.cuda.is_available():
        raise UsageError(
            "PyTorch cannot use CUDA on this machine. Fix: install PyTorch with CUDA as on https://pytorch.org/get-started"
        )
    rows = []
    # Not the default stream, which synchronises with others.
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
        copy_bytes_per_us, product_flop_per_us = _peaks(torch)
        for work in works:
            if work.kernel != "self_attention":
                continue
            positions, channels = ATTENTION_SHAPES[work.shape]
            operations = 2 * work.batch * positions**2 * (channels + channels // 8)
            for method, call in _ways(torch, work.batch, positions, channels, Path(folder)).items():
                p50_us, p99_us = np.percentile(_times_us(torch, call), (50, 99)).tolist()
                rows.append(
                    Measured(
                        method,
                        work.shape,
                        work.batch,
                        p50_us,
                        p99_us,
                        100 * work.once_bytes / p50_us / copy_bytes_per_us,
                        100 * operations / p50_us / product_flop_per_us,
                    )
                )
    return rows


def time_table(rows: Sequence[Measured]) -> object:
    """Return the results of :func:`measure` as a table."""
    return make_table(
        "Measured on this GPU",
        ("method", "for", "batch", "p50 µs", "p99 µs", "% of bandwidth", "% of tensor peak"),
        [
            (
                row.method,
                row.shape,
                row.batch,
                *(
                    f"{value:.1f}"
                    for value in (row.p50_us, row.p99_us, row.bandwidth_percent, row.tensor_percent)
                ),
            )
            for row in rows
        ],
    )


def _ways(
    torch: Any, batch: int, positions: int, channels: int, folder: Path
) -> dict[str, Callable[[], Any]]:
    """Return equivalent calls on the current stream, each checked once."""

    def draw(rows: int, scale: float) -> Any:
        return (scale * torch.randn(batch, rows, positions, device="cuda")).half()

    torch.manual_seed(0)
    query, key = (draw(channels // 8, 0.7) for _ in range(2))
    value, residual = (draw(channels, 1) for _ in range(2))
    gamma = torch.tensor(GAMMA, device="cuda", dtype=torch.float16)
    out = torch.empty_like(value)

    def fused() -> Any:
        stream = torch.cuda.current_stream().cuda_stream
        kernels.self_attention(query, key, value, residual, gamma, out, stream=stream)
        return out

    def scaled_dot_product() -> Any:
        heads = (tensor.transpose(1, 2)[:, None] for tensor in (query, key, value))
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads, scale=1.0)
        return torch.addcmul(residual, gamma, mixed[:, 0].transpose(1, 2))

    ways: dict[str, Callable[[], Any]] = {
        "fer_edge": fused,
        "cuBLAS + softmax + cuBLAS": lambda: attend(query, key, value, residual, gamma),
        "scaled_dot_product_attention": scaled_dot_product,
    }
    inputs = {"query": query, "key": key, "value": value, "residual": residual}
    for flavour in FLAVOURS.values():
        if importlib.util.find_spec(flavour.module) is not None:
            ways[flavour.name] = _engine(torch, flavour.name, inputs, folder)
    expected = attend(*(tensor.float() for tensor in (query, key, value, residual, gamma)))
    for name, way in ways.items():
        error = (way().float() - expected).abs().max().item()
        if not error <= _TOLERANCE * expected.abs().max().item():
            raise UsageError(
                f"{name} differs from float32 PyTorch by {error:g} at {tuple(value.shape)}. "
                "Fix: report this with the output of fer-edge doctor."
            )
    return ways


def _engine(torch: Any, flavour: str, inputs: Mapping[str, Any], folder: Path) -> Callable[[], Any]:
    """Build the function body without the plugin; return a call of the engine on the tensors."""
    trt = importlib.import_module(FLAVOURS[flavour].module)
    batch, channels, positions = inputs["value"].shape
    model, engine_file = folder / "attention.onnx", folder / "attention.engine"
    onnx.save(attention_model(positions, channels), model)
    build_engine(model, engine_file, engine_options(flavour, batch))
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(engine_file.read_bytes())
    if engine is None:
        raise EngineError(
            f"{flavour} cannot read the engine that it built. Fix: report this with the output of fer-edge doctor."
        )
    context = engine.create_execution_context()
    out = torch.empty_like(inputs["value"])
    for name, tensor in inputs.items():
        context.set_input_shape(name, tuple(tensor.shape))
        context.set_tensor_address(name, tensor.data_ptr())
    context.set_tensor_address("out", out.data_ptr())

    def call(kept_alive: tuple[Any, ...] = (runtime, engine)) -> Any:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EngineError(
                f"{flavour} cannot run the engine. Fix: report this with the output of fer-edge doctor."
            )
        return out

    return call


def engine_options(flavour: str, batch: int, **changes: Any) -> EngineOptions:
    """Return the build options of the reference engine: one batch size, standard operators."""
    return EngineOptions(flavour, "fp16", batch, batch, batch, plugin="none", **changes)


def _times_us(torch: Any, call: Callable[[], Any]) -> list[float]:
    """Return microseconds per call, by the device's clock."""
    for _ in range(_WARM_UP):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_CALLS_PER_RUN):
            call()
    graph.replay()
    times = []
    for _ in range(_RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / _CALLS_PER_RUN)
    return times


def _peaks(torch: Any) -> tuple[float, float]:
    """Return bytes per µs of a copy, read and written, and operations per µs of a product of halves."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    matrix = torch.randn(_MATRIX_SIDE, _MATRIX_SIDE, device="cuda").half()
    copy_us = min(_times_us(torch, lambda: target.copy_(source)))
    product_us = min(_times_us(torch, lambda: matrix @ matrix))
    return 2 * _COPY_BYTES / copy_us, 2 * _MATRIX_SIDE**3 / product_us
