"""INT8 without calibration faces: how much worse are ranges from generated images than from real ones?

    python benchmarks/data_free.py DATA [--model NAME[:WEIGHTS] ...] [--images N] [--json FILE]

DATA is ``fer2013.csv[.gz]``. Every network is calibrated once per source of images; each method then chooses
its ranges from the same histograms. ``real, others`` is a second sample of real faces: its difference is chance. The figures are those of INT8 against FP32 on faces of ``PublicTest``, in ONNX Runtime.
A ratio is the range of a tensor on generated images over its range on real faces.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console

from fer_edge._utils.files import write_json
from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.bundle import FP32_MODEL, open_bundle
from fer_edge.calibration.comparison.compare import known_targets
from fer_edge.calibration.comparison.paired import compare_paired
from fer_edge.calibration.qdq.dialects import DIALECTS
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.collect import observe
from fer_edge.calibration.ranges.methods import METHODS
from fer_edge.calibration.ranges.observers import TensorRange
from fer_edge.commands.base import make_table
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.models.catalogue import SHIPPED, shipped_bundle
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import ModelSpec
from fer_edge.synthetic import GENERATORS
from fer_edge.system.provenance import measurement_record

BACKEND = "onnxruntime"
REAL = "real"
#: Small: all tensors of a batch are in memory while ranges are observed.
BATCH = 4
#: Relative to real faces: below, values of real faces are clipped; above, more than one of the 8 bits is lost.
TOO_SMALL, TOO_LARGE = 0.8, 2.0


@dataclass(frozen=True)
class Row:
    """One quantised network against FP32 on the same real faces.

    ``change_pp`` is INT8's accuracy less FP32's, in points, ``low_pp`` to ``high_pp`` its 95 % interval. Ratios are
    ``None`` in the row of real faces.
    """

    model: str
    images: str
    method: str
    dialect: str
    fp32_accuracy: float
    change_pp: float
    low_pp: float
    high_pp: float
    agreement: float
    logit_cosine: float
    tensors: int
    too_small: int | None
    too_large: int | None
    median_ratio: float | None


def network(name: str, work: Path) -> tuple[Path, ModelSpec, str]:
    """Return the FP32 ONNX of ``NAME`` (shipped) or ``NAME:WEIGHTS``, its spec, and the kind of labels it was trained on."""
    key, _, weights = name.partition(":")
    if not weights:
        bundle = open_bundle(shipped_bundle(key))
        return bundle.path / FP32_MODEL, bundle.spec, SHIPPED[key].labels
    from fer_edge.export.checkpoints import load_any
    from fer_edge.export.onnx.export import export_onnx

    trained = load_any(Path(weights), key)
    export_onnx(trained, work / FP32_MODEL)
    return work / FP32_MODEL, trained.spec, "auto"


def sources(data: Path, count: int, generators: Sequence[str]) -> Iterator[tuple[str, Sequence[np.ndarray]]]:
    """Yield calibration images by name, real ones first."""
    training = load_dataset(data, "Training", "fer2013")
    yield REAL, list(training.sample(count))
    yield f"{REAL}, others", list(training.sample(count, seed=1))
    for generator in generators:
        yield generator, list(GENERATORS[generator](count, 0))


def ratios(found: Mapping[str, TensorRange], real: Mapping[str, TensorRange]) -> np.ndarray:
    """Return one ratio per tensor that is not zero on real faces."""

    def width(r: TensorRange) -> float:
        return max(r.high, 0.0) - min(r.low, 0.0)

    return np.array([width(found[name]) / width(r) for name, r in real.items() if width(r) > 0])


def batches(images: Sequence[np.ndarray] | FaceDataset, spec: ModelSpec) -> Iterator[np.ndarray]:
    """Yield batches ``[B, C, H, W]`` float32."""
    for start in range(0, len(images), BATCH):
        yield prepare_batch([images[i] for i in range(start, min(start + BATCH, len(images)))], spec)


def logits_of(model: Path, faces: FaceDataset, spec: ModelSpec) -> np.ndarray:
    """Return logits ``[N, K]``."""
    session = BACKENDS[BACKEND].open(model, SessionOptions())
    logits = np.concatenate([session.run(batch)["logits"] for batch in batches(faces, spec)])
    session.close()
    return logits


def measure(
    name: str,
    data: Path,
    calibration: Sequence[tuple[str, Sequence[np.ndarray]]],
    evaluated: int,
    methods: Sequence[str],
    dialects: Sequence[str],
) -> Iterator[Row]:
    """Yield the rows of one network: every source of images, method and dialect."""
    with tempfile.TemporaryDirectory() as folder:
        model, spec, labels = network(name, Path(folder))
        faces = load_dataset(data, "PublicTest", labels)
        faces = faces.subset(np.flatnonzero(known_targets(faces, spec) >= 0)).sample(evaluated)
        targets = known_targets(faces, spec)
        fp32 = logits_of(model, faces, spec)
        fp32_accuracy = float((fp32.argmax(1) == targets).mean())
        proto, int8 = onnx.load(model), Path(folder) / "int8.onnx"
        reference: dict[str, Mapping[str, TensorRange]] = {}
        for source, images in calibration:
            observations = observe(model, batches(images, spec), {"name": source})
            for method in methods:
                ranges = observations.ranges(method)
                real = reference.setdefault(method, ranges.tensors)
                ratio = None if source == REAL else ratios(ranges.tensors, real)
                for dialect in dialects:
                    onnx.save(quantise(proto, ranges, dialect), int8)
                    found = logits_of(int8, faces, spec)
                    paired = compare_paired(fp32.argmax(1), found.argmax(1), targets, spec.class_names)
                    yield Row(
                        model=name.partition(":")[0],
                        images=source,
                        method=method,
                        dialect=dialect,
                        fp32_accuracy=fp32_accuracy,
                        change_pp=paired.change_pp,
                        low_pp=paired.low_pp,
                        high_pp=paired.high_pp,
                        agreement=float((fp32.argmax(1) == found.argmax(1)).mean()),
                        logit_cosine=centred_cosine(fp32, found),
                        tensors=len(ranges.tensors),
                        too_small=None if ratio is None else int((ratio < TOO_SMALL).sum()),
                        too_large=None if ratio is None else int((ratio > TOO_LARGE).sum()),
                        median_ratio=None if ratio is None else float(np.median(ratio)),
                    )


def centred_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean cosine of the centred logits of each face."""
    a, b = (v - v.mean(axis=1, keepdims=True) for v in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-12)).mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="fer2013.csv[.gz]")
    parser.add_argument("--model", nargs="+", default=list(SHIPPED), metavar="NAME[:WEIGHTS]")
    parser.add_argument("--images", type=int, default=256, metavar="N", help="for calibration")
    parser.add_argument("--evaluated", type=int, default=1000, metavar="N", help="real faces to compare on")
    parser.add_argument("--method", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--dialect", nargs="+", default=list(DIALECTS), choices=list(DIALECTS))
    parser.add_argument("--generator", nargs="+", default=list(GENERATORS), choices=list(GENERATORS))
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    console = Console(highlight=False, width=140)
    calibration = list(sources(args.data, args.images, args.generator))
    rows: list[Row] = []
    for name in args.model:
        own = list(measure(name, args.data, calibration, args.evaluated, args.method, args.dialect))
        rows += own
        title = (
            f"{own[0].model}, {args.images} images, {args.evaluated} faces, FP32 {own[0].fp32_accuracy:.1%}"
        )
        columns = (
            "images", "method", "dialect", "accuracy, points", "same class", "cosine",
            f"ratio < {TOO_SMALL}", f"ratio > {TOO_LARGE}", "median ratio",
        )  # fmt: skip
        console.print(make_table(title, columns, [shown(row) for row in own]))
    record = measurement_record()
    if args.json:
        settings = {"images": args.images, "evaluated": args.evaluated}
        write_json(args.json, {"record": record, **settings, "rows": [asdict(row) for row in rows]})
    console.print(f"{record['device']}, {record['cores']} cores, {record['date']}, commit {record['commit']}")


def shown(row: Row) -> tuple[str, ...]:
    """Return the table cells of a row."""
    accuracy = f"{row.change_pp:+.2f} ({row.low_pp:+.2f} to {row.high_pp:+.2f})"
    cells = (row.images, row.method, row.dialect, accuracy, f"{row.agreement:.1%}", f"{row.logit_cosine:.5f}")
    if row.median_ratio is None:
        return (*cells, "–", "–", "–")
    counts = (f"{count} of {row.tensors}" for count in (row.too_small, row.too_large))
    return (*cells, *counts, f"{row.median_ratio:.2f}")


if __name__ == "__main__":
    main()
