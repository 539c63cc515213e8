"""The files of the Deep Alignment Network's authors (``DAN.npz``): arrays in the order of Lasagne.

Lasagne convolves where PyTorch correlates, so filters are rotated by 180°. It keeps the inverse deviation
of a normalisation, not the variance.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fer_edge._utils.files import sha256_of, whole_file
from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints.arrays import NpzArrays
from fer_edge.export.networks.dan import EPSILON, WIDTHS, Dan
from fer_edge.export.weights import fill

SIGNATURE = "arr_0 … arr_99, meanImg, stdDevImg, initLandmarks"
_ARRAYS = 100
_BUFFERS = {"image_mean": "meanImg", "image_std": "stdDevImg", "initial_shape": "initLandmarks"}
_NORM = ("bias", "weight", "running_mean", "running_var")


def is_dan(names: Collection[str]) -> bool:
    """Tell whether an ``.npz`` with these arrays is one of the authors' files."""
    return "arr_0" in names and not {"meanImg", "initLandmarks"}.isdisjoint(names)


def load_dan(path: Path) -> tuple[Dan, dict[str, Any]]:
    """Load ``DAN.npz`` or ``DAN-Menpo.npz``; nothing in the file is executed.

    Returns
    -------
    module : Dan
        In evaluation mode, float32. It predicts landmarks and no expression.
    provenance : dict
        File, ``weights_sha256``, layout and licence.

    Raises
    ------
    WeightsError
        If the file cannot be used: missing or damaged, arrays missing or of other shapes, pickled objects.
    """
    arrays = NpzArrays(path)
    names = [*(f"arr_{i}" for i in range(_ARRAYS)), *_BUFFERS.values()]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise WeightsError(
            f"{path} is not a two-stage DAN: expected {SIGNATURE}, found {len(missing)} of {len(names)} arrays missing (such as {missing[0]}). Fix: give DAN.npz or DAN-Menpo.npz."
        )
    if f"arr_{_ARRAYS}" in arrays:
        raise WeightsError(
            f"{path} has more than {_ARRAYS} arrays, like the unsupported tracking variant with a confidence output. Fix: give DAN.npz or DAN-Menpo.npz."
        )
    with torch.device("meta"):
        module = Dan()
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    order = _order()
    wrong = [
        f"{name} is {arrays.headers[name].shape}, expected {shape}"
        for i, ours in enumerate(order)
        if arrays.headers[name := f"arr_{i}"].shape != (shape := _author_shape(shapes[ours]))
    ] + [
        f"{theirs} has {arrays.headers[theirs].shape}, expected {np.prod(shapes[ours])} values"
        for ours, theirs in _BUFFERS.items()
        if arrays.headers[theirs].size != np.prod(shapes[ours])
    ]
    if wrong:
        raise WeightsError(
            f"{path} does not fit DAN: {len(wrong)} wrong shapes (such as {wrong[0]}). Fix: give DAN.npz or DAN-Menpo.npz."
        )
    state = {
        ours: _from_author(ours, arrays[f"arr_{i}"], f"arr_{i} in {path}") for i, ours in enumerate(order)
    }
    for ours, theirs in _BUFFERS.items():
        state[ours] = _tensor(arrays[theirs].reshape(shapes[ours]))
    if not (state["image_std"] > 0).all():
        raise WeightsError(f"stdDevImg in {path} must be positive everywhere. Fix: fetch the file again.")
    counters = [name for name in shapes if name.endswith(".num_batches_tracked")]
    module.to_empty(device="cpu")
    fill(module, state | {name: torch.zeros((), dtype=torch.int64) for name in counters}, str(path))
    provenance = {
        "network": "dan",
        "paper": "Kowalski et al., 2017: Deep Alignment Network",
        "file": path.name,
        "weights_sha256": sha256_of(path),
        "layout": "dan",
        "container": "NumPy .npz",
        "licence": "see the authors' repository (code: MIT; no licence is stated for the weights)",
    }
    return module.eval(), provenance


def save_dan(path: Path, module: Dan) -> None:
    """Write the authors' layout, whole or not at all; their training errors are left empty."""
    state = module.state_dict()
    arrays = {f"arr_{i}": _to_author(name, state[name]) for i, name in enumerate(_order())}
    arrays |= {theirs: state[ours].numpy() for ours, theirs in _BUFFERS.items()}
    for name in ("errors", "errorsTrain"):
        arrays[name] = np.zeros(0, np.float32)
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(file, **dict[str, Any](arrays))


def _order() -> list[str]:
    """Our name of each of the authors' arrays, in their order."""
    units = [f"conv{level}{half}" for level in range(1, len(WIDTHS) + 1) for half in "ab"]

    def norm(name: str) -> list[str]:
        return [f"{name}.{entry}" for entry in _NORM]

    def stage(name: str) -> list[str]:
        pyramid = [
            entry for unit in units for entry in (f"{name}.{unit}.conv.weight", *norm(f"{name}.{unit}.norm"))
        ]
        return [
            *pyramid,
            f"{name}.fc1.weight",
            *norm(f"{name}.fc1_norm"),
            f"{name}.fc2.weight",
            f"{name}.fc2.bias",
        ]

    return [*stage("stage1"), "feature.weight", "feature.bias", *norm("input_norm"), *stage("stage2")]


def _author_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1] if len(shape) == 2 else shape


def _from_author(ours: str, value: np.ndarray, origin: str) -> Tensor:
    if ours.endswith("running_var"):
        # An inverse deviation exceeds 1/√ε by rounding only.
        if not ((value > 0) & (value < 1.001 / np.sqrt(EPSILON))).all():
            raise WeightsError(
                f"{origin} must hold inverse deviations in (0, 100]. Fix: fetch the file again."
            )
        return _tensor(np.maximum(1 / value.astype(np.float64) ** 2 - EPSILON, 0))
    return _tensor(_turned(value))


def _to_author(ours: str, value: Tensor) -> np.ndarray:
    array = value.numpy()
    if ours.endswith("running_var"):
        return (1 / np.sqrt(array.astype(np.float64) + EPSILON)).astype(np.float32)
    return _turned(array)


def _turned(value: np.ndarray) -> np.ndarray:
    """Rotate filters, transpose dense layers; its own inverse."""
    if value.ndim == 4:
        return value[..., ::-1, ::-1]
    return value.T if value.ndim == 2 else value


def _tensor(value: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(value, np.float32, order="C"))
