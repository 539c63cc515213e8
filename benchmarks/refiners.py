"""Ways to find known faces again in the next frame: cost, errors, drift, and how soon they notice that a face has gone.

    python benchmarks/refiners.py --photographs DIR [--half report] [--output FILE.json]

Faces of one half of the photographs move over backgrounds along known paths. Each method starts from the detection of
the first frame and then gets only its own last result. Costs are CPU time of one thread; methods are interleaved.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from moving_faces import (
    CHANGE_AT,
    FRAMES,
    GOING,
    STAYING,
    Cutout,
    Pose,
    background,
    cut_out,
    load_backgrounds,
    paste,
    render,
)
from other_refiners import (
    Expected,
    Found,
    LucasKanade,
    Mosaic,
    MtcnnStages,
    Template,
    WholeFrame,
    centre_error,
    overlap,
    transformed,
)
from rich.console import Console

from fer_edge._utils.files import write_json
from fer_edge.commands.base import make_table
from fer_edge.detection import DetectorOptions, create_detector
from fer_edge.results import Detection, summarise
from fer_edge.system.provenance import measurement_record
from fer_edge.tracking.refine import RefinerOptions, create_refiner

SIZES = ((640, 480), (1920, 1080))
_FACE_WIDTHS = (40.0, 120.0)  # range of the widths in quality sequences, in frames of SIZES[0]
_MIN_IOU = 0.5
_SEEDS = {"tune": 1000, "report": 2000}


class Method(Protocol):
    """A method under comparison: a refiner without its ``close``."""

    def refine(self, frame_bgr: np.ndarray, expected: Expected) -> Found:
        """As :meth:`fer_edge.tracking.refine.Refiner.refine`."""


def methods(variants: list[tuple[int, float]]) -> dict[str, Callable[[], Method]]:
    """Return factories by name; methods with a memory are made anew for each sequence."""
    kept: dict[str, Method] = {"whole frame": WholeFrame(), "mosaic of 64": Mosaic()}
    kept["MTCNN R+O"] = MtcnnStages()
    for side, wide in variants:
        options = RefinerOptions(input_px=side, surroundings=wide)
        kept[f"YuNet {side} px, {wide:g} sides"] = create_refiner(options)
    return {
        **{name: lambda method=method: method for name, method in kept.items()},
        "Lucas–Kanade": LucasKanade,
        "template": Template,
    }


def cutouts(folder: Path, half: str) -> list[Cutout]:
    """Return the faces of one half of the photographs; all pictures of one person are in the same half."""
    detector = create_detector("yunet")
    result = []
    for path in sorted(folder.glob("**/*.jpg")):
        person = path.name.partition("_")[0]
        if zlib.crc32(person.encode()) % 2 != list(_SEEDS).index(half):
            continue
        photograph = cv2.imread(str(path))
        faces = [] if photograph is None else detector.detect(photograph)
        if len(faces) == 1 and min(faces[0].box_xyxy[2:]) > 100:
            result.append(cut_out(photograph, faces[0]))
    return result


@dataclass
class Quality:
    """Counts and errors of one method in one kind of sequence."""

    frames: int = 0
    missed: int = 0
    sequences: int = 0
    unbroken: int = 0
    gone: dict[int, list[bool]] = field(default_factory=dict)
    ious: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    drift: dict[int, list[float]] = field(default_factory=dict)
    against_whole: list[float] = field(default_factory=list)
    landmark_errors: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return shares and percentiles of the errors, in face widths."""
        value: dict[str, Any] = {"frames": self.frames, "sequences": self.sequences}
        value["missed"] = round(self.missed / max(self.frames, 1), 4)
        value["sequences_without_miss"] = round(self.unbroken / max(self.sequences, 1), 4)
        for name, errors in (
            ("iou", self.ious),
            ("centre_error", self.errors),
            ("landmark_error", self.landmark_errors),
            ("iou_with_whole_frame", self.against_whole),
            *((f"centre_error_after_{t}", values) for t, values in self.drift.items()),
        ):
            if errors:
                points = (50, 10, 1) if name.startswith("iou") else (50, 90, 99)
                value[name] = {
                    "n": len(errors),
                    **{f"p{p}": round(float(np.percentile(errors, p)), 4) for p in points},
                }
        if self.gone:
            value["still_carried_after_frames"] = {
                str(t): round(float(np.mean(flags)), 4) for t, flags in sorted(self.gone.items())
            }
        return value


