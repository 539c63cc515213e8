"""Device arrays of any library: CuPy, PyTorch, pycuda, or plain memory."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fer_edge.errors import BackendError

# https://dmlc.github.io/dlpack: devices whose addresses are valid on a CUDA device.
_CUDA_HOST = 3
_DLPACK_DEVICES = {2: "CUDA", _CUDA_HOST: "CUDA host", 13: "CUDA managed"}
_DLPACK_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}
_LEGACY_STREAM, _PER_THREAD_STREAM = 1, 2  # in both protocols


@dataclass(frozen=True)
class DeviceArray:
    """Array in device memory, without ownership.

    Attributes
    ----------
    address : int
        Address of the first element.
    shape : tuple of int
        Dimensions.
    dtype : numpy.dtype
        Element type.
    producer : int or None
        Stream whose work must complete before the array is used; ``None`` if it is ready.
    read_only : bool
        Whether it is read-only.
    strides : tuple of int or None
        Strides in bytes; ``None`` for C-contiguous.
    owner : object
        Object that keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    producer: int | None = None
    read_only: bool = False
    strides: tuple[int, ...] | None = None
    owner: object = field(default=None, repr=False, compare=False)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, self.read_only),
            "strides": self.strides,
            "stream": self.producer,
        }


def is_device_array(value: object) -> bool:
    """Return whether ``value`` is a device array."""
    if isinstance(value, np.ndarray):
        return False
    return _interface(value) is not None or hasattr(value, "__dlpack_device__")


def describe(name: str, value: Any, stream: int, contiguous: bool = True) -> DeviceArray:
    """Return the memory of a device array, without a copy.

    Must be called by the thread that made the array, because the current stream of a library is per thread.

    Parameters
    ----------
    name : str
        Name of the array, for messages.
    value : object
        Object with DLPack or ``__cuda_array_interface__``; DLPack is preferred.
    stream : int
        Handle of the stream that will use the array.
    contiguous : bool
        Whether it must be C-contiguous.

    Raises
    ------
    BackendError
        If it is not a device array, not contiguous, or of a type that NumPy lacks.
    """
    interface = _interface(value)
    array = None if interface is None else _from_interface(name, value, interface)
    # DLPack first, as in kernels/device_array.hpp: its producer makes our stream wait for pending writes. The
    # interface need not name that stream, and PyTorch's does not; but only the interface has a read-only flag.
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        array = replace(_from_dlpack(name, value, stream), read_only=array is not None and array.read_only)
    elif array is None:
        raise BackendError(
            f"{name} must be an array with __cuda_array_interface__ or DLPack, found {type(value).__name__}. Fix: give a CuPy or PyTorch array"
        )
    else:
        _require_producer(name, array.producer)
    if contiguous and not _is_contiguous(array):
        raise BackendError(
            f"{name} must be C-contiguous, found strides {array.strides}. Fix: make a contiguous copy first"
        )
    if 0 not in array.shape and not array.address:
        raise BackendError(
            f"{name} must have an address, found a null pointer. Fix: give an array that is allocated"
        )
    return array


def _interface(value: object) -> dict[str, Any] | None:
    # PyTorch raises AttributeError for CPU tensors, and RuntimeError for tensors that require gradients.
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
    except RuntimeError as error:
        raise BackendError(
            f"{type(value).__name__} does not export its device memory: {error}. Fix: detach it or copy it to the device"
        ) from error
    return interface if isinstance(interface, dict) else None


def _from_interface(name: str, value: object, interface: dict[str, Any]) -> DeviceArray:
    try:
        address, read_only = interface["data"]
        shape = tuple(int(side) for side in interface["shape"])
        dtype = np.dtype(interface["typestr"])
        strides = interface.get("strides") and tuple(int(stride) for stride in interface["strides"])
        producer = interface.get("stream")
        masked = interface.get("mask") is not None
        if min(shape, default=0) < 0 or (strides and len(strides) != len(shape)):
            raise ValueError("shape and strides do not fit")
        array = DeviceArray(int(address or 0), shape, dtype, producer, bool(read_only), strides, value)
    except (KeyError, TypeError, ValueError) as error:
        raise BackendError(
            f"{name} must have a valid __cuda_array_interface__, found {error!r:.80}. Fix: give an array of CuPy or PyTorch"
        ) from error
    if masked:
        raise BackendError(
            f"{name} must be an array without mask, found a masked one. Fix: fill the masked elements"
        )
    return array


def _require_producer(name: str, producer: int | None) -> None:
    """Reject a stream of the interface that the thread that owns the device cannot wait for."""
    if producer == 0:
        raise BackendError(
            f"{name} has stream 0, which __cuda_array_interface__ does not allow. Fix: give stream 1 for the default stream"
        )
    if producer == _PER_THREAD_STREAM:
        raise BackendError(
            f"{name} is produced on the per-thread default stream, for which no other thread can wait. "
            "Fix: use another stream, or synchronise and give stream None"
        )


class _DlTensor(ctypes.Structure):
    """First fields of a DLPack capsule "dltensor"."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _from_dlpack(name: str, value: Any, stream: int) -> DeviceArray:
    device = int(value.__dlpack_device__()[0])
    if device not in _DLPACK_DEVICES:
        where = " (the CPU)" if device == 1 else ""
        raise BackendError(
            f"{name} must be on a CUDA device, found DLPack device {device}{where}. "
            "Fix: give it as a NumPy array, or copy it to the device first"
        )
    try:
        # The library makes this stream wait; pinned host memory has no stream.
        capsule = value.__dlpack__(stream=None if device == _CUDA_HOST else stream or _LEGACY_STREAM)
        tensor = _DlTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise BackendError(
            f"{name} cannot be read, since {type(value).__name__} does not export its memory: {error}. Fix: copy it on the device first"
        ) from error
    if tensor.lanes != 1 or tensor.bits % 8 or tensor.code not in _DLPACK_KINDS:
        raise BackendError(
            f"{name} must have an element type of NumPy, found DLPack code {tensor.code} with {tensor.bits} bits. Fix: convert it"
        )
    dtype = np.dtype(f"{_DLPACK_KINDS[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(s * dtype.itemsize for s in tensor.strides[: tensor.ndim]) if tensor.strides else None
    # The capsule is not consumed: its destructor releases the memory.
    address = (tensor.data or 0) + tensor.byte_offset
    return DeviceArray(address, shape, dtype, strides=strides, owner=(capsule, value))


def _is_contiguous(array: DeviceArray) -> bool:
    if array.strides is None or 0 in array.shape:
        return True
    expected = array.dtype.itemsize
    for side, stride in zip(reversed(array.shape), reversed(array.strides), strict=True):
        if side > 1 and stride != expected:
            return False
        expected *= side
    return True
