"""Ranges: faces through the FP32 model, one observer per tensor; stored as JSON for every backend."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from fer_edge._utils.files import sha256_of, write_json
from fer_edge._utils.onnx_files import save_with_external_data
from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.calibration.malloc_trim import return_free_memory
from fer_edge.calibration.placement.placement import DEFAULT_PLACEMENT, Placement, quantised_tensors
from fer_edge.calibration.placement.rules import FLOAT_RULES
from fer_edge.calibration.ranges.methods import METHODS
from fer_edge.calibration.ranges.observers import Observer, TensorRange
from fer_edge.errors import CalibrationError, lookup

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


@dataclass(frozen=True)
class Observations:
    """What faces did to every tensor that INT8 stores: ranges by any method follow without another run.

    Attributes
    ----------
    observers : mapping
        Tensor name → :class:`Observer`.
    images : int
        How many faces were seen.
    data : mapping
        See :class:`Ranges`.
    model_sha256 : str
        The FP32 ONNX that was run.
    placement : Placement
        What stays in floating point.
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


def observe(
    model: Path,
    batches: Iterable[np.ndarray],
    data: Mapping[str, str],
    on_batch: Callable[[int], None] = lambda images: None,
    placement: Placement = DEFAULT_PLACEMENT,
) -> Observations:
    """Run ``batches`` through ``model`` and observe every tensor that INT8 stores.

    Parameters
    ----------
    model : Path
        FP32 ONNX file.
    batches : iterable of np.ndarray
        ``[B, C, H, W]`` float32, preprocessed.
    data : mapping
        Where the faces come from, for the record.
    on_batch : callable
        Called with the number of images done.
    placement : Placement
        What stays in floating point.

    Raises
    ------
    CalibrationError
        If there are no faces, or a tensor is not finite.
    """
    names = sorted(quantised_tensors(onnx.load(model), placement))
    observers = {name: Observer(name) for name in names}
    images = 0
    for batch, values in activations(model, names, batches):
        for name, observer in observers.items():
            observer.update(values.get(name, batch))
        images += len(batch)
        del values  # before the next ones are computed
        on_batch(images)
    if not images:
        raise CalibrationError("there are no faces to calibrate on: give other --calibration-data")
    return Observations(observers, images, dict(data), sha256_of(model), placement)


def collect_ranges(
    model: Path,
    batches: Iterable[np.ndarray],
    method: str,
    data: Mapping[str, str],
    on_batch: Callable[[int], None] = lambda images: None,
    placement: Placement = DEFAULT_PLACEMENT,
) -> Ranges:
    """Observe (see :func:`observe`) and choose ranges by ``method``."""
    lookup(METHODS, method, "calibration method")  # before minutes are spent
    return observe(model, batches, data, on_batch, placement).ranges(method)


def activations(
    model: Path, names: Sequence[str], batches: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]:
    """Yield each batch with the value of every tensor in ``names`` but the input, and of every output."""
    tapped = onnx.load(model)
    known = {value.name for value in (*tapped.graph.output, *tapped.graph.input)}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return run_model(tapped, batches)


def run_model(
    model: onnx.ModelProto, batches: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]:
    """Yield each batch with every output of a model that exists in memory only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tapped.onnx"
        save_with_external_data(model, path)
        del model  # the caller may need it no longer, and the session holds the weights again
        return_free_memory()
        session = BACKENDS["onnxruntime"].open(path, SessionOptions())
        for batch in batches:
            yield batch, session.run(batch)
        session.close()
        return_free_memory()
