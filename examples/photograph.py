"""Classify every face of a photograph.

python examples/photograph.py photo.jpg
"""

from __future__ import annotations

import argparse

from fer_edge import Face, Runtime


def describe(face: Face) -> str:
    """Return place, expression and the two most probable classes of a face."""
    left, top, right, bottom = (round(pixel) for pixel in face.box_xyxy)
    likely = sorted(face.probabilities, key=face.probabilities.__getitem__, reverse=True)[:2]
    figures = ", ".join(f"{name} {face.probabilities[name]:.2f}" for name in likely)
    return f"x {left}–{right}, y {top}–{bottom}: {face.label or face.reason} ({figures})"


def main() -> None:
    """Print one line for each face, the largest first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photograph")
    args = parser.parse_args()
    with Runtime() as runtime:  # the bundle that ships with the package
        result = runtime(args.photograph)
    for face in result.faces:
        print(describe(face))
    print(f"faces: {len(result.faces)}, in {result.timings_ms['total']:.0f} ms")


if __name__ == "__main__":
    main()
