"""Tracking of faces on scripted scenes: identity switches, misses, false tracks, MOTA and IDF1, beside other trackers.

    python benchmarks/tracking.py detect --output simulated.json [--seeds 100 106]
    python benchmarks/tracking.py detect --output yunet.json --faces FOLDER [--weights FILE] [--seeds 100 103]
    python benchmarks/other_trackers.py simulated.json others.json      # in an environment with Roboflow's trackers
    python benchmarks/tracking.py compare simulated.json [--others others.json] [--json RECORD]

Detections are simulated from the known boxes (jitter, misses, false boxes), or are those of a detector on rendered
frames, and are stored, so that all trackers get the same. FOLDER is a labelled folder of photographs with a face.
Parameters of the tracker were chosen on seeds below 100; report others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scene_scripts import SCRIPTS, SceneOptions
from scenes import Scene, Truth, photographs, rendered_pictures
from track_metrics import TrackCounts, count

from fer_edge._utils.files import write_json
from fer_edge.commands.base import make_table
from fer_edge.detection import create_detector
from fer_edge.detection.base import Detector, DetectorOptions
from fer_edge.detection.nms import suppress
from fer_edge.results import Detection, summarise
from fer_edge.system.provenance import measurement_record
from fer_edge.tracking.options import TrackerOptions
from fer_edge.tracking.tracker import Tracker

OURS = "FER-Edge"
#: A face of which less can be seen need not be found.
MIN_VISIBLE = 0.5
#: (fps, share of dropped frames, faces); the scenes cycle through them.
SETTINGS = ((30.0, 0.0, 4), (30.0, 0.3, 2), (10.0, 0.0, 4), (30.0, 0.0, 8))
#: Simulated detector: jitter in face sizes, overlap that non-maximum suppression allows, share of misses of a visible
#: face, chance that a run of misses goes on, false boxes per frame.
JITTER, MAX_OVERLAP, MISSES, MISS_GOES_ON, FALSE_BOXES = 0.03, 0.3, 0.05, 0.5, 0.05

Sequence_ = dict[str, Any]


def scenarios(seeds: Sequence[int], duration_s: float) -> Iterator[SceneOptions]:
    """Yield the options of all scenes."""
    for seed in seeds:
        for number, script in enumerate(SCRIPTS):
            fps, dropped, faces = SETTINGS[(seed + number) % len(SETTINGS)]
            yield SceneOptions(
                script, faces, fps=fps, dropped_share=dropped, duration_s=duration_s, seed=seed, relabel_s=3.0
            )


class SimulatedDetector:
    """Boxes as a detector would find them, made from known ones."""

    def __init__(self, options: SceneOptions) -> None:
        self.options = options
        self.rng = np.random.default_rng((options.seed, 81))
        self.missing: set[int] = set()

    def detect(self, truth: Sequence[Truth]) -> list[Detection]:
        """Return the detections of a frame."""
        rng, found = self.rng, []
        for face in truth:
            chance = MISS_GOES_ON if face.person_id in self.missing else MISSES
            # A face that is half hidden is found half of the time.
            hidden = 1 / (1 + np.exp((face.visible_fraction - 0.5) / 0.07))
            if rng.random() < chance or rng.random() < hidden:
                self.missing.add(face.person_id)
                continue
            self.missing.discard(face.person_id)
            box = np.array(face.box_xyxy)
            noise = JITTER * float(np.sqrt((box[2:] - box[:2]).prod()))
            score = float(np.clip(0.55 + 0.4 * face.visible_fraction + rng.normal(0, 0.05), 0.5, 0.99))
            found.append((box + rng.normal(0, noise, 4), score))
        for _ in range(rng.poisson(FALSE_BOXES)):
            side = np.exp(rng.uniform(3.2, 5))
            corner = rng.uniform(0, (self.options.width - side, self.options.height - side))
            found.append((np.concatenate((corner, corner + side)), float(rng.uniform(0.5, 0.75))))
        limits = (self.options.width, self.options.height) * 2
        boxes = np.array([box for box, _ in found]).reshape(-1, 4).clip(0, limits)
        scores = np.array([score for _, score in found])
        usable = ((boxes[:, 2:] - boxes[:, :2]) > 2).all(axis=1)
        kept = suppress(boxes[usable], scores[usable], MAX_OVERLAP)
        return [
            Detection(tuple(boxes[usable][i].tolist()), float(scores[usable][i]))  # type: ignore[arg-type]
            for i in kept
        ]


def sequence(options: SceneOptions, pictures: Sequence[Any], detector: Detector | None) -> Sequence_:
    """Return truth and detections of all frames of a scene, as JSON types."""
    scene = Scene(pictures, options)
    simulated = SimulatedDetector(options)
    frames = []
    for at_s, truth in scene.truths():
        found = simulated.detect(truth) if detector is None else detector.detect(scene.render(at_s))
        frames.append(
            {
                "at_s": at_s,
                "truth": [
                    [face.person_id, *(round(v, 2) for v in face.box_xyxy), round(face.visible_fraction, 3)]
                    for face in truth
                ],
                "boxes": [[round(float(v), 2) for v in d.box_xyxy] for d in found],
                "scores": [round(float(d.score), 4) for d in found],
            }
        )
    return {"options": asdict(options), "frames": frames}


def track(
    sequence: Sequence_, options: TrackerOptions | None = None
) -> tuple[list[dict[int, list[float]]], list[float]]:
    """Return boxes by track of each frame, and the processor time of each update in milliseconds."""
    tracker = Tracker(options)
    size = (sequence["options"]["width"], sequence["options"]["height"])
    boxes, times_ms = [], []
    for frame in sequence["frames"]:
        found = [Detection(tuple(b), s) for b, s in zip(frame["boxes"], frame["scores"], strict=True)]
        start = time.thread_time()
        update = tracker.update(found, frame["at_s"], size)
        times_ms.append(1000 * (time.thread_time() - start))
        boxes.append({t.track_id: list(t.detection.box_xyxy) for t in update.tracks})
    return boxes, times_ms


def score(sequence: Sequence_, tracks: Sequence[Mapping[int, Sequence[float]]]) -> TrackCounts:
    """Return the counts of the tracks of one sequence."""
    frames = []
    for frame, boxes in zip(sequence["frames"], tracks, strict=True):
        visible = {int(t[0]): t[1:5] for t in frame["truth"] if t[5] >= MIN_VISIBLE}
        hidden = {int(t[0]): t[1:5] for t in frame["truth"] if t[5] < MIN_VISIBLE}
        frames.append((visible, hidden, boxes))
    return count(frames)


def compare(
    sequences: Sequence[Sequence_], others: Mapping[str, Sequence[Any]], options: TrackerOptions | None = None
) -> tuple[dict[str, dict[str, TrackCounts]], list[float]]:
    """Return counts by tracker and script, and the processor time of our updates in milliseconds."""
    counts: dict[str, dict[str, TrackCounts]] = {}
    times_ms: list[float] = []
    for number, sequence in enumerate(sequences):
        ours, taken = track(sequence, options)
        times_ms += taken
        of_all = {OURS: ours}
        for name, tracks in others.items():
            of_all[name] = [{int(row[0]): row[1:5] for row in frame} for frame in tracks[number]]
        script = sequence["options"]["script"]
        for name, tracks in of_all.items():
            table = counts.setdefault(name, {})
            table[script] = table.get(script, TrackCounts()) + score(sequence, tracks)
    return counts, times_ms


def show(console: Console, counts: Mapping[str, Mapping[str, TrackCounts]]) -> None:
    """Print the sums over all scripts, and the switches of each script."""
    columns = "tracker", "switches", "fragments", "misses", "false boxes", "false tracks", "MOTA", "IDF1"
    rows = []
    for name, by_script in counts.items():
        total = sum(by_script.values(), TrackCounts())
        false = f"{total.false_tracks} of {total.tracks}"
        of_frames = total.switches, total.fragmentations, total.misses, total.false_boxes
        rows.append((name, *of_frames, false, f"{total.mota:.4f}", f"{total.idf1:.4f}"))
    table = make_table("", columns, rows)
    console.print(table)
    scripts = list(next(iter(counts.values())))
    switches = [(name, *(by_script[s].switches for s in scripts)) for name, by_script in counts.items()]
    console.print(make_table("Switches by script", ("tracker", *scripts), switches))


def record(
    counts: Mapping[str, Mapping[str, TrackCounts]], times_ms: Sequence[float], source: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the record of a comparison."""
    trackers = {}
    for name, by_script in counts.items():
        total = sum(by_script.values(), TrackCounts())
        trackers[name] = {
            **asdict(total),
            "mota": round(total.mota, 4),
            "idf1": round(total.idf1, 4),
            "by_script": {script: {**asdict(c), "idf1": round(c.idf1, 4)} for script, c in by_script.items()},
        }
    return {
        **measurement_record(),
        **source,
        "update_processor_time": summarise(times_ms).to_dict(),
        "trackers": trackers,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    detect = commands.add_parser("detect")
    detect.add_argument("--output", type=Path, required=True)
    detect.add_argument("--faces", type=Path, help="photographs; without them, detections are simulated")
    detect.add_argument("--detector", default="yunet")
    detect.add_argument("--weights", type=Path)
    detect.add_argument("--seeds", type=int, nargs=2, default=(100, 106), help="first, and after the last")
    detect.add_argument("--duration", type=float, default=10.0, help="seconds of each scene")
    against = commands.add_parser("compare")
    against.add_argument("sequences", type=Path)
    against.add_argument("--others", type=Path, help="output of other_trackers.py")
    against.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    console = Console(width=200)
    if args.command == "detect":
        detector, pictures, name = None, rendered_pictures(1), "simulated"
        if args.faces:
            detector, name = (
                create_detector(args.detector, DetectorOptions(model=args.weights)),
                args.detector,
            )
            pictures = photographs(args.faces, detector, 60)
        sequences = [sequence(o, pictures, detector) for o in scenarios(range(*args.seeds), args.duration)]
        write_json(
            args.output, {"detections": name, "seeds": list(range(*args.seeds)), "sequences": sequences}
        )
        console.print(f"{len(sequences)} sequences, {sum(len(s['frames']) for s in sequences)} frames")
        return
    data = json.loads(args.sequences.read_text())
    others = json.loads(args.others.read_text()) if args.others else {"versions": {}, "tracks": {}}
    counts, times_ms = compare(data["sequences"], others["tracks"])
    show(console, counts)
    console.print(f"processor time of an update of {OURS}: {summarise(times_ms).to_dict()}")
    if args.json:
        source = {
            "detections": data["detections"],
            "seeds": data["seeds"],
            "sequences": len(data["sequences"]),
            "frames": sum(len(s["frames"]) for s in data["sequences"]),
            "other_versions": others["versions"],
        }
        write_json(args.json, record(counts, times_ms, source))


if __name__ == "__main__":
    main()
