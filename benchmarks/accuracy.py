"""INT8 of FER-Edge against FP32 and against NNCF, OpenVINO's own quantiser: accuracy, latency, size.

    python benchmarks/accuracy.py fer2013.csv.gz --model conv-attention resmasking:CHECKPOINT [--images 500]

Both quantise the same ONNX file on the same faces, and everything is measured on the same faces, with all
sessions interleaved within one run: compare ratios within a run, not figures of two runs. Every session is opened
several times, in rotated order: memory placement and the sessions opened before make the same file up to 2 %
slower or faster.
NAME is a bundle that ships, or a network with ``:WEIGHTS`` (a file, or ``random``). ``fer2013new.csv`` lies
beside the CSV.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from peak import PEAK_RUNS, PEAK_SIZE, Peak, best_peaks, measure_peaks, peak_table
from rich.console import Console
from turns import take_turns

from fer_edge._utils.files import write_json
from fer_edge.backends import SessionOptions, choose_backend
from fer_edge.backends.base import Session
from fer_edge.builder import BuildOptions, build
from fer_edge.bundle import FP32_MODEL, Bundle
from fer_edge.calibration.comparison.compare import known_targets
from fer_edge.calibration.placement.macs import multiply_adds
from fer_edge.commands.base import make_table
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.errors import DataError, FerEdgeError, UsageError
from fer_edge.evaluation.evaluate import session_logits
from fer_edge.evaluation.metrics import compute_metrics
from fer_edge.models.catalogue import SHIPPED
from fer_edge.preprocess import prepare_batch
from fer_edge.probabilities import softmax
from fer_edge.results import summarise
from fer_edge.spec import ModelSpec
from fer_edge.system.provenance import measurement_record

CALIBRATION_SPLIT, EVALUATION_SPLIT = "Training", "PublicTest"
#: A model, and the backend that runs it.
Variant = tuple[str, str]
Ratio = dict[str, float | int | None]
FP32, OURS = "FP32", "FER-Edge INT8"
#: Estimators of the shift of each layer's mean in NNCF; ``fast`` is its default.
BIAS_CORRECTIONS = {"fast": "NNCF INT8", "full": "NNCF INT8 full"}
BASELINE = (FP32, "openvino")


def quantise_with_nncf(
    model: Path, faces: FaceDataset, spec: ModelSpec, correction: str, path: Path
) -> tuple[Path, ...]:
    """Quantise with NNCF's preset for CPUs; return the files of the result, the one to load first.

    It reads one face at a time, because NNCF averages the ranges of batches.
    """
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise UsageError(
            "NNCF or OpenVINO is not installed. Fix: run pip install 'nncf>=3' 'openvino>=2024.6'"
        ) from error
    nncf.set_log_level(logging.ERROR)
    # OpenVINO does not expand local functions of a model, such as our attention.
    inlined = path.with_suffix(".onnx")
    onnx.save(onnx.inliner.inline_local_functions(onnx.load(model)), inlined)
    # Core.read_model keeps biases behind a Reshape, where NNCF does not correct them.
    network = openvino.convert_model(inlined)
    quantised = nncf.quantize(
        network,
        nncf.Dataset([prepare_batch([face], spec) for face in faces]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(faces),
        fast_bias_correction=correction == "fast",
    )
    openvino.save_model(quantised, path, compress_to_fp16=False)
    return path, path.with_suffix(".bin")


def measure(name: str, args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Build one network in every variant; return its rows, peak rates and the machine."""
    bundle, labels = _build(name, args, work)
    spec = bundle.spec
    calibration = load_dataset(args.data, CALIBRATION_SPLIT).sample(args.calibration_images)
    faces = load_dataset(args.data, EVALUATION_SPLIT, labels or _labels(spec))
    faces = faces.subset(np.flatnonzero(known_targets(faces, spec) >= 0))
    if args.images is not None:
        faces = faces.sample(args.images)
    if not len(faces):
        raise DataError(
            f"{faces.name} has no face with a class of {name}. Fix: give data with labelled faces of these classes."
        )
    fp32, int8 = bundle.path / FP32_MODEL, bundle.model_path("int8", "cpu")
    models: dict[Variant, tuple[Path, ...]] = {
        (precision, backend): (path,)
        for precision, path in ((FP32, fp32), (OURS, int8))
        for backend in ("onnxruntime", "openvino")
    }
    for correction in args.bias_correction:
        models[BIAS_CORRECTIONS[correction], "openvino"] = quantise_with_nncf(
            fp32, calibration, spec, correction, work / f"nncf-{correction}.xml"
        )
    with _opened(models, SessionOptions(threads=args.threads)) as sessions:
        scores = _scores(sessions, faces, spec)
    peaks = measure_peaks(args.peak_size, args.peak_runs, args.threads)
    macs = sum(multiply_adds(onnx.load(fp32)).values())
    openings = {size: _latencies(models, size, spec, args) for size in args.batch}
    pooled = {
        size: {key: summarise([value for taken in found for value in taken[key]]) for key in models}
        for size, found in openings.items()
    }
    rows = []
    for key, files in models.items():
        peak = best_peaks(peaks)["fp32" if key[0] == FP32 else "int8"].best_gops
        timed = []
        for size, summaries in pooled.items():
            summary = summaries[key]
            timed.append(
                {
                    "batch": size,
                    **summary.to_dict(),
                    "speed_against_baseline": summaries[BASELINE].p50_ms / summary.p50_ms,
                    "share_of_peak": 2 * macs * size / summary.p50_ms / 1e6 / peak,
                }
            )
        size_bytes = sum(file.stat().st_size for file in files)
        rows.append(
            {"model": key[0], "backend": key[1], "bytes": size_bytes, **scores[key], "latency": timed}
        )
    return {
        "name": name,
        "timing_only": bundle.manifest.timing_only,
        "faces": f"{faces.name}, {len(faces)} faces",
        "calibration": f"{calibration.name}, {len(calibration)} faces",
        "multiply_adds": macs,
        "peaks": [asdict(peak) for peak in peaks],
        "time_against_nncf": [
            {"nncf": other[0], "batch": size, **_time_against(found, (OURS, "openvino"), other)}
            for size, found in openings.items()
            for other in models
            if other[0] in BIAS_CORRECTIONS.values()
        ],
        "rows": rows,
    }


