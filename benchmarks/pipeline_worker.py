"""Process frames in a process of its own and print the times as JSON. Used by pipeline.py.

Runs with any version of FER-Edge that has ``Runtime``; ``--tracked`` needs one with ``Runtime.tracked``.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from fer_edge import Runtime

WARM_UP = 5


def main() -> None:
    """Process all frames once, after a warm-up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("frames", help="[N, H, W, 3] uint8 BGR, .npy")
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--tracked", action="store_true")
    parser.add_argument("--every-frame", action="store_true", help="search and classify in every frame")
    parser.add_argument("--random", action="store_true", help="accept random weights")
    args = parser.parse_args()
    frames = np.load(args.frames, mmap_mode="r")
    begun_cpu = time.process_time()
    with Runtime(args.bundle, allow_random=args.random) as runtime:
        for index in range(WARM_UP):
            runtime(np.array(frames[index % len(frames)]))
        start_cpu_s = time.process_time() - begun_cpu
        tracked = None
        if args.tracked:
            options = None
            if args.every_frame:
                from fer_edge import ScheduleOptions, TrackingOptions

                options = TrackingOptions(schedule=ScheduleOptions(0, 0, 0, 0))
            tracked = runtime.tracked(options)
        wall_ms, cpu_ms, labels, stages = [], [], [], []
        for index, stored in enumerate(frames):
            frame = np.array(stored)  # reading the file is not part of the pipeline
            began, began_cpu = time.perf_counter(), time.process_time()
            result = tracked(frame, 100 + index / args.fps) if tracked else runtime(frame)
            wall_ms.append((time.perf_counter() - began) * 1e3)
            cpu_ms.append((time.process_time() - began_cpu) * 1e3)
            labels.append([[*face.box_xyxy, face.label] for face in result.faces])
            stages.append(dict(result.timings_ms))
    print(
        json.dumps(
            {
                "wall_ms": wall_ms,
                "cpu_ms": cpu_ms,
                "faces": labels,
                "stages": stages,
                "start_cpu_s": start_cpu_s,
            }
        )
    )


if __name__ == "__main__":
    main()
