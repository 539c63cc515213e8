"""``fer-edge run``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fer_edge.commands.base import (
    add_backend,
    add_bundle,
    add_detector,
    add_precision,
    add_prior,
    detector_options,
    make_table,
    parse_prior,
    print_result,
    prior_text,
)
from fer_edge.commands.parser import number, whole
from fer_edge.commands.progress import show_progress
from fer_edge.errors import UnreadableFilesError, UsageError
from fer_edge.models.catalogue import find_bundle
from fer_edge.outputs import FILE, FOLDER, STREAM, Output, check_outputs
from fer_edge.probabilities import MIN_PROBABILITY

if TYPE_CHECKING:
    from fer_edge.results import FrameResult
    from fer_edge.runtime import Runtime, RuntimeOptions
    from fer_edge.sinks import Sink
    from fer_edge.sources.base import Source

_ROWS_SHOWN = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    add_bundle(parser, nargs="?", default="default")
    parser.add_argument(
        "--source", required=True, help="camera number, image, folder, video or rtsp:// address"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="annotated image, video (.mp4) or folder")
    parser.add_argument("--jsonl", metavar="FILE|-", help="one JSON object per frame")
    parser.add_argument(
        "--skip-bad", action="store_true", help="do not fail on pictures of a folder that cannot be read"
    )
    add_backend(parser)
    add_precision(
        parser, "use this precision or fail; default: the fastest of those that the bundle was tested for"
    )
    add_detector(parser)
    parser.add_argument(
        "--min-face",
        type=whole(1),
        default=40,
        metavar="PX",
        help="smallest face side to detect; larger is faster",
    )
    parser.add_argument(
        "--min-probability",
        type=number(0, 1),
        default=MIN_PROBABILITY,
        metavar="P",
        help="leave the label open below this probability",
    )
    add_prior(parser)
    parser.add_argument("--max-frames", type=whole(1), metavar="N", help="stop after N frames")
    parser.add_argument("--threads", type=whole(1), metavar="N", help="CPU threads of the network")
    parser.add_argument(
        "--max-batch",
        type=whole(1),
        metavar="N",
        help="faces per batch; 1 lets OpenVINO compile for single faces, which is faster for one face",
    )
    parser.add_argument(
        "--dla-core",
        type=whole(0),
        metavar="N",
        help="run the network on this DLA of a Jetson, counted from 0",
    )
    parser.add_argument(
        "--gpu-fallback", action="store_true", help="run layers that the DLA does not support on the GPU"
    )
    parser.add_argument(
        "--attention", action="store_true", help="draw the attention map, and write it as JSON"
    )
    parser.add_argument(
        "--no-self-test",
        dest="self_test",
        action="store_false",
        help="skip the comparison with the reference outputs of the bundle; the results record that",
    )
    parser.add_argument(
        "--no-tune",
        dest="tune",
        action="store_false",
        help="use the first available backend instead of measuring the fastest one (fer-edge tune)",
    )
    parser.add_argument("--allow-random", action="store_true", help="accept a bundle with random weights")


def execute(args: argparse.Namespace) -> int:
    """Process the source; print the faces of the first frames and the latency of each stage.

    Returns
    -------
    int
        1 if pictures of a folder could not be read and ``--skip-bad`` is not set.
    """
    value, tables = perform(args)
    if args.jsonl == "-":
        summary = {key: item for key, item in value.items() if key != "results"}
        print(json.dumps(summary), file=sys.stderr)
    else:
        print_result(args, value, *tables)
    return 1 if value["unreadable"] and not args.skip_bad else 0


@dataclass
class _Account:
    """Counts of frames and faces, and the results of the first frames."""

    shown: list[FrameResult] = field(default_factory=list)
    frames: int = 0
    faces: int = 0
    unreadable: tuple[str, ...] = ()


def perform(args: argparse.Namespace) -> tuple[dict[str, Any], list[Table | str]]:
    """Run; return the result, and the tables and lines to print."""
    options = _check(args)
    from fer_edge.runtime import Runtime
    from fer_edge.sources.open import is_live, open_source

    with ExitStack() as opened:
        # A camera is opened last, since its frames age, and no other program can use it.
        source: Source | None = None
        if not is_live(args.source):
            source = opened.enter_context(closing(open_source(args.source)))
        pictures = None if args.output is None or source is None else _picture_sink(args, source)
        runtime = opened.enter_context(Runtime(args.bundle, options))
        if source is None:
            source = opened.enter_context(closing(open_source(args.source)))
        sinks = opened.enter_context(_sinks(args, source, pictures, runtime))
        account = _consume(args, runtime, source, sinks)
        latency = {stage: summary.to_dict() for stage, summary in runtime.latency().items()}
        value = {
            "bundle": str(runtime.bundle.path),
            "backend": runtime.backend.name,
            "precision": runtime.precision,
            "detector": args.detector,
            "info": runtime.info,
            "frames": account.frames,
            "faces": account.faces,
            "unreadable": list(account.unreadable),
            "latency_ms": latency,
            "results": [result.to_dict() for result in account.shown],
        }
    return value, _tables(args, runtime, account, latency)


def _check(args: argparse.Namespace) -> RuntimeOptions:
    """Check every argument before anything is opened."""
    from fer_edge.runtime.options import make_options
    from fer_edge.sinks import PICTURE_SUFFIXES, VIDEO_SUFFIXES
    from fer_edge.sources.open import is_live

    if args.jsonl == "-" and args.json:
        raise UsageError("--jsonl - and --json both write to standard output. Fix: leave one out")
    outputs = []
    if args.output is not None:
        suffix = args.output.suffix.lower()
        kind = FILE if suffix in PICTURE_SUFFIXES and not args.output.is_dir() else FOLDER
        if is_live(args.source) and suffix and suffix not in VIDEO_SUFFIXES:
            raise UsageError(
                f"expected a video or a folder as --output of a live source, found {args.output}. "
                f"Fix: give a name with {', '.join(sorted(VIDEO_SUFFIXES))}, or a folder"
            )
        outputs.append(Output("--output", args.output, kind))
    if args.jsonl not in (None, "-"):
        outputs.append(Output("--jsonl", Path(args.jsonl), STREAM))
    check_outputs(outputs, (args.source, find_bundle(args.bundle), args.detector_model, args.prior))
    return make_options(
        backend=args.backend,
        precision=args.precision,
        detector=args.detector,
        detector_options=detector_options(args, min_face_px=args.min_face),
        min_probability=args.min_probability,
        prior=parse_prior(args.prior),
        threads=args.threads,
        dla_core=args.dla_core,
        gpu_fallback=args.gpu_fallback,
        allow_random=args.allow_random,
        attention=args.attention,
        self_test=args.self_test,
        tune=args.tune,
        max_batch=args.max_batch,
    )


def _tables(
    args: argparse.Namespace, runtime: Runtime, account: _Account, latency: dict[str, Any]
) -> list[Table | str]:
    faces, frames = account.faces, account.frames
    rows = [
        (
            result.source or result.index,
            "×".join(str(round(b - a)) for a, b in zip(face.box_xyxy[:2], face.box_xyxy[2:], strict=True)),
            f"{face.detection_score:.2f}",
            face.label or f"– ({face.reason})",
            f"{face.probability:.2f}",
        )
        for result in account.shown
        for face in result.faces
    ]
    title = (
        f"{runtime.spec.network}, {runtime.precision} on {runtime.backend.name}, "
        f"prior {prior_text(runtime.probability_rule)}: "
        f"{faces} face{'s' * (faces != 1)} in {frames} frame{'s' * (frames != 1)}"
    )
    columns = ("frame", "face px", "score", "apparent expression", "probability")
    tables: list[Table | str] = [make_table(title, columns, rows)]
    if frames > len(account.shown):
        tables.append(f"The first {len(account.shown)} frames are shown; --jsonl FILE writes all.")
    timings = [
        (stage, s["n"], *(f"{s[p]:.1f}" for p in ("p50_ms", "p90_ms", "p99_ms")))
        for stage, s in latency.items()
    ]
    tables.append(make_table("Latency, ms", ("stage", "n", "p50", "p90", "p99"), timings))
    if args.output:
        tables.append(f"Wrote {args.output}")
    return [*tables, *(f"Unreadable: {problem}" for problem in account.unreadable)]


def _consume(args: argparse.Namespace, runtime: Runtime, source: Source, sinks: list[Sink]) -> _Account:
    account, total = _Account(), source.frame_count or 0
    with show_progress(args.quiet) as show:
        show("finding faces", 0, total)
        try:
            for frame, result in runtime.stream_frames(source):
                account.frames += 1
                account.faces += len(result.faces)
                if len(account.shown) < _ROWS_SHOWN:
                    account.shown.append(result)
                for sink in sinks:
                    sink.write(frame.image, result)
                show("finding faces", account.frames, total)
                if account.frames == args.max_frames:
                    break
        except UnreadableFilesError as error:  # raised after the last frame
            account.unreadable = error.problems
    return account


def _picture_sink(args: argparse.Namespace, source: Source) -> Sink:
    from fer_edge.sinks import picture_sink

    return picture_sink(args.output, source)


@contextmanager
def _sinks(
    args: argparse.Namespace, source: Source, pictures: Sink | None, runtime: Runtime
) -> Iterator[list[Sink]]:
    from fer_edge.sinks import JsonLinesSink

    sinks: list[Sink] = []
    try:
        if args.output is not None:
            sinks.append(pictures or _picture_sink(args, source))
        if args.jsonl:
            sinks.append(JsonLinesSink(args.jsonl, runtime.info))
        yield sinks
    except (KeyboardInterrupt, BrokenPipeError):  # keep the results until then
        for sink in sinks:
            sink.close()
        raise
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    for sink in sinks:
        sink.close()
