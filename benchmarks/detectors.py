"""Detectors: latency, faces found and false boxes, turned faces, start and memory.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pipeline import frame_640x480
from rich.console import Console
from turns import take_turns

from fer_edge._utils.files import write_json
from fer_edge._utils.images import read_image
from fer_edge.backends import BACKENDS, load_session
from fer_edge.bundle import open_bundle
from fer_edge.commands.base import make_table
from fer_edge.commands.demo import sample_photograph
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.detection import DETECTORS, create_detector
from fer_edge.detection.base import Detector, DetectorOptions
from fer_edge.detection.yunet.weights import SHIPPED
from fer_edge.evaluation.evaluate import known_targets, session_logits
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.preprocess import crop_face
from fer_edge.probabilities import make_rule
from fer_edge.results import summarise
from fer_edge.synthetic import generate_leaves, generate_noise, render_faces
from fer_edge.system.provenance import measurement_record

RECORD = Path(__file__).resolve().parent / "records" / "detectors.json"
#: Pictures of scikit-image without a face of a person.
WITHOUT_FACES = (
    "brick.png", "cell.png", "chelsea.png", "chessboard_RGB.png", "coffee.png", "grass.png", "gravel.png", "horse.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "phantom.png", "retina.jpg",
    "rocket.jpg", "text.png",
)  # fmt: skip
GENERATED = 10
ROLLS_DEG = (0, 15, 30, 45, 60, 90)
#: The smallest photographs are 32 pixels wide.
MIN_FACE_PX = 28
SIDES_PX = (10, 12, 14, 16, 20, 24, 32, 48)
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
    """Return OpenCV's own detector on the frame that ours sees: 40 pixels shrunk to 20."""
    network = cv2.FaceDetectorYN.create(str(published), "", (320, 240), 0.7, 0.3, 5000)

    def run() -> None:
        cv2.setNumThreads(threads)
        network.detect(cv2.resize(frame, (320, 240), interpolation=cv2.INTER_AREA))
        cv2.setNumThreads(1)

    return run


def measure_int8(photographs: FaceDataset, turns: int, stack: ExitStack) -> dict[str, Any]:
    """Return latency of the network and faces found, in FP32 and INT8."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    files = {"FP32": SHIPPED, "INT8": _quantised(folder)}
    face = frame_640x480(read_image(sample_photograph()))
    options = {name: DetectorOptions(MIN_FACE_PX, model=file, turned_looks=0) for name, file in files.items()}
    opened = {n: stack.enter_context(closing(create_detector("yunet", o))) for n, o in options.items()}
    latency = compare({name: partial(d.detect, face) for name, d in opened.items()}, turns)
    return {
        "latency_ms": latency,
        "found": {name: count_found(d, photographs) for name, d in opened.items()},
    }


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


def count_found(detector: Detector, photographs: FaceDataset) -> dict[str, int]:
    """Return the number of photographs with a face, of boxes, and of photographs."""
    found = [len(detector.detect(image)) for image in photographs]
    return {"photographs": len(found), "with_a_face": sum(map(bool, found)), "boxes": sum(found)}


def faceless() -> Iterator[np.ndarray]:
    """Yield pictures without a face, 640×480."""
    folder = sample_photograph().parent
    pictures = [read_image(folder / name) for name in WITHOUT_FACES]
    for image in (*pictures, *generate_leaves(GENERATED, side=256), *generate_noise(GENERATED, side=256)):
        yield frame_640x480(image)


def measure_recall(photographs: FaceDataset, stack: ExitStack) -> dict[str, Any]:
    """Return, by detector, what is found in photographs and in pictures without faces."""
    scenes, result = list(faceless()), {}
    for name in (*DETECTORS, "yunet, upright alone"):
        options = DetectorOptions(MIN_FACE_PX, turned_looks=0 if "alone" in name else 2)
        detector = stack.enter_context(closing(create_detector(name.split(",")[0], options)))
        false = [len(detector.detect(scene)) for scene in scenes]
        result[name] = {
            **count_found(detector, photographs),
            "scenes": len(scenes),
            "scenes_with_false_boxes": sum(map(bool, false)),
            "false_boxes": sum(false),
        }
    return result


def measure_sizes(photographs: FaceDataset, stack: ExitStack) -> list[dict[str, Any]]:
    """Return the share of faces that YuNet finds, by their side in its image."""
    plain = DetectorOptions(MIN_FACE_PX, turned_looks=0)
    detector = stack.enter_context(closing(create_detector("yunet", plain)))
    known = [next(iter(detector.detect(image)), None) for image in photographs]
    # Images are not shrunk for a smallest face below that of the network.
    fine = stack.enter_context(closing(create_detector("yunet", DetectorOptions(4, turned_looks=0))))
    rows = []
    for side_px in SIDES_PX:
        count = found = 0
        for image, face in zip(photographs, known, strict=True):
            if face is None:
                continue
            low, high = np.array(face.box_xyxy).reshape(2, 2)
            scale = side_px / (high - low).max()
            if scale > 1:
                continue
            size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            centres = [np.array(f.box_xyxy).reshape(2, 2).mean(axis=0) for f in fine.detect(small)]
            count += 1
            found += any(np.abs(c - (low + high) / 2 * scale).max() < side_px / 2 for c in centres)
        rows.append({"side_px": side_px, "faces": count, "found": found})
    return rows


def turned(image: np.ndarray, roll_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture, turned clockwise on a black canvas, and the affine of its points."""
    height, width = image.shape[:2]
    affine = cv2.getRotationMatrix2D((width / 2, height / 2), -roll_deg, 1.0)
    cosine, sine = np.abs(affine[0, :2])
    size = round(width * cosine + height * sine), round(width * sine + height * cosine)
    affine[:, 2] += np.array(size) / 2 - (width / 2, height / 2)
    return cv2.warpAffine(image, affine, size), affine


