"""``fer-edge export``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_edge.commands.base import add_model, make_table, print_result
from fer_edge.commands.progress import show_progress
from fer_edge.models.catalogue import DEFAULT_MODEL
from fer_edge.outputs import Output, check_outputs
from fer_edge.system.extras import require_extra
from fer_edge.weights.cache import find_weights
from fer_edge.weights.request import request_weights


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    add_model(parser, default=DEFAULT_MODEL)
    parser.add_argument(
        "--weights",
        default="auto",
        metavar="auto|NAME|random|PATH",
        help="auto (shipped weights, else weights published by the authors, downloaded once), our .safetensors, a file of the network's authors, or for resmasking-ensemble a folder with its members' files",
    )
    add_weights_sha256(parser)
    add_author_inputs(parser)
    parser.add_argument(
        "--check-data", type=Path, metavar="PATH", help="faces for the check; default: generated ones"
    )
    parser.add_argument(
        "--attention", action="store_true", help="export the network's built-in attention as an output"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.onnx")


def add_weights_sha256(parser: argparse.ArgumentParser) -> None:
    """Add the option for the expected sha256 of the weights."""
    parser.add_argument("--weights-sha256", metavar="HEX", help="refuse weights with another sha256")


def add_author_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the files that EmotionalDAN needs with its authors' checkpoint."""
    parser.add_argument(
        "--canonical-shape",
        type=Path,
        metavar="FILE.npy|.npz",
        help="emotionaldan: 68 points; default: the constant in Model2.meta",
    )
    parser.add_argument(
        "--image-statistics",
        type=Path,
        metavar="FILE.npz",
        help="emotionaldan: ImgMean and ImgStd of the training data",
    )


def execute(args: argparse.Namespace) -> int:
    """Export, and print the recognised network and the difference to PyTorch."""
    author_inputs = args.canonical_shape is not None or args.image_statistics is not None
    request = request_weights(args.model, args.weights, args.weights_sha256, author_inputs)
    output = Output("--output", args.output, suffixes=(".onnx",))
    check_outputs([output], (args.weights, args.check_data, args.canonical_shape, args.image_statistics))
    require_extra("export", "exporting weights")
    from fer_edge.datasets import load_dataset
    from fer_edge.export.checkpoints import AuthorInputs, load_found, random_network
    from fer_edge.export.onnx.export import FACES_TO_CHECK, export_onnx

    inputs = AuthorInputs(args.canonical_shape, args.image_statistics)
    faces = load_dataset(args.check_data).sample(FACES_TO_CHECK) if args.check_data else None
    with show_progress(args.quiet) as show:
        if request.kind == "random":
            trained = random_network(args.model)
        else:
            trained = load_found(find_weights(request, show), request, inputs)
        if args.attention:
            from fer_edge.export.explanation.attention import with_attention

            trained = with_attention(trained)
        report = export_onnx(trained, args.output, faces, show)
    recognised = {
        "layout": trained.provenance.get("layout", "none"),
        "container": trained.provenance.get("container", "random weights"),
        "classes": list(trained.spec.class_names),
        "claims": trained.provenance.get("claims", {}),
    }
    value = {
        "output": str(args.output),
        "recognised": recognised,
        "provenance": dict(trained.provenance),
        **dataclasses.asdict(report),
    }
    print_result(
        args,
        value,
        make_table("Recognised", ("", ""), _rows(recognised, trained.provenance)),
        f"Wrote {args.output}: largest difference to PyTorch {report.max_abs_difference:.1e} "
        f"on {report.faces} {'real' if report.real_faces else 'generated'} faces.",
    )
    return 0


def _rows(recognised: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    classes, claims = recognised["classes"], recognised["claims"]
    if isinstance(claims, Mapping):
        claims = ", ".join(f"{name} {value}" for name, value in claims.items())
    shown = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
    rows = [
        ("layout", recognised["layout"]),
        ("container", recognised["container"]),
        ("classes", f"{len(classes)}: {shown}"),
        ("claims, not measured here", claims or "none"),
        ("licence", provenance.get("licence", "not stated")),
        ("sha256", provenance.get("weights_sha256", "none")),
        *((name, provenance[name]) for name in ("address", "remark") if name in provenance),
    ]
    return [(name, str(text)) for name, text in rows]