def follow(
    frames: Iterator[tuple[np.ndarray, np.ndarray]],
    visible: list[bool | None],
    makers: dict[str, Callable[[], Method]],
    starts: dict[str, Any],
    results: dict[str, Quality],
) -> None:
    """Run all methods over one sequence; frames in which a face was missed count, and the last place is tried again."""
    frame, first_matrix = next(frames)
    to_start = np.linalg.inv(np.vstack([first_matrix, [0, 0, 1]]))
    first: dict[str, Detection] = {}
    for name in makers:
        found = starts["mtcnn" if name.startswith("MTCNN") else "yunet"].detect(frame)
        if len(found) != 1:
            return
        first[name] = found[0]
    running = {name: make() for name, make in makers.items()}
    expected: dict[str, Detection] = dict(first)
    for name, method in running.items():
        method.refine(frame, {0: first[name]})
    unbroken = dict.fromkeys(running, True)
    gone_since: int | None = None
    for t, (frame, matrix) in enumerate(frames, 1):
        if visible[t] is False and gone_since is None:
            gone_since = t
        whole: Detection | None = None
        for name, method in running.items():
            found_face = method.refine(frame, {0: expected[name]})[0]
            quality = results[name]
            if name == "whole frame":
                whole = found_face
            if found_face is not None:
                expected[name] = found_face
            if visible[t] is False and gone_since is not None:
                quality.gone.setdefault(t - gone_since, []).append(found_face is not None)
            if not visible[t]:
                continue
            truth = transformed(first[name], matrix @ to_start, 1.0)
            iou = 0.0 if found_face is None else overlap(found_face, truth)
            quality.frames += 1
            if found_face is None or iou < _MIN_IOU:
                quality.missed += 1
                unbroken[name] = False
                if found_face is None:
                    continue
            error = centre_error(found_face, truth)
            quality.ious.append(iou)
            quality.errors.append(error)
            if found_face.landmarks is not None and truth.landmarks is not None:
                distance = np.linalg.norm(found_face.landmarks - truth.landmarks, axis=1).mean()
                quality.landmark_errors.append(float(distance / (truth.box_xyxy[2] - truth.box_xyxy[0])))
            if t in (10, 30):
                quality.drift.setdefault(t, []).append(error)
            if whole is not None and not name.startswith("MTCNN"):
                quality.against_whole.append(overlap(found_face, whole))
    for name in running:
        results[name].sequences += 1
        results[name].unbroken += unbroken[name]


def measure_quality(
    makers: dict[str, Callable[[], Method]],
    faces: list[Cutout],
    seed: int,
    repeats: int,
    starts: dict[str, Any],
    kinds: list[str] | None = None,
) -> dict[str, dict[str, Quality]]:
    """Return the quality by kind of sequence and method."""
    images = load_backgrounds()
    results: dict[str, dict[str, Quality]] = {}
    for number, (kind, make_scene) in enumerate({**STAYING, **GOING}.items()):
        if kinds and kind not in kinds:
            continue
        results[kind] = {name: Quality() for name in makers}
        for i in range(repeats):
            random = np.random.default_rng([seed, number, i])
            cutout = faces[random.integers(len(faces))]
            scene = make_scene(random, SIZES[0], float(np.exp(random.uniform(*np.log(_FACE_WIDTHS)))))
            follow(
                render(scene, cutout, images, SIZES[0], random), scene.visible, makers, starts, results[kind]
            )
    return results


