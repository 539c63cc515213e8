"""Compare the faces that two machines found: X86.json AARCH64.json. Exit code 0 only if they agree."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIN_IOU = 0.99
MAX_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class Comparison:
    """Difference between two machines: the largest difference of a probability, the least overlap of a box."""

    faces: int
    probability_difference: float
    iou: float
    problems: tuple[str, ...]


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> Comparison:
    """Compare face by face, in the detector's order, which is by score."""
    problems = [
        f"{key}: {ours[key]} against {theirs[key]}"
        for key in ("precision", "versions")
        if _without_python(ours[key]) != _without_python(theirs[key])
    ]
    if ours["machine"] == theirs["machine"]:
        problems.append(f"both ran on {ours['machine']}")
    if ours["faces"].keys() != theirs["faces"].keys():
        problems.append(f"pictures: {sorted(ours['faces'])} against {sorted(theirs['faces'])}")
    overlaps, differences = [], []
    for picture in ours["faces"].keys() & theirs["faces"].keys():
        left, right = ours["faces"][picture], theirs["faces"][picture]
        if len(left) != len(right):
            problems.append(f"{picture}: {len(left)} faces against {len(right)}")
            continue
        for a, b in zip(left, right, strict=True):
            if a["label"] != b["label"] or a["probabilities"].keys() != b["probabilities"].keys():
                problems.append(f"{picture}: {a['label']} against {b['label']}")
                continue
            overlaps.append(iou(a["box_xyxy"], b["box_xyxy"]))
            differences += [abs(p - b["probabilities"][name]) for name, p in a["probabilities"].items()]
    if not overlaps:
        return Comparison(0, float("nan"), float("nan"), (*problems, "no face was compared"))
    worst = Comparison(len(overlaps), max(differences), min(overlaps), ())
    if not worst.probability_difference <= MAX_DIFFERENCE:
        problems.append(
            f"probabilities differ by {worst.probability_difference:.1e}, allowed {MAX_DIFFERENCE:.0e}"
        )
    if not worst.iou >= MIN_IOU:
        problems.append(f"boxes overlap by {worst.iou:.3f}, expected {MIN_IOU}")
    return Comparison(worst.faces, worst.probability_difference, worst.iou, tuple(problems))


def iou(a: list[float], b: list[float]) -> float:
    """Return the intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def _without_python(value: Any) -> Any:
    return {k: v for k, v in value.items() if k != "python"} if isinstance(value, dict) else value


def main(ours: str, theirs: str) -> int:
    """Print the comparison."""
    left, right = (json.loads(Path(file).read_text(encoding="utf-8")) for file in (ours, theirs))
    result = compare(left, right)
    print(
        f"{left['precision']}: {result.faces} faces, boxes overlap by {result.iou:.6f} or more, "
        f"probabilities differ by {result.probability_difference:.1e} at most (allowed {MAX_DIFFERENCE:.0e})"
    )
    for problem in result.problems:
        print(f"{left['precision']}: {problem}", file=sys.stderr)
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
