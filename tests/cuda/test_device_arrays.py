"""Device arrays of other libraries: valid descriptions are used, invalid ones rejected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fer_edge.cuda.arrays import DeviceArray, describe, is_device_array
from fer_edge.errors import BackendError

STREAM = 77


class Array:
    """An array with ``__cuda_array_interface__``."""

    def __init__(self, **entries: Any) -> None:
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": (2, 3),
            "typestr": "<f4",
            "data": (4096, False),
            "strides": None,
            "stream": None,
            **entries,
        }


class Dlpack:
    """NumPy array that claims by DLPack to be on a device."""

    def __init__(self, array: Any, device: int = 2) -> None:
        self.array, self.device, self.streams = array, device, list[int | None]()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self, *, stream: int | None = None) -> object:
        self.streams.append(stream)
        return self.array.__dlpack__()


class Both(Array, Dlpack):
    """Array with both protocols, as of PyTorch and CuPy: the interface at 4096, and DLPack at the array."""

    def __init__(self, array: np.ndarray, **entries: Any) -> None:
        Array.__init__(self, **entries)
        Dlpack.__init__(self, array)


def test_the_interface_is_taken_as_it_is() -> None:
    array = Array(stream=9)
    found = describe("a", array, STREAM)
    assert found == DeviceArray(4096, (2, 3), np.dtype(np.float32), producer=9)
    assert found.owner is array
    again = describe("a", found, STREAM)  # our own arrays are arrays too
    assert again == found


@pytest.mark.parametrize(
    ("shape", "strides", "contiguous"),
    [
        ((2, 3), (12, 4), True),
        ((2, 3), (16, 4), False),
        ((2, 3), (4, 8), False),
        ((1, 3), (999, 4), True),
        ((2, 1), (4, 999), True),
        ((0, 3), (1, 1), True),
        ((), None, True),
        ((4, 5, 3), (64, 3, 1), False),
    ],
)
def test_strides(shape: tuple[int, ...], strides: tuple[int, ...] | None, contiguous: bool) -> None:
    array = Array(shape=shape, strides=strides, typestr="|u1" if len(shape) == 3 else "<f4")
    assert describe("a", array, STREAM, contiguous=False).strides == strides
    if contiguous:
        assert describe("a", array, STREAM).shape == shape
    else:
        with pytest.raises(BackendError, match="a must be C-contiguous"):
            describe("a", array, STREAM)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"data": None}, "must have a valid __cuda_array_interface__"),
        ({"data": (1, 2, 3)}, "must have a valid __cuda_array_interface__"),
        ({"shape": "ab"}, "must have a valid __cuda_array_interface__"),
        ({"shape": (-1, 3)}, "must have a valid __cuda_array_interface__"),
        ({"typestr": "<q9"}, "must have a valid __cuda_array_interface__"),
        ({"typestr": None, "shape": None}, "must have a valid __cuda_array_interface__"),
        ({"strides": (4,)}, "must have a valid __cuda_array_interface__"),
        ({"strides": ("x", "y")}, "must have a valid __cuda_array_interface__"),
        ({"mask": object()}, "must be an array without mask"),
        ({"stream": 0}, "has stream 0"),
        ({"stream": 2}, "per-thread default stream"),
        ({"data": (0, False)}, "found a null pointer"),
    ],
)
def test_interfaces_that_are_wrong(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=f"^a .*{message}"):
        describe("a", Array(**entries), STREAM)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int64, np.bool_])
def test_dlpack_is_read_in_place(dtype: type) -> None:
    array = np.zeros((3, 4), dtype)
    given = Dlpack(array)
    found = describe("a", given, STREAM)
    assert (found.address, found.shape, found.dtype) == (array.ctypes.data, (3, 4), np.dtype(dtype))
    assert given.streams == [STREAM]
    describe("a", given, 0)
    assert given.streams[-1] == 1  # DLPack's name of the default stream
    part = Dlpack(array[1:, :2])
    found = describe("a", part, STREAM, contiguous=False)
    assert found.address == array.ctypes.data + array.strides[0]
    assert found.strides == array.strides
    with pytest.raises(BackendError, match="C-contiguous"):
        describe("a", part, STREAM)


@pytest.mark.parametrize(
    "entries", [{"version": 2}, {}, {"stream": 1}, {"stream": 2}, {"stream": 9}, {"stream": 0}], ids=str
)
def test_dlpack_is_taken_where_both_are_offered(entries: dict[str, Any]) -> None:
    """The DLPack producer synchronises its own work, whichever stream the interface names; PyTorch's names none."""
    array = np.zeros((2, 3), np.float32)
    both = Both(array, **entries)
    found = describe("a", both, STREAM)
    assert (found.address, found.producer, found.read_only) == (array.ctypes.data, None, False)
    assert both.streams == [STREAM]
    assert describe("a", Both(array, data=(4096, True)), STREAM).read_only  # DLPack could not say so


def test_what_is_wrong_with_an_interface_is_told_also_beside_dlpack() -> None:
    array = np.zeros((2, 3), np.float32)
    with pytest.raises(BackendError, match="a must be an array without mask"):
        describe("a", Both(array, mask=object()), STREAM)
    with pytest.raises(BackendError, match="a must have a valid __cuda_array_interface__"):
        describe("a", Both(array, data=None), STREAM)


@pytest.mark.parametrize("stream", [None, 1, 9, 2**47 + 8])
def test_the_stream_of_an_interface_alone(stream: int | None) -> None:
    assert describe("a", Array(stream=stream), STREAM).producer == stream


def test_pinned_memory_is_asked_for_without_a_stream() -> None:
    """PyTorch rejects a stream for tensors in host memory."""
    given = Dlpack(np.zeros((2, 3), np.float32), device=3)
    describe("a", given, STREAM)
    assert given.streams == [None]


def test_tensors_of_pytorch_on_the_cpu() -> None:
    tensor = torch.zeros(2, 3)
    assert is_device_array(tensor)
    with pytest.raises(
        BackendError, match=r"found DLPack device 1 \(the CPU\). Fix: give it as a NumPy array"
    ):
        describe("a", tensor, STREAM)
    found = describe("a", Dlpack(tensor), STREAM)
    assert (found.address, found.shape) == (tensor.data_ptr(), (2, 3))
    with pytest.raises(BackendError, match="does not export its memory"):
        describe("a", Dlpack(torch.zeros(2, requires_grad=True)), STREAM)
    for kind in (torch.bfloat16, torch.complex64):
        with pytest.raises(BackendError, match="must have an element type of NumPy"):
            describe("a", Dlpack(torch.zeros(2, dtype=kind)), STREAM)


def test_what_is_no_device_array() -> None:
    for value in (np.zeros(3), [1.0], None, 3, "text", object()):
        assert not is_device_array(value)
    with pytest.raises(BackendError, match="a must be an array with .* found object"):
        describe("a", object(), STREAM)


def test_memory_lives_as_long_as_its_description() -> None:
    array = np.arange(6, dtype=np.float32)
    found = describe("a", Dlpack(array), STREAM)
    address = found.address
    del array
    import ctypes

    assert ctypes.c_float.from_address(address + 20).value == 5
