"""Ranges: faces through the FP32 model, one observer per tensor; stored as JSON for every backend."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge._utils.files import sha256_of, write_json
from fer_edge.calibration.placement.placement import DEFAULT_PLACEMENT, Placement
from fer_edge.calibration.placement.rules import FLOAT_RULES
from fer_edge.calibration.ranges.observers import TensorRange
from fer_edge.errors import CalibrationError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Ranges:
    """The result of a calibration: with the FP32 model it determines the Q/DQ model of every dialect.

    Attributes
    ----------
    method : str
        How the ranges were chosen.
    images : int
        How many faces they come from.
    data : mapping
        ``name`` of the faces, and a ``fingerprint`` where they are files.
    model_sha256 : str
        The FP32 ONNX that they belong to.
    tensors : mapping
        Tensor name → :class:`TensorRange`.
    placement : Placement
        What stays in floating point.
    bias_shifts : mapping
        Layer → what INT8 adds to its bias, one value per output channel.
    """

    method: str
    images: int
    data: Mapping[str, str]
    model_sha256: str
    tensors: Mapping[str, TensorRange]
    placement: Placement = DEFAULT_PLACEMENT
    bias_shifts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        value = dataclasses.asdict(self)
        value["placement"]["float_layers"] = sorted(self.placement.float_layers)
        write_json(path, {"format_version": FORMAT_VERSION, **value})


def load_ranges(path: Path, model: Path) -> Ranges:
    """Read ranges and check that they belong to ``model``.

    Raises
    ------
    CalibrationError
        If the file is damaged, of another version, not finite, or made for another model.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = value.pop("format_version")
        value["tensors"] = {
            name: TensorRange(**{k: float(v) for k, v in r.items()}) for name, r in value["tensors"].items()
        }
        value["placement"] = _placement(value.get("placement"))
        value["bias_shifts"] = {
            layer: tuple(float(v) for v in shift) for layer, shift in value.get("bias_shifts", {}).items()
        }
        ranges = Ranges(**value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CalibrationError(
            f"{path} cannot be read as ranges ({type(error).__name__}): calibrate again"
        ) from error
    if version != FORMAT_VERSION:
        raise CalibrationError(
            f"{path} has format version {version}, expected {FORMAT_VERSION}: calibrate again"
        )
    if ranges.model_sha256 != sha256_of(model):
        raise CalibrationError(f"{path} was measured on another model than {model.name}: calibrate again")
    for name, r in ranges.tensors.items():
        if not _are_float32((r.min, r.max, r.low, r.high)) or r.low > r.high:
            raise CalibrationError(f"{path}: the range of {name} is not finite and ordered: calibrate again")
    for layer, shift in ranges.bias_shifts.items():
        if not _are_float32(shift):
            raise CalibrationError(f"{path}: the bias correction of {layer} is not finite: calibrate again")
    return ranges


def _are_float32(values: Sequence[float]) -> bool:
    """Whether all are finite, as float32 too."""
    return bool((np.abs(values) <= np.finfo(np.float32).max).all())


def _placement(value: Any) -> Placement:
    if value is None:
        return DEFAULT_PLACEMENT
    rules, layers = value["rules"], value["float_layers"]
    if not all(isinstance(name, str) for name in (*rules, *layers)) or not set(rules) <= set(FLOAT_RULES):
        raise ValueError("unknown rules")
    return Placement(tuple(rules), frozenset(layers))
