"""Detectors: latency, start and memory, and YuNet in INT8.

    python benchmarks/detectors.py --photographs DIR [--published FILE] [--json FILE] [--parts …]

Latencies of one frame, 640×480, are interleaved within the run. ``DIR`` holds photographs of one face each, with labels.
``FILE`` is a YuNet file as published, for OpenCV's ``FaceDetectorYN`` and for the start with the package onnx. INT8 is
YuNet in Q/DQ of ONNX Runtime, calibrated on rendered faces.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detector_recall import count_found
from pictures import frame_640x480
from rich.console import Console
from turns import take_turns

from fer_edge._utils.files import write_json
from fer_edge._utils.images import read_image
from fer_edge.commands.base import make_table
from fer_edge.commands.demo import sample_photograph
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.detection import DETECTORS, create_detector
from fer_edge.detection.base import DetectorOptions
from fer_edge.detection.yunet.weights import SHIPPED
from fer_edge.results import summarise
from fer_edge.synthetic import generate_noise, render_faces
from fer_edge.system.provenance import measurement_record

RECORD = Path(__file__).resolve().parent / "records" / "detectors.json"
#: The smallest photographs are 32 pixels wide.
MIN_FACE_PX = 28
CALIBRATION_FRAMES = 60
START = """
import resource, sys, time
begun = time.perf_counter()
import numpy as np
from fer_edge.detection import create_detector
from fer_edge.detection.base import DetectorOptions
create_detector(sys.argv[1], DetectorOptions(model=sys.argv[2] or None)).detect(np.zeros((480, 640, 3), np.uint8))
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, "onnx" in sys.modules)
"""


def describe(latencies: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Return a row per name with n, p50, p90 and p99."""
    return [{"name": name, **summarise(values).to_dict()} for name, values in latencies.items()]


def measure_latency(published: Path | None, turns: int, stack: ExitStack) -> list[dict[str, Any]]:
    """Return latencies of a frame with one face and of one without."""
    face = frame_640x480(read_image(sample_photograph()))
    empty = frame_640x480(read_image(sample_photograph().with_name("coffee.png")))
    variants = {name: (name, DetectorOptions()) for name in DETECTORS}
    variants["yunet, upright alone"] = ("yunet", DetectorOptions(turned_looks=0))
    variants["yunet, a look in eight frames"] = ("yunet", DetectorOptions(turned_looks=0.125))
    for backend in ("onnxruntime", "openvino"):
        for threads in (1, 2):
            options = DetectorOptions(backend=backend, threads=threads, turned_looks=0)
            variants[f"yunet, upright alone, {backend}, threads {threads}"] = ("yunet", options)
    work: dict[str, Callable[[], object]] = {}
    for name, (detector, options) in variants.items():
        opened = stack.enter_context(closing(create_detector(detector, options)))
        work[f"{name}: one face"] = partial(opened.detect, face)
        work[f"{name}: no face"] = partial(opened.detect, empty)
    if published is not None:
        for threads in (1, 2):
            work[f"FaceDetectorYN, threads {threads}: one face"] = _opencv(published, face, threads)
    cv2.setNumThreads(1)
    return compare(work, turns)


def compare(work: Mapping[str, Callable[[], object]], turns: int) -> list[dict[str, Any]]:
    """Return latencies, and processor time, which other work on the machine changes less."""
    busy: dict[str, list[float]] = {name: [] for name in work}

    def timed(name: str) -> None:
        begun = time.process_time()
        work[name]()
        busy[name].append((time.process_time() - begun) * 1e3)

    rows = describe(take_turns({name: partial(timed, name) for name in work}, turns))
    return [{**row, "processor_p50_ms": round(float(np.median(busy[row["name"]])), 3)} for row in rows]


def _opencv(published: Path, frame: np.ndarray, threads: int) -> Callable[[], object]:
    """Return OpenCV's own detector on the frame that ours sees: 40 pixels shrunk to 32."""
    network = cv2.FaceDetectorYN.create(str(published), "", (512, 384), 0.7, 0.3, 5000)

    def run() -> None:
        cv2.setNumThreads(threads)
        network.detect(cv2.resize(frame, (512, 384)))
        cv2.setNumThreads(1)

    return run


def measure_int8(photographs: FaceDataset, turns: int, stack: ExitStack) -> list[dict[str, Any]]:
    """Return latency and faces found, in FP32 and INT8."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    files = {"FP32": SHIPPED, "INT8": _quantised(folder)}
    face = frame_640x480(read_image(sample_photograph()))
    options = {name: DetectorOptions(MIN_FACE_PX, model=file, turned_looks=0) for name, file in files.items()}
    opened = {n: stack.enter_context(closing(create_detector("yunet", o))) for n, o in options.items()}
    rows = compare({name: partial(d.detect, face) for name, d in opened.items()}, turns)
    return [{**row, **count_found(opened[row["name"]], photographs)} for row in rows]


def _quantised(folder: Path) -> Path:
    import onnx
    from onnx import version_converter
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Frames(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(
                zip(
                    render_faces(CALIBRATION_FRAMES),
                    generate_noise(CALIBRATION_FRAMES, side=256),
                    strict=True,
                )
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            for face, scene in self.left:
                scene[80:176, 80:176] = face
                return {"input": cv2.dnn.blobFromImage(scene)}
            return None

    source, result = folder / "fp32.onnx", folder / "int8.onnx"
    onnx.save(version_converter.convert_version(onnx.load(SHIPPED), 13), source)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    last = [node.name for node in onnx.load(source).graph.node if node.output[0].startswith("maps_")]
    quantize_static(source, result, Frames(), per_channel=True, nodes_to_exclude=last, **kinds)
    return result


def measure_start(published: Path | None, turns: int) -> list[dict[str, Any]]:
    """Return the time until a first frame was searched, and the peak memory, in new processes."""
    kinds = {name: (name, "") for name in DETECTORS}
    if published is not None:
        kinds["yunet, file of the user"] = ("yunet", str(published))
    taken: dict[str, list[list[str]]] = {name: [] for name in kinds}
    for _ in range(turns):
        for name, arguments in kinds.items():
            command = [sys.executable, "-c", START, *arguments]
            taken[name].append(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            )
    return [
        {
            "name": name,
            **summarise([1e3 * float(row[0]) for row in rows]).to_dict(),
            "peak_memory_mb": round(float(np.median([float(row[1]) for row in rows])), 1),
            "imports_onnx": rows[0][2] == "True",
        }
        for name, rows in taken.items()
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR")
    parser.add_argument("--published", type=Path, metavar="FILE")
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--parts", nargs="+", default=["latency", "start", "int8"])
    parser.add_argument("--json", type=Path, default=RECORD, metavar="FILE")
    args = parser.parse_args()
    photographs = load_dataset(args.photographs)
    value = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else {}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        parts: Mapping[str, Callable[[], list[dict[str, Any]]]] = {
            "latency": lambda: measure_latency(args.published, args.turns, stack),
            "start": lambda: measure_start(args.published, max(args.turns // 5, 5)),
            "int8": lambda: measure_int8(photographs, args.turns, stack),
        }
        for part in args.parts:
            rows = parts[part]()
            value[part] = {"record": measurement_record(), "rows": rows}
            write_json(args.json, value)
            Console().print(make_table(part, tuple(rows[0]), [tuple(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
