"""Latency of a bundle's network: every backend, precision and batch size, interleaved within one run.

    python benchmarks/latency.py BUNDLE [--batch 1 8] [--threads 2] [--json FILE]

The sessions are interleaved, so a change of the machine's speed affects all of them alike: compare ratios
within a run, not figures of two runs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from fer_edge._utils.files import write_json
from fer_edge.backends import BACKENDS, SessionOptions, available_backends, load_session
from fer_edge.bundle import PRECISIONS, open_bundle
from fer_edge.commands.base import make_table
from fer_edge.errors import BundleError
from fer_edge.models.catalogue import find_bundle
from fer_edge.results import summarise
from fer_edge.system.provenance import measurement_record


def measure(
    bundle_path: Path, backends: list[str], batches: list[int], runs: int, threads: int | None
) -> list[dict[str, object]]:
    """Return one row per backend, precision and batch size, with percentiles in milliseconds."""
    bundle = open_bundle(find_bundle(bundle_path))
    sessions = {}
    for backend in backends:
        for precision in PRECISIONS:
            try:
                sessions[backend, precision] = load_session(
                    bundle, BACKENDS[backend], precision, SessionOptions(threads=threads)
                )
            except BundleError:  # an FP32 bundle has no INT8 model
                continue
    rows: list[dict[str, object]] = []
    for size in batches:
        batch = np.random.default_rng(0).random((size, *bundle.spec.input_shape)).astype(np.float32)
        taken: dict[tuple[str, str], list[float]] = {key: [] for key in sessions}
        for run in range(-5, runs):
            for key, session in sessions.items():
                started = time.perf_counter()
                session.run(batch)
                if run >= 0:
                    taken[key].append((time.perf_counter() - started) * 1e3)
        rows += [
            {"backend": backend, "precision": precision, "batch": size, **summarise(values).to_dict()}
            for (backend, precision), values in taken.items()
        ]
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", nargs="+", default=available_backends())
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = measure(args.bundle, args.backend, args.batch, args.runs, args.threads)
    record = measurement_record()
    if args.json:
        write_json(args.json, {"record": record, "bundle": args.bundle.name, "rows": rows})
    p50 = {(r["backend"], r["precision"], r["batch"]): float(str(r["p50_ms"])) for r in rows}
    columns = ("backend", "precision", "batch", "n", "p50 ms", "p90 ms", "p99 ms", "speed against FP32")
    table = [
        (
            *(r[k] for k in ("backend", "precision", "batch", "n", "p50_ms", "p90_ms", "p99_ms")),
            f"{p50[r['backend'], 'fp32', r['batch']] / p50[r['backend'], r['precision'], r['batch']]:.2f}×",
        )
        for r in rows
    ]
    console = Console(highlight=False)
    console.print(make_table(args.bundle.name, columns, table))
    console.print(f"{record['device']}, {record['cores']} cores, {record['date']}, commit {record['commit']}")


if __name__ == "__main__":
    main()
