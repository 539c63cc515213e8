"""``self_test.npz`` of a bundle: face crops, and the reference logits of each model.

The file is untrusted: it is read from bytes whose hash was checked, without pickle, with limits on sizes.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_edge._utils.files import whole_file
from fer_edge.errors import BundleError
from fer_edge.spec import ModelSpec

MAX_CROPS = 64
MAX_SIDE_PX = 512
_REBUILD = "Fix: build the bundle again with fer-edge build"
_CROPS = "crops"
_LOGITS = "logits."
_MAX_ARRAYS = 16
_MAX_HEADER_BYTES = 4096
_MAX_CROPS_BYTES = MAX_CROPS * MAX_SIDE_PX * MAX_SIDE_PX * 3 + _MAX_HEADER_BYTES
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal data give equal bytes


@dataclass(frozen=True)
class SelfTestData:
    """Crops and their reference logits.

    Attributes
    ----------
    crops : np.ndarray
        ``[N, h, w, 3]`` uint8 BGR, those most sensitive to wrong arithmetic first.
    logits : mapping
        Key of :func:`fer_edge.bundle.model_key` → ``[N, K]`` float32.
    """

    crops: np.ndarray
    logits: Mapping[str, np.ndarray]


def write_self_test(path: Path, data: SelfTestData) -> None:
    """Write ``self_test.npz``; equal data give equal bytes."""
    arrays = {_CROPS: data.crops, **{f"{_LOGITS}{key}": values for key, values in data.logits.items()}}
    with whole_file(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.save(content, np.ascontiguousarray(values), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), content.getvalue(), zipfile.ZIP_DEFLATED)


def read_self_test(content: bytes, spec: ModelSpec) -> SelfTestData:
    """Read ``self_test.npz``.

    Raises
    ------
    BundleError
        If it cannot be read or does not fit the spec.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) > _MAX_ARRAYS:
                raise ValueError(f"expected at most {_MAX_ARRAYS} arrays, found {len(members)}")
            for member in members:
                name = member.filename.removesuffix(".npy")
                most = MAX_CROPS * len(spec.class_names) * 4 + _MAX_HEADER_BYTES
                if member.file_size > (_MAX_CROPS_BYTES if name == _CROPS else most):
                    raise ValueError(f"{member.filename[:40]!r} is too large, found {member.file_size} bytes")
                arrays[name] = _read_array(archive.read(member))
    # NumPy parses its headers as Python source, which raises many exception classes, as does zipfile.
    except Exception as error:
        raise BundleError(
            f"the self-test of the bundle cannot be read ({type(error).__name__}: {str(error)[:80]}). {_REBUILD}"
        ) from error
    crops = arrays.pop(_CROPS, np.empty(0))
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3 or 0 in crops.shape:
        raise BundleError(
            f"the self-test must hold uint8 crops [N, H, W, 3], found {crops.dtype} {list(crops.shape)}. {_REBUILD}"
        )
    if len(crops) > MAX_CROPS or max(crops.shape[1:3]) > MAX_SIDE_PX:
        raise BundleError(
            f"the self-test must hold at most {MAX_CROPS} crops of at most {MAX_SIDE_PX} pixels a side, "
            f"found {list(crops.shape)}. {_REBUILD}"
        )
    expected = (len(crops), len(spec.class_names))
    logits = {name.removeprefix(_LOGITS): values for name, values in arrays.items()}
    for name, values in logits.items():
        if values.dtype != np.float32 or values.shape != expected or not np.isfinite(values).all():
            raise BundleError(
                f"the self-test must hold finite float32 logits {list(expected)} of {name[:40]!r}, "
                f"found {values.dtype} {list(values.shape)}. {_REBUILD}"
            )
    return SelfTestData(crops, logits)


def _read_array(content: bytes) -> np.ndarray:
    """Read one ``.npy``; its header must describe exactly the bytes that follow."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("expected .npy version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_MAX_HEADER_BYTES)
    if dtype.hasobject or fortran or dtype not in (np.dtype(np.uint8), np.dtype(np.float32)):
        raise ValueError(f"expected uint8 or float32 in C order, found {dtype}")
    values = np.frombuffer(content, dtype, offset=file.tell())
    if any(type(size) is not int or size < 0 for size in shape) or math.prod(shape) != values.size:
        raise ValueError(f"expected the elements of shape {shape}, found {values.size}")
    return values.reshape(shape)
