"""Detection rate of the self-test for saturated INT8 sums, its false alarms and its cost.

    python benchmarks/self_test.py [--draws 1000] [--pool 1024] [--saturated saturated.npz] [--output FILE.json]

Each draw chooses its faces like a build, from a random quarter of a pool of rendered faces, and is judged by two and by
eight faces. Saturated logits come from the emulation, or, with ``--saturated``, from a processor without VNNI:

    qemu-x86_64 -cpu Haswell python benchmarks/self_test.py --bundle INT8.fer --write-saturated saturated.npz --pool 256

False alarms are counted on other backends and precisions, whose differences are legitimate.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fer_edge._utils.files import write_json
from fer_edge.backends import BACKENDS, SessionOptions, available_backends, load_tested_session
from fer_edge.backends.base import DEFAULT_INT8
from fer_edge.backends.self_test import TOLERANCES, changed_classes, relative_errors
from fer_edge.builder import BuildOptions, build
from fer_edge.builder.self_test import choose_faces
from fer_edge.bundle import Bundle, open_bundle
from fer_edge.calibration.qdq.saturation import SaturationEmulator
from fer_edge.commands.base import make_table
from fer_edge.evaluation.evaluate import session_logits
from fer_edge.models.catalogue import SHIPPED, find_bundle, shipped_bundle
from fer_edge.preprocess import prepare_batch
from fer_edge.results import summarise
from fer_edge.synthetic import GENERATORS
from fer_edge.system.provenance import measurement_record

_SEED = 7
_OPENINGS = 5


def logits_of(bundle: Bundle, backend: str, precision: str, crops: np.ndarray, **options: Any) -> np.ndarray:
    """Return the logits of one session, opened without a self-test."""
    settings = SessionOptions(threads=1, **options)
    session = load_tested_session(bundle, BACKENDS[backend], precision, settings, self_test=False).session
    try:
        return session_logits(session, list(crops), bundle.spec)
    finally:
        session.close()


def judge(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Return whether the self-test passes."""
    passes = relative_errors(found, expected).max() <= tolerance
    return bool(passes and not changed_classes(found, expected, tolerance).any())


def count(
    draws: int,
    exact: np.ndarray,
    saturated: np.ndarray,
    others: Mapping[str, tuple[np.ndarray, np.ndarray, float]],
) -> dict[str, int]:
    """Return misses by two and by eight faces, and the false alarms of each legitimate variant."""
    random = np.random.default_rng(_SEED)
    errors = relative_errors(saturated, exact)
    result = {
        "misses by 2 faces": 0,
        "misses by 8 faces": 0,
        **{f"false alarms, {name}": 0 for name in others},
    }
    for _ in range(draws):
        candidates = random.choice(len(exact), len(exact) // 4, replace=False)
        chosen = candidates[choose_faces(exact[candidates], errors[candidates])]
        for faces in (2, 8):
            part = chosen[:faces]
            result[f"misses by {faces} faces"] += judge(saturated[part], exact[part], TOLERANCES["int8"])
        for name, (found, reference, tolerance) in others.items():
            result[f"false alarms, {name}"] += not judge(found[chosen], reference[chosen], tolerance)
    return result


def cost(bundle: Bundle) -> list[dict[str, Any]]:
    """Return the time of the self-test of a new session, and that of a single inference."""
    rows = []
    for backend in available_backends("cpu"):
        for precision in ("fp32", "int8"):
            seconds, faces, single = [], 0, []
            for _ in range(_OPENINGS):
                opened = load_tested_session(bundle, BACKENDS[backend], precision, SessionOptions(threads=1))
                seconds.append(1e3 * opened.self_test.seconds)
                faces = opened.self_test.faces
                batch = prepare_batch([np.zeros((48, 48, 3), np.uint8)], bundle.spec)
                for _ in range(20):
                    started = time.perf_counter()
                    opened.session.run(batch)
                    single.append(1e3 * (time.perf_counter() - started))
                opened.session.close()
            rows.append(
                {
                    "backend": backend,
                    "precision": precision,
                    "faces": faces,
                    "self_test_ms": summarise(seconds).to_dict(),
                    "single_ms": summarise(single).to_dict(),
                }
            )
    return rows


def main() -> None:
    """Measure the default network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=next(iter(SHIPPED)), metavar="NAME", help="a shipped bundle")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="its INT8 bundle (default: build it)")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--pool", type=int, default=1024, help="rendered faces")
    parser.add_argument(
        "--saturated", type=Path, metavar="FILE.npz", help="logits of a processor that saturates"
    )
    parser.add_argument(
        "--write-saturated", type=Path, metavar="FILE.npz", help="only write the saturated logits"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        network = open_bundle(shipped_bundle(args.model)).spec.network
        if args.bundle is None:
            path = Path(folder) / "int8.fer"
            bundle = build(BuildOptions(network, args.model, backend="onnxruntime", output=path)).bundle
        else:
            bundle = open_bundle(find_bundle(args.bundle))
        crops = GENERATORS["rendered"](args.pool, _SEED)
        if args.write_saturated:
            logits = logits_of(bundle, "onnxruntime", "int8", crops, int8_config=DEFAULT_INT8)
            np.savez_compressed(args.write_saturated, logits=logits)
            return
        exact = logits_of(bundle, "onnxruntime", "int8", crops)
        fp32 = logits_of(bundle, "onnxruntime", "fp32", crops)
        if args.saturated:
            with np.load(args.saturated) as file:
                saturated = file["logits"]
        else:
            saturated = SaturationEmulator(bundle.model_path("int8", "cpu")).logits(
                prepare_batch(list(crops), bundle.spec)
            )
        fp16 = build(
            BuildOptions(network, args.model, precision="fp16", output=Path(folder) / "fp16.fer")
        ).bundle
        others = {
            "FP16 against FP32": (logits_of(fp16, "onnxruntime", "fp16", crops), fp32, TOLERANCES["fp16"]),
        }
        if "openvino" in available_backends("cpu"):
            int8, full = (logits_of(bundle, "openvino", precision, crops) for precision in ("int8", "fp32"))
            others["OpenVINO INT8"] = (int8, exact, TOLERANCES["int8"])
            others["OpenVINO FP32"] = (full, fp32, TOLERANCES["fp32"])
        size = len(saturated)
        found = count(
            args.draws,
            exact[:size],
            saturated,
            {name: (a[:size], b[:size], tolerance) for name, (a, b, tolerance) in others.items()},
        )
        value = {
            "model": args.model,
            "draws": args.draws,
            "pool": size,
            "saturated": "a processor that saturates" if args.saturated else "emulated",
            "counts": found,
            "largest_error": {name: float(relative_errors(a, b).max()) for name, (a, b, _) in others.items()},
            "cost": cost(bundle),
            "record": measurement_record(),
        }
    console = Console()
    console.print(make_table(f"{args.model}, of {args.draws} draws", ("", "count"), list(found.items())))
    columns = ("backend", "precision", "faces", "self-test ms p50 / p90 / p99", "single ms p50 / p90 / p99")
    rows = [
        (
            row["backend"],
            row["precision"],
            row["faces"],
            *(
                " / ".join(f"{row[key][p]:.1f}" for p in ("p50_ms", "p90_ms", "p99_ms"))
                for key in ("self_test_ms", "single_ms")
            ),
        )
        for row in value["cost"]
    ]
    console.print(make_table("Cost when a session opens", columns, rows))
    if args.output:
        write_json(args.output, value)


if __name__ == "__main__":
    main()
