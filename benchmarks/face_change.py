"""Detection rate and false rate of the change measure of faces, and its cost.

    python benchmarks/face_change.py --model YUNET.onnx --photographs DIR [--half report] [--output FILE.json]

Each photograph is rendered several times with other place, size, roll, light, blur and noise, and found by the refiner
from a displaced box. Pairs of renderings of one photograph have not changed. Pairs of two photographs of one person with
different expressions have, as have pairs in which only the mouth comes from another photograph of that person. Two
photographs of one person also differ in pose and light, which makes them easier than a change within one video.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import re
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from moving_faces import Cutout, Pose, background, cut_out, load_backgrounds, paste
from rich.console import Console

from fer_edge._utils.files import write_json
from fer_edge.commands.base import make_table, percent
from fer_edge.detection import DetectorOptions, create_detector
from fer_edge.results import Detection, summarise
from fer_edge.system.provenance import measurement_record
from fer_edge.tracking.change import CHANGED_DISTANCE, aligned_patch, patch_distance
from fer_edge.tracking.refine import Refiner, RefinerOptions, create_refiner

_SIZE = (320, 240)
_RENDERINGS = 6
_PAIRS = 4  # per pair of photographs
_HALVES = ("tune", "report")


@dataclass(frozen=True)
class Photograph:
    """One face with its person and expression."""

    person: str
    expression: str
    image: np.ndarray
    face: Detection


def load(folder: Path, model: Path, half: str) -> list[Photograph]:
    """Return one half of the photographs; all pictures of one person are in the same half."""
    detector = create_detector("yunet", DetectorOptions(model=model))
    with (folder / "legend.csv").open(newline="") as file:
        expressions = {row["image"]: row["emotion"] for row in csv.DictReader(file)}
    result = []
    for path in sorted(folder.glob("**/*.jpg")):
        if zlib.crc32(path.name.partition("_")[0].encode()) % 2 != _HALVES.index(half):
            continue
        image = cv2.imread(str(path))
        faces = [] if image is None else detector.detect(image)
        if len(faces) == 1 and min(faces[0].box_xyxy[2:]) > 100:
            person = re.split(r"_?\d*\.jpg$", path.name)[0]
            result.append(Photograph(person, expressions.get(path.name, ""), image, faces[0]))
    return result


def with_mouth_of(photograph: Photograph, other: Photograph) -> np.ndarray:
    """Return the image with the mouth of another photograph, aligned by the landmarks and of equal brightness."""
    target, source = photograph.face.landmarks, other.face.landmarks
    assert target is not None  # YuNet finds landmarks of every face
    assert source is not None
    matrix, _ = cv2.estimateAffinePartial2D(source, target, method=cv2.LMEDS)
    size = photograph.image.shape[1::-1]
    drawn = cv2.warpAffine(other.image, matrix, size, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    nose, mouth = target[2], target[3:].mean(axis=0)
    width = float(np.linalg.norm(target[4] - target[3]))
    mask = np.zeros(photograph.image.shape[:2], np.float32)
    axes = round(0.9 * width), round(0.85 * float(np.linalg.norm(mouth - nose)))
    cv2.ellipse(mask, (round(float(mouth[0])), round(float(mouth[1]))), axes, 0, 0, 360, 1.0, -1)
    inside = mask > 0
    for channel in range(3):
        wanted, found = photograph.image[..., channel][inside], drawn[..., channel][inside]
        gain = wanted.std() / max(found.std(), 1.0)
        drawn[..., channel] = (drawn[..., channel] - found.mean()) * gain + wanted.mean()
    soft = cv2.GaussianBlur(mask, (0, 0), 0.12 * width)[..., None]
    return np.asarray((photograph.image * (1 - soft) + drawn * soft).clip(0, 255).astype(np.uint8))


def patches(
    cutout: Cutout, width: float, plain: np.ndarray, refiner: Refiner, random: np.random.Generator
) -> list[np.ndarray]:
    """Return the patches of several renderings of one face, as far as it is found."""
    result = []
    for _ in range(_RENDERINGS):
        size = width * float(np.exp(random.uniform(-0.12, 0.12)))
        x, y = _SIZE[0] / 2 + random.uniform(-25, 25), _SIZE[1] / 2 + random.uniform(-8, 8)
        frame = np.roll(plain, random.integers(-5, 5, 2), axis=(0, 1))
        paste(frame, cutout, Pose(x, y, size, random.normal(0, 4)))
        frame *= random.uniform(0.7, 1.3)
        if random.random() < 0.3:
            frame = cv2.GaussianBlur(frame, (0, 0), 0.02 * size)
        frame += random.normal(0, random.uniform(1, 6), (*frame.shape[:2], 1)).astype(np.float32)
        image = frame.clip(0, 255).astype(np.uint8)
        x, y = np.array([x, y]) + random.normal(0, 0.1, 2) * size
        expected = Detection((x - size / 2, y - 0.65 * size, x + size / 2, y + 0.65 * size), 1.0)
        found = refiner.refine(image, {0: expected})[0]
        if found is not None:
            result.append(aligned_patch(image, found))
    return result


def distances(photographs: list[Photograph], refiner: Refiner, seed: int) -> dict[str, list[float]]:
    """Return the distances of all pairs by kind."""
    random = np.random.default_rng(seed)
    images = load_backgrounds()
    found: list[list[np.ndarray]] = []
    settings = []
    for photograph in photographs:
        width = float(np.exp(random.uniform(*np.log((40.0, 120.0)))))
        plain = background(images, _SIZE, random)
        settings.append((width, plain))
        cutout = cut_out(photograph.image, photograph.face)
        found.append(patches(cutout, width, plain, refiner, random))
    result: dict[str, list[float]] = {"unchanged": []}
    for same in found:
        result["unchanged"] += [patch_distance(a, b) for a, b in itertools.combinations(same, 2)]
    for i, j in itertools.combinations(range(len(photographs)), 2):
        first, second = photographs[i], photographs[j]
        if first.person != second.person:
            kind = "another person"
        elif first.expression != second.expression:
            kind = "same person, another expression"
        else:
            kind = "same person, another picture of the same class"
        pairs = list(itertools.product(found[i], found[j]))
        few = 1 if kind == "another person" else _PAIRS
        chosen = random.permutation(len(pairs))[:few]
        result.setdefault(kind, []).extend(patch_distance(*pairs[k]) for k in chosen)
        if kind == "same person, another expression":
            changed = cut_out(with_mouth_of(first, second), first.face)
            mouths = patches(changed, *settings[i], refiner, random)
            pairs = list(itertools.product(found[i], mouths))
            chosen = random.permutation(len(pairs))[:_PAIRS]
            result.setdefault("only the mouth", []).extend(patch_distance(*pairs[k]) for k in chosen)
    return result


def area_under_curve(unchanged: list[float], changed: list[float]) -> float:
    """Return the area under the curve of detection rate over false rate."""
    low, high = np.sort(unchanged), np.array(changed)
    return float(
        (np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")).mean() / 2 / len(low)
    )


def cost(photographs: list[Photograph], runs: int = 300) -> dict[str, Any]:
    """Return the CPU time of both functions."""
    taken: dict[str, list[float]] = {"aligned_patch": [], "patch_distance": []}
    photograph = photographs[0]
    last = aligned_patch(photograph.image, photograph.face)
    for _ in range(runs):
        began = time.thread_time()
        patch = aligned_patch(photograph.image, photograph.face)
        between = time.thread_time()
        patch_distance(last, patch)
        ended = time.thread_time()
        taken["aligned_patch"].append(1e3 * (between - began))
        taken["patch_distance"].append(1e3 * (ended - between))
    return {name: summarise(values).to_dict() for name, values in taken.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="FILE.onnx", help="YuNet")
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR", help="with legend.csv")
    parser.add_argument("--half", choices=_HALVES, default="report")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    photographs = load(args.photographs, args.model, args.half)
    refiner = create_refiner(RefinerOptions(model=args.model))
    by_kind = distances(photographs, refiner, _HALVES.index(args.half))
    unchanged = by_kind["unchanged"]
    rows = []
    for kind, values in by_kind.items():
        row: dict[str, Any] = {"kind": kind, "n": len(values)}
        row["distance"] = {
            f"p{p}": round(float(np.percentile(values, p)), 4) for p in (1, 5, 10, 50, 90, 95, 99)
        }
        row["above_default"] = round(float(np.mean(np.array(values) > CHANGED_DISTANCE)), 4)
        if kind != "unchanged":
            row["area_under_curve"] = round(area_under_curve(unchanged, values), 4)
            for rate in (1, 5, 10):
                bound = np.percentile(unchanged, 100 - rate)
                row[f"detected_at_{rate}_percent_false"] = round(float(np.mean(np.array(values) > bound)), 4)
        rows.append(row)
    value = {
        "half": args.half,
        "photographs": len(photographs),
        "default_threshold": CHANGED_DISTANCE,
        "kinds": rows,
        "cost": cost(photographs),
        "record": measurement_record(),
    }
    console = Console(width=140)
    columns = ("", "n", "distance p5", "p50", "p95", "p99", "above default", "area", "detected at 5 % false")
    table = [
        (
            row["kind"],
            row["n"],
            *(f"{row['distance'][p]:.3f}" for p in ("p5", "p50", "p95", "p99")),
            percent(row["above_default"]),
            row.get("area_under_curve", ""),
            row.get("detected_at_5_percent_false", ""),
        )
        for row in rows
    ]
    console.print(make_table(f"Threshold {CHANGED_DISTANCE:g}, {args.half} half", columns, table))
    for name, taken in value["cost"].items():
        console.print(f"{name}: {taken['p50_ms']:.3f} ms p50, {taken['p90_ms']:.3f} p90, CPU time")
    if args.output:
        write_json(args.output, value)


if __name__ == "__main__":
    main()
