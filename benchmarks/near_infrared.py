"""Measure the default network on monochrome frames of 10 bits, dark and noisy, with each map to 8 bits.

    python benchmarks/near_infrared.py fer2013.csv.gz --photographs DIR [--json FILE]

A gray picture at a gain of its light, with the noise of a sensor, is quantised to 10 bits and given as uint16. PublicTest
is cropped before the map, so that ``percentile`` takes the range of the face; of a photograph it takes that of the
frame, and the detector searches the result. The faces are visible light, as there are no labelled near-infrared faces here.
``fer2013new.csv`` lies beside the CSV.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from fer_edge._utils.files import write_json
from fer_edge.backends import BACKENDS, Session, SessionOptions, load_session
from fer_edge.bundle import open_bundle
from fer_edge.commands.base import make_table, percent
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.detection import create_detector
from fer_edge.detection.base import Detector
from fer_edge.evaluation.evaluate import known_targets, session_logits
from fer_edge.frames import check_frame
from fer_edge.levels import STRETCHES, LevelOptions
from fer_edge.models.catalogue import find_bundle
from fer_edge.preprocess import crop_face
from fer_edge.probabilities import make_rule
from fer_edge.system.provenance import measurement_record

RECORD = Path(__file__).resolve().parent / "records" / "near_infrared.json"
BITS = 10
#: Gain of the light, and standard deviation of the noise in levels of 10 bits.
CONDITIONS = ((1.0, 0), (0.5, 4), (0.3, 4), (0.2, 4), (0.1, 4), (0.1, 1), (0.3, 16))
TEST_FACES = 500


def captured(image: np.ndarray, gain: float, sigma: float, seed: int) -> np.ndarray:
    """Return a picture as a monochrome camera of 10 bits captures it, ``[H, W]`` uint16."""
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image
    white = (1 << BITS) - 1
    noise = sigma * np.random.default_rng(seed).normal(size=gray.shape)
    return np.rint(gray * (gain * white / 255) + noise).clip(0, white).astype(np.uint16)


def measure(faces: FaceDataset, session: Session, detector: Detector) -> list[dict[str, Any]]:
    """Return, for each condition and map, the share of faces that are found and of right labels among all."""
    bundle = open_bundle(find_bundle("default"))
    rule, targets = make_rule(bundle.manifest), known_targets(faces, bundle.spec)
    usable = np.flatnonzero(targets >= 0)
    if faces.are_crops:
        usable = np.random.default_rng(0).permutation(usable)[:TEST_FACES]
    rows = []
    for gain, sigma in CONDITIONS:
        for stretch in STRETCHES:
            crops, true = [], []
            for i in usable:
                frame = check_frame(
                    captured(faces[i], gain, sigma, int(i)), LevelOptions(bits=BITS, stretch=stretch)
                )
                if not faces.are_crops:
                    found = detector.detect(frame)
                    crop = crop_face(frame, found[0].box_xyxy, bundle.spec.crop) if found else None
                else:
                    crop = frame
                if crop is not None:
                    crops.append(crop)
                    true.append(targets[i])
            right = rule(session_logits(session, crops, bundle.spec)).argmax(axis=1) == np.array(true)
            rows.append(
                {
                    "gain": gain,
                    "noise_sigma_of_1023": sigma,
                    "stretch": stretch,
                    "faces": len(usable),
                    "found": len(crops) / len(usable),
                    "accuracy_of_found": float(right.mean()) if len(right) else None,
                    "right_of_all": float(right.sum() / len(usable)),
                }
            )
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path, help="fer2013.csv[.gz]")
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR")
    parser.add_argument("--json", type=Path, default=RECORD, metavar="FILE")
    args = parser.parse_args()
    bundle = open_bundle(find_bundle("default"))
    public, wild = load_dataset(args.csv, "PublicTest", "ferplus"), load_dataset(args.photographs)
    with (
        closing(load_session(bundle, BACKENDS["onnxruntime"], "fp32", SessionOptions(threads=1))) as session,
        closing(create_detector("mtcnn")) as detector,
    ):
        data = {
            "FER+ PublicTest": measure(public, session, detector),
            "faces_in_context, largest face by mtcnn": measure(wild, session, detector),
        }
    for name, rows in data.items():
        cells = [
            (
                r["gain"],
                r["noise_sigma_of_1023"],
                r["stretch"],
                percent(r["found"]),
                percent(r["right_of_all"]),
            )
            for r in rows
        ]
        columns = ("gain", "noise, of 1023", "map", "found", "right of all")
        Console(width=120).print(make_table(f"{name}, {rows[0]['faces']} faces", columns, cells))
    write_json(args.json, {"record": measurement_record(), "data": data})


if __name__ == "__main__":
    main()
