"""The files of EmotionalDAN's authors: a TensorFlow checkpoint and the inputs that it lacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints.arrays import NpzArrays, is_npz, read_npy
from fer_edge.export.checkpoints.author_file import AuthorFile
from fer_edge.export.checkpoints.tensorflow_bundle import TensorFlowCheckpoint
from fer_edge.export.networks.emotionaldan import EMOTIONALDAN_SPEC, LANDMARKS, SIDE, from_tensorflow

#: Number of classes → their order; three: the authors' groups negative, neutral and positive.
CLASSES = {7: EMOTIONALDAN_SPEC.class_names, 3: ("negative", "neutral", "positive")}


@dataclass(frozen=True)
class AuthorInputs:
    """Inputs that EmotionalDAN needs beside its checkpoint.

    Attributes
    ----------
    canonical_shape : Path or None
        ``.npy`` or ``.npz`` with 68 points (x, y) in pixels of the 224×224 frame. Of the authors' training
        file, the first sample's ``Landmark`` is taken, as their script does. ``None``: the constant in the
        checkpoint's ``.meta`` file.
    image_statistics : Path or None
        ``.npz`` with ``ImgMean`` and ``ImgStd``, 224×224: the authors' training file, or a part of it.
    """

    canonical_shape: Path | None = None
    image_statistics: Path | None = None

    def given(self) -> tuple[Path, ...]:
        """Return the files that were given."""
        return tuple(path for path in (self.canonical_shape, self.image_statistics) if path is not None)


def from_author(file: AuthorFile, inputs: AuthorInputs) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return options and state of our network.

    Raises
    ------
    WeightsError
        If the checkpoint or an extra input does not fit, or an input is missing.
    """
    origin = str(file.path)
    if not isinstance(file.entries, TensorFlowCheckpoint):
        raise WeightsError(
            f"{origin} is {file.container}, expected a TensorFlow checkpoint. Fix: give Model2.index."
        )
    shape = _canonical_shape(file.entries, inputs.canonical_shape)
    mean, std = _statistics(inputs.image_statistics, origin)
    return from_tensorflow(file.entries, shape, mean, std, origin)


def _canonical_shape(checkpoint: TensorFlowCheckpoint, path: Path | None) -> np.ndarray:
    if path is None:
        shapes = list(checkpoint.constants((1, 2 * LANDMARKS)).values())
        origin = f"{checkpoint.prefix}.meta"
        if not shapes or any(not np.array_equal(shapes[0], other) for other in shapes):
            raise WeightsError(
                f"expected the canonical shape as the only constant [1, 136] of {origin}, found none or several. Fix: give --canonical-shape FILE.npy or FILE.npz"
            )
        shape = shapes[0]
    else:
        origin, shape = str(path), _points(path)
    points = np.asarray(shape, np.float64).reshape(LANDMARKS, 2)
    low, high, middle = points.min(0), points.max(0), points.mean(0)
    inside = (middle > 0).all() and (middle < SIDE).all()  # false for NaN
    if not inside or not SIDE / 10 < (high - low).max() < 2 * SIDE:
        raise WeightsError(
            f"the canonical shape in {origin} lies from ({low[0]:.6g}, {low[1]:.6g}) to ({high[0]:.6g}, {high[1]:.6g}), expected a face in pixels of a {SIDE}×{SIDE} image. Fix: scale and move it into the image."
        )
    return shape


def _points(path: Path) -> np.ndarray:
    if not is_npz(path):
        shape = read_npy(path)
        if shape.size != 2 * LANDMARKS:
            raise WeightsError(
                f"{path} holds {shape.shape}, expected 68 points (x, y). Fix: give a file with the canonical shape."
            )
        return shape
    arrays = NpzArrays(path)
    if "Landmark" in arrays:
        first = arrays.first("Landmark")
        if first.size == 2 * LANDMARKS:
            return first
    fitting = [name for name, header in arrays.headers.items() if header.size == 2 * LANDMARKS]
    if len(fitting) != 1:
        raise WeightsError(
            f"{path} holds {', '.join(arrays) or 'nothing'}, expected Landmark, or one array of 68 points. Fix: save the canonical shape alone with np.save."
        )
    return arrays[fitting[0]]


def _statistics(path: Path | None, origin: str) -> tuple[np.ndarray, np.ndarray]:
    if path is None:
        raise WeightsError(
            f"{origin} does not hold the mean and deviation images of its training. Fix: give --image-statistics FILE.npz with ImgMean and ImgStd."
        )
    arrays = NpzArrays(path)
    for name in ("ImgMean", "ImgStd"):
        found = arrays.headers[name].shape if name in arrays else "none"
        if name not in arrays or arrays.headers[name].size != SIDE * SIDE:
            raise WeightsError(
                f"expected {name} of {SIDE}×{SIDE} values in {path}, found {found} (arrays: {', '.join(arrays)}). Fix: give the authors' training file."
            )
    return arrays["ImgMean"], arrays["ImgStd"]