def _build(name: str, args: argparse.Namespace, work: Path) -> tuple[Bundle, str | None]:
    """Return the INT8 bundle, and the kind of labels its weights were trained on, if known."""
    network, _, weights = name.partition(":")
    shipped = SHIPPED.get(network) if not weights else None
    options = BuildOptions(
        model=shipped.network if shipped else network,
        weights=weights or (network if shipped else "auto"),
        precision="int8",
        backend="openvino",
        calibration_data=args.data,
        calibration_split=CALIBRATION_SPLIT,
        calibration_images=args.calibration_images,
        comparison_images=1,
        method=args.method,
        output=work / "bundle.fer",
    )
    return build(options).bundle, shipped.labels if shipped else None


def _labels(spec: ModelSpec) -> str:
    return "ferplus" if "contempt" in spec.class_names else "fer2013"


def _scores(
    sessions: Mapping[Variant, Session], faces: FaceDataset, spec: ModelSpec
) -> dict[Variant, dict[str, float]]:
    """Return accuracy against the labels, and agreement with FP32 on the first backend."""
    logits = {key: session_logits(session, faces, spec) for key, session in sessions.items()}
    targets = known_targets(faces, spec)
    reference = logits[next(iter(logits))]
    scores = {}
    for key, values in logits.items():
        metrics = compute_metrics(softmax(values), targets, spec.class_names)
        scores[key] = {
            "accuracy": metrics.accuracy,
            "macro_f1": metrics.macro_f1,
            "agreement": float((values.argmax(axis=1) == reference.argmax(axis=1)).mean()),
            "logit_cosine": _centred_cosine(values, reference),
        }
    return scores


def _centred_cosine(logits: np.ndarray, reference: np.ndarray) -> float:
    """Mean cosine between centred logits: softmax ignores their mean."""
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (logits, reference))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-12)).mean())


@contextlib.contextmanager
def _opened(
    models: Mapping[Variant, tuple[Path, ...]], options: SessionOptions
) -> Iterator[dict[Variant, Session]]:
    with contextlib.ExitStack() as stack:
        yield {
            key: stack.enter_context(contextlib.closing(choose_backend(key[1]).open(files[0], options)))
            for key, files in models.items()
        }


def _latencies(
    models: Mapping[Variant, tuple[Path, ...]], size: int, spec: ModelSpec, args: argparse.Namespace
) -> list[dict[Variant, list[float]]]:
    """Return the latencies of each session."""
    batch = np.random.default_rng(0).random((size, *spec.input_shape), np.float32)
    options = SessionOptions(threads=args.threads, max_batch=size)
    openings = []
    for opening in range(args.openings):
        # The later of two small OpenVINO sessions was 10 % slower in either order.
        order = list(models.items()) if opening % 2 == 0 else list(models.items())[::-1]
        with _opened(dict(order), options) as sessions:
            work = {key: functools.partial(session.run, batch) for key, session in sessions.items()}
            openings.append(take_turns(work, args.runs, args.budget_s / args.openings))
    return openings


