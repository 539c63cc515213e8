"""The faces of a build: those that calibrate, those held out to measure on, and those that FP32 is compared on."""

from __future__ import annotations

from dataclasses import dataclass

from fer_edge.builder.options import BuildOptions
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.errors import DataError, lookup
from fer_edge.generated import DEFAULT_GENERATOR, GENERATORS

#: Faces beside those that calibrate, on which ``auto`` measures; FP16 is measured on as many.
HELD_OUT = 64


@dataclass(frozen=True)
class CalibrationFaces:
    """Faces for ranges.

    Attributes
    ----------
    calibrating, held_out : FaceDataset
        For the ranges, and for measuring what they give.
    origin : dict
        Where they come from, for the record.
    """

    calibrating: FaceDataset
    held_out: FaceDataset
    origin: dict[str, str]


def calibration_faces(options: BuildOptions) -> CalibrationFaces:
    """Return a sample of the calibration data, or generated faces where there are none."""
    count = options.calibration_images
    if options.calibration_data is None:
        drawn = generated_faces(count + HELD_OUT, options.generator or DEFAULT_GENERATOR)
        origin = {"name": drawn.name}
    else:
        dataset = load_dataset(options.calibration_data, options.calibration_split)
        drawn = dataset.sample(count + HELD_OUT)
        origin = {"name": drawn.name, "fingerprint": drawn.first(count).fingerprint()}
    # Where there are few faces all of them calibrate, and some of the same must do for measuring.
    held_out = drawn.subset(range(max(len(drawn) - HELD_OUT, 0), len(drawn)))
    return CalibrationFaces(drawn.first(count), held_out, origin)


def comparison_faces(options: BuildOptions) -> FaceDataset:
    """Return the labelled faces that the options name, else others of the calibration data, else generated ones.

    Raises
    ------
    DataError
        If the labelled images are photographs and not face crops.
    """
    if options.eval_data is not None:
        faces = load_dataset(options.eval_data, options.eval_split, options.eval_labels)
        if not faces.are_crops:
            raise DataError(
                f"{options.eval_data} holds photographs, not face crops: give crops to --eval-data"
            )
        return faces
    if options.calibration_data is not None:
        return load_dataset(options.calibration_data, options.calibration_split).sample(
            options.comparison_images, seed=1
        )
    return generated_faces(options.comparison_images, options.generator or DEFAULT_GENERATOR, seed=1)


def generated_faces(count: int, generator: str = DEFAULT_GENERATOR, seed: int = 0) -> FaceDataset:
    """Return ``count`` generated face-like images without labels, as a data set."""
    crops = lookup(GENERATORS, generator, "generator")(count, seed)
    return FaceDataset(f"generated images ({generator})", crops, None, (), are_crops=True)
