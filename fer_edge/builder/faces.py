"""Load or generate the faces of a build."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fer_edge.builder.options import BuildOptions
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.synthetic import DEFAULT_GENERATOR, GENERATORS


@dataclass(frozen=True)
class Sources:
    """Loaded data sets of the options; ``None`` for an option that is not set.

    Attributes
    ----------
    calibration, evaluation : FaceDataset or None
        Pictures for the ranges, and labelled pictures for the comparison.
    generator : str
        Generator of faces if there are none or too few.
    """

    calibration: FaceDataset | None
    evaluation: FaceDataset | None
    generator: str = DEFAULT_GENERATOR


def load_sources(options: BuildOptions) -> Sources:
    """Load each data set that the options name, once.

    Raises
    ------
    DataError
        If a data set cannot be read.
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
    crops = GENERATORS[generator](count, seed)
    return FaceDataset(f"generated images ({generator})", crops, None, (), are_crops=True)