def measure_turned(photographs: FaceDataset, stack: ExitStack) -> list[dict[str, Any]]:
    """Return the share of upright faces that are found when turned, and the accuracy of their labels."""
    bundle = open_bundle(shipped_bundle())
    session = stack.enter_context(closing(load_session(bundle, BACKENDS["onnxruntime"], "fp32")))
    rule, targets = make_rule(bundle.manifest, None), known_targets(photographs, bundle.spec)
    rows = []
    for name in ("yunet", "yunet, upright alone", "mtcnn"):
        options = DetectorOptions(MIN_FACE_PX, turned_looks=0 if "alone" in name else 2)
        detector = stack.enter_context(closing(create_detector(name.split(",")[0], options)))
        upright = [next(iter(detector.detect(image)), None) for image in photographs]
        for roll in sorted({sign * angle for angle in ROLLS_DEG for sign in (-1, 1)}):
            crops, labels, faces = [], [], 0
            for image, known, target in zip(photographs, upright, targets, strict=True):
                if known is None:
                    continue
                faces += 1
                frame, affine = turned(image, roll)
                low, high = np.array(known.box_xyxy).reshape(2, 2)
                centre = affine[:, :2] @ ((low + high) / 2) + affine[:, 2]
                reach = (high - low).max() / 2
                near = [
                    face
                    for face in detector.detect(frame)
                    if np.abs(np.array(face.box_xyxy).reshape(2, 2).mean(axis=0) - centre).max() < reach
                ]
                if near:
                    face = max(near, key=lambda found: found.score)
                    crop = crop_face(frame, face.box_xyxy, bundle.spec.crop, face.roll_deg)
                    if crop is not None:
                        crops.append(crop)
                        labels.append(target)
            logits = session_logits(session, crops, bundle.spec, temperature=rule.temperature)
            right = rule.apply_prior(logits).argmax(axis=1) == np.array(labels, np.int64)
            counted = np.array(labels) >= 0
            rows.append(
                {
                    "name": name,
                    "roll_deg": roll,
                    "upright_faces": faces,
                    "found": len(crops),
                    "labelled": int(counted.sum()),
                    "right": int(right[counted].sum()),
                }
            )
    return rows


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
    parser.add_argument(
        "--parts", nargs="+", default=["latency", "start", "recall", "sizes", "turned", "int8"]
    )
    parser.add_argument("--json", type=Path, default=RECORD, metavar="FILE")
    args = parser.parse_args()
    photographs = load_dataset(args.photographs)
    value = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else {}
    with ExitStack() as stack:
        parts: Mapping[str, Callable[[], Any]] = {
            "latency": lambda: measure_latency(args.published, args.turns, stack),
            "start": lambda: measure_start(args.published, max(args.turns // 5, 5)),
            "recall": lambda: measure_recall(photographs, stack),
            "sizes": lambda: measure_sizes(photographs, stack),
            "turned": lambda: measure_turned(photographs, stack),
            "int8": lambda: measure_int8(photographs, args.turns, stack),
        }
        for part in args.parts:
            value[part] = {"record": measurement_record(), "result": parts[part]()}
            args.json.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.json, value)
            result = value[part]["result"]
            Console().print(
                make_table(part, tuple(result[0]), [tuple(row.values()) for row in result])
                if isinstance(result, list)
                else result
            )


if __name__ == "__main__":
    main()
