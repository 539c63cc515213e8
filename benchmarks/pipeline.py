"""Time of the whole pipeline on scenes of real faces: detection, tracking, classification.

    python benchmarks/pipeline.py beside CHECKOUT --data FOLDER [--json FILE]
    python benchmarks/pipeline.py schedule BUNDLE --data FOLDER [--json FILE]
    python benchmarks/pipeline.py growth --data FOLDER [--json FILE] [--plot FILE]

``beside`` runs this version and another checkout, which has a ``.venv``, in alternating processes: every frame by itself,
and a stream with the schedule. ``schedule`` compares tracks and steady labels of a bundle, with the schedule and with every frame searched
and classified. ``growth`` varies faces and frame size.
FOLDER holds labelled photographs with one face each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scene_scripts import SceneOptions
from scenes import Picture, Scene, photographs

from fer_edge._utils.files import write_json
from fer_edge.commands.base import make_table
from fer_edge.detection import create_detector
from fer_edge.results import summarise
from fer_edge.system.provenance import measurement_record

HERE = Path(__file__).resolve().parents[1]
SIZES = {"VGA": (640, 480), "720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
FACES = (1, 2, 4, 8, 16, 32)
_MIN_OVERLAP = 0.5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("beside", "schedule", "growth"))
    parser.add_argument("subject", nargs="?", help="the other checkout, or the bundle")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a stream at 30 frames/s")
    parser.add_argument(
        "--relabel", type=float, metavar="S", help="mean time after which a face changes its picture"
    )
    parser.add_argument("--random", action="store_true", help="accept a bundle with random weights")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    args = parser.parse_args()
    with closing(create_detector()) as detector:
        pictures = photographs(args.data, detector, max(FACES))
    rows = {"beside": _beside, "schedule": _schedule, "growth": _growth}[args.what](args, pictures)
    record = measurement_record()
    if args.json:
        write_json(args.json, {"record": record, "rows": rows})
    columns = list(rows[0])
    table = make_table(
        f"Pipeline, {args.what}", columns, [tuple(_text(row[name]) for name in columns) for row in rows]
    )
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{record['device']}, {record['cores']} cores, {record['date']}, commit {record['commit']}")


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _beside(args: argparse.Namespace, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    other = Path(args.subject).resolve()
    rows = []
    for faces in (1, 8):
        with _scene(pictures, SceneOptions("wander", faces, duration_s=args.seconds, seed=11)) as moving:
            taken: dict[str, list[dict[str, Any]]] = {"other": [], "every frame": [], "schedule": []}
            for _ in range(args.rounds):
                taken["other"].append(_work(other, moving))
                taken["every frame"].append(_work(HERE, moving))
                taken["schedule"].append(_work(HERE, moving, "--tracked"))
        base = _figures(taken["other"])
        for name, runs in taken.items():
            found = _figures(runs)
            rows.append(
                {
                    "scene": f"{faces} moving",
                    "version": name,
                    **found,
                    "wall ratio": found["wall p50 ms"] / base["wall p50 ms"],
                    "CPU ratio": found["CPU mean ms"] / base["CPU mean ms"],
                }
            )
    return rows


def _schedule(args: argparse.Namespace, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    rows = []
    extra = ("--bundle", args.subject, *(["--random"] if args.random else []))
    for faces in (1, 8):
        with _scene(
            pictures, SceneOptions("wander", faces, duration_s=args.seconds, relabel_s=args.relabel, seed=12)
        ) as moving:
            every, scheduled = [], []
            for _ in range(args.rounds):
                every.append(_work(HERE, moving, "--tracked", "--every-frame", *extra))
                scheduled.append(_work(HERE, moving, "--tracked", *extra))
        agreeing, compared = _agreement(every[0]["faces"], scheduled[0]["faces"])
        base = _figures(every)
        for name, runs in (("every frame", every), ("schedule", scheduled)):
            found = _figures(runs)
            rows.append(
                {
                    "scene": f"{faces} moving",
                    "version": name,
                    **found,
                    "frames/s": 1e3 / found["wall mean ms"],
                    "times as fast": base["wall mean ms"] / found["wall mean ms"],
                    "labels agreeing": agreeing / compared if name == "schedule" else 1.0,
                    "compared": compared,
                }
            )
    return rows


def _growth(args: argparse.Namespace, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    rows = []
    for name, (width, height) in SIZES.items():
        for faces in FACES:
            options = SceneOptions("still", faces, width, height, duration_s=1.0, face_px=70, seed=13)
            with _scene(pictures, options) as still:
                runs = [_work(HERE, still) for _ in range(max(args.rounds // 2, 1))]
            found = _figures(runs)
            stages = [stage for run in runs for stage in run["stages"]]
            mean = {key: float(np.mean([stage[key] for stage in stages])) for key in stages[0]}
            outside = 1 - (mean["detect"] + mean["classify"]) / found["wall mean ms"]
            seen = float(np.mean([len(faces_) for run in runs for faces_ in run["faces"]]))
            rows.append(
                {
                    "size": name,
                    "faces": faces,
                    "found": seen,
                    **found,
                    "per face ms": found["wall p50 ms"] / max(seen, 1),
                    "outside detector and network": outside,
                }
            )
    if args.plot:
        _plot(rows, args.plot)
    return rows


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4))
    for name in SIZES:
        part = [row for row in rows if row["size"] == name]
        faces = [row["found"] for row in part]
        axes.plot(faces, [row["wall p50 ms"] for row in part], marker="o", label=name)
        slope = (part[-1]["wall p50 ms"] - part[0]["wall p50 ms"]) / max(faces[-1] - faces[0], 1)
        ideal = [part[0]["wall p50 ms"] + slope * (n - faces[0]) for n in faces]
        axes.plot(faces, ideal, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(xlabel="faces found", ylabel="p50, ms per frame", xscale="log", yscale="log")
    axes.legend(title="dashed: constant cost per face")
    figure.tight_layout()
    figure.savefig(path)


class _scene:
    """Frames of a scene in a temporary file, as a context."""

    def __init__(self, pictures: Sequence[Picture], options: SceneOptions) -> None:
        self._scene = Scene(pictures, options)

    def __enter__(self) -> Path:
        self._folder = tempfile.TemporaryDirectory(prefix="fer-edge-pipeline-")
        path = Path(self._folder.name) / "frames.npy"
        np.save(path, np.stack([frame.frame_bgr for frame in self._scene.play()]))
        return path

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()


def _work(checkout: Path, frames: Path, *options: str) -> dict[str, Any]:
    """Run the worker with the version of a checkout, and with its ``.venv`` if it is another one."""
    worker = Path(__file__).with_name("pipeline_worker.py")
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    python = sys.executable if checkout == HERE else str(checkout / ".venv" / "bin" / "python")
    done = subprocess.run(
        [python, str(worker), str(frames), *options],
        capture_output=True, text=True, env=environment, cwd=checkout,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{checkout} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _figures(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    wall = [value for run in runs for value in run["wall_ms"]]
    cpu = [value for run in runs for value in run["cpu_ms"]]
    summary = summarise(wall)
    return {
        "n": summary.n,
        "wall p50 ms": summary.p50_ms,
        "wall p90 ms": summary.p90_ms,
        "wall p99 ms": summary.p99_ms,
        "wall mean ms": float(np.mean(wall)),
        "CPU mean ms": float(np.mean(cpu)),
        "start CPU s": float(np.median([run["start_cpu_s"] for run in runs])),
    }


def _agreement(every: Sequence[Any], scheduled: Sequence[Any]) -> tuple[int, int]:
    """Return how many labels agree, of the faces that have one in both, at the same place of the same frame."""
    agreeing = compared = 0
    for a, b in zip(every, scheduled, strict=True):
        for face, other in _matched(a, b):
            if face[4] is not None and other[4] is not None:
                compared += 1
                agreeing += face[4] == other[4]
    return agreeing, compared


def _matched(faces: Sequence[Any], others: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    for face in faces:
        for other in others:
            width = min(face[2], other[2]) - max(face[0], other[0])
            height = min(face[3], other[3]) - max(face[1], other[1])
            common = max(width, 0) * max(height, 0)
            areas = [(f[2] - f[0]) * (f[3] - f[1]) for f in (face, other)]
            if common >= _MIN_OVERLAP * (sum(areas) - common):
                yield face, other
                break


if __name__ == "__main__":
    main()
