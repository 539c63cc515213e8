"""Classify every face of the pictures in a folder and write a table.

    python examples/folder_to_csv.py pictures faces.csv

The table has a row for each face, and one with empty cells for a picture without a face. Pictures that cannot be read
are named after all others are done, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from fer_edge import Runtime
from fer_edge.errors import FerEdgeError, UnreadableFilesError

BOX = ("left", "top", "right", "bottom")


def main() -> int:
    """Write the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("table", type=Path)
    args = parser.parse_args()
    with Runtime() as runtime, args.table.open("w", newline="", encoding="utf-8") as file:
        classes = runtime.spec.class_names
        table = csv.DictWriter(file, ("picture", *BOX, "label", "reason", *classes))
        table.writeheader()
        try:
            for result in runtime.stream(args.folder):
                for face in result.faces:
                    box = {name: round(pixel) for name, pixel in zip(BOX, face.box_xyxy, strict=True)}
                    probabilities = {name: f"{p:.4f}" for name, p in face.probabilities.items()}
                    answer = {"label": face.label, "reason": face.reason}
                    table.writerow({"picture": result.source, **box, **answer, **probabilities})
                if not result.faces:
                    table.writerow({"picture": result.source})
        except UnreadableFilesError as error:
            print(*error.problems, sep="\n", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FerEdgeError as error:
        sys.exit(str(error))
