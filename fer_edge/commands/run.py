"""``fer-edge run``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
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
    parse_prior,
    print_result,
)
from fer_edge.commands.parser import number, whole
from fer_edge.commands.progress import show_progress
from fer_edge.commands.run_summary import Account, make_tables
from fer_edge.detection.base import DetectorOptions
from fer_edge.errors import UnreadableFilesError, UsageError
from fer_edge.models.catalogue import find_bundle
from fer_edge.outputs import FILE, FOLDER, STREAM, Output, check_outputs
from fer_edge.probabilities import MIN_PROBABILITY

if TYPE_CHECKING:
    from fer_edge.runtime import Runtime, RuntimeOptions
    from fer_edge.sinks import Sink
    from fer_edge.sources.base import Source

#: In a video without faces every eighth frame is looked at once more.
_VIDEO_LOOKS = 0.125


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
        "--turned-looks",
        type=number(0, 2),
        metavar="N",
        help="looks per frame at the turned frame where no upright face is found (yunet), for faces turned by 30 to 60 "
        f"degrees; default: 2, one to each side, and {_VIDEO_LOOKS} in a video; 0 finds upright faces alone",
    )
    parser.add_argument(
        "--rotate",
        choices=("0", "90", "180", "270", "auto"),
        default="0",
        help="clockwise turn in degrees that makes the frames of the camera upright; auto finds it from the faces",
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

    Raises
    ------
    KeyboardInterrupt
        If the run was interrupted, after the summary until then is printed.
    """
    value, tables, account = _process(args)
    if args.jsonl == "-":
        summary = {key: item for key, item in value.items() if key != "results"}
        print(json.dumps(summary), file=sys.stderr)
    else:
        print_result(args, value, *tables)
    if account.interruption is not None:
        raise account.interruption
    return 1 if account.unreadable and not args.skip_bad else 0


def perform(args: argparse.Namespace) -> tuple[dict[str, Any], list[Table | str]]:
    """Run; return the result, and the tables and lines to print.

    Raises
    ------
    KeyboardInterrupt
        If the run was interrupted; all outputs are complete until then.
    """
    value, tables, account = _process(args)
    if account.interruption is not None:
        raise account.interruption
    return value, tables


def _process(args: argparse.Namespace) -> tuple[dict[str, Any], list[Table | str], Account]:
    options = _check(args)
    from fer_edge.runtime import Runtime
    from fer_edge.sources.open import open_source

    with ExitStack() as opened:
        # Before the network is loaded or measured, which takes seconds that a wrong source would waste.
        source = opened.enter_context(closing(open_source(args.source)))
        pictures = None if args.output is None else _picture_sink(args, source)
        runtime = opened.enter_context(Runtime(args.bundle, options))
        with _sinks(args, pictures, runtime) as sinks:
            account = _consume(args, runtime, source, sinks)
        latency = {stage: summary.to_dict() for stage, summary in runtime.latency().items()}
        written = [path for path in (args.output, args.jsonl) if path not in (None, "-")]
        value = {
            "bundle": str(runtime.bundle.path),
            "backend": runtime.backend.name,
            "precision": runtime.precision,
            "detector": args.detector,
            "info": runtime.info,
            "frames": account.frames,
            "faces": account.faces,
            "interrupted": account.interruption is not None,
            "unreadable": list(account.unreadable),
            "latency_ms": latency,
            "written": [str(path) for path in written],
            "results": [result.to_dict() for result in account.shown],
        }
        tables = make_tables(account, runtime, source, latency, written)
    return value, tables, account


def _check(args: argparse.Namespace) -> RuntimeOptions:
    """Check every argument before anything is opened."""
    from fer_edge.runtime.options import make_options
    from fer_edge.sinks import PICTURE_SUFFIXES, VIDEO_SUFFIXES
    from fer_edge.sources.open import is_live, is_video

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
    looks = args.turned_looks
    if looks is None:
        looks = _VIDEO_LOOKS if is_video(args.source) else DetectorOptions.turned_looks
    check_outputs(outputs, (args.source, find_bundle(args.bundle), args.detector_model, args.prior))
    return make_options(
        backend=args.backend,
        precision=args.precision,
        detector=args.detector,
        detector_options=detector_options(args, min_face_px=args.min_face, turned_looks=looks),
        rotate=args.rotate if args.rotate == "auto" else int(args.rotate),
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


def _consume(args: argparse.Namespace, runtime: Runtime, source: Source, sinks: list[Sink]) -> Account:
    account, total = Account(), source.frame_count or 0
    with show_progress(args.quiet) as show:
        show("finding faces", 0, total)
        try:
            for frame, result in runtime.stream_frames(source):
                for sink in sinks:
                    sink.write(frame.image, result)
                account.add(result)
                show("finding faces", account.frames, total)
                if account.frames == args.max_frames:
                    break
        except UnreadableFilesError as error:  # raised after the last frame
            account.unreadable = error.problems
        except KeyboardInterrupt as error:  # the results until then are kept
            account.interruption = error
    return account


def _picture_sink(args: argparse.Namespace, source: Source) -> Sink:
    from fer_edge.sinks import picture_sink

    return picture_sink(args.output, source)


@contextmanager
def _sinks(args: argparse.Namespace, pictures: Sink | None, runtime: Runtime) -> Iterator[list[Sink]]:
    from fer_edge.sinks import JsonLinesSink

    sinks: list[Sink] = []
    try:
        if pictures is not None:
            sinks.append(pictures)
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
