"""Overhead of the guard that lets threads share a session or detector, with one caller; and the throughput of several callers.

    python benchmarks/lock_overhead.py IMAGE [--runs 2000] [--json FILE]

Calls with and without the guard are interleaved. The ratio is the median over the turns, with its 95 % interval (bootstrap).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from rich.console import Console
from turns import take_turns

from fer_edge._utils.files import write_json
from fer_edge._utils.images import read_image
from fer_edge.backends import BACKENDS, SessionOptions, available_backends, openvino
from fer_edge.bundle import open_bundle
from fer_edge.commands.base import make_table
from fer_edge.detection import create_detector
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.results import summarise
from fer_edge.system.provenance import measurement_record

_RESAMPLES = 2000
_GUARDS = ("_session", "_request", "_cascade")
_CALLERS, _PERCENTILES = (1, 2, 4), ("p50", "p90", "p99")


def without_guard(
    owner: object, call: Callable[[], object]
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return ``call`` with and without the guards of ``owner``; both set the guards first, at equal cost."""
    name = next(name for name in _GUARDS if hasattr(owner, name))
    guard, activity = getattr(owner, name), openvino._ACTIVITY
    with guard as value:
        bare = nullcontext(value)

    def run(guard: object, activity: object) -> None:
        setattr(owner, name, guard)
        openvino._ACTIVITY = activity
        call()

    return lambda: run(guard, activity), lambda: run(bare, nullcontext())


def ratio(guarded: list[float], bare: list[float]) -> tuple[float, float, float]:
    """Return lower bound, median and upper bound (95 %) of the ratio of paired latencies."""
    ratios, rng = np.array(guarded) / np.array(bare), np.random.default_rng(0)
    medians = [np.median(rng.choice(ratios, len(ratios))) for _ in range(_RESAMPLES)]
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(np.median(ratios)), float(high)


def calls_per_s(call: Callable[[], object], callers: int, runs: int) -> float:
    """Return the calls per second of ``callers`` threads together."""
    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        for done in [pool.submit(call) for _ in range(runs)]:
            done.result()
    return runs / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    image, bundle, haar = read_image(args.image), open_bundle(shipped_bundle()), create_detector("haar")
    face = np.random.default_rng(0).random((1, *bundle.spec.input_shape)).astype(np.float32)
    cases: dict[str, tuple[object, Callable[[], object]]] = {"haar": (haar, lambda: haar.detect(image))}
    for name in available_backends("cpu"):
        session = BACKENDS[name].open(bundle.path / "model.onnx", SessionOptions(threads=1))
        cases[name] = session, lambda run=session.run: run(face)  # type: ignore[misc]
    rows = []
    for name, (owner, call) in cases.items():
        work = dict(zip(("guarded", "bare"), without_guard(owner, call), strict=True))
        taken = take_turns(work, args.runs)
        work["guarded"]()  # the guards are restored
        low, median, high = ratio(taken["guarded"], taken["bare"])
        row = {"of": name, "n": len(taken["bare"]), "ratio": median, "low": low, "high": high}
        row |= {f"{k} {q}": getattr(summarise(v), f"{q}_ms") for k, v in taken.items() for q in _PERCENTILES}
        rows.append(row | {f"{n} callers": calls_per_s(call, n, args.runs) for n in _CALLERS})
    record = measurement_record()
    if args.json:
        write_json(args.json, {"record": record, "rows": rows})
    shown = [tuple(f"{v:.4g}" if isinstance(v, float) else v for v in row.values()) for row in rows]
    console = Console(highlight=False, width=150)
    console.print(make_table("Guard with one caller, ms; calls/s of several", tuple(rows[0]), shown))
    console.print(f"{record['device']}, {record['cores']} cores, {record['date']}, commit {record['commit']}")


if __name__ == "__main__":
    main()
