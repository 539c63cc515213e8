"""Tracks of a runtime on scripted scenes, with the schedule and with every frame searched and classified.

    python benchmarks/tracked_streams.py --faces FOLDER [--seeds 100 102] [--json FILE]

``tracking.py`` compares the tracker alone with others; here detector, refiner, schedule and tracker work together. FOLDER
is a labelled folder of photographs with a face.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from scene_scripts import SceneOptions
from scenes import Picture, Scene, photographs
from track_metrics import TrackCounts
from tracking import scenarios, score, sequence, show

from fer_edge import Runtime, ScheduleOptions, TrackingOptions
from fer_edge._utils.files import write_json
from fer_edge.detection import create_detector
from fer_edge.system.provenance import measurement_record

SCHEDULES: Mapping[str, ScheduleOptions] = {
    "schedule": ScheduleOptions(),
    "every frame": ScheduleOptions(0, 0, 0, 0),
}
_START_S = 1000.0


def play(runtime: Runtime, scene: Scene, schedule: ScheduleOptions) -> list[dict[int, Any]]:
    """Return boxes by track of each frame."""
    tracked = runtime.tracked(TrackingOptions(schedule=schedule))
    found = []
    for frame in scene.play():
        result = tracked(frame.frame_bgr, _START_S + frame.at_s)
        found.append({face.track_id: face.box_xyxy for face in result.faces if face.track_id is not None})
    return found


def measure(runtime: Runtime, pictures: list[Picture], scene: SceneOptions) -> dict[str, TrackCounts]:
    """Return the counts of one scene by schedule."""
    truth = sequence(scene, pictures, None)  # its detections are not used
    return {
        name: score(truth, play(runtime, Scene(pictures, scene), schedule))
        for name, schedule in SCHEDULES.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs=2, default=(100, 102), help="first, and after the last")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds of each scene")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with closing(create_detector()) as detector:
        pictures = photographs(args.faces, detector, 60)
    counts: dict[str, dict[str, TrackCounts]] = {name: {} for name in SCHEDULES}
    frames = 0
    with Runtime() as runtime:
        for scene in scenarios(range(*args.seeds), args.duration):
            frames += len(Scene(pictures, scene).times_s)
            for name, found in measure(runtime, pictures, scene).items():
                before = counts[name].get(scene.script, TrackCounts())
                counts[name][scene.script] = before + found
    show(Console(width=200), counts)
    if args.json:
        totals = {name: sum(by_script.values(), TrackCounts()) for name, by_script in counts.items()}
        rows = {
            name: {**asdict(total), "mota": round(total.mota, 4), "idf1": round(total.idf1, 4)}
            for name, total in totals.items()
        }
        about = {"seeds": list(range(*args.seeds)), "frames": frames}
        write_json(args.json, {"record": measurement_record(), **about, "schedules": rows})


if __name__ == "__main__":
    main()
