"""React to the face before a robot, from the newest frame of its camera.

    python examples/robot_loop.py --source 0

A camera gives the newest frame only: older frames are dropped and counted. A result that is older than
--max-age-ms is not acted on, because the person may have turned away meanwhile. Where the expression is not certain
enough, the label is None: the robot then comes no nearer, goes on to retreat if it does, and does not guess from the
probabilities.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice

from fer_edge import FrameResult, Runtime
from fer_edge.errors import FerEdgeError

BEHAVIOUR = {"happiness": "approach", "neutral": "approach", "anger": "retreat", "fear": "retreat"}


def decide(result: FrameResult, max_age_ms: float, before: str) -> str:
    """Return the next action of the robot; ``before`` is its current one."""
    if result.frame_age_ms > max_age_ms or not result.faces:
        return "stop"
    nearest = result.faces[0]  # the largest comes first
    if nearest.label is None:
        return "stop" if before == "approach" else before
    return BEHAVIOUR.get(nearest.label, "stop")


def main() -> None:
    """Print each decision with its reasons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--source", default="0", help="number of a camera, address or video")
    parser.add_argument("--max-age-ms", type=float, default=300)
    parser.add_argument("--min-probability", type=float, default=0.6, help="below, the label is None")
    parser.add_argument("--frames", type=int, help="stop after so many")
    args = parser.parse_args()
    doing = "stop"
    with Runtime(min_probability=args.min_probability, max_batch=1) as runtime:
        for result in islice(runtime.stream(args.source), args.frames):
            doing = decide(result, args.max_age_ms, doing)
            face = result.faces[0] if result.faces else None
            seen = "nobody" if face is None else face.label or f"not certain ({face.reason})"
            age = f"{result.frame_age_ms:.0f} ms old, {result.dropped} dropped"
            print(f"frame {result.index}, {age}: {seen} → {doing}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FerEdgeError as error:
        sys.exit(str(error))
