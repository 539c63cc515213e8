"""Faces that detectors find: in photographs, small ones, turned ones; and boxes where there is no face.

    python benchmarks/detector_recall.py --photographs DIR [--json FILE] [--parts …]

``DIR`` holds photographs of one face each, with labels. Nothing was chosen on them. The reference for small and turned
faces are the upright ones that the same detector, or YuNet, finds in the photographs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pictures import frame_640x480
from rich.console import Console

from fer_edge._utils.files import write_json
from fer_edge._utils.images import read_image
from fer_edge.backends import BACKENDS, load_session
from fer_edge.bundle import open_bundle
from fer_edge.commands.base import make_table
from fer_edge.commands.demo import sample_photograph
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.detection import DETECTORS, create_detector
from fer_edge.detection.base import Detector, DetectorOptions
from fer_edge.evaluation.evaluate import known_targets, session_logits
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.preprocess import crop_face
from fer_edge.probabilities import make_rule
from fer_edge.synthetic import generate_leaves, generate_noise
from fer_edge.system.provenance import measurement_record

RECORD = Path(__file__).resolve().parent / "records" / "detector_recall.json"
#: Pictures of scikit-image without a face of a person.
WITHOUT_FACES = (
    "brick.png", "cell.png", "chelsea.png", "chessboard_RGB.png", "coffee.png", "grass.png", "gravel.png", "horse.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "phantom.png", "retina.jpg",
    "rocket.jpg", "text.png",
)  # fmt: skip
GENERATED = 10
ROLLS_DEG = (0, 15, 30, 45, 60, 90)
SIDES_PX = (32, 40, 48, 56, 64, 80)
#: The smallest photographs are 32 pixels wide.
MIN_FACE_PX = 28


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


def measure_recall(photographs: FaceDataset, stack: ExitStack) -> list[dict[str, Any]]:
    """Return the faces found in photographs, and the boxes found in pictures without faces, by detector."""
    scenes, rows = list(faceless()), []
    for name in (*DETECTORS, "yunet, upright alone"):
        options = DetectorOptions(MIN_FACE_PX, turned_looks=0 if "alone" in name else 2)
        detector = stack.enter_context(closing(create_detector(name.split(",")[0], options)))
        false = [len(detector.detect(scene)) for scene in scenes]
        rows.append(
            {
                "name": name,
                **count_found(detector, photographs),
                "scenes": len(scenes),
                "scenes_with_false_boxes": sum(map(bool, false)),
                "false_boxes": sum(false),
            }
        )
    return rows


def measure_sizes(photographs: FaceDataset, stack: ExitStack) -> list[dict[str, Any]]:
    """Return how many faces are found by their side in the frame, with the default of 40 pixels."""
    plain = DetectorOptions(MIN_FACE_PX, turned_looks=0)
    reference = stack.enter_context(closing(create_detector("yunet", plain)))
    known = [next(iter(reference.detect(image)), None) for image in photographs]
    detectors = {name: stack.enter_context(closing(create_detector(name))) for name in DETECTORS}
    rows = []
    for side_px in SIDES_PX:
        found, count = dict.fromkeys(detectors, 0), 0
        for image, face in zip(photographs, known, strict=True):
            if face is None:
                continue
            low, high = np.array(face.box_xyxy).reshape(2, 2)
            scale = side_px / (high - low).max()
            if scale > 1:
                continue
            size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            count += 1
            for name, detector in detectors.items():
                centres = [np.array(f.box_xyxy).reshape(2, 2).mean(axis=0) for f in detector.detect(small)]
                found[name] += any(np.abs(c - (low + high) / 2 * scale).max() < side_px / 2 for c in centres)
        rows.append({"side_px": side_px, "faces": count, **found})
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


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR")
    parser.add_argument("--parts", nargs="+", default=["recall", "sizes", "turned"])
    parser.add_argument("--json", type=Path, default=RECORD, metavar="FILE")
    args = parser.parse_args()
    photographs = load_dataset(args.photographs)
    value = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else {}
    measures: Mapping[str, Callable[[FaceDataset, ExitStack], list[dict[str, Any]]]] = {
        "recall": measure_recall,
        "sizes": measure_sizes,
        "turned": measure_turned,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for part in args.parts:
            rows = measures[part](photographs, stack)
            value[part] = {"record": measurement_record(), "rows": rows}
            write_json(args.json, value)
            Console().print(make_table(part, tuple(rows[0]), [tuple(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
