"""``fer-edge run``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from fer_edge.bundle import PRECISIONS
from fer_edge.commands.base import (
    add_detector,
    add_prior,
    make_table,
    parse_prior,
    print_result,
    prior_text,
    progress_bars,
)
from fer_edge.detection import DetectorOptions
from fer_edge.errors import UsageError
from fer_edge.probabilities import MIN_PROBABILITY
from fer_edge.results import FrameResult
from fer_edge.runtime import Runtime, RuntimeOptions
from fer_edge.sinks import JsonLinesSink, Sink, picture_sink
from fer_edge.sources import Source, open_source

name = "run"
help = "find faces in an image, folder, video or camera and say what they express"
_ROWS_SHOWN = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    parser.add_argument("bundle", nargs="?", type=Path, help="the bundle that ships, if left out")
    parser.add_argument(
        "--source", required=True, help="camera number, image, folder, video or rtsp:// address"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="annotated image, video (.mp4) or folder")
    parser.add_argument("--jsonl", metavar="FILE|-", help="one JSON object per frame")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, help="what the bundle was built for, if left out")
    add_detector(parser)
    parser.add_argument(
        "--min-face", type=int, default=40, metavar="PX", help="smallest face side; larger is faster"
    )
    parser.add_argument(
        "--min-probability",
        type=float,
        default=MIN_PROBABILITY,
        metavar="P",
        help="below, the label is left open",
    )
    add_prior(parser)
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    parser.add_argument(
        "--max-batch",
        type=int,
        default=RuntimeOptions.max_batch,
        metavar="N",
        help="faces per batch; with 1 OpenVINO compiles for single faces, which is faster for one",
    )
    parser.add_argument(
        "--dla-core", type=int, metavar="N", help="DLA of a Jetson that computes the network, from 0"
    )
    parser.add_argument(
        "--gpu-fallback", action="store_true", help="let the GPU compute the layers that the DLA cannot"
    )
    parser.add_argument(
        "--attention", action="store_true", help="draw where the network attends, and write it as JSON"
    )
    parser.add_argument(
        "--no-self-test",
        dest="self_test",
        action="store_false",
        help="do not compare the network with the reference outputs of its bundle; the results record that",
    )
    parser.add_argument("--allow-random", action="store_true", help="accept a bundle with random weights")


def execute(args: argparse.Namespace) -> int:
    """Run over the source; print the faces of the first frames and the latency by stage."""
    value, tables = perform(args)
    if args.jsonl == "-":
        summary = {key: item for key, item in value.items() if key != "results"}
        print(json.dumps(summary), file=sys.stderr)
    else:
        print_result(args, value, *tables)
    return 0


def perform(args: argparse.Namespace) -> tuple[dict[str, Any], list[Table | str]]:
    """Run; return the result and what to show of it."""
    if args.jsonl == "-" and args.json:
        raise UsageError("--jsonl - and --json both write to standard output: choose one")
    if args.min_face < 1 or (args.max_frames is not None and args.max_frames < 1):
        raise UsageError("--min-face and --max-frames must be at least 1")
    options = RuntimeOptions(
        backend=args.backend,
        precision=args.precision,
        detector=args.detector,
        detector_options=DetectorOptions(
            min_face_px=args.min_face, model=args.detector_model, backend=args.detector_backend
        ),
        min_probability=args.min_probability,
        prior=parse_prior(args.prior),
        max_batch=args.max_batch,
        threads=args.threads,
        dla_core=args.dla_core,
        gpu_fallback=args.gpu_fallback,
        allow_random=args.allow_random,
        attention=args.attention,
        self_test=args.self_test,
    )
    source = open_source(args.source)
    with Runtime(args.bundle, options) as runtime, _sinks(args, source, runtime.info) as sinks:
        shown, frames, faces = _consume(runtime, source, sinks, args.max_frames)
        latency = {stage: summary.to_dict() for stage, summary in runtime.latency().items()}
        value = {
            "bundle": str(runtime.bundle.path),
            "backend": runtime.backend.name,
            "precision": runtime.precision,
            "detector": args.detector,
            "info": runtime.info,
            "frames": frames,
            "faces": faces,
            "latency_ms": latency,
            "results": [result.to_dict() for result in shown],
        }
    rows = [
        (
            result.source or result.index,
            "×".join(str(round(b - a)) for a, b in zip(face.box_xyxy[:2], face.box_xyxy[2:], strict=True)),
            f"{face.detection_score:.2f}",
            face.label or f"– ({face.reason})",
            f"{face.probability:.2f}",
        )
        for result in shown
        for face in result.faces
    ]
    title = (
        f"{runtime.spec.network}, {runtime.precision} on {runtime.backend.name}, "
        f"prior {prior_text(runtime.probability_rule)}: "
        f"{faces} face{'s' * (faces != 1)} in {frames} frame{'s' * (frames != 1)}"
    )
    columns = ("frame", "face px", "score", "apparent expression", "probability")
    tables: list[Table | str] = [make_table(title, columns, rows)]
    if frames > len(shown):
        tables.append(f"The first {len(shown)} frames are shown; --jsonl FILE writes all.")
    timings = [
        (stage, s["n"], *(f"{s[p]:.1f}" for p in ("p50_ms", "p90_ms", "p99_ms")))
        for stage, s in latency.items()
    ]
    tables.append(make_table("Latency, ms", ("stage", "n", "p50", "p90", "p99"), timings))
    if args.output:
        tables.append(f"Wrote {args.output}")
    return value, tables


def _consume(
    runtime: Runtime, source: Source, sinks: list[Sink], max_frames: int | None
) -> tuple[list[FrameResult], int, int]:
    shown: list[FrameResult] = []
    frames = faces = 0
    with progress_bars() as show:
        for frame, result in runtime.stream_frames(source):
            frames += 1
            faces += len(result.faces)
            if len(shown) < _ROWS_SHOWN:
                shown.append(result)
            for sink in sinks:
                sink.write(frame.image, result)
            show("frames", frames, source.frame_count)
            if frames == max_frames:
                break
    return shown, frames, faces


@contextmanager
def _sinks(args: argparse.Namespace, source: Source, info: Mapping[str, Any]) -> Iterator[list[Sink]]:
    sinks: list[Sink] = []
    try:
        if args.output:
            sinks.append(picture_sink(args.output, source))
        if args.jsonl:
            sinks.append(JsonLinesSink(args.jsonl, info))
        yield sinks
    except KeyboardInterrupt:
        for sink in sinks:
            sink.close()
        raise
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    for sink in sinks:
        sink.close()