def measure_cost(
    makers: dict[str, Callable[[], Method]], faces: list[Cutout], runs: int, starts: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return CPU and wall time per face, by frame size, number and width of the faces, and method."""
    images = load_backgrounds()
    rows = []
    for size in SIZES:
        for count in (1, 8):
            for width in (60.0, 140.0 if count == 8 else 300.0):
                frames, expected = _crowd(faces, images, size, count, width, starts["yunet"])
                running = {name: make() for name, make in makers.items()}
                cpu: dict[str, list[float]] = {name: [] for name in running}
                wall: dict[str, list[float]] = {name: [] for name in running}
                for run in range(-3, runs):
                    frame = frames[run % len(frames)]
                    for name, method in running.items():
                        began, began_cpu = time.perf_counter(), time.thread_time()
                        method.refine(frame, expected)
                        spent_cpu, spent = time.thread_time() - began_cpu, time.perf_counter() - began
                        if run >= 0:
                            cpu[name].append(1e3 * spent_cpu / count)
                            wall[name].append(1e3 * spent / count)
                rows += [
                    {
                        "method": name,
                        "frame": f"{size[0]}x{size[1]}",
                        "faces": count,
                        "face_width_px": width,
                        "cpu_per_face": summarise(cpu[name]).to_dict(),
                        "wall_per_face": summarise(wall[name]).to_dict(),
                    }
                    for name in running
                ]
    return rows


def _crowd(
    faces: list[Cutout],
    images: list[np.ndarray],
    size: tuple[int, int],
    count: int,
    width: float,
    detector: Any,
) -> tuple[list[np.ndarray], dict[int, Detection]]:
    """Return four frames with copies of one face, all of which are detected in the first."""
    columns = 4 if count == 8 else 1
    for number, face in enumerate(faces):
        random = np.random.default_rng(number)
        plain = background(images, size, random)
        for i in range(count):
            x = (i % columns + 0.5) * size[0] / columns
            y = (i // columns + 0.5) * size[1] / max(count // columns, 1)
            paste(plain, face, Pose(x, y, width))
        frames = [
            (np.roll(plain, 2 * t, axis=1) + random.normal(0, 3, plain.shape)).clip(0, 255).astype(np.uint8)
            for t in range(4)
        ]
        found = detector.detect(frames[0])
        if len(found) == count:
            return frames, dict(enumerate(found))
    raise SystemExit(f"no face is detected {count} times. Fix: give other photographs")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR", help="one face each")
    parser.add_argument("--half", choices=list(_SEEDS), default="report", help="photographs and seeds")
    parser.add_argument(
        "--variants", nargs="+", default=["64:1.6", "96:2", "128:2.5"], metavar="PX:SIDES", help="of YuNet"
    )
    parser.add_argument("--repeats", type=int, default=40, help="sequences of each kind")
    parser.add_argument("--runs", type=int, default=100, help="frames for the cost")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    faces = cutouts(args.photographs, args.half)
    pairs = [variant.split(":") for variant in args.variants]
    makers = methods([(int(side), float(wide)) for side, wide in pairs])
    starts = {
        "yunet": create_detector("yunet"),
        "mtcnn": create_detector("mtcnn", DetectorOptions()),
    }
    cost = measure_cost(makers, faces, args.runs, starts) if args.runs else []
    results = measure_quality(makers, faces, _SEEDS[args.half], args.repeats, starts)
    quality = {
        kind: {name: found.to_dict() for name, found in by_method.items()}
        for kind, by_method in results.items()
    }
    console = Console(width=180)
    for kind, by_method in quality.items():
        console.print(make_table(kind, *_table(by_method, kind in GOING)))
    columns = ("method", "frame", "faces", "face px", "CPU ms per face p50 / p90", "wall p50 / p90")
    console.print(make_table("Cost", columns, [_cost_row(row) for row in cost]))
    if args.output:
        value = {
            "half": args.half,
            "photographs": len(faces),
            "frames_per_sequence": FRAMES,
            "face_goes_at_frame": CHANGE_AT,
            "face_width_px": _FACE_WIDTHS,
            "quality": quality,
            "cost": cost,
            "record": measurement_record(),
        }
        write_json(args.output, value)


def _table(
    by_method: dict[str, dict[str, Any]], going: bool
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    columns = (
        "",
        "missed",
        "no miss",
        "IoU p50/p10/p1",
        "centre p50/p90/p99",
        "after 30",
        "landmarks p50/p90",
    )
    columns += ("still carried after 0, 1, 2, 5, 20 frames",) if going else ("IoU with whole frame",)
    rows = []
    for name, value in by_method.items():
        carried = value.get("still_carried_after_frames", {})
        last = (
            " ".join(str(carried.get(t, "")) for t in ("0", "1", "2", "5", "20"))
            if going
            else _points(value.get("iou_with_whole_frame"))
        )
        rows.append(
            (
                name,
                f"{100 * value['missed']:.2f} %",
                f"{100 * value['sequences_without_miss']:.0f} %",
                _points(value.get("iou")),
                _points(value.get("centre_error")),
                _points(value.get("centre_error_after_30")),
                _points(value.get("landmark_error")),
                last,
            )
        )
    return columns, rows


def _points(value: dict[str, float] | None) -> str:
    return "" if value is None else "/".join(f"{v:.3f}" for name, v in value.items() if name != "n")


def _cost_row(row: dict[str, Any]) -> tuple[object, ...]:
    times = (
        f"{row[key]['p50_ms']:.3f} / {row[key]['p90_ms']:.3f}" for key in ("cpu_per_face", "wall_per_face")
    )
    return row["method"], row["frame"], row["faces"], row["face_width_px"], *times


if __name__ == "__main__":
    main()
