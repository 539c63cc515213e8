"""``fer-edge emfacs``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from fer_edge.commands.base import add_reading, make_table, percent, print_result, reading_options
from fer_edge.commands.explain import add_network, open_explainer
from fer_edge.commands.parser import whole
from fer_edge.commands.progress import show_progress


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    add_network(parser)
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="face crops")
    parser.add_argument("--split", metavar="NAME", help="Usage of FER2013, such as PublicTest")
    parser.add_argument(
        "--top",
        type=whole(1),
        default=10,
        metavar="N",
        help="number of the 68 landmarks that count as most activated",
    )
    parser.add_argument(
        "--landmarks",
        metavar="NAME",
        help="landmark predictor for data without landmarks: face-mesh or mtcnn-mean-face",
    )
    parser.add_argument(
        "--landmark-model", type=Path, metavar="FILE", help="model file of the landmark predictor"
    )
    add_reading(parser)
    parser.add_argument("--images", type=whole(1), metavar="N", help="a sample of N images")


def execute(args: argparse.Namespace) -> int:
    """Measure, and print one row per class."""
    from fer_edge._utils.progress import face_counter
    from fer_edge.datasets import load_dataset
    from fer_edge.detection import create_detector
    from fer_edge.evaluation.photographs import recognised

    explainer = open_explainer(args)
    from fer_edge.export.explanation.emfacs import emfacs_overlap

    faces = load_dataset(args.data, args.split, **reading_options(args))
    faces = recognised(faces, create_detector, explainer.spec.crop)
    if args.images is not None:
        faces = faces.sample(args.images)
    if args.landmarks is not None and faces.landmarks is None:
        from fer_edge.export.training.data.landmarks import create_predictor, pseudo_landmarks

        found = pseudo_landmarks(faces, predictor=create_predictor(args.landmarks, args.landmark_model))
        faces = dataclasses.replace(faces, landmarks=found.points, landmark_source=found.source)
    with show_progress(args.quiet) as show:
        count = face_counter(show, f"explaining {faces.name}", len(faces))
        report = emfacs_overlap(explainer, faces, args.top, count)
    explainer.close()
    rows = [
        (c.class_name, "+".join(c.action_units), c.landmarks, c.images, percent(c.overlap), percent(c.chance))
        for c in report.classes
    ]
    columns = ("class", "action units", "landmarks", "images", "overlap", "chance")
    title = f"{report.network}, {report.method}, {report.data}: {report.top} most activated landmarks"
    value = {**report.to_dict(), "skipped_rows": vars(faces.skipped)}
    left_out = [f"{count} images left out: {reason}." for reason, count in report.left_out.items() if count]
    print_result(
        args,
        value,
        make_table(title, columns, rows),
        f"Landmarks: {report.landmark_source}.",
        *left_out,
        *(f"bad row: {problem}" for problem in faces.skipped.first),
    )
    return 0
