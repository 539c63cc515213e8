"""Arguments of ``fer-edge run``, and the options of its runtime."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge.commands.base import (
    add_backend,
    add_bundle,
    add_detector,
    add_precision,
    add_prior,
    detector_options,
    parse_prior,
)
from fer_edge.commands.parser import number, whole
from fer_edge.detection.base import DetectorOptions
from fer_edge.errors import UsageError
from fer_edge.models.catalogue import find_bundle
from fer_edge.outputs import FILE, FOLDER, STREAM, Output, check_outputs
from fer_edge.probabilities import MIN_PROBABILITY
from fer_edge.tracking.schedule import MAX_INTERVAL_MS, ScheduleOptions

if TYPE_CHECKING:
    from fer_edge.runtime import RuntimeOptions
    from fer_edge.tracking.options import TrackingOptions

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
        parser, "use this precision or fail; default: the fastest precision of the bundle, as measured"
    )
    add_detector(parser)
    parser.add_argument(
        "--min-face",
        type=whole(1),
        metavar="PX",
        help="smallest face side to detect; larger is faster; default: 40, and 64 with yunet where every frame is searched",
    )
    parser.add_argument(
        "--turned-looks",
        type=number(0, 2),
        metavar="N",
        help="looks per search at the turned frame where no upright face is found (yunet), for faces turned by 30 to 60 "
        f"degrees; default: 2, one to each side, and {_VIDEO_LOOKS} in a video whose frames are all searched; "
        "0 finds upright faces alone",
    )
    parser.add_argument(
        "--rotate",
        choices=("0", "90", "180", "270", "auto"),
        default="0",
        help="clockwise turn in degrees that makes the frames of the camera upright; auto finds it from the faces",
    )
    parser.add_argument(
        "--no-tracking",
        dest="tracking",
        action="store_false",
        help="treat each frame of a stream by itself: no track numbers, steady labels and events",
    )
    schedule = ScheduleOptions()
    parser.add_argument(
        "--detect-every",
        type=number(0, MAX_INTERVAL_MS),
        default=schedule.detect_every_ms,
        metavar="MS",
        help="search the whole frame of a stream after this time, and follow known faces in between; 0: each frame",
    )
    parser.add_argument(
        "--classify-every",
        type=number(0, MAX_INTERVAL_MS),
        default=schedule.classify_every_ms,
        metavar="MS",
        help="classify each face of a stream after this time, and at once if it is new or changes; 0: each frame",
    )
    parser.add_argument(
        "--max-faces",
        type=whole(1),
        metavar="N",
        help="faces of a stream to classify per frame; the others wait for the next frames",
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


def runtime_options(args: argparse.Namespace) -> RuntimeOptions:
    """Check every argument before anything is opened; return the options of the runtime."""
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
        every_frame = is_video(args.source) and not args.tracking
        looks = _VIDEO_LOOKS if every_frame else DetectorOptions.turned_looks
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
        tracking=_tracking(args),
    )


def _tracking(args: argparse.Namespace) -> TrackingOptions | None:
    from fer_edge.tracking.options import TrackingOptions

    schedule = ScheduleOptions(
        detect_every_ms=args.detect_every, classify_every_ms=args.classify_every, max_faces=args.max_faces
    )
    if args.tracking:
        return TrackingOptions(schedule=schedule)
    if schedule != ScheduleOptions():
        raise UsageError(
            "--no-tracking treats each frame by itself, found --detect-every, --classify-every or --max-faces as well. "
            "Fix: leave one out"
        )
    return None
