"""``fer-edge eval``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fer_edge.commands.base import (
    add_backend,
    add_bundle,
    add_detector,
    add_precision,
    add_prior,
    add_reading,
    detector_options,
    make_table,
    parse_prior,
    percent,
    print_result,
    prior_text,
    reading_options,
)
from fer_edge.commands.progress import show_progress
from fer_edge.models.catalogue import find_bundle
from fer_edge.outputs import FOLDER, Output, check_outputs
from fer_edge.system.extras import require_extra


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    add_bundle(parser)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="FER2013, RAF-DB, AffectNet, CK+, or a folder of images",
    )
    parser.add_argument("--split", metavar="NAME", help="such as PublicTest of FER2013 or test of RAF-DB")
    add_reading(parser)
    parser.add_argument("--labels", default="auto", choices=("auto", "ferplus", "fer2013"))
    add_backend(parser)
    add_precision(parser)
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    add_prior(parser)
    add_detector(parser)
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for metrics.json and confusion.png"
    )


def execute(args: argparse.Namespace) -> int:
    """Evaluate, and print the figures."""
    prior = parse_prior(args.prior)
    detecting = detector_options(args)
    if args.output:
        check_outputs([Output("--output", args.output, FOLDER)], (args.data, find_bundle(args.bundle)))
        require_extra("plots", "drawing the confusion matrix for --output")
    from fer_edge._utils.files import write_json
    from fer_edge._utils.progress import face_counter
    from fer_edge.backends import choose_backend
    from fer_edge.bundle import open_bundle
    from fer_edge.datasets import load_dataset, training_split
    from fer_edge.detection import create_detector
    from fer_edge.detection.base import Detector
    from fer_edge.evaluation.evaluate import evaluate
    from fer_edge.evaluation.photographs import recognised
    from fer_edge.probabilities import make_rule
    from fer_edge.system.provenance import measurement_record

    bundle = open_bundle(find_bundle(args.bundle))
    make_rule(bundle.manifest, prior)  # fail before the data is read
    backend = choose_backend(args.backend, bundle, args.precision)
    faces = load_dataset(args.data, args.split, args.labels, **reading_options(args))

    def create() -> Detector:
        return create_detector(args.detector, detecting)

    faces = recognised(faces, create, bundle.spec.crop)
    detector = None if faces.are_crops else create()
    with show_progress(args.quiet) as show:
        result = evaluate(
            bundle,
            backend,
            faces,
            precision=args.precision,
            flip=args.flip,
            prior=prior,
            detector=detector,
            on_faces=face_counter(show, f"evaluating on {faces.name}", len(faces)),
        )
    training = training_split(args.data) if args.split is None else None
    warnings = []
    if training is not None:
        warnings.append(
            f"all parts of {faces.name} are evaluated together, including {training}, on which networks are trained. "
            "Fix: give --split for one part"
        )
    value = {
        **result.to_dict(),
        "warnings": warnings,
        "skipped_rows": vars(faces.skipped),
        "excluded_rows": dict(faces.left_out),
        "record": measurement_record(),
    }
    if args.output:
        from fer_edge.evaluation.plots import save_confusion

        save_confusion(
            args.output / "confusion.png", result.metrics, f"{bundle.spec.network} on {result.data}"
        )
        write_json(args.output / "metrics.json", value)
    m = result.metrics
    rows: list[tuple[str, object]] = [
        ("prior", prior_text(result.rule)),
        ("faces", m.count),
        ("accuracy", percent(m.accuracy)),
        ("balanced accuracy", percent(m.balanced_accuracy)),
        ("macro-F1", percent(m.macro_f1)),
        ("expected calibration error", percent(m.ece)),
    ]
    if result.rule.importance is not None:
        rows[-1] = ("expected calibration error under the prior", percent(m.ece))
        rows.append(("expected calibration error of the faces as they are", percent(m.ece_unweighted)))
    if result.left_out:
        rows.append(("left out: class unknown to the network", result.left_out))
    if result.no_face:
        rows.append(("left out: no face found", result.no_face))
    rows += [(f"left out: {reason}", count) for reason, count in faces.left_out.items()]
    if faces.skipped.count:
        rows.append(("left out: bad rows", faces.skipped.count))
    per_class = [
        (c, sum(m.confusion[i]), percent(m.recall[i]), percent(None if m.recall[i] is None else m.f1[i]))
        for i, c in enumerate(m.class_names)
    ]
    how = (
        f"holds photographs: the largest face of each was cut out by {args.detector}."
        if result.photographs
        else "holds face crops, by the sizes of its pictures: each was classified whole."
    )
    title = f"{bundle.spec.network}, {result.precision} on {result.backend}, {result.data}"
    print_result(
        args,
        value,
        make_table(title, ("", "value"), rows),
        make_table("By class", ("class", "faces", "recall", "F1"), per_class),
        f"{faces.name} {how}",
        *(f"Warning: {text}." for text in warnings),
        *(f"bad row: {problem}" for problem in faces.skipped.first),
    )
    return 0
