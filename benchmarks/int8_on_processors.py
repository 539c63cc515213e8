"""INT8 of the shipped networks on this processor: accuracy against FP32, and logits to compare with another processor.

    python benchmarks/int8_on_processors.py fer2013.csv.gz --logits here.npz --output here.json
    qemu-x86_64 -cpu Haswell python benchmarks/int8_on_processors.py fer2013.csv.gz --faces 128 --against here.npz

With ``--against``, the relative difference of the logits from those of the other run, on the same backend, and the
difference between backends are reported. Faces are those of ``PublicTest``, the first ``--faces`` of them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fer_edge._utils.files import write_json
from fer_edge.backends import BACKENDS, SessionOptions, available_backends, load_tested_session
from fer_edge.backends.int8_probe import probe_int8
from fer_edge.builder import BuildOptions, build
from fer_edge.bundle import Bundle, open_bundle
from fer_edge.calibration.comparison.paired import compare_paired
from fer_edge.commands.base import make_table
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.evaluation.evaluate import known_targets, session_logits
from fer_edge.models.catalogue import SHIPPED, shipped_bundle
from fer_edge.system.provenance import measurement_record


def measure(
    name: str, bundle: Bundle, faces: FaceDataset, logits: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Return one row for each backend; store the logits of every session in ``logits``."""
    targets = known_targets(faces, bundle.spec)
    faces, targets = faces.subset(np.flatnonzero(targets >= 0)), targets[targets >= 0]
    rows = []
    for backend in available_backends("cpu"):
        found: dict[str, np.ndarray] = {}
        for precision in ("fp32", "int8"):
            opened = load_tested_session(bundle, BACKENDS[backend], precision, SessionOptions(threads=1))
            found[precision] = session_logits(opened.session, faces, bundle.spec)
            opened.session.close()
            logits[f"{name}.{backend}.{precision}"] = found[precision]
        fp32, int8 = (values.argmax(axis=1) for values in (found["fp32"], found["int8"]))
        paired = compare_paired(fp32, int8, targets, bundle.spec.class_names)
        rows.append(
            {
                "network": name,
                "backend": backend,
                "int8": probe_int8(BACKENDS[backend], SessionOptions(threads=1)).config.note or "as it is",
                "faces": len(faces),
                "fp32_accuracy": float((fp32 == targets).mean()),
                "int8_accuracy": float((int8 == targets).mean()),
                "change_pp": paired.change_pp,
                "low_pp": paired.low_pp,
                "high_pp": paired.high_pp,
                "same_class": float((fp32 == int8).mean()),
            }
        )
    return rows


def differences(logits: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the largest difference of the logits from those of another processor, as a share of their scale."""
    rows = []
    for key, values in logits.items():
        expected = other[key][: len(values)]
        rows.append(
            {
                "session": key,
                "faces": len(values),
                "largest": float(np.abs(values - expected).max() / np.abs(expected).max()),
                "rms": float(np.sqrt(((values - expected) ** 2).mean() / (expected**2).mean())),
            }
        )
    return rows


def main() -> None:
    """Measure, print, and write the requested files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="fer2013.csv(.gz), with fer2013new.csv beside it")
    parser.add_argument("--faces", type=int, help="the first N faces (default: all)")
    parser.add_argument("--names", nargs="+", default=tuple(SHIPPED), metavar="NAME")
    parser.add_argument(
        "--bundles", type=Path, metavar="DIR", help="folder of INT8 bundles; missing ones are built"
    )
    parser.add_argument("--logits", type=Path, metavar="FILE.npz", help="write the logits")
    parser.add_argument(
        "--against", type=Path, metavar="FILE.npz", help="compare with logits of another processor"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    args = parser.parse_args()
    console, logits, rows = Console(), dict[str, np.ndarray](), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names:
            path = (args.bundles or Path(folder)) / f"{name}-int8.fer"
            if not path.exists():
                network = open_bundle(shipped_bundle(name)).spec.network
                build(BuildOptions(network, name, backend="onnxruntime", output=path))
            faces = load_dataset(args.data, "PublicTest", SHIPPED[name].labels)
            rows += measure(name, open_bundle(path), faces.first(args.faces or len(faces)), logits)
    value: dict[str, Any] = {"accuracy": rows, "record": measurement_record()}
    console.print(
        make_table("INT8 against FP32", list(rows[0]), [[_short(v) for v in row.values()] for row in rows])
    )
    if args.against:
        with np.load(args.against) as other:
            value["differences"] = differences(logits, dict(other))
        table = [[_short(v) for v in row.values()] for row in value["differences"]]
        console.print(make_table("Against the other processor", list(value["differences"][0]), table))
    if args.logits:
        np.savez_compressed(args.logits, **logits)
    if args.output:
        write_json(args.output, value)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
