"""The multiply-add rate that this machine reaches in INT8 and in FP32.

    python benchmarks/peak.py [--threads 2] [--size 2048] [--runs 20] [--json FILE]

The peak is the best that any library here reaches on work without overhead, a large matrix product or a large
convolution: a measured figure, below the peak of the
processor's data sheet. One multiply-add is two operations.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from rich.console import Console
from turns import take_turns

from fer_edge._utils.files import write_json
from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.commands.base import make_table
from fer_edge.system.provenance import measurement_record

PEAK_SIZE, PEAK_RUNS = 2048, 20
#: The convolution is like those of a residual network: 3×3, 256 channels, on 56×56.
_CHANNELS, _SIDE = 256, 56
#: Products in a row within one model, so that its input and output cost little in comparison.
_REPEATS = 4


@dataclass(frozen=True)
class Peak:
    """Rate of one method.

    Attributes
    ----------
    precision : {"int8", "fp32"}
        Type of the operands; INT8 accumulates in int32.
    method : str
        Library and work.
    n : int
        Runs.
    best_gops, p50_gops : float
        10⁹ operations per second in the fastest and in the median run.
    """

    precision: str
    method: str
    n: int
    best_gops: float
    p50_gops: float


def measure_peaks(size: int = PEAK_SIZE, runs: int = PEAK_RUNS, threads: int | None = None) -> list[Peak]:
    """Measure the methods interleaved; the best of each precision comes first.

    Parameters
    ----------
    size : int
        Side of the square matrices.
    runs : int
        Runs of each method.
    threads : int or None
        Threads of each library; ``None``: its default.
    """
    product = 2 * size**3
    convolution = 2 * 9 * _CHANNELS**2 * _SIDE**2
    work: dict[tuple[str, str], Callable[[], object]] = {}
    operations: dict[tuple[str, str], int] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.onnx"
        for precision in ("int8", "fp32"):
            for node, shape, weight_shape, count in (
                ("MatMul", (1, 1, size, size), (size, size), product),
                ("Conv", (1, _CHANNELS, _SIDE, _SIDE), (_CHANNELS, _CHANNELS, 3, 3), convolution),
            ):
                onnx.save(_products(node, shape, weight_shape, precision == "int8"), path)
                batch = np.random.default_rng(0).random(shape, np.float32)
                for backend in BACKENDS.values():
                    if backend.available().ok:
                        key = precision, f"{backend.name} {_described(node, shape)}"
                        session = backend.open(path, SessionOptions(threads=threads))
                        work[key] = lambda session=session, batch=batch: session.run(batch)
                        operations[key] = _REPEATS * count
        for precision, call in _torch_products(size, threads).items():
            key = precision, f"torch {_described('MatMul', (1, 1, size, size))}"
            work[key], operations[key] = call, product
        taken = take_turns(work, runs)
    peaks = [
        Peak(*key, len(times), operations[key] / min(times) / 1e6, operations[key] / np.median(times) / 1e6)
        for key, times in taken.items()
    ]
    return sorted(peaks, key=lambda peak: (peak.precision != "int8", -peak.best_gops))


def best_peaks(peaks: Sequence[Peak]) -> dict[str, Peak]:
    """Return the best of each precision."""
    return {p.precision: p for p in sorted(peaks, key=lambda peak: peak.best_gops)}


def peak_table(peaks: Sequence[Peak]) -> Any:
    """Return a table of the rates of all methods."""
    rows = [(p.precision, p.method, p.n, f"{p.best_gops:.0f}", f"{p.p50_gops:.0f}") for p in peaks]
    return make_table("Peak of this machine", ("precision", "method", "n", "best GOPS", "p50 GOPS"), rows)


def _products(
    operator: str, shape: tuple[int, ...], weight_shape: tuple[int, ...], int8: bool
) -> onnx.ModelProto:
    """Return a network of chained products, in INT8 with Q/DQ for integer kernels."""
    integers = np.random.default_rng(1).integers(-127, 128, weight_shape, np.int8)
    attributes = {"pads": [1, 1, 1, 1]} if operator == "Conv" else {}
    constants = {} if int8 else {"weight": (integers / 127).astype(np.float32)}
    nodes = []
    if int8:
        # A typical scale for sums of this many products.
        wide = math.prod(weight_shape[1:]) ** 0.5 / 64
        constants |= {"scale": np.float32(1 / 255), "zero": np.uint8(0), "wide": np.float32(wide)}
        nodes += _stored("input", "scale", "x0")
        for i in range(_REPEATS):
            # One per product: ONNX Runtime's form without saturation rewrites weights, and fails on shared ones.
            constants |= {f"weight{i}": integers, f"weight_zero{i}": np.int8(0)}
            given = [f"weight{i}", "scale", f"weight_zero{i}"]
            nodes.append(helper.make_node("DequantizeLinear", given, [f"w{i}"]))
    for i in range(_REPEATS):
        source = (f"x{i}", f"w{i}") if int8 else (f"x{i}" if i else "input", "weight")
        last = i == _REPEATS - 1
        result = "logits" if last else f"x{i + 1}"
        nodes.append(helper.make_node(operator, source, [f"y{i}" if int8 else result], **attributes))
        nodes += _stored(f"y{i}", "wide", result) if int8 else []
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "peak",
        [value("input", onnx.TensorProto.FLOAT, shape)],
        [value("logits", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _stored(name: str, scale: str, result: str) -> list[onnx.NodeProto]:
    """Return the Q/DQ pair that stores ``name`` as uint8."""
    return [
        helper.make_node("QuantizeLinear", [name, scale, "zero"], [f"{name}.q"]),
        helper.make_node("DequantizeLinear", [f"{name}.q", scale, "zero"], [result]),
    ]


def _torch_products(size: int, threads: int | None) -> Mapping[str, Callable[[], object]]:
    """Return PyTorch's matrix products by precision; none where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    integers = torch.randint(-127, 128, (size, size), dtype=torch.int8)
    floats = torch.rand(size, size)
    return {"int8": lambda: torch._int_mm(integers, integers), "fp32": lambda: floats @ floats}


def _described(operator: str, shape: tuple[int, ...]) -> str:
    if operator == "MatMul":
        return f"matrix product {shape[-1]}³"
    return f"convolution 3×3, {shape[1]} channels, {shape[2]}×{shape[3]}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--size", type=int, default=PEAK_SIZE)
    parser.add_argument("--runs", type=int, default=PEAK_RUNS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    peaks = measure_peaks(args.size, args.runs, args.threads)
    record = measurement_record()
    if args.json:
        write_json(args.json, {"record": record, "rows": [asdict(peak) for peak in peaks]})
    console = Console(highlight=False, width=100)
    console.print(peak_table(peaks))
    console.print(f"{record['device']}, {record['cores']} cores, {record['date']}, commit {record['commit']}")


if __name__ == "__main__":
    main()
