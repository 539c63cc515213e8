"""``fer-edge explain``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fer_edge._utils.file_kinds import refuse_foreign
from fer_edge._utils.images import read_image
from fer_edge.backends import choose_backend
from fer_edge.bundle import open_bundle
from fer_edge.commands.base import (
    add_detector,
    add_model,
    add_prior,
    detector_options,
    make_table,
    parse_prior,
    percent,
    print_result,
    prior_text,
)
from fer_edge.commands.parser import offer, whole
from fer_edge.commands.progress import show_progress
from fer_edge.detection import create_detector
from fer_edge.errors import UsageError, lookup
from fer_edge.explanation.drawing import draw_explanation
from fer_edge.explanation.explain import METHODS, BundleExplainer, Explainer, explain_image
from fer_edge.explanation.weights import check_weights, weights_of
from fer_edge.models.catalogue import CATALOGUE, SHIPPED, find_bundle
from fer_edge.outputs import Output, check_outputs
from fer_edge.probabilities import make_rule
from fer_edge.sinks import WRITTEN_SUFFIXES
from fer_edge.sinks.files import write_image
from fer_edge.system.extras import require_extra


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    add_network(parser)
    parser.add_argument("image", type=Path, help="a photograph or a face crop")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.png")
    parser.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="class that Grad-CAM explains; default: the most likely",
    )
    parser.add_argument(
        "--face", choices=("auto", "whole"), default="auto", help="detect the face, or use the whole picture"
    )
    add_detector(parser)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the options of :func:`open_explainer`."""
    names = ("default", *SHIPPED)
    text = f"path of a bundle, name of a shipped one ({', '.join(names)}), or a weights file"
    offer(parser.add_argument("bundle", help=text), lambda: names)
    parser.add_argument("--method", choices=tuple(METHODS), default="attention")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="weights of the bundle, if they are not found"
    )
    add_model(parser, help=f"network of a weights file by its authors: one of {', '.join(CATALOGUE)}")
    parser.add_argument(
        "--map",
        metavar="NAME",
        help="another attention map of the network, such as row, mask, gate, landmarks",
    )
    add_prior(parser)
    parser.add_argument("--allow-random", action="store_true", help="accept random weights")
    parser.add_argument("--stage", type=whole(1, 4), default=3, help="stage of resmasking, from 1 to 4")
    parser.add_argument(
        "--location",
        type=whole(0),
        nargs=2,
        metavar=("ROW", "COLUMN"),
        help="position for --map row, in cells of the map",
    )


def execute(args: argparse.Namespace) -> int:
    """Explain, draw, and print the probabilities."""
    output = Output("--output", args.output, suffixes=tuple(sorted(WRITTEN_SUFFIXES)))
    check_outputs([output], (args.image, args.bundle, args.weights, args.detector_model))
    detecting = detector_options(args)
    image = read_image(args.image)
    with show_progress(args.quiet) as show:
        show("loading the network", 0, 1)
        explainer = open_explainer(args)
        show("loading the network", 1, 1)
        detector = create_detector(args.detector, detecting) if args.face == "auto" else None
        explanation = explain_image(image, explainer, detector, args.class_name)
    explainer.close()
    write_image(args.output, draw_explanation(image, explanation))
    shown = METHODS[explanation.method]
    title = f"{explanation.network}, {args.image.name}, prior {prior_text(explanation.rule)}"
    rows = [(n, percent(p)) for n, p in sorted(explanation.probabilities.items(), key=lambda item: -item[1])]
    print_result(
        args,
        {"output": str(args.output), **explanation.to_dict()},
        make_table(title, ("apparent expression", "probability"), rows),
        f"Wrote {args.output}: {shown}"
        + ("" if explanation.class_name is None else f", here {explanation.class_name}"),
    )
    return 0


def open_explainer(args: argparse.Namespace) -> Explainer:
    """Return an explainer: the bundle itself if it supports the method, else its weights in PyTorch."""
    return _refuse_random(args, _open(args))


def _refuse_random(args: argparse.Namespace, explainer: Explainer) -> Explainer:
    if explainer.random_weights and not args.allow_random:
        raise UsageError(
            f"expected trained weights, found random ones in {args.bundle}. Fix: give trained weights, or --allow-random"
        )
    return explainer


def _open(args: argparse.Namespace) -> Explainer:
    if args.model is not None:
        lookup(CATALOGUE, args.model, "model")
    path, prior = Path(args.bundle), parse_prior(args.prior)
    own_map = args.map is not None or args.location is not None or args.stage != 3
    if path.is_file():
        if args.weights is not None:
            raise UsageError(
                f"expected a bundle with --weights, found the weights file {path}. Fix: leave --weights out"
            )
        weights, model, rule = path, args.model, None
    else:
        bundle = open_bundle(find_bundle(args.bundle))
        if args.model not in (None, bundle.spec.network):
            raise UsageError(
                f"expected the network {args.model} in {bundle.path}, found {bundle.spec.network}. Fix: leave --model out"
            )
        if args.method == "attention" and not own_map and "attention" in bundle.spec.outputs:
            return BundleExplainer(bundle, choose_backend(bundle=bundle), prior=prior)
        weights = weights_of(bundle) if args.weights is None else check_weights(bundle, args.weights)
        model, rule = bundle.spec.network, make_rule(bundle.manifest, prior)
    refuse_foreign(weights)
    require_extra("export", f"{args.method} of {path} (gradients are not in a bundle)")
    from fer_edge.export.checkpoints import load_any
    from fer_edge.export.explanation.attention import AttentionOptions
    from fer_edge.export.explanation.explainer import NetworkExplainer

    row, column = args.location or (None, None)
    options = AttentionOptions(args.map, args.stage, row, column)
    trained = load_any(weights, model)
    return NetworkExplainer(trained, args.method, options, rule or make_rule(trained, prior))
