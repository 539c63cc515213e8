"""Options of :func:`fer_edge.builder.build`, and the equivalent command line."""

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
    """Options of a build.

    Attributes
    ----------
    model : str
        A key of :data:`fer_edge.models.catalogue.CATALOGUE`.
    weights : str
        ``auto`` (shipped weights, else weights published by the authors, downloaded once), a key of
        :data:`fer_edge.models.catalogue.SHIPPED` or :data:`fer_edge.models.published.PUBLISHED_FILES`, ``random`` (timing only)
        or a file.
    precision : {"fp32", "fp16", "int8"}
        Precision of the bundle; every bundle holds the FP32 model. A bundle that is not INT8 holds ranges if
        ``calibration_data`` is given, so that it can be quantised later without data.
    backend : str
        Backend on which FP32 and INT8 are compared.
    calibration_data : Path or None
        Faces for the ranges; ``None`` uses the shipped ranges, else generated images.
    calibration_split : str or None
        ``Usage`` of FER2013 for the ranges.
    calibration_images : int or None
        Largest number of faces for the ranges; ``None`` is 512, and 128 for networks above 15 G multiply-adds.
    comparison_images : int or None
        Largest number of faces for the comparison of FP32 and INT8 without ``eval_data``; ``None`` is 128 or 64.
    generator : str or None
        A key of :data:`fer_edge.synthetic.GENERATORS`, which makes the generated images; ``None`` is the default.
    method : str
        A key of :data:`fer_edge.calibration.ranges.methods.METHODS`, or ``auto``, which measures all methods, bias
        correction and equalisation.
    max_drop : float or None
        Largest loss of accuracy by INT8 in percentage points, or without labels the largest percentage of faces whose
        class changes. Layers stay in floating point until the bound is met, or the build fails.
    min_cosine : float or None
        Likewise the smallest mean cosine of the centred logits.
    min_agreement : float or None
        Likewise the smallest share of faces that keep their class.
    sensitivity : bool
        Measure the effect of quantising each layer alone.
    sensitivity_images : int
        Number of faces for that measurement.
    eval_data : Path or None
        Labelled faces for the comparison, and for the temperature that the bundle's confidences are divided by.
    eval_split : str or None
        ``Usage`` of FER2013 for the comparison.
    eval_labels : {"auto", "ferplus", "fer2013"}
        Label set of FER2013; ``auto`` uses FER+ if its file is beside the CSV.
    skip_bad : bool
        Leave out rows and pictures that cannot be read, and list them in the report; otherwise they are an error.
    class_order : str or None
        Comma-separated class names, in the order of the numbers used for folders or labels.
    output : Path or None
        Folder of the bundle; ``None`` is ``NAME-PRECISION.fer`` in the working directory.
    overwrite : bool
        Replace a bundle that is in ``output`` already; otherwise it is an error.
    attention : bool
        Export the network's built-in attention as an output.
    compute_capabilities : tuple of str
        Devices, such as "8.6", to compile engines for ahead of time, with TensorRT-RTX and without a GPU; the bundle
        holds the engines.
    plugin : {"auto", "required", "none"}
        Use of our plugin for self-attention in engines.
    canonical_shape, image_statistics : Path or None
        Files that EmotionalDAN needs with its authors' checkpoint.
    weights_sha256 : str or None
        Expected sha256 of the weights, as recorded by the bundle: 64 hex digits.
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
    overwrite: bool = False
    attention: bool = False
    compute_capabilities: tuple[str, ...] = ()
    plugin: str = "auto"
    canonical_shape: Path | None = None
    image_statistics: Path | None = None
    weights_sha256: str | None = None


#: Options whose flag differs from their name.
_FLAGS: Mapping[str, Callable[[Any], list[str]]] = {
    "precision": lambda value: [f"--{value}"],
    "compute_capabilities": lambda value: ["--compute-capability", *value],
    "plugin": lambda value: ["--plugin" if value == "required" else "--no-plugin"],
}


def build_command(options: BuildOptions, **changes: Any) -> str:
    """Return the shell command for ``options`` with ``changes``.

    The precision is always stated, even if it is the default.
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
