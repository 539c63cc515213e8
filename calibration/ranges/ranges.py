"""Activation ranges of an FP32 model, stored as JSON for every backend."""

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
    """The result of a calibration; with the FP32 model it determines the Q/DQ model of every dialect.

    Attributes
    ----------
    method : str
        Calibration method and corrections.
    images : int
        Number of faces.
    data : mapping
        ``name`` of the faces, and a ``fingerprint`` where they are files.
    model_sha256 : str
        sha256 of the FP32 ONNX file that they belong to.
    tensors : mapping
        Tensor name → :class:`TensorRange`.
    placement : Placement
        Layers that stay in floating point.
    bias_shifts : mapping
        Layer → bias correction in INT8, one value per output channel.
    """

    method: str
    images: int
    data: Mapping[str, str]
    model_sha256: str
    tensors: Mapping[str, TensorRange]
    placement: Placement = DEFAULT_PLACEMENT
    bias_shifts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write JSON atomically."""
        value = dataclasses.asdict(self)
        value["placement"]["float_layers"] = sorted(self.placement.float_layers)
        write_json(path, {"format_version": FORMAT_VERSION, **value})


def load_ranges(path: Path, model: Path) -> Ranges:
    """Read ranges and check that they belong to ``model``.

    Raises
    ------
    CalibrationError
        If the file is damaged, of another version, or made for another model, or holds non-finite values.
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
            f"{path} cannot be read as ranges ({type(error).__name__}). Fix: calibrate again"
        ) from error
    if version != FORMAT_VERSION:
        raise CalibrationError(
            f"{path} has format version {version}, expected {FORMAT_VERSION}. Fix: calibrate again"
        )
    if ranges.model_sha256 != sha256_of(model):
        raise CalibrationError(
            f"{path} was measured on another model than {model.name}. Fix: calibrate again"
        )
    for name, r in ranges.tensors.items():
        if not _are_float32((r.min, r.max, r.low, r.high)) or r.low > r.high:
            raise CalibrationError(
                f"the range of {name} in {path} is not finite and ordered. Fix: calibrate again"
            )
    for layer, shift in ranges.bias_shifts.items():
        if not _are_float32(shift):
            raise CalibrationError(
                f"the bias correction of {layer} in {path} is not finite. Fix: calibrate again"
            )
    return ranges


def _are_float32(values: Sequence[float]) -> bool:
    """Return ``True`` if all values are finite as float32."""
    return bool((np.abs(values) <= np.finfo(np.float32).max).all())


def _placement(value: Any) -> Placement:
    if value is None:
        return DEFAULT_PLACEMENT
    rules, layers = value["rules"], value["float_layers"]
    if not all(isinstance(name, str) for name in (*rules, *layers)) or not set(rules) <= set(FLOAT_RULES):
        raise ValueError("unknown rules")
    return Placement(tuple(rules), frozenset(layers))
