"""Regret of the choice of `fer-edge tune`: its time per face against the best candidate's, in a later run.

    python benchmarks/tune.py [--tunings 3] [--turns 40] [--output benchmarks/records/tune.json]

Three bundles are built: conv-attention and visual-attention in INT8, resnet18 with random weights in FP32. Each is
tuned several times as on first use; then all candidates, including dropped ones, are timed interleaved. Regret is
time of the choice / best − 1, by the median time per face with one and with four faces in a call.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from turns import take_turns

from fer_edge._utils.files import write_json
from fer_edge.backends import BACKENDS, load_session
from fer_edge.backends.base import run_in_parts
from fer_edge.builder import BuildOptions, build
from fer_edge.bundle import Bundle, open_bundle
from fer_edge.commands.base import make_table
from fer_edge.results import summarise
from fer_edge.runtime.choice import Candidate, list_candidates
from fer_edge.runtime.options import RuntimeOptions
from fer_edge.runtime.timing import SEVERAL, time_per_face
from fer_edge.runtime.tune import tune
from fer_edge.system.machine import LocalMachine
from fer_edge.system.processors import count_processors
from fer_edge.system.provenance import measurement_record

#: Name → build options of the bundle.
BUNDLES = {
    "conv-attention INT8": BuildOptions("conv-attention", backend="onnxruntime"),
    "visual-attention INT8": BuildOptions(
        "visual-attention", weights="visual-attention", backend="onnxruntime"
    ),
    "resnet18 FP32": BuildOptions("resnet18", weights="random", precision="fp32", backend="onnxruntime"),
}


def measure(bundle: Bundle, tunings: int, turns: int) -> dict[str, Any]:
    """Tune several times, then time all candidates interleaved; return plain JSON types."""
    chosen: list[tuple[Candidate, float]] = []
    for _ in range(tunings):
        started = time.perf_counter()
        choice = tune(bundle, again=True).choice
        chosen.append((choice.candidate, time.perf_counter() - started))
    candidates = list_candidates(bundle, RuntimeOptions(), count_processors(LocalMachine()))
    faces = np.random.default_rng(1).random((SEVERAL, *bundle.spec.input_shape), np.float32)
    with contextlib.ExitStack() as stack:
        work = {}
        for candidate in candidates:
            session = stack.enter_context(
                contextlib.closing(
                    load_session(
                        bundle, BACKENDS[candidate.backend], candidate.precision, candidate.session_options()
                    )
                )
            )
            for size in (1, SEVERAL):
                work[candidate, size] = partial(run_in_parts, session.run, faces[:size], candidate.max_batch)
        taken = take_turns(work, turns)
    summaries = {key: summarise(values) for key, values in taken.items()}
    face_ms = {
        candidate: time_per_face(*(summaries[candidate, size].p50_ms for size in (1, SEVERAL)))
        for candidate in candidates
    }
    best = min(face_ms, key=lambda candidate: face_ms[candidate])
    return {
        "best": str(best),
        "plain_regret": face_ms[candidates[0]] / face_ms[best] - 1,
        "tunings": [
            {"choice": str(candidate), "seconds": seconds, "regret": face_ms[candidate] / face_ms[best] - 1}
            for candidate, seconds in chosen
        ],
        "candidates": [
            {
                "candidate": str(candidate),
                "face_ms": face_ms[candidate],
                "one_face": summaries[candidate, 1].to_dict(),
                "four_faces": summaries[candidate, SEVERAL].to_dict(),
            }
            for candidate in candidates
        ],
    }


def main() -> None:
    """Build, tune, measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--bundles", type=Path, metavar="DIR", help="folder of the bundles; missing ones are built"
    )
    parser.add_argument("--tunings", type=int, default=3, metavar="N")
    parser.add_argument("--turns", type=int, default=40, metavar="N")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    args = parser.parse_args()
    console, found = Console(highlight=False, width=150), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FER_EDGE_CACHE"] = folder  # do not change the user's stored choices
        for name, options in BUNDLES.items():
            path = (args.bundles or Path(folder)) / f"{name.replace(' ', '-').lower()}.fer"
            if not path.exists():
                build(dataclasses.replace(options, output=path))
            found[name] = measure(open_bundle(path), args.tunings, args.turns)
            print_bundle(console, name, found[name])
    value = {"bundles": found, "record": measurement_record()}
    record = value["record"]
    console.print(
        f"{record['device']} ({', '.join(record['processor_features'])}), {record['cores']} cores, "
        f"commit {record['commit']}, {record['date']}"
    )
    if args.output:
        write_json(args.output, value)


def print_bundle(console: Console, name: str, value: dict[str, Any]) -> None:
    """Print the candidates of a bundle, and the regret of each tuning."""
    rows = [
        (
            row["candidate"],
            *(row[size][p] for size in ("one_face", "four_faces") for p in ("p50_ms", "p90_ms", "p99_ms")),
            row["one_face"]["n"],
            f"{row['face_ms']:.2f}",
        )
        for row in value["candidates"]
    ]
    columns = ("candidate", "1 face p50", "p90", "p99", "4 faces p50", "p90", "p99", "n", "ms a face")
    console.print(make_table(f"{name}, ms a call", columns, rows))
    tunings = [(t["choice"], f"{t['seconds']:.1f}", f"{100 * t['regret']:.1f} %") for t in value["tunings"]]
    tunings.append(
        (f"plain: {value['candidates'][0]['candidate']}", "0", f"{100 * value['plain_regret']:.1f} %")
    )
    console.print(make_table(f"Best: {value['best']}", ("choice", "tuned in s", "regret"), tunings))


if __name__ == "__main__":
    main()
