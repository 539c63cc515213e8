"""Rewrite the shipped bundles in the current format: the same model and ranges, with a self-test and priors.

    python benchmarks/renew_bundles.py fer2013.csv.gz [--names NAME ...]

The faces of a self-test are chosen on the INT8 model that is built from the bundle, so that saturated INT8 arithmetic
shows on them; an existing self-test stays. The default model has INT8 for processors beside FP32, which a runtime uses where
it is measured to be faster; an existing INT8 file stays. Class frequencies are those of the training labels of the recorded run.
``fer2013new.csv`` lies beside the CSV.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fer_edge.backends import BACKENDS, load_session
from fer_edge.builder import BuildOptions, build
from fer_edge.builder.self_test import make_self_test
from fer_edge.bundle import (
    FP32_MODEL,
    RANGES,
    SELF_TEST,
    Bundle,
    Manifest,
    int8_model,
    open_bundle,
    write_bundle,
)
from fer_edge.datasets import FaceDataset
from fer_edge.errors import DataError
from fer_edge.evaluation.evaluate import labelled_logits
from fer_edge.evaluation.metrics import Metrics, compute_metrics
from fer_edge.export.training.data.batches import DataOptions
from fer_edge.export.training.data.loading import load_training_data
from fer_edge.export.training.frequencies import class_frequencies
from fer_edge.export.training.recipe import Phase
from fer_edge.export.training.recipes import RECIPES
from fer_edge.models.catalogue import DEFAULT_MODEL, SHIPPED, shipped_bundle
from fer_edge.probabilities import make_rule, softmax

#: Largest loss of accuracy on held-out images for the default prior.
MAX_LOSS = 0.03
RULE = (
    "balanced, unless on the held-out part of Training balanced accuracy does not rise against the prior training, or "
    "accuracy falls by more than 3 points"
)
INT8_MODEL = int8_model("cpu")
_FILES = (FP32_MODEL, RANGES, SELF_TEST, INT8_MODEL)
#: Fields of a recorded recipe that determine the training labels.
_RECORDED = ("labels", "seed", "validation_count", "per_class", "subject_folds", "fold")


def training_labels(name: str, csv: Path) -> tuple[dict[str, float], FaceDataset]:
    """Return the class frequencies of the training labels of a bundle's recorded run, and its held-out faces."""
    bundle = open_bundle(shipped_bundle(name))
    recorded: Mapping[str, Any] = bundle.manifest.provenance["recipe"]
    recipe = dataclasses.replace(
        RECIPES[SHIPPED[name].recipe],
        spec=bundle.spec,
        dropped_classes=tuple(recorded["dropped_classes"]),
        **{field: recorded[field] for field in _RECORDED},
    )
    with tempfile.TemporaryDirectory() as cache:
        data = load_training_data(recipe, DataOptions(csv, Path(cache)))
    frequencies = class_frequencies(recipe, Phase(**recorded["phases"][-1]), data)
    return frequencies, data.dataset.subset(data.split.held_out.numpy())


def held_out_metrics(bundle: Bundle, faces: FaceDataset) -> dict[str, Metrics]:
    """Return the figures under the priors ``training`` and ``balanced``.

    Raises
    ------
    DataError
        If the accuracy differs from the recorded one, because the images are others.
    """
    session = load_session(bundle, BACKENDS["onnxruntime"], "fp32")
    scaled, targets = labelled_logits(session, faces, bundle.spec, temperature=bundle.manifest.temperature)
    session.close()
    rules = {prior: make_rule(bundle.manifest, prior) for prior in ("training", "balanced")}
    found = {
        prior: compute_metrics(
            softmax(rule.apply_prior(scaled)), targets, bundle.spec.class_names, rule.weights(targets)
        )
        for prior, rule in rules.items()
    }
    recorded = bundle.manifest.provenance["validation"]["validation_accuracy"]
    if abs(found["training"].accuracy - recorded) > 1.5 / len(targets):
        raise DataError(
            f"expected the recorded accuracy {recorded} of {bundle.path} on its held-out images, found "
            f"{found['training'].accuracy}. Fix: give the data that it was trained on."
        )
    return found


def default_prior(training: Metrics, balanced: Metrics) -> str:
    """Return the default prior by :data:`RULE`."""
    rises = balanced.balanced_accuracy > training.balanced_accuracy
    return "balanced" if rises and training.accuracy - balanced.accuracy <= MAX_LOSS else "training"


def with_priors(bundle: Bundle, name: str, csv: Path) -> Manifest:
    """Return the manifest with class frequencies and the default prior."""
    frequencies, held_out = training_labels(name, csv)
    manifest = dataclasses.replace(
        bundle.manifest, class_frequencies=frequencies, logit_prior="training", default_prior=None
    )
    found = held_out_metrics(Bundle(bundle.path, manifest), held_out)
    chosen = default_prior(found["training"], found["balanced"])
    for prior, metrics in found.items():
        Console().print(
            f"{name}, {metrics.count} held-out faces, {prior}: accuracy {metrics.accuracy:.4f}, balanced "
            f"{metrics.balanced_accuracy:.4f}"
        )
    Console().print(f"{name}: default prior {chosen}")
    return dataclasses.replace(manifest, default_prior=chosen)


def renew(name: str, csv: Path) -> None:
    """Rewrite one bundle."""
    path = shipped_bundle(name)
    bundle = open_bundle(path)
    manifest = with_priors(bundle, name, csv)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for file in _FILES:
            if file in bundle.manifest.files:
                shutil.copyfile(path / file, work / file)
        with_int8 = name == DEFAULT_MODEL
        if manifest.self_test is None or (with_int8 and INT8_MODEL not in bundle.manifest.files):
            int8 = build(
                BuildOptions(bundle.spec.network, name, backend="onnxruntime", output=work / "int8.fer")
            ).bundle
            if with_int8:
                for file in (INT8_MODEL, SELF_TEST):
                    shutil.copyfile(int8.path / file, work / file)
                metrics = {**manifest.metrics, "gate": int8.manifest.metrics["gate"]}
                manifest = dataclasses.replace(manifest, self_test=int8.manifest.self_test, metrics=metrics)
            else:
                known = {FP32_MODEL: work / FP32_MODEL, SELF_TEST: int8.path / SELF_TEST}
                self_test = make_self_test(known, bundle.spec, work)
                manifest = dataclasses.replace(manifest, self_test=self_test.record)
        write_bundle(path, manifest, {file: work / file for file in _FILES if (work / file).exists()})


def main() -> None:
    """Rewrite all shipped bundles, or the named ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("csv", type=Path, help="fer2013.csv[.gz]")
    parser.add_argument("--names", nargs="+", choices=list(SHIPPED), default=list(SHIPPED))
    args = parser.parse_args()
    for name in args.names:
        renew(name, args.csv)


if __name__ == "__main__":
    main()
