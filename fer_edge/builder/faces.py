"""Faces of a build: read once from what the options name, or generated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fer_edge.builder.options import BuildOptions
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.errors import lookup
from fer_edge.models.catalogue import CATALOGUE
from fer_edge.synthetic import DEFAULT_GENERATOR, GENERATORS


@dataclass(frozen=True)
class Effort:
    """How many faces a build takes where the user gives no number.

    Attributes
    ----------
    calibration, comparison : int
        See :class:`fer_edge.builder.options.BuildOptions`.
    held_out : int
        Beside those that calibrate, on which ``auto`` measures; FP16 is measured on as many.
    """

    calibration: int
    held_out: int
    comparison: int


_USUAL = Effort(calibration=512, held_out=64, comparison=128)
#: A processor of two cores takes half a second for each face: a build passes over them about thirty times.
_SLOW = Effort(calibration=128, held_out=32, comparison=64)
_SLOW_MACS = 15_000_000_000


def effort_for(options: BuildOptions) -> Effort:
    """Return how many faces are taken: what the options say, else what suits the network."""
    usual = _SLOW if CATALOGUE[options.model].macs > _SLOW_MACS else _USUAL
    return Effort(
        usual.calibration if options.calibration_images is None else options.calibration_images,
        usual.held_out,
        usual.comparison if options.comparison_images is None else options.comparison_images,
    )


@dataclass(frozen=True)
class Sources:
    """What the options name, loaded; ``None`` where they name nothing.

    Attributes
    ----------
    calibration, evaluation : FaceDataset or None
        Pictures for the ranges, and labelled pictures for the comparison.
    generator : str
        Who makes faces where there are none, or too few.
    """

    calibration: FaceDataset | None
    evaluation: FaceDataset | None
    generator: str = DEFAULT_GENERATOR


def load_sources(options: BuildOptions) -> Sources:
    """Load each data set that the options name, once.

    Raises
    ------
    DataError
        If one cannot be read.
    """
    calibration = evaluation = None
    reading: dict[str, Any] = {
        "on_bad_row": "skip" if options.skip_bad else "error",
        "class_order": options.class_order,
    }
    if options.calibration_data is not None:
        calibration = load_dataset(options.calibration_data, options.calibration_split, **reading)
    if options.eval_data is not None:
        named = (options.eval_data, options.eval_split, options.eval_labels)
        same = named == (options.calibration_data, options.calibration_split, "auto")
        evaluation = calibration if same else load_dataset(*named, **reading)
    return Sources(calibration, evaluation, options.generator or DEFAULT_GENERATOR)


def generated_faces(count: int, generator: str = DEFAULT_GENERATOR, seed: int = 0) -> FaceDataset:
    """Return ``count`` generated face-like images without labels, as a data set."""
    crops = lookup(GENERATORS, generator, "generator")(count, seed)
    return FaceDataset(f"generated images ({generator})", crops, None, (), are_crops=True)
