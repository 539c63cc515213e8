"""Engines without a GPU: what TensorRT-RTX needs to compile each network, by precision and device.

    python benchmarks/engines.py [--network NAME …] [--compute-capability 8.6 …] [--json FILE]

Weights are random and ranges come from two generated faces: neither changes what is measured, except that
random weights of Residual Masking Network hold blocks of zeros, which an INT8 engine stores once.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnx
from rich.console import Console

from fer_edge._files import write_json
from fer_edge.calibration.families import placement_of
from fer_edge.calibration.half import ALWAYS_FLOAT, to_half
from fer_edge.calibration.qdq import quantise
from fer_edge.calibration.ranges import collect_ranges
from fer_edge.commands.base import make_table
from fer_edge.engines.builder import EngineOptions, build_engine
from fer_edge.engines.devices import dotted, parse_capability
from fer_edge.export.checkpoints import random_network
from fer_edge.export.networks import NETWORKS
from fer_edge.export.onnx_model import export_onnx
from fer_edge.preprocess import prepare_batch
from fer_edge.statistics import measurement_record
from fer_edge.synthetic_faces import generate_faces

#: Its export alone needs 8 GB of memory: name it to have it.
LEFT_OUT = ("resmasking-ensemble",)


def write_models(name: str, folder: Path) -> dict[str, Path]:
    """Write a network in FP32, FP16 and INT8 for TensorRT; return the files by precision."""
    paths = {precision: folder / f"{name}.{precision}.onnx" for precision in ("fp32", "fp16", "int8")}
    trained = random_network(name)
    export_onnx(trained, paths["fp32"])
    faces = prepare_batch(list(generate_faces(2)), trained.spec)
    ranges = collect_ranges(paths["fp32"], [faces], "minmax", {}, placement=placement_of(name))
    proto = onnx.load(paths["fp32"])
    onnx.save(to_half(proto, ALWAYS_FLOAT), paths["fp16"])
    onnx.save(quantise(proto, ranges, "tensorrt"), paths["int8"])
    return paths


def measure(name: str, capabilities: list[tuple[int, int]]) -> list[dict[str, object]]:
    """Return one row per precision and compute capability; bytes and seconds."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for precision, path in write_models(name, Path(folder)).items():
            for capability in capabilities:
                options = EngineOptions("tensorrt-rtx", precision, compute_capability=capability)
                report = build_engine(path, Path(folder) / "net.engine", options)
                rows.append(
                    {
                        "network": name,
                        "precision": precision,
                        "compute_capability": dotted(capability),
                        "seconds": round(report.seconds, 2),
                        "onnx_bytes": path.stat().st_size,
                        "weights_memory_bytes": report.weights_memory_bytes,
                        "engine_bytes": report.size_bytes,
                        "peak_memory_bytes": report.peak_memory_bytes,
                        "layers": report.layers,
                        "compiler": report.versions["tensorrt_rtx"],
                    }
                )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = [name for name in NETWORKS if name not in LEFT_OUT]
    parser.add_argument("--network", nargs="+", default=everything, choices=list(NETWORKS))
    parser.add_argument("--compute-capability", nargs="+", type=parse_capability, default=[(8, 6)])
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    console = Console(highlight=False, width=110)  # a pipe would get 80 columns, which cut the names
    rows = []
    for name in args.network:
        rows += measure(name, args.compute_capability)
        console.print(f"{name} done", style="dim")
    record = measurement_record()
    if args.json:
        write_json(args.json, {"record": record, "rows": rows})
    sizes = ("onnx_bytes", "weights_memory_bytes", "engine_bytes", "peak_memory_bytes")
    columns = ("network", "precision", "device", "s", "ONNX MB", "weights MB", "engine MB", "peak memory MB")
    table = [
        (
            *(r[k] for k in ("network", "precision", "compute_capability", "seconds")),
            *(f"{int(str(r[k])) / 1e6:.1f}" for k in sizes),
        )
        for r in rows
    ]
    console.print(make_table("Engines, batch 1 to 16", columns, table))
    console.print(
        f"TensorRT-RTX {rows[0]['compiler']}, {record['device']}, {record['cores']} cores, {record['date']}, commit {record['commit']}"
    )


if __name__ == "__main__":
    main()
