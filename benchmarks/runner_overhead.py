"""Overhead of the engine runner on the host, with a simulated device that completes everything at once.

    python benchmarks/runner_overhead.py [--batch 1 8 16 40] [--runs 20000] [--threads 1 4] [--json FILE]

The device copies real memory, computes nothing and waits for nothing, so only Python is measured: two thread
switches, some fifteen calls to the device, and the copies between NumPy and pinned memory. Calls of cuda-python
add their own time, and a GPU its work.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from rich.console import Console

from fer_edge._utils.files import write_json
from fer_edge.commands.base import make_table
from fer_edge.engines.run.engine import EngineFile, TensorInfo
from fer_edge.engines.run.options import RunnerOptions
from fer_edge.engines.run.runner import EngineRunner
from fer_edge.system.provenance import measurement_record

_SAMPLE = (1, 48, 48)  # FER2013's faces
_CLASSES = 7
_WARM_UP = 500


class InstantEngine:
    """An engine and its context that leave the output memory unchanged."""

    input = TensorInfo("input", np.dtype(np.float32), _SAMPLE)
    outputs = (TensorInfo("logits", np.dtype(np.float32), (_CLASSES,)),)
    min_batch, max_batch, scratch_bytes = 1, 16, 256

    def create_context(self, batch: int, addresses: Mapping[str, int], scratch: int) -> InstantEngine:
        """Return the engine, which is its own context."""
        return self

    def enqueue(self, stream: int) -> None:
        """Compute nothing."""

    def close(self) -> None:
        """Do nothing."""


class InstantDevice:
    """Simulated device with host memory and without streams."""

    def __init__(self) -> None:
        self._memory: dict[int, np.ndarray] = {}
        self._handles = itertools.count(1)

    def allocate(self, size_bytes: int) -> int:
        memory = np.zeros(size_bytes, np.uint8)
        self._memory[memory.ctypes.data] = memory
        return memory.ctypes.data

    def free(self, address: int) -> None:
        del self._memory[address]

    def allocate_pinned(self, size_bytes: int) -> np.ndarray:
        return np.zeros(size_bytes, np.uint8)

    def create_stream(self) -> int:
        return next(self._handles)

    create_event = create_stream

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        ctypes.memmove(target, source, size_bytes)

    def is_done(self, event: int) -> bool:
        return True

    def elapsed_ms(self, begin: int, end: int) -> float:
        return 0.0

    def load_engine(self, file: EngineFile) -> InstantEngine:
        return InstantEngine()

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        return next(self._handles)

    def close(self) -> None:
        """Do nothing."""

    def _ignore(self, *arguments: int) -> None:
        """Do nothing: there is no work to order."""

    record = wait = launch = destroy_stream = destroy_event = destroy_graph = _ignore

    def free_pinned(self, memory: np.ndarray) -> None:
        """Do nothing: NumPy frees the memory."""


def measure(rows: int, runs: int, threads: int) -> dict[str, float | int]:
    """Return percentiles of the time per call in microseconds, and the bytes that 1000 calls leave allocated.

    With several callers a call waits for those before it; ``wall_us`` is the whole time through all calls.
    """
    batch = np.random.default_rng(0).random((rows, *_SAMPLE), np.float32)
    taken: list[float] = []

    def work() -> None:
        mine = []
        out = {"logits": np.empty((rows, _CLASSES), np.float32)}
        for run in range(-_WARM_UP, runs // threads):
            started = time.perf_counter()
            runner.run(batch, out)
            if run >= 0:
                mine.append((time.perf_counter() - started) * 1e6)
        taken.extend(mine)

    with EngineRunner(InstantDevice, Path("instant.engine"), RunnerOptions()) as runner:
        callers = [threading.Thread(target=work) for _ in range(threads)]
        started = time.perf_counter()
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        wall_us = (time.perf_counter() - started) * 1e6
        kept, peak = _memory(runner, batch)
    p50, p90, p99 = np.percentile(taken, (50, 90, 99))
    return {
        "threads": threads,
        "batch": rows,
        "n": len(taken),
        "min_us": round(min(taken), 1),
        "p50_us": round(float(p50), 1),
        "p90_us": round(float(p90), 1),
        "p99_us": round(float(p99), 1),
        "wall_us": round(wall_us / (len(taken) + threads * _WARM_UP), 1),
        "kept_bytes": kept,
        "peak_bytes": peak,
    }


def _memory(runner: EngineRunner, batch: np.ndarray, calls: int = 1000) -> tuple[int, int]:
    """Return the bytes that the calls leave allocated on the host, and the peak of one call."""
    out = {"logits": np.empty((len(batch), _CLASSES), np.float32)}
    tracemalloc.start()
    try:
        for _ in range(_WARM_UP):
            runner.run(batch, out)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(calls):
            runner.run(batch, out)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before, peak - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 16, 40])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = [measure(batch, args.runs, threads) for threads in args.threads for batch in args.batch]
    record = measurement_record()
    if args.json:
        write_json(args.json, {"record": record, "rows": rows})
    table = make_table(
        "Runner on a device that does everything at once, µs per call",
        ("callers", "batch", "n", "min", "p50", "p90", "p99", "wall / calls", "bytes kept", "peak"),
        [tuple(row.values()) for row in rows],
    )
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{record['device']}, {record['cores']} cores, {record['date']}, commit {record['commit']}")


if __name__ == "__main__":
    main()
