"""Arrays that say they lie on a device, and calls that the binding must refuse before it asks CUDA."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

CPU, CUDA, CUDA_HOST = 1, 2, 3  # DLPack's numbers

ctypes.pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
ctypes.pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


class InterfaceArray:
    """A NumPy array under CUDA's array interface, as CuPy, PyTorch and pycuda give it."""

    def __init__(self, array: np.ndarray, **entries: object) -> None:
        self.array = array
        interface = dict(array.__array_interface__, version=3, stream=None)
        del interface["descr"]
        self.__cuda_array_interface__ = {**interface, **entries}


class DlpackArray:
    """A NumPy array under DLPack that says which device it is on, and remembers the stream it was asked for."""

    def __init__(self, array: np.ndarray, device_type: int = CUDA) -> None:
        self.array, self.device_type = array, device_type
        self.streams: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device_type, 0

    def __dlpack__(self, *, stream: int | None = None) -> object:
        self.streams.append(stream)
        capsule = self.array.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer(capsule, b"dltensor")
        ctypes.c_int32.from_address(pointer + 8).value = self.device_type
        return capsule


class BothArray(InterfaceArray, DlpackArray):
    """A NumPy array under both protocols, as PyTorch's and CuPy's."""

    def __init__(self, array: np.ndarray, **entries: object) -> None:
        DlpackArray.__init__(self, array)
        InterfaceArray.__init__(self, array, **entries)


def uint8(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int64).astype(np.uint8).reshape(shape)


def crop_arguments(**changes: object) -> dict[str, Any]:
    """A right call of crop_resize_normalize, with changes."""
    arguments: dict[str, Any] = {
        "frame": InterfaceArray(uint8(16, 20, 3)),
        "rectangles": [(0, 0, 8, 8), (2, 3, 30, 12)],
        "out": InterfaceArray(np.zeros((2, 3, 4, 6), np.float32)),
        "shape": (3, 4, 6),
        "color": "rgb",
        "gain": [1.0, 2.0, 3.0],
        "offset": [0.0, -1.0, 0.5],
        "stream": 0,
    }
    return {**arguments, **changes}


def attention_arguments(dtype: type = np.float32, **changes: object) -> dict[str, Any]:
    """A right call of self_attention, with changes: 2 samples, 16 channels, 9 positions."""
    rng = np.random.default_rng(0)
    shapes = {
        "query": (2, 2, 9),
        "key": (2, 2, 9),
        "value": (2, 16, 9),
        "residual": (2, 16, 9),
        "gamma": (1,),
        "out": (2, 16, 9),
    }
    arrays = {
        name: InterfaceArray(rng.standard_normal(shape).astype(dtype)) for name, shape in shapes.items()
    }
    return {**arrays, "stream": 0, **changes}


def _zeros(*shape: int, dtype: type = np.float32) -> InterfaceArray:
    return InterfaceArray(np.zeros(shape, dtype))


def _without(array: InterfaceArray, key: str) -> InterfaceArray:
    del array.__cuda_array_interface__[key]
    return array


