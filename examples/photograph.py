"""Classify every face of a photograph, and draw the results.

python examples/photograph.py photo.jpg --output found.png
"""

from __future__ import annotations

import argparse
import sys

import cv2

from fer_edge import Runtime, annotate
from fer_edge.errors import FerEdgeError


def main() -> None:
    """Print one line for each face, the largest first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photograph")
    parser.add_argument("--output", help="copy of the photograph with boxes, labels and probabilities")
    args = parser.parse_args()
    with Runtime() as runtime:  # the bundle that ships with the package
        frame, result = next(runtime.stream_frames(args.photograph))
    for face in result.faces:
        left, top, right, bottom = (round(pixel) for pixel in face.box_xyxy)
        print(f"x {left}–{right}, y {top}–{bottom}: {face.label or face.reason} {face.probability:.2f}")
    print(f"faces: {len(result.faces)}, in {result.timings_ms['total']:.0f} ms")
    if args.output:
        cv2.imwrite(args.output, annotate(frame.image, result))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FerEdgeError as error:
        sys.exit(str(error))
