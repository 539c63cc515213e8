"""CUDA kernels on device arrays: enqueued on the stream of the caller, without copies or allocations.

An array is any object with DLPack or ``__cuda_array_interface__`` on a CUDA device (CuPy, PyTorch, pycuda). A
stream is the integer handle of a CUDA stream, such as ``cupy_stream.ptr`` or ``torch_stream.cuda_stream``; 0 is
the default stream. Calls are asynchronous; arrays must live until the stream has completed the work. Pending writes
to an array complete first: with DLPack, which is preferred, the library that made the array synchronises the streams;
otherwise the array must name its stream or be ready.

The kernels are compiled if ``FER_EDGE_KERNELS=1`` is set while the package is installed from source.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from typing import Any

from fer_edge.errors import BackendError, UsageError, without_fix
from fer_edge.spec import ModelSpec
from fer_edge.system.availability import Availability
from fer_edge.system.shell import pip_command

_BUILD = f"FER_EDGE_KERNELS=1 {pip_command('install', '.')} in the source folder"
_INSTALL_COMPILER = "install the CUDA toolkit (nvcc), then " + _BUILD


def availability() -> Availability:
    """Return whether the kernels can run here; ``version`` holds CUDA version and architectures of the build."""
    try:
        module = _compiled()
    except BackendError as error:
        return Availability(
            False,
            reason=without_fix(error),
            fix=_BUILD if shutil.which("nvcc") else _INSTALL_COMPILER,
        )
    version = f"CUDA {module.cuda_version}, {module.architectures}"
    count, reason = module.device_state()
    if count == 0:
        return Availability(
            False, version, f"CUDA finds no device ({reason})", "check the driver with nvidia-smi"
        )
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
    """Convert crops of a frame to one input batch, as :func:`fer_edge.preprocess.prepare_batch` does on the CPU.

    The float32 batch is bit-identical to that of OpenCV.

    Parameters
    ----------
    frame : device array
        ``[H, W, 3]`` uint8 BGR, or with ``chroma`` the luma ``[H, W]`` of NV12 (BT.601, limited range).
        Rows may be padded.
    rectangles : sequence of (left, top, right, bottom)
        From :func:`fer_edge.preprocess.crop_rectangle`; may be empty.
    spec : ModelSpec
        Input of the network.
    out : device array
        ``[len(rectangles), C, H, W]`` float32 or float16, contiguous; written.
    stream : int
        Handle of a CUDA stream on the device of the arrays.
    chroma : device array, optional
        ``[H/2, W/2, 2]`` or ``[H/2, W]`` uint8, U before V.

    Raises
    ------
    UsageError
        If the kernel does not support the arrays, the rectangles or the spec.
    BackendError
        If the kernels are not compiled, or CUDA fails.
    """
    if spec.interpolation != "bilinear":
        raise UsageError(
            f"the CUDA kernel supports only bilinear interpolation, found {spec.interpolation} for {spec.network}. Fix: use frames in host memory"
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
        ``[B, C/8, N]`` float32 or float16, like all other arrays; C a multiple of 8 up to 512.
    value, residual : device array
        ``[B, C, N]``.
    gamma : device array
        ``[]`` or ``[1]``.
    out : device array
        ``[B, C, N]``; written.
    stream : int
        Handle of a CUDA stream on the device of the arrays.
    received : device array, optional
        ``[B, N]``; written: mean attention received by each position.
    row_statistics : device array, optional
        ``[B, 2, N]`` float32; scratch memory that ``received`` needs.

    Raises
    ------
    UsageError
        If the kernel does not support the arrays.
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
            f"this installation has no CUDA kernels. Fix: {_BUILD}, with nvcc on PATH"
        ) from None
    except ImportError as error:
        raise BackendError(
            f"the CUDA kernels cannot be loaded ({error}). Fix: compile them again, {_BUILD}"
        ) from error