def _time_against(openings: Sequence[Mapping[Variant, list[float]]], key: Variant, other: Variant) -> Ratio:
    """Mean over the sessions of the logarithm of the ratio of medians, and its uncertainty."""
    logs = [float(np.log(np.median(taken[key]) / np.median(taken[other]))) for taken in openings]
    error = float(np.std(logs, ddof=1) / len(logs) ** 0.5) if len(logs) > 1 else None
    return {"ratio": float(np.exp(np.mean(logs))), "standard_error": error, "openings": len(logs)}


def print_tables(console: Console, result: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Print accuracy, latency, peak rate and machine of one network."""
    rows = result["rows"]
    accuracy = [
        (
            row["model"],
            row["backend"],
            *(f"{100 * row[k]:.2f}" for k in ("accuracy", "macro_f1", "agreement")),
            f"{row['logit_cosine']:.5f}",
            f"{row['bytes'] / 1e6:.2f}",
        )
        for row in rows
    ]
    columns = ("model", "backend", "accuracy", "macro-F1", "as FP32", "cosine", "MB")
    note = " (random weights: timing only)" if result["timing_only"] else ""
    console.print(
        make_table(f"{result['name']}: percent of {result['faces']}{note}", columns, accuracy),
        f"Calibrated on {result['calibration']}. As FP32: same class; cosine: of the logits less their mean.\n",
    )
    latency = [
        (
            row["model"],
            row["backend"],
            timed["batch"],
            timed["n"],
            " / ".join(f"{timed[k]:.1f}" for k in ("p50_ms", "p90_ms", "p99_ms")),
            f"{timed['speed_against_baseline']:.2f}×",
            f"{100 * timed['share_of_peak']:.0f} %",
        )
        for row in rows
        for timed in row["latency"]
    ]
    columns = ("model", "backend", "batch", "n", "p50 / p90 / p99 ms", "speed", "of peak")
    console.print(
        make_table(f"{result['name']}: latency", columns, latency),
        f"Speed: against FP32 in OpenVINO, of p50. Of peak: {result['multiply_adds'] / 1e6:.0f} million multiply-adds "
        "of layers per face at p50, against the best of the same precision below.\n",
    )
    for row in result["time_against_nncf"]:
        error = "unknown" if row["standard_error"] is None else f"{row['standard_error']:.3f}"
        console.print(
            f"Time of ours in OpenVINO against {row['nncf']}, batch {row['batch']}: {row['ratio']:.3f} "
            f"± {error} (geometric mean and its standard error of {row['openings']} openings)."
        )
    console.print(peak_table([Peak(**peak) for peak in result["peaks"]]))
    console.print(f"{record['device']}, {record['cores']} cores, {record['date']}, commit {record['commit']}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="fer2013.csv[.gz]")
    parser.add_argument("--model", nargs="+", default=list(SHIPPED), metavar="NAME[:WEIGHTS]")
    parser.add_argument("--images", type=int, help="faces of PublicTest for accuracy (default: all)")
    parser.add_argument("--calibration-images", type=int, default=512)
    parser.add_argument("--method", default=BuildOptions.method, help="calibration method of FER-Edge")
    parser.add_argument("--bias-correction", nargs="*", choices=BIAS_CORRECTIONS, default=["fast"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument(
        "--openings", type=int, default=6, help="number of sessions timed per variant, in rotated order"
    )
    parser.add_argument("--runs", type=int, default=20, help="timed runs of each session")
    parser.add_argument("--budget-s", type=float, default=120, help="seconds of timing per batch size")
    parser.add_argument("--peak-size", type=int, default=PEAK_SIZE, help="side of the matrices of the peak")
    parser.add_argument("--peak-runs", type=int, default=PEAK_RUNS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    record = measurement_record()
    console = Console(highlight=False, width=100)
    results = []
    try:
        for name in args.model:
            with tempfile.TemporaryDirectory() as work:
                results.append(measure(name, args, Path(work)))
            print_tables(console, results[-1], record)
    except FerEdgeError as error:
        sys.exit(f"error: {error}")
    if args.json:
        write_json(args.json, {"record": record, "models": results})


if __name__ == "__main__":
    main()
