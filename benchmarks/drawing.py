"""Time to draw labels on frames, by number of faces and size of frame, beside the time to copy the frame.

    python benchmarks/drawing.py [--turns N] [--json FILE]

Faces stand in the cells of a grid, at random places and sizes, with random probabilities; there are 25 such scenes. A
new process measures the first picture, with the import of the package and the growth of its memory.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from turns import take_turns

from fer_edge._utils.files import write_json
from fer_edge.commands.base import make_table
from fer_edge.drawing.annotate import annotate
from fer_edge.labels import FERPLUS
from fer_edge.results import Face, FrameResult, summarise
from fer_edge.system.provenance import measurement_record

CASES = [(faces, size) for size in ((640, 480), (1920, 1080), (3840, 2160)) for faces in (1, 6, 20, 50)]
SCENES = 25
#: First picture of a process that has OpenCV and results already, as every program that draws has.
FIRST = """
import json, time, cv2, numpy as np
from fer_edge.results import Face, FrameResult
def rss_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
frame = np.zeros((480, 640, 3), np.uint8)
face = Face((200, 100, 320, 250), 0.9, "happiness", 0.8, {"happiness": 0.8, "fear": 0.1, "anger": 0.1})
before, started = rss_mb(), time.perf_counter()
FrameResult(0, 0.0, 0.0, 0, (face,)).annotate(frame)
print(json.dumps([1e3 * (time.perf_counter() - started), rss_mb() - before]))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = [measure(faces, size, args.turns) for faces, size in CASES]
    starts = [
        json.loads(subprocess.run([sys.executable, "-c", FIRST], capture_output=True, check=True).stdout)
        for _ in range(10)
    ]
    first_ms, first_mb = (float(value) for value in np.median(starts, axis=0))
    record = measurement_record()
    if args.json:
        found = {"record": record, "rows": rows, "first_picture_ms": first_ms, "first_picture_mb": first_mb}
        write_json(args.json, found)
    columns = list(rows[0])
    cells = [tuple(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()) for row in rows]
    console = Console(highlight=False)
    console.print(make_table("Drawing, milliseconds", columns, cells))
    console.print(
        f"First picture of a process: {first_ms:.0f} ms, {first_mb:.1f} MB, median of {len(starts)}"
    )
    console.print(f"{record['device']}, {record['cores']} cores, {record['date']}, commit {record['commit']}")


def measure(faces: int, size: tuple[int, int], turns: int) -> dict[str, Any]:
    """Return one row: latencies of drawing and of copying."""
    width, height = size
    frame = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    scenes = [scene(faces, size, seed) for seed in range(SCENES)]
    drawn = iter(range(10**9))
    taken = take_turns(
        {"draw": lambda: annotate(frame, scenes[next(drawn) % SCENES]), "copy": frame.copy}, turns
    )
    draw, copy = summarise(taken["draw"]), summarise(taken["copy"])
    return {
        "frame": f"{width}×{height}",
        "faces": faces,
        "n": draw.n,
        "p50": draw.p50_ms,
        "p90": draw.p90_ms,
        "p99": draw.p99_ms,
        "copy p50": copy.p50_ms,
    }


def scene(faces: int, size: tuple[int, int], seed: int) -> FrameResult:
    """Return a result with faces in the cells of a grid."""
    rng = np.random.default_rng(seed)
    columns = math.ceil(math.sqrt(faces * size[0] / size[1]))
    cell = np.array([size[0] / columns, size[1] / math.ceil(faces / columns)])
    found = []
    for i in range(faces):
        side = rng.uniform(0.35, 0.6) * cell.min()
        left, top = np.array([i % columns, i // columns]) * cell + rng.uniform(0, 1, 2) * (cell - side)
        shares = rng.dirichlet(np.full(len(FERPLUS), 0.3))
        best = int(shares.argmax())
        probabilities = dict(zip(FERPLUS, map(float, shares), strict=True))
        box = (float(left), float(top), float(left + 0.8 * side), float(top + side))
        found.append(Face(box, 0.9, FERPLUS[best], float(shares[best]), probabilities))
    return FrameResult(0, 0.0, 0.0, 0, tuple(found))


if __name__ == "__main__":
    main()
