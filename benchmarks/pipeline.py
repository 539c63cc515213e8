"""Latency of the whole pipeline by stage, on one picture put into a 640×480 frame.

    python benchmarks/pipeline.py IMAGE --bundle BUNDLE [--attention] [--json FILE]

FP32 and INT8 are interleaved within the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from fer_edge import DetectorOptions, Runtime
from fer_edge._utils.files import write_json
from fer_edge._utils.images import read_image
from fer_edge.bundle import open_bundle
from fer_edge.commands.base import make_table
from fer_edge.models.catalogue import find_bundle
from fer_edge.results import summarise
from fer_edge.runtime import STAGES
from fer_edge.runtime.options import make_options
from fer_edge.system.provenance import measurement_record


def frame_640x480(image_bgr: np.ndarray) -> np.ndarray:
    """Return the picture, shrunk to fit, in the middle of a gray 640×480 frame."""
    scale = min(640 / image_bgr.shape[1], 480 / image_bgr.shape[0])
    small = cv2.resize(image_bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    frame = np.full((480, 640, 3), 127, np.uint8)
    top, left = (480 - small.shape[0]) // 2, (640 - small.shape[1]) // 2
    frame[top : top + small.shape[0], left : left + small.shape[1]] = small
    return frame


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--bundle", type=Path, required=True, help="an INT8 bundle")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--detector", default="mtcnn")
    parser.add_argument("--detector-model", type=Path)
    parser.add_argument("--min-face", type=int, default=40)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument(
        "--attention",
        action="store_true",
        help="measure with and without attention; needs a bundle with attention",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    frame = frame_640x480(read_image(args.image))
    bundle = open_bundle(find_bundle(args.bundle))
    detector_options = DetectorOptions(min_face_px=args.min_face, model=args.detector_model)
    runtimes = {
        f"{precision}{' with attention' * attention}": Runtime(
            bundle,
            make_options(
                backend=args.backend,
                precision=precision,
                detector=args.detector,
                detector_options=detector_options,
                attention=attention,
                tune=False,
            ),
        )
        for precision in ("fp32", "int8")
        for attention in (False, True)[: 1 + args.attention]
    }
    taken: dict[tuple[str, str], list[float]] = {(p, s): [] for p in runtimes for s in STAGES}
    faces = 0
    for run in range(-10, args.runs):
        for precision, runtime in runtimes.items():
            result = runtime(frame)
            faces = len(result.faces)
            if run >= 0:
                for stage, value in result.timings_ms.items():
                    taken[precision, stage].append(value)
    record = measurement_record()
    rows = [{"precision": p, "stage": s, **summarise(values).to_dict()} for (p, s), values in taken.items()]
    if args.json:
        write_json(args.json, {"record": record, "faces": faces, "min_face_px": args.min_face, "rows": rows})
    columns = ("precision", "stage", "n", "p50 ms", "p90 ms", "p99 ms")
    table = [tuple(row[k] for k in ("precision", "stage", "n", "p50_ms", "p90_ms", "p99_ms")) for row in rows]
    backend = runtimes["int8"].backend.name
    title = (
        f"640×480, {faces} face, {args.detector} from {args.min_face} px, {bundle.spec.network} on {backend}"
    )
    console = Console(highlight=False)
    console.print(make_table(title, columns, table))
    console.print(f"{record['device']}, {record['cores']} cores, {record['date']}, commit {record['commit']}")


if __name__ == "__main__":
    main()