#: name → (function, changes to its right call, message of the UsageError). No device is needed for any.
REFUSALS: Mapping[str, tuple[str, Callable[[], dict[str, Any]], str]] = {
    "numpy": ("crop", lambda: {"frame": uint8(16, 20, 3)}, "frame: expected an array on a CUDA device, found one on DLPack device 1 (the CPU): copy it to the device first"),
    "list": ("crop", lambda: {"out": [1.0]}, "out: expected a device array with __cuda_array_interface__ or __dlpack__, found list"),
    "interface is no dict": ("crop", lambda: {"frame": type("Odd", (), {"__cuda_array_interface__": 3})()}, "frame: expected a device array with __cuda_array_interface__ or __dlpack__, found Odd"),
    "no shape": ("crop", lambda: {"frame": _without(InterfaceArray(uint8(16, 20, 3)), "shape")}, "frame: the entries of __cuda_array_interface__ do not follow its specification"),
    "no data": ("crop", lambda: {"frame": _without(InterfaceArray(uint8(16, 20, 3)), "data")}, "frame: the entries of __cuda_array_interface__ do not follow its specification"),
    "shape of text": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 3), shape=("a",))}, "frame: the entries of __cuda_array_interface__ do not follow its specification"),
    "typestr is no text": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 3), typestr=7)}, "frame: the entries of __cuda_array_interface__ do not follow its specification"),
    "empty typestr": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 3), typestr="|u")}, "frame: expected a type such as <f4, found |u"),
    "typestr without a size": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 3), typestr="|ux")}, "frame: expected a type such as <f4, found |ux"),
    "negative shape": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 3), shape=(-16, 20, 3))}, "frame: a side is negative: [-16, 20, 3]"),
    "strides of another rank": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 3), strides=(60, 3))}, "frame: has 3 axes, but strides for 2"),
    "mask": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 3), mask=uint8(1))}, "frame: masked arrays cannot be used"),
    "stream 0": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 3), stream=0)}, "frame: stream 0 is not allowed in __cuda_array_interface__"),
    "big-endian": ("crop", lambda: {"out": InterfaceArray(np.zeros((2, 3, 4, 6), ">f4"))}, "out: expected numbers in the byte order of this machine, found >f4"),
    "float frame": ("crop", lambda: {"frame": _zeros(16, 20, 3)}, "frame: expected uint8, found float32"),
    "gray frame": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20))}, "frame: expected a BGR frame [height, width, 3], found [16, 20]"),
    "four channels": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 4))}, "frame: expected a BGR frame [height, width, 3], found [16, 20, 4]"),
    "planar frame": ("crop", lambda: {"frame": InterfaceArray(uint8(3, 16, 20).transpose(1, 2, 0))}, "frame: the pixels of a row must lie together, and rows follow each other from the top"),
    "flipped frame": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 3)[::-1])}, "frame: the pixels of a row must lie together, and rows follow each other from the top"),
    "mirrored frame": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 3)[:, ::-1])}, "frame: the pixels of a row must lie together"),
    "huge frame": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 3), shape=(2**40, 20, 3))}, "frame: axis 0 is too long"),
    "endless frame": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20, 3), shape=(2**62, 2**62, 3))}, f"frame: is too large: [{2**62}, {2**62}, 3]"),
    "luma with three axes": ("crop", lambda: {"chroma": InterfaceArray(uint8(8, 20))}, "luma: expected the luma plane [height, width] of an NV12 frame, found [16, 20, 3]"),
    "chroma of full size": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20)), "chroma": InterfaceArray(uint8(16, 20))}, "chroma: expected the shape [8, 20], found [16, 20]"),
    "chroma of one plane": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20)), "chroma": InterfaceArray(uint8(8, 10, 1))}, "chroma: expected the shape [8, 10, 2], found [8, 10, 1]"),
    "signed chroma": ("crop", lambda: {"frame": InterfaceArray(uint8(16, 20)), "chroma": InterfaceArray(uint8(8, 20).view(np.int8))}, "chroma: expected uint8, found i1"),
    "double output": ("crop", lambda: {"out": _zeros(2, 3, 4, 6, dtype=np.float64)}, "out: expected float16 or float32, found f8"),
    "too few rows": ("crop", lambda: {"out": _zeros(1, 3, 4, 6)}, "out: expected the shape [2, 3, 4, 6], found [1, 3, 4, 6]"),
    "another size": ("crop", lambda: {"out": _zeros(2, 3, 6, 4)}, "out: expected the shape [2, 3, 4, 6], found [2, 3, 6, 4]"),
    "channels last": ("crop", lambda: {"out": InterfaceArray(np.zeros((2, 4, 6, 3), np.float32).transpose(0, 3, 1, 2))}, "out: must be C-contiguous; make a contiguous copy of it"),
    "read-only output": ("crop", lambda: {"out": InterfaceArray(np.zeros((2, 3, 4, 6), np.float32), data=(4096, True))}, "out: is read-only, and would be written"),
    "one gain": ("crop", lambda: {"gain": [1.0]}, "gain and offset: expected one value for each of 3 channels, found 1 and 3"),
    "unknown color": ("crop", lambda: {"color": "yuv"}, "color must be gray, rgb or bgr, found yuv"),
    "half a pair": ("attention", lambda: {"received": _zeros(2, 9)}, "received and row_statistics belong together: give both or neither"),
    "flat value": ("attention", lambda: {"value": _zeros(2, 144)}, "value: expected [batch, channels, positions], found [2, 144]"),
    "wide query": ("attention", lambda: {"query": _zeros(2, 16, 9)}, "query: expected the shape [2, 2, 9], found [2, 16, 9]"),
    "mixed types": ("attention", lambda: {"key": _zeros(2, 2, 9, dtype=np.float16)}, "key: expected float32, found float16"),
    "integers": ("attention", lambda: {"value": _zeros(2, 16, 9, dtype=np.int32)}, "value: expected float16 or float32, found i4"),
    "many gammas": ("attention", lambda: {"gamma": _zeros(3)}, "gamma: expected the shape [1], found [3]"),
    "transposed": ("attention", lambda: {"key": InterfaceArray(np.zeros((2, 9, 2), np.float32).transpose(0, 2, 1))}, "key: must be C-contiguous; make a contiguous copy of it"),
    "read-only attention": ("attention", lambda: {"out": InterfaceArray(np.zeros((2, 16, 9), np.float32), data=(4096, True))}, "out: is read-only, and would be written"),
    "half statistics": ("attention", lambda: {"received": _zeros(2, 9), "row_statistics": _zeros(2, 2, 9, dtype=np.float16)}, "row_statistics: expected float32, found float16"),
    "null": ("attention", lambda: {"query": InterfaceArray(np.zeros((2, 2, 9), np.float32), data=(0, False))}, "query: is a null pointer"),
}  # fmt: skip


def refused_call(module: Any, name: str) -> Callable[[], None]:
    """The call of ``REFUSALS[name]``."""
    function, changes, _ = REFUSALS[name]
    if function == "crop":
        return lambda: module.crop_resize_normalize(**crop_arguments(**changes()))
    return lambda: module.self_attention(**attention_arguments(**changes()))
