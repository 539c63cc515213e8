"""Measure the shipped bundles under each prior: on held-out training images, PublicTest and photographs.

    python benchmarks/priors.py fer2013.csv.gz --photographs DIR [--json FILE]

Each network runs once over each face, in FP32; every prior is applied to the same logits. The calibration error is
given with faces weighed by q / π, which is right for data with the class frequencies of the training labels, and
without weights. ``fer2013new.csv`` lies beside the CSV.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

from renew_bundles import RULE, training_labels
from rich.console import Console

from fer_edge._utils.files import write_json
from fer_edge.backends import BACKENDS, load_session
from fer_edge.bundle import open_bundle
from fer_edge.commands.base import make_table, percent
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.detection import create_detector
from fer_edge.evaluation.evaluate import labelled_logits
from fer_edge.evaluation.metrics import Metrics, compute_metrics
from fer_edge.models.catalogue import SHIPPED, shipped_bundle
from fer_edge.probabilities import NAMED_PRIORS, make_rule, softmax
from fer_edge.system.provenance import measurement_record

RECORD = Path(__file__).resolve().parent / "records" / "priors.json"
FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "ece", "ece_unweighted")


def measure(name: str, faces: FaceDataset, recorded_as: str, *, like_training: bool) -> dict[str, Any]:
    """Return the figures of one bundle on one set of faces, by prior.

    Weights q / π estimate the calibration under q only for faces ``like_training``, of frequencies π.
    """
    bundle = open_bundle(shipped_bundle(name))
    names = bundle.spec.class_names
    with (
        closing(load_session(bundle, BACKENDS["onnxruntime"], "fp32")) as session,
        closing(create_detector("mtcnn")) as detector,
    ):
        scaled, targets = labelled_logits(
            session, faces, bundle.spec, detector=detector, temperature=bundle.manifest.temperature
        )
    by_prior: dict[str, Any] = {}
    for prior in NAMED_PRIORS:
        rule = make_rule(bundle.manifest, prior)
        found: Metrics = compute_metrics(
            softmax(rule.apply_prior(scaled)), targets, names, rule.weights(targets)
        )
        by_prior[prior] = {figure: getattr(found, figure) for figure in FIGURES}
        if not like_training:
            by_prior[prior]["ece"] = None
        by_prior[prior]["recall"] = dict(zip(names, found.recall, strict=True))
    return {"data": recorded_as, "faces": len(targets), "by_prior": by_prior}


def measure_model(name: str, csv: Path, photographs: Path) -> dict[str, Any]:
    """Return the figures of one bundle."""
    _, held_out = training_labels(name, csv)
    public, wild = load_dataset(csv, "PublicTest", SHIPPED[name].labels), load_dataset(photographs)
    manifest = open_bundle(shipped_bundle(name)).manifest
    return {
        "class_frequencies": manifest.class_frequencies,
        "default_prior": manifest.default_prior,
        "figures": [
            measure(name, held_out, f"{held_out.name}, held out", like_training=True),
            measure(name, public, public.name, like_training=True),
            measure(name, wild, f"{wild.name}, largest face by mtcnn", like_training=False),
        ],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path, help="fer2013.csv[.gz]")
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR")
    parser.add_argument("--json", type=Path, default=RECORD, metavar="FILE")
    args = parser.parse_args()
    models = {name: measure_model(name, args.csv, args.photographs) for name in SHIPPED}
    for name, model in models.items():
        rows = [
            (
                part["data"],
                part["faces"],
                prior,
                *("–" if found[f] is None else percent(found[f]) for f in FIGURES),
            )
            for part in model["figures"]
            for prior, found in part["by_prior"].items()
        ]
        columns = ("data", "faces", "prior", "accuracy", "balanced", "macro-F1", "ECE, q / π", "ECE as it is")
        Console(width=140).print(make_table(f"{name}: default prior {model['default_prior']}", columns, rows))
    value = {"record": measurement_record(), "default_prior_rule": RULE, "models": models}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.json, value)


if __name__ == "__main__":
    main()
