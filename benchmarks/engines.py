"""Cost of compiling each network with TensorRT-RTX without a GPU, by precision and device.

    python benchmarks/engines.py [--network NAME …] [--compute-capability 8.6 …] [--json FILE]

Weights are random and ranges come from two generated faces: neither changes the figures, except that
random weights of Residual Masking Network hold blocks of zeros, which an INT8 engine stores once.

FILE is written after each network. Rows of the same commit, compiler and plugin are reused from an existing FILE,
so the same command continues an interrupted run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import onnx
from rich.console import Console

from fer_edge._utils.files import sha256_of, write_json
from fer_edge.calibration.fp16 import ALWAYS_FLOAT, to_half
from fer_edge.calibration.placement.families import placement_of
from fer_edge.calibration.placement.placement import place
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.collect import observe
from fer_edge.commands.base import make_table
from fer_edge.cuda.gpus import ComputeCapability, dotted, parse_capability
from fer_edge.engines.build.builder import build_engine
from fer_edge.engines.build.options import EngineOptions
from fer_edge.engines.flavours import FLAVOURS, require_module
from fer_edge.engines.plugin import find_plugin
from fer_edge.errors import EngineError
from fer_edge.export.checkpoints import random_network
from fer_edge.export.networks import NETWORKS
from fer_edge.export.onnx.export import export_onnx
from fer_edge.manifest import PRECISIONS
from fer_edge.preprocess import prepare_batch
from fer_edge.synthetic.drawn import generate_faces
from fer_edge.system.machine import LocalMachine
from fer_edge.system.memory import measure_free_memory
from fer_edge.system.provenance import measurement_record

#: Memory in GB that a network needs; with less it is left out, unless it is named.
LARGE = {"resmasking-ensemble": 16}
#: Fields that must be equal to reuse a row of a file.
SAME = ("commit", "compiler", "plugin")

Row = dict[str, Any]


def default_networks() -> list[str]:
    """Return all networks that fit the memory of this machine."""
    free = measure_free_memory(LocalMachine())
    gigabytes = 0 if free is None else free.total_bytes / 1e9
    return [name for name in NETWORKS if LARGE.get(name, 0) <= gigabytes]


def write_models(name: str, folder: Path) -> dict[str, Path]:
    """Write a network in FP32, FP16 and INT8 for TensorRT; return the files by precision."""
    paths = {precision: folder / f"{name}.{precision}.onnx" for precision in PRECISIONS}
    trained = random_network(name)
    export_onnx(trained, paths["fp32"])
    faces = prepare_batch(list(generate_faces(2)), trained.spec)
    proto = onnx.load(paths["fp32"])
    placed = place(proto, placement_of(name))
    ranges = observe(paths["fp32"], [faces], {}, placed).ranges("minmax")
    onnx.save(to_half(proto, ALWAYS_FLOAT), paths["fp16"])
    onnx.save(quantise(proto, ranges, "tensorrt", placed), paths["int8"])
    return paths


def measure(name: str, wanted: Sequence[tuple[str, ComputeCapability]]) -> list[Row]:
    """Return a row for every precision and compute capability; bytes and seconds, or the reason without an engine."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        # A subprocess frees the memory of the export before engines are compiled.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            paths = pool.submit(write_models, name, Path(folder)).result()
        for precision, capability in wanted:
            path = paths[precision]
            options = EngineOptions("tensorrt-rtx", precision, compute_capability=capability)
            row: Row = {
                "network": name,
                "precision": precision,
                "compute_capability": dotted(capability),
                "onnx_bytes": path.stat().st_size,
            }
            try:
                report = build_engine(path, Path(folder) / "net.engine", options)
            except EngineError as error:
                rows.append({**row, "refused": str(error)})
                continue
            row |= {
                "seconds": round(report.seconds, 2),
                "weights_memory_bytes": report.weights_memory_bytes,
                "engine_bytes": report.size_bytes,
                "peak_memory_bytes": report.peak_memory_bytes,
                "layers": report.layers,
                "plugin_layers": report.plugin_layers,
            }
            rows.append(row)
    return rows


def kept_rows(path: Path | None, now: dict[str, Any]) -> list[Row]:
    """Return the rows of an earlier run under the same conditions."""
    if path is None or not path.is_file():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if any(earlier["record"].get(name) != now[name] for name in SAME):
        return []
    return list(earlier["rows"])


def identity(row: Row) -> tuple[str, str, str]:
    """Return the key of a row."""
    return row["network"], row["precision"], row["compute_capability"]


def cells(row: Row) -> tuple[str, ...]:
    """Return the table cells of a row."""
    sizes = ("onnx_bytes", "weights_memory_bytes", "engine_bytes", "peak_memory_bytes")
    megabytes = (f"{row[k] / 1e6:.1f}" if row.get(k) is not None else "–" for k in sizes)
    layers = (str(row.get(k, "–")) for k in ("layers", "plugin_layers"))
    return (*identity(row), str(row.get("seconds", "refused")), *megabytes, *layers)


def main() -> None:
    """Measure the missing rows, and print all of them in one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), metavar="NAME")
    parser.add_argument("--precision", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--compute-capability", nargs="+", type=parse_capability, default=[(8, 6)])
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    console = Console(highlight=False, width=130)  # a pipe has 80 columns, which would cut the names
    require_module(FLAVOURS["tensorrt-rtx"])
    networks = args.network or default_networks()
    for name in (name for name in LARGE if not args.network and name not in networks):
        console.print(f"{name} needs {LARGE[name]} GB of memory and is left out: name it to have it")

    plugin = find_plugin()
    record = measurement_record() | {
        "compiler": importlib.import_module(FLAVOURS["tensorrt-rtx"].module).__version__,
        "plugin": plugin and sha256_of(plugin),
    }
    rows = {identity(row): row for row in kept_rows(args.json, record)}
    if args.json and args.json.is_file() and not rows:
        console.print(f"{args.json} is of another {', '.join(SAME[:-1])} or {SAME[-1]}: all is measured anew")
    order = [(n, p, dotted(c)) for n in networks for p in args.precision for c in args.compute_capability]
    for name in networks:
        missing = [
            (p, c)
            for p in args.precision
            for c in args.compute_capability
            if (name, p, dotted(c)) not in rows
        ]
        if missing:
            rows |= {identity(row): row for row in measure(name, missing)}
        if args.json:
            write_json(args.json, {"record": record, "rows": list(rows.values())})
        console.print(f"{name}: {len(missing)} measured", style="dim")

    shown = [rows[key] for key in order]
    columns = ("network", "precision", "device", "s", "ONNX MB", "weights MB", "engine MB", "peak MB")
    table = make_table(
        "Engines, batch 1 to 16", (*columns, "layers", "by plugin"), [cells(row) for row in shown]
    )
    console.print(table)
    for reason in dict.fromkeys(row["refused"].partition(" (")[0] for row in shown if "refused" in row):
        console.print(f"Refused: {reason}", markup=False)
    console.print(
        f"TensorRT-RTX {record['compiler']}, {record['device']}, {record['cores']} cores, {record['date']}, commit {record['commit']}"
    )


if __name__ == "__main__":
    main()
