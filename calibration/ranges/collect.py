"""Observe every tensor on faces once, then compute ranges by any method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from fer_edge._utils.files import sha256_of
from fer_edge.calibration.placement.placement import PlacedGraph, Placement, place
from fer_edge.calibration.ranges.activations import activations
from fer_edge.calibration.ranges.methods import METHODS
from fer_edge.calibration.ranges.observers import Observer
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.errors import CalibrationError, lookup


@dataclass(frozen=True)
class Observations:
    """Statistics of every tensor that INT8 stores; ranges by any method need no further run.

    Attributes
    ----------
    observers : mapping
        Tensor name → :class:`Observer`.
    images : int
        Number of faces.
    data : mapping
        As in :class:`Ranges`.
    model_sha256 : str
        sha256 of the FP32 ONNX file.
    placement : Placement
        Layers that stay in floating point.
    """

    observers: Mapping[str, Observer]
    images: int
    data: Mapping[str, str]
    model_sha256: str
    placement: Placement

    def ranges(self, method: str) -> Ranges:
        """Return the ranges by ``method``, a key of :data:`fer_edge.calibration.ranges.methods.METHODS`."""
        choose = lookup(METHODS, method, "calibration method")
        chosen = {name: choose(observer) for name, observer in self.observers.items()}
        return Ranges(method, self.images, self.data, self.model_sha256, chosen, self.placement)


def observe(
    model: Path,
    batches: Iterable[np.ndarray],
    data: Mapping[str, str],
    placed: PlacedGraph | None = None,
) -> Observations:
    """Run ``batches`` through ``model`` and observe every tensor that INT8 stores.

    Parameters
    ----------
    model : Path
        FP32 ONNX file.
    batches : iterable of np.ndarray
        ``[B, C, H, W]`` float32, preprocessed.
    data : mapping
        Origin of the faces, stored with the ranges.
    placed : PlacedGraph, optional
        The placement of ``model``; by the default rules if it is not given.

    Raises
    ------
    CalibrationError
        If there are no faces, or a tensor is not finite.
    """
    placed = placed or place(onnx.load(model))
    names = sorted(placed.groups)
    observers = {name: Observer(name) for name in names}
    images = 0
    for batch, values in activations(model, names, batches):
        for name, observer in observers.items():
            observer.update(values.get(name, batch))
        images += len(batch)
        del values  # free them before the next batch runs
    if not images:
        raise CalibrationError(
            "expected faces to calibrate on, found none. Fix: give other --calibration-data"
        )
    return Observations(observers, images, dict(data), sha256_of(model), placed.placement)
