"""Write a photograph and two views of it, in which the network is less certain, as PNG files.

On the photograph itself one class has nearly all of the probability, which hides differences.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2


def make_views(photograph: Path, folder: Path) -> None:
    """Write the photograph, its lower face blurred, and twice its size (where more is taken for a face)."""
    image = cv2.imread(str(photograph))
    blurred = image.copy()
    blurred[128:180] = cv2.GaussianBlur(image, (0, 0), 12)[128:180]
    double = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_AREA)
    folder.mkdir(parents=True, exist_ok=True)
    for name, view in (("photograph", image), ("mouth-blurred", blurred), ("double", double)):
        assert cv2.imwrite(str(folder / f"{name}.png"), view)


if __name__ == "__main__":
    make_views(Path(sys.argv[1]), Path(sys.argv[2]))
