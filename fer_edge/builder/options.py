"""Options of :func:`fer_edge.builder.build`, and the command that asks for them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_edge.calibration.ranges.methods import AUTO_METHOD


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes
    ----------
    model : str
        A key of :data:`fer_edge.models.catalogue.CATALOGUE`.
    weights : str
        ``auto`` (what ships, else what the authors have published, fetched once), a key of
        :data:`fer_edge.models.catalogue.SHIPPED` or :data:`fer_edge.models.published.PUBLISHED_FILES`, ``random`` (timing only)
        or a file.
    precision : {"fp32", "fp16", "int8"}
        What the bundle is for; every bundle holds the FP32 model. A bundle that is not INT8 holds ranges if
        there is ``calibration_data``, so that it can be quantised later without data.
    backend : str
        Where FP32 and INT8 are compared.
    calibration_data : Path or None
        Faces for the ranges; ``None`` takes ranges that ship, else generated images.
    calibration_split : str or None
        ``Usage`` of FER2013 for the ranges.
    calibration_images : int or None
        How many faces are used at most; ``None`` is 512, and 128 for networks of more than 15 G multiply-adds.
    comparison_images : int or None
        How many faces FP32 and INT8 are compared on where there is no ``eval_data``; ``None`` is 128 or 64.
    generator : str or None
        A key of :data:`fer_edge.synthetic.GENERATORS`: who makes those images; ``None`` is the default one.
    method : str
        A key of :data:`fer_edge.calibration.ranges.methods.METHODS`, or ``auto``, which measures them all, bias
        correction and equalisation.
    max_drop : float or None
        Percentage points of accuracy that INT8 may lose, without labels the share of faces whose class changes:
        layers stay in floating point until it holds, or the build fails.
    min_cosine : float or None
        Likewise the least mean cosine of the centred logits.
    min_agreement : float or None
        Likewise the least share of faces that keep their class.
    sensitivity : bool
        Measure what each layer alone does in INT8.
    sensitivity_images : int
        On how many faces.
    eval_data : Path or None
        Labelled faces for the comparison, and for the temperature that the bundle's confidences are divided by.
    eval_split : str or None
        ``Usage`` of FER2013 for the comparison.
    eval_labels : {"auto", "ferplus", "fer2013"}
        Whose labels of FER2013; ``auto`` takes FER+ where its file lies beside the CSV.
    skip_bad : bool
        Leave out rows and pictures that cannot be read, and list them in the report; else they are an error.
    class_order : str or None
        Names of classes that folders or labels number, in the order of the numbers, with commas between.
    output : Path or None
        Folder of the bundle; ``None`` is ``NAME-PRECISION.fer`` in the working directory.
    attention : bool
        Give the network's built-in attention as an output.
    compute_capabilities : tuple of str
        Devices, such as "8.6", that engines are compiled for ahead of time, with TensorRT-RTX and without a GPU;
        they lie in the bundle.
    plugin : {"auto", "required", "none"}
        Whether engines compute self-attention by our plugin.
    canonical_shape, image_statistics : Path or None
        What EmotionalDAN needs beside its authors' checkpoint.
    weights_sha256 : str or None
        What the weights must have, as the bundle records it: 64 hex digits.
    """

    model: str = "conv-attention"
    weights: str = "auto"
    precision: str = "int8"
    backend: str = "auto"
    calibration_data: Path | None = None
    calibration_split: str | None = None
    calibration_images: int | None = None
    comparison_images: int | None = None
    generator: str | None = None
    method: str = AUTO_METHOD
    max_drop: float | None = None
    min_cosine: float | None = None
    min_agreement: float | None = None
    sensitivity: bool = False
    sensitivity_images: int = 64
    eval_data: Path | None = None
    eval_split: str | None = None
    eval_labels: str = "auto"
    skip_bad: bool = False
    class_order: str | None = None
    output: Path | None = None
    attention: bool = False
    compute_capabilities: tuple[str, ...] = ()
    plugin: str = "auto"
    canonical_shape: Path | None = None
    image_statistics: Path | None = None
    weights_sha256: str | None = None


#: Options whose flag is not their name.
_FLAGS: Mapping[str, Callable[[Any], list[str]]] = {
    "precision": lambda value: [f"--{value}"],
    "compute_capabilities": lambda value: ["--compute-capability", *value],
    "plugin": lambda value: ["--plugin" if value == "required" else "--no-plugin"],
}


def build_command(options: BuildOptions, **changes: Any) -> str:
    """Return the command for ``options`` with ``changes``, to be pasted into a shell.

    The precision is always named, since that is what a reader looks for first.
    """
    options = dataclasses.replace(options, **changes)
    words = ["fer-edge", "build"]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        flag = "--" + field.name.replace("_", "-")
        if value == field.default and field.name != "precision":
            continue
        if field.name in _FLAGS:
            words += _FLAGS[field.name](value)
        else:
            words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)
