"""Measure the shipped bundles on FER2013's PublicTest and write their model cards.

    python benchmarks/model_cards.py fer2013.csv.gz [--photographs DIR] [--names NAME ...] [--priors-only]

``fer2013new.csv`` lies beside the CSV. The figures by prior come from the record that benchmarks/priors.py writes,
all other figures from the run that writes the card; ``--priors-only`` rewrites only that section.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from priors import RECORD
from rich.console import Console

from fer_edge._utils.files import whole_file, write_json
from fer_edge.backends import choose_backend
from fer_edge.builder import BuildOptions, build
from fer_edge.bundle import Bundle, open_bundle
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.detection import create_detector
from fer_edge.evaluation.evaluate import evaluate
from fer_edge.evaluation.metrics import Metrics
from fer_edge.models.catalogue import SHIPPED, ShippedModel, shipped_bundle
from fer_edge.system.provenance import measurement_record

BACKEND = "onnxruntime"
PRIOR = "training"
PRIORS_HEADING = "## Priors"
LIMITS = """
- FER2013 was collected by web search in 2013: mostly posed or staged faces, without a balance of age, skin
  colour or culture, and no such figures are known for this model. Measure on your own camera
  (`fer-edge eval`) before you use it.
- Faces under about 40 pixels, profiles, masks, hands before the face and strong side light are weak spots.
- The output is an apparent expression as annotators would name it, not a person's feeling.
"""


def percent(value: float) -> str:
    """Format a share."""
    return f"{100 * value:.2f} %"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def measure(bundle: Bundle, int8: Bundle, faces: FaceDataset) -> Mapping[str, Metrics]:
    """Return the figures by column of the card, under the prior of the training labels."""
    backend = choose_backend(BACKEND)
    return {
        "FP32": evaluate(bundle, backend, faces, precision="fp32", prior=PRIOR).metrics,
        "FP32 with mirror image": evaluate(
            bundle, backend, faces, precision="fp32", prior=PRIOR, flip=True
        ).metrics,
        "INT8": evaluate(int8, backend, faces, precision="int8", prior=PRIOR).metrics,
    }


def accuracy_section(figures: Mapping[str, Metrics]) -> str:
    """Return the table of totals, of classes, and the confusion matrix."""
    plain, mirrored = figures["FP32"], figures["FP32 with mirror image"]
    totals = [
        (label, *(percent(getattr(m, field)) for m in figures.values()))
        for label, field in (
            ("accuracy", "accuracy"),
            ("balanced accuracy", "balanced_accuracy"),
            ("macro-F1", "macro_f1"),
            ("expected calibration error", "ece"),
        )
    ]
    names = plain.class_names
    by_class = [
        (
            name,
            sum(plain.confusion[i]),
            percent(plain.recall[i]),
            percent(plain.f1[i]),
            percent(mirrored.f1[i]),
            percent(figures["INT8"].f1[i]),
        )
        for i, name in enumerate(names)
    ]
    confusion = [(f"**{name}**", *plain.confusion[i]) for i, name in enumerate(names)]
    gain = 100 * (mirrored.accuracy - plain.accuracy)
    return (
        table(("", *figures), totals)
        + f"\nThe mean with the mirror image changes accuracy by {gain:+.2f} points and doubles the work.\n\n"
        + table(("class", "faces", "recall", "F1", "F1 with mirror image", "F1 in INT8"), by_class)
        + "\nConfusion matrix, FP32: rows are the labels, columns the answers of the network.\n\n"
        + table(("", *names), confusion)
    )


def recipe_section(model: ShippedModel, provenance: Mapping[str, Any]) -> str:
    """Return the training recipe, from the record of the weights."""
    recipe, validation = provenance["recipe"], provenance["validation"]
    options = ", ".join(f"{k} {v}" for k, v in recipe["network_options"].items())
    phases = "; ".join(
        f"{p['epochs']} epochs, {p['optimizer']}, {p['rate']} rate to {p['learning_rate']}, decay {p['weight_decay']}"
        for p in recipe["phases"]
    )
    changes = ", ".join(f"{k} {v}" for k, v in recipe["augmentation"].items() if v)
    initial = provenance.get("initial")
    start = f"Started from the weights trained on {initial['data']}. " if initial else ""
    precise = recipe.get("precise_norms")
    norms = ", statistics of batch normalisation taken again on unchanged images" if precise else ""
    planned = sum(p["epochs"] for p in recipe["phases"])
    if provenance["epochs"] < planned:
        start += f"Stopped after {provenance['epochs']} of {planned} epochs. "
    return (
        f"Trained on {provenance['data']} by the recipe `{model.recipe}`; held out to watch the run: "
        f"{provenance['held_out']}. {start}"
        f"Network options: {options}. Batch {recipe['batch_size']}; {phases}. Augmentation: {changes}. "
        f"Kept: {recipe['keep']} weights{norms}. On the held-out images: {percent(validation['validation_accuracy'])}. "
        f"Logits are divided by {validation['temperature']:.3f}, fitted on the same images. "
        "No epoch and no weights were chosen on `PublicTest`.\n"
    )


def priors_section(name: str, record: Mapping[str, Any]) -> str:
    """Return the effect of the prior, from the record of benchmarks/priors.py."""
    model, where = record["models"][name], record["record"]
    shares = ", ".join(f"{c} {percent(share)}" for c, share in model["class_frequencies"].items())
    rows = [
        (f"{part['data']} ({part['faces']})", label, *(percent(v[key]) for v in part["by_prior"].values()))
        for part in model["figures"]
        for key, label in (
            ("accuracy", "accuracy"),
            ("balanced_accuracy", "balanced accuracy"),
            ("macro_f1", "macro-F1"),
            ("ece", "calibration error under the prior"),
            ("ece_unweighted", "calibration error of the faces as they are"),
        )
        if part["by_prior"][PRIOR][key] is not None
    ]
    return (
        f"{PRIORS_HEADING}\n\nClass frequencies π of the training labels: {shares}. Priors: `training` (π), `balanced` "
        f"(q ∝ √π), `uniform`. The default of this bundle is `{model['default_prior']}`; the rule, stated before it was "
        f"measured: {record['default_prior_rule']}. Under a prior q the calibration error weighs faces by q / π, which "
        "is right for data with the class frequencies of the training labels and left out for others.\n\n"
        + table(("FP32 (faces)", "", *model["figures"][0]["by_prior"]), rows)
        + f"\nMeasured {where['date']} on {where['device']} ({where['cores']} cores), ONNX Runtime "
        f"{where['versions']['onnxruntime']}, commit {where['commit']}; `benchmarks/records/priors.json` has the recall "
        "of each class.\n"
    )


def with_priors_section(text: str, section: str) -> str:
    """Return a card with its section of priors replaced, or put before the limits."""
    start = text.find(f"{PRIORS_HEADING}\n")
    end = text.index("## Limits\n")
    return text[: end if start < 0 else start] + section + "\n" + text[end:]


def card(
    name: str, model: ShippedModel, csv: Path, photographs: Path | None, work: Path
) -> tuple[str, dict[str, Any]]:
    """Measure one bundle; return its card, and its figures for ``fer-edge models``."""
    bundle = open_bundle(shipped_bundle(name))
    int8 = build(
        BuildOptions(
            model=model.network, weights=name, precision="int8", backend=BACKEND, output=work / f"{name}.fer"
        )
    ).bundle
    faces = load_dataset(csv, "PublicTest", model.labels)
    spec = bundle.spec
    record = measurement_record()
    assert faces.labels is not None
    measured = measure(bundle, int8, faces)
    text = [
        f"# {name}\n\n{model.summary}\n\n",
        table(
            ("", ""),
            [
                ("Network", bundle.manifest.provenance["paper"]),
                ("Files", f"`{name}.fer` (FP32 ONNX and ranges), `{name}.safetensors` (weights)"),
                ("Classes", ", ".join(spec.class_names)),
                (
                    "Input",
                    f"{spec.crop.shape} face crop × {spec.crop.scale}, {spec.color}, {spec.interpolation} to "
                    f"{spec.input_width}×{spec.input_height}, (pixel / 255 − {spec.mean[0]}) / {spec.std[0]}",
                ),
                ("Licence", "Apache-2.0 for the weights; FER2013 pictures and FER+ labels (MIT) have terms of their own"),
            ],
        ),
        "\n## Data and recipe\n\n",
        recipe_section(model, bundle.manifest.provenance),
        f"\n## Accuracy\n\n{faces.name}, {len(faces)} faces, under the prior of the training labels (`{PRIOR}`).\n\n",
        accuracy_section(measured),
    ]  # fmt: skip
    if model.labels == "ferplus":
        clear = faces.subset((faces.labels.max(axis=1) > 0.5).nonzero()[0])
        found = evaluate(bundle, choose_backend(BACKEND), clear, precision="fp32", prior=PRIOR).metrics
        text.append(
            f"\nOn the {found.count} faces where one class has more than half of the votes for a class, nearly the "
            f"majority rule of Barsoum et al. (2016), who count the votes for 'unknown' too: {percent(found.accuracy)} (FP32).\n"
        )
    if photographs is not None:
        wild = load_dataset(photographs)
        result = evaluate(
            bundle,
            choose_backend(BACKEND),
            wild,
            precision="fp32",
            prior=PRIOR,
            detector=create_detector("mtcnn"),
        )
        text.append(
            f"\nOn {len(wild)} photographs from another source (`{wild.name}`), found by MTCNN, without any tuning: "
            f"accuracy {percent(result.metrics.accuracy)}, balanced accuracy over the classes that occur "
            f"{percent(result.metrics.balanced_accuracy)}, of {result.metrics.count} faces; in {result.no_face} "
            f"photographs no face was found, and {result.left_out} show a class that the network does not have.\n"
        )  # fmt: skip
    text.append(
        f"\nMeasured {record['date']} on {record['device']} ({record['cores']} cores), ONNX Runtime "
        f"{record['versions']['onnxruntime']}, commit {record['commit']}.\n"
    )
    plain = measured["FP32"]
    weak = [
        f"{n} ({percent(r)})"
        for n, r in zip(plain.class_names, plain.recall, strict=True)
        if r is not None and r < 0.5
    ]
    text.append("\n## Limits\n\n")
    if weak:
        text.append(
            f"- Fewer than half of these are recognised (recall): {', '.join(weak)}. Do not rely on them.\n"
        )
    text.append(LIMITS.lstrip("\n"))
    figures = {
        "data": f"{faces.name}, {len(faces)} faces",
        "prior": PRIOR,
        "accuracy": {"fp32": plain.accuracy, "int8": measured["INT8"].accuracy},
        "macro_f1": {"fp32": plain.macro_f1, "int8": measured["INT8"].macro_f1},
        "record": record,
    }
    return "".join(text), figures


def main() -> None:
    """Write the cards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path, help="fer2013.csv[.gz]")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="a folder with legend.csv")
    parser.add_argument("--names", nargs="+", choices=list(SHIPPED), help="bundles to measure (default: all)")
    parser.add_argument("--priors-only", action="store_true", help="rewrite only the section of priors")
    args = parser.parse_args()
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    for name in args.names or SHIPPED:
        path = shipped_bundle(name).with_suffix(".md")
        if args.priors_only:
            text = path.read_text(encoding="utf-8")
        else:
            with tempfile.TemporaryDirectory() as work:
                text, figures = card(name, SHIPPED[name], args.csv, args.photographs, Path(work))
            write_json(path.with_suffix(".json"), figures)
        text = with_priors_section(text, priors_section(name, record))
        with whole_file(path) as part:
            part.write_text(text, encoding="utf-8")
        Console().print(f"Wrote {path}")


if __name__ == "__main__":
    main()
