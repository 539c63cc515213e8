"""Watch the seats of a car: one face for each seat, and an honest "unknown" where there is no sure answer.

    python examples/in_cabin_monitor.py --source rtsp://camera/cabin

Privacy: no picture, box or probability leaves the process or is written to a file. Abstention: an expression below
--min-probability is unknown. Time-out: a camera that ends, or gives no frame for 5 s, makes every seat unknown; it is
opened again after 1, 2, 4 and then 8 s each, and after --attempts failures in a row the exit code is 1. A video is
watched once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import islice

from fer_edge import FrameResult, Runtime
from fer_edge.errors import FerEdgeError, SourceError
from fer_edge.sources.open import is_live

#: Left and right edge of each seat, as shares of the width: the camera looks back at the driver.
SEATS = {"passenger": (0.0, 0.5), "driver": (0.5, 1.0)}
UNKNOWN = dict.fromkeys(SEATS, "unknown (no picture)")


def read_seats(result: FrameResult, width_px: int) -> dict[str, str]:
    """Return the expression of the largest face of each seat."""
    seats = dict.fromkeys(SEATS, "empty")
    for face in reversed(result.faces):  # the largest comes first, and so is entered last
        centre = (face.box_xyxy[0] + face.box_xyxy[2]) / 2 / width_px
        for seat, (left, right) in SEATS.items():
            if left <= centre < right:
                seats[seat] = face.label or f"unknown ({face.reason})"
    return seats


def watch(runtime: Runtime, source: str, attempts: int) -> Iterator[dict[str, str]]:
    """Yield the state of all seats for each frame, and once for each time that the camera fails."""
    failures = 0
    while failures < attempts:
        try:
            for frame, result in runtime.stream_frames(source):
                failures = 0
                yield read_seats(result, frame.image.shape[1])
            if not is_live(source):
                return
            problem = "the camera ended"
        except SourceError as error:
            if not is_live(source):
                raise
            problem = str(error)
        print(problem, file=sys.stderr, flush=True)
        yield UNKNOWN
        failures += 1
        if failures < attempts:
            time.sleep(min(2 ** (failures - 1), 8))
    raise SourceError(f"the camera failed {attempts} times in a row. Fix: check its connection")


def main() -> None:
    """Print the changes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--source", default="0", help="number of a camera, address or video")
    parser.add_argument("--min-probability", type=float, default=0.7)
    parser.add_argument("--attempts", type=int, default=10)
    parser.add_argument("--frames", type=int, help="stop after so many")
    args = parser.parse_args()
    shown: dict[str, str] = {}
    with Runtime(min_probability=args.min_probability, max_batch=1) as runtime:
        for seats in islice(watch(runtime, args.source, args.attempts), args.frames):
            for seat, state in seats.items():
                if shown.get(seat) != state:
                    print(f"{seat}: {state}", flush=True)
            shown = seats


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FerEdgeError as error:
        sys.exit(str(error))
