"""The CUDA kernels: device arrays in, work on the caller's stream, nothing copied or allocated.

An array is any object with DLPack or ``__cuda_array_interface__`` on a CUDA device (CuPy, PyTorch, pycuda). A
stream is the integer handle of a CUDA stream, such as ``cupy_stream.ptr`` or ``torch_stream.cuda_stream``; 0 is
the default stream. Calls return once the work is enqueued; arrays must live until the stream has done it. Work
that fills an array comes first: with DLPack, which is taken where both are offered, the library that made the array
sees to it; else the array must name the stream of that work, or be ready.

The kernels are compiled where ``FER_EDGE_KERNELS=1`` is set while the package is installed from source.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from typing import Any

from fer_edge.errors import BackendError, UsageError
from fer_edge.spec import ModelSpec
from fer_edge.system.availability import Availability

_BUILD = "FER_EDGE_KERNELS=1 pip install . in the source folder"
_INSTALL_COMPILER = "install the CUDA toolkit (nvcc), then " + _BUILD


def availability() -> Availability:
    """Say whether the kernels can run here; ``version`` names what they were compiled for."""
    try:
        module = _compiled()
    except BackendError as error:
        return Availability(
            False, reason=str(error), fix=_BUILD if shutil.which("nvcc") else _INSTALL_COMPILER
        )
    version = f"CUDA {module.cuda_version}, {module.architectures}"
    count, reason = module.device_state()
    if count == 0:
        return Availability(False, version, f"CUDA finds no device: {reason}", "nvidia-smi")
    return Availability(True, version)


def crop_resize_normalize(
    frame: Any,
    rectangles: Sequence[tuple[int, int, int, int]],
    spec: ModelSpec,
    out: Any,
    *,
    stream: int,
    chroma: Any = None,
) -> None:
    """Turn crops of a frame into one input batch, as :func:`fer_edge.preprocess.prepare_batch` does on the CPU.

    Pixels are those of OpenCV to the last bit; so is the float32 batch.

    Parameters
    ----------
    frame : device array
        ``[H, W, 3]`` uint8 BGR, or with ``chroma`` the luma ``[H, W]`` of NV12 (BT.601, limited range).
        Rows may be any number of bytes apart.
    rectangles : sequence of (left, top, right, bottom)
        From :func:`fer_edge.preprocess.crop_rectangle`; may be empty.
    spec : ModelSpec
        What the network expects.
    out : device array
        ``[len(rectangles), C, H, W]`` float32 or float16, contiguous; written.
    stream : int
        Handle of a CUDA stream of the arrays' device.
    chroma : device array, optional
        ``[H/2, W/2, 2]`` or ``[H/2, W]`` uint8, U before V.

    Raises
    ------
    UsageError
        If the arrays, the rectangles or the spec are not what the kernel takes.
    BackendError
        If the kernels are not compiled, or CUDA fails.
    """
    if spec.interpolation != "bilinear":
        raise UsageError(
            f"{spec.network} wants {spec.interpolation} interpolation, and the CUDA kernel resizes bilinearly: use fer_edge.preprocess, on a frame of the host"
        )
    gain, offset = spec.gain_and_offset()
    _compiled().crop_resize_normalize(
        frame,
        rectangles,
        out,
        shape=spec.input_shape,
        color=spec.color,
        gain=gain.tolist(),
        offset=offset.tolist(),
        stream=stream,
        chroma=chroma,
    )


def self_attention(
    query: Any,
    key: Any,
    value: Any,
    residual: Any,
    gamma: Any,
    out: Any,
    *,
    stream: int,
    received: Any = None,
    row_statistics: Any = None,
) -> None:
    """Compute γ · V softmax(QᵀK)ᵀ + residual; the softmax is over the keys, without scaling.

    Parameters
    ----------
    query, key : device array
        ``[B, C/8, N]`` float32 or float16, like all the others; C a multiple of 8 up to 512.
    value, residual : device array
        ``[B, C, N]``.
    gamma : device array
        ``[]`` or ``[1]``.
    out : device array
        ``[B, C, N]``; written.
    stream : int
        Handle of a CUDA stream of the arrays' device.
    received : device array, optional
        ``[B, N]``; written: the mean attention that each position receives.
    row_statistics : device array, optional
        ``[B, 2, N]`` float32; working memory that ``received`` needs.

    Raises
    ------
    UsageError
        If the arrays are not what the kernel takes.
    BackendError
        If the kernels are not compiled, or CUDA fails.
    """
    _compiled().self_attention(
        query,
        key,
        value,
        residual,
        gamma,
        out,
        stream=stream,
        received=received,
        row_statistics=row_statistics,
    )


def _compiled() -> Any:
    """Return the module ``fer_edge._kernels``."""
    try:
        return importlib.import_module("fer_edge._kernels")
    except ModuleNotFoundError:
        raise BackendError(
            f"this installation has no CUDA kernels: run {_BUILD}, with nvcc on PATH"
        ) from None
    except ImportError as error:
        raise BackendError(
            f"the CUDA kernels cannot be loaded ({error}): compile them again, {_BUILD}"
        ) from error
