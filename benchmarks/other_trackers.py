"""Run Roboflow's trackers on stored detections, for tracking.py, in an environment of their own.

    python -m venv others && others/bin/pip install trackers
    others/bin/python benchmarks/other_trackers.py SEQUENCES.json OUTPUT.json

``trackers`` brings an OpenCV that replaces the one FER-Edge needs, so this file imports nothing of FER-Edge. All
trackers get the times of the frames and may keep a lost track for a second, as ours; SORT and OC-SORT are also run
with two frames instead of three before a track counts, as ours, and ByteTrack and OC-SORT also without their
thresholds on scores.
"""

from __future__ import annotations

import argparse
import json
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import supervision
import trackers

TRACKERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SORT": (trackers.SORTTracker, {}),
    "SORT, 2 frames": (trackers.SORTTracker, {"minimum_consecutive_frames": 2}),
    "SORT, 2 frames, overlap 0.1": (
        trackers.SORTTracker,
        {"minimum_consecutive_frames": 2, "minimum_iou_threshold": 0.1},
    ),
    "ByteTrack": (trackers.ByteTrackTracker, {}),
    "ByteTrack, any score": (
        trackers.ByteTrackTracker,
        {"track_activation_threshold": 0.0, "high_conf_det_threshold": 0.0},
    ),
    "OC-SORT": (trackers.OCSORTTracker, {}),
    "OC-SORT, 2 frames, any score": (
        trackers.OCSORTTracker,
        {"minimum_consecutive_frames": 2, "high_conf_det_threshold": 0.0},
    ),
}


def run(tracker: Any, sequence: dict[str, Any]) -> list[list[list[float]]]:
    """Return for each frame rows of track, left, top, right, bottom."""
    rows = []
    for frame in sequence["frames"]:
        detections = supervision.Detections(
            xyxy=np.array(frame["boxes"], np.float32).reshape(-1, 4),
            confidence=np.array(frame["scores"], np.float32),
            class_id=np.zeros(len(frame["scores"]), int),
        )
        found = tracker.update(detections, timestamp=frame["at_s"])
        numbers = found.tracker_id if found.tracker_id is not None else []
        rows.append(
            [
                [int(number), *(round(float(v), 2) for v in box)]
                for number, box in zip(numbers, found.xyxy, strict=True)
                if number >= 0
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sequences", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    sequences = json.loads(args.sequences.read_text())["sequences"]
    tracks = {}
    for name, (make, options) in TRACKERS.items():
        tracks[name] = []
        for sequence in sequences:
            fps = sequence["options"]["fps"]
            tracker = make(frame_rate=fps, lost_track_buffer=30, **options)
            tracks[name].append(run(tracker, sequence))
    versions = {package: metadata.version(package) for package in ("trackers", "supervision", "numpy")}
    args.output.write_text(json.dumps({"versions": versions, "tracks": tracks}))


if __name__ == "__main__":
    main()
