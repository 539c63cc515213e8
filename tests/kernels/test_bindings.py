"""The Python module, on emulated kernels and a CUDA runtime whose memory and streams the tests state."""

from __future__ import annotations

import gc
import sys
import sysconfig
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_arrays import (
    CPU,
    CUDA_HOST,
    REFUSALS,
    BothArray,
    DlpackArray,
    InterfaceArray,
    attention_arguments,
    crop_arguments,
    refused_call,
    uint8,
)
from emulated_kernels import PINNED, UNREGISTERED, Emulation

from fer_edge.cuda import kernels
from fer_edge.errors import BackendError, UsageError
from fer_edge.preprocess import crop_face, crop_rectangle, prepare_batch
from fer_edge.spec import CropRule, ModelSpec
from fer_edge.system.shell import pip_command


def make_spec(color: str = "rgb", **changes: Any) -> ModelSpec:
    channels = 1 if color == "gray" else 3
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    return ModelSpec(
        "net", 24, 20, color, channels, mean, std, ("a", "b"), CropRule(min_side_px=1), **changes
    )


def crops_of(frame_bgr: np.ndarray, spec: ModelSpec) -> tuple[list[tuple[int, int, int, int]], np.ndarray]:
    """Two faces of the astronaut: rectangles, and the batch that the CPU makes."""
    boxes = [(180.0, 70.0, 270.0, 190.0), (-20.0, 400.0, 90.0, 530.0)]
    rectangles = [crop_rectangle(box, spec.crop, *frame_bgr.shape[:2]) for box in boxes]
    crops = [crop_face(frame_bgr, box, spec.crop) for box in boxes]
    return [r for r in rectangles if r is not None], prepare_batch([c for c in crops if c is not None], spec)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("color", ["gray", "rgb"])
@pytest.mark.parametrize("protocol", [InterfaceArray, DlpackArray])
def test_crops(emulation: Emulation, astronaut: np.ndarray, protocol: type, color: str, dtype: type) -> None:
    spec = make_spec(color)
    rectangles, expected = crops_of(astronaut, spec)
    frame, out = protocol(astronaut), protocol(np.zeros(expected.shape, dtype))
    emulation.place(frame, out)
    kernels.crop_resize_normalize(frame, rectangles, spec, out, stream=0)
    np.testing.assert_array_equal(out.array, expected.astype(dtype))


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("protocol", [InterfaceArray, DlpackArray])
def test_crops_of_a_part_of_nv12(
    emulation: Emulation, astronaut: np.ndarray, protocol: type, axes: int
) -> None:
    """Both planes are views into wider rows, as decoders give them."""
    import cv2

    planar = cv2.cvtColor(astronaut, cv2.COLOR_BGR2YUV_I420)
    pair = np.stack(planar[512:].reshape(2, 256, 256), axis=-1)
    luma, chroma = planar[:500, :480], pair[:250, :240]
    if axes == 2:
        chroma = pair.reshape(256, 512)[:250, :480]
    contiguous = np.vstack([luma, np.ascontiguousarray(chroma).reshape(250, 480)])
    spec = make_spec()
    rectangles, expected = crops_of(cv2.cvtColor(contiguous, cv2.COLOR_YUV2BGR_NV12), spec)
    arrays = protocol(luma), protocol(chroma), protocol(np.zeros_like(expected))
    emulation.place(*arrays)
    kernels.crop_resize_normalize(arrays[0], rectangles, spec, arrays[2], stream=0, chroma=arrays[1])
    np.testing.assert_array_equal(arrays[2].array, expected)


@pytest.mark.parametrize("stride", [1, -60, 0])
def test_the_stride_of_a_single_row_says_nothing(emulation: Emulation, stride: int) -> None:
    row = uint8(1, 20, 3)
    frame, out = (
        InterfaceArray(row, strides=(stride, 3, 1)),
        InterfaceArray(np.zeros((1, 3, 24, 20), np.float32)),
    )
    emulation.place(frame, out)
    kernels.crop_resize_normalize(frame, [(0, 0, 20, 1)], make_spec(), out, stream=0)
    np.testing.assert_array_equal(out.array, prepare_batch([row], make_spec()))


def test_nothing_to_do(emulation: Emulation) -> None:
    frame = InterfaceArray(uint8(16, 20, 3))
    emulation.place(frame)
    out = InterfaceArray(np.zeros((0, 3, 24, 20), np.float32), data=(0, False))
    kernels.crop_resize_normalize(frame, [], make_spec(), out, stream=0)
    empty = attention_arguments()
    emulation.place(empty["gamma"])
    for name in ("query", "key", "value", "residual", "out"):
        shape = (0, *empty[name].array.shape[1:])
        empty[name] = InterfaceArray(np.zeros(shape, np.float32), data=(0, False))
    kernels.self_attention(**empty)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_attention(emulation: Emulation, dtype: type) -> None:
    received = InterfaceArray(np.zeros((2, 9), dtype))
    statistics = InterfaceArray(np.zeros((2, 2, 9), np.float32))
    arguments = attention_arguments(dtype, received=received, row_statistics=statistics)
    kernels.self_attention(**emulation.place_all(arguments))
    query, key, value, residual, gamma = (
        arguments[name].array.astype(np.float64) for name in ("query", "key", "value", "residual", "gamma")
    )
    weights = np.exp(np.einsum("bdi,bdj->bij", query, key))
    weights /= weights.sum(axis=2, keepdims=True)
    expected = gamma * np.einsum("bcj,bij->bci", value, weights) + residual
    tolerance = 4e-3 if dtype is np.float16 else 1e-5
    np.testing.assert_allclose(arguments["out"].array, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(received.array, weights.mean(axis=1), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("driver_works", [True, False])
def test_refused_before_cuda_is_asked(emulation: Emulation, name: str, driver_works: bool) -> None:
    emulation.reset(driver_works)
    with pytest.raises(UsageError) as error:
        refused_call(emulation.module, name)()
    assert str(error.value).startswith(REFUSALS[name][2])
    assert emulation.log() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rectangles": [(0, 0, 8, 8), (20, 0, 30, 8)]}, "rectangle 1 lies outside of the frame of 20×16: (20, 0, 30, 8)"),
        ({"shape": (2, 4, 6), "gain": [1, 1], "offset": [0, 0]}, "the output must have 3 channels, or 1 if it is gray, found 2"),
        ({"gain": [1, np.inf, 1]}, "gain and offset of channel 1 must be finite"),
    ],
)  # fmt: skip
def test_what_the_launcher_refuses(emulation: Emulation, changes: dict[str, Any], message: str) -> None:
    arguments = crop_arguments(**changes)
    arguments["out"] = InterfaceArray(np.zeros((2, *arguments["shape"]), np.float32))
    with pytest.raises(UsageError) as error:
        emulation.module.crop_resize_normalize(**emulation.place_all(arguments))
    assert str(error.value) == message


def test_attention_in_place_is_refused(emulation: Emulation) -> None:
    arguments = attention_arguments()
    arguments["out"] = arguments["residual"]
    with pytest.raises(UsageError, match="overlaps"):
        kernels.self_attention(**emulation.place_all(arguments))


@pytest.mark.parametrize("name", ["stream", "rectangles", "gain"])
@pytest.mark.parametrize("value", [None, "0", -1, ["1"], [(0, 0, 2**40, 1)]], ids=str)
def test_python_types(emulation: Emulation, name: str, value: object) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        emulation.module.crop_resize_normalize(**emulation.place_all(crop_arguments(**{name: value})))


def test_memory_that_the_device_cannot_reach(emulation: Emulation) -> None:
    arguments = emulation.place_all(crop_arguments())
    emulation.place(arguments["frame"], kind=UNREGISTERED)
    with pytest.raises(UsageError, match="frame: points to memory that a CUDA device cannot reach"):
        emulation.module.crop_resize_normalize(**arguments)


def test_pinned_memory_is_good(emulation: Emulation) -> None:
    arguments = emulation.place_all(crop_arguments())
    emulation.place(arguments["frame"], kind=PINNED)
    emulation.module.crop_resize_normalize(**arguments)
    assert arguments["out"].array.any()


def test_arrays_on_two_devices(emulation: Emulation) -> None:
    arguments = emulation.place_all(crop_arguments())
    emulation.place(arguments["out"], device=1)
    with pytest.raises(UsageError, match="out: is on device 1, but frame on device 0"):
        emulation.module.crop_resize_normalize(**arguments)


def test_the_launch_is_on_the_arrays_device(emulation: Emulation) -> None:
    arguments = crop_arguments()
    emulation.place(arguments["frame"], arguments["out"], device=3)
    emulation.module.crop_resize_normalize(**arguments)
    assert emulation.log() == ["device 3", "device 0"]


@pytest.mark.parametrize(
    ("producer", "stream", "expected"),
    [
        (None, 48, []),
        (48, 48, []),
        (1, 0, []),  # both are the default stream
        (64, 48, ["record 64", "wait 48", "destroy"]),
        (1, 48, ["record 0", "wait 48", "destroy"]),
        (2, 0, ["record 2", "wait 0", "destroy"]),
    ],
)
def test_the_stream_waits_for_the_producer(
    emulation: Emulation, producer: int | None, stream: int, expected: list[str]
) -> None:
    frame = InterfaceArray(uint8(16, 20, 3), stream=producer)
    arguments = emulation.place_all(crop_arguments(frame=frame, stream=stream))
    emulation.module.crop_resize_normalize(**arguments)
    assert emulation.log() == expected


@pytest.mark.parametrize(("stream", "asked_for"), [(0, 1), (2, 2), (48, 48)])
def test_dlpack_is_told_the_stream(emulation: Emulation, stream: int, asked_for: int) -> None:
    frame = DlpackArray(uint8(16, 20, 3))
    emulation.module.crop_resize_normalize(**emulation.place_all(crop_arguments(frame=frame, stream=stream)))
    assert frame.streams == [asked_for]


@pytest.mark.parametrize("producer", [None, 0, 1, 2, 64])
def test_dlpack_is_taken_where_both_are_offered(emulation: Emulation, producer: int | None) -> None:
    """Its producer lets our stream wait by itself, whatever the interface says of streams; PyTorch's names none."""
    frame = BothArray(uint8(16, 20, 3), stream=producer, data=(4096, True))
    arguments = emulation.place_all(crop_arguments(frame=frame, stream=48))
    emulation.module.crop_resize_normalize(**arguments)
    assert frame.streams == [48]
    assert emulation.log() == []
    assert arguments["out"].array.any()


def test_what_is_read_only_stays_so_beside_dlpack(emulation: Emulation) -> None:
    out = np.zeros((2, 3, 4, 6), np.float32)
    arguments = crop_arguments(out=BothArray(out, data=(out.ctypes.data, True)))
    with pytest.raises(UsageError, match="out: is read-only, and would be written"):
        emulation.module.crop_resize_normalize(**emulation.place_all(arguments))


def test_pinned_memory_is_asked_for_without_a_stream(emulation: Emulation) -> None:
    frame = DlpackArray(uint8(16, 20, 3), CUDA_HOST)
    emulation.module.crop_resize_normalize(**emulation.place_all(crop_arguments(frame=frame, stream=48)))
    assert frame.streams == [None]


def test_dlpack_gives_the_memory_back(emulation: Emulation) -> None:
    array = uint8(16, 20, 3)
    frame = DlpackArray(array)
    emulation.module.crop_resize_normalize(**emulation.place_all(crop_arguments(frame=frame)))
    alive = weakref.ref(array)
    del array, frame
    gc.collect()
    assert alive() is None


def test_dlpack_on_the_cpu_is_refused(emulation: Emulation) -> None:
    with pytest.raises(UsageError, match=r"found one on DLPack device 1 \(the CPU\)"):
        emulation.module.crop_resize_normalize(**crop_arguments(frame=DlpackArray(uint8(16, 20, 3), CPU)))


@pytest.mark.parametrize("protocol", ["__cuda_array_interface__", "__dlpack_device__"])
def test_an_error_of_the_array_is_seen(emulation: Emulation, protocol: str) -> None:
    """PyTorch refuses an array interface for tensors that require gradients, and says so."""

    def fail(self: object) -> None:
        raise RuntimeError("use detach()")

    members: dict[str, Any] = {"__dlpack__": fail, protocol: fail}
    if protocol == "__cuda_array_interface__":
        members[protocol] = property(fail)
    with pytest.raises(RuntimeError, match=r"use detach\(\)"):
        emulation.module.crop_resize_normalize(**crop_arguments(frame=type("Array", (), members)()))


def test_without_a_device(emulation: Emulation) -> None:
    emulation.reset(driver_works=False)
    with pytest.raises(BackendError, match=r"CUDA cannot be used: .*; run fer-edge doctor"):
        emulation.module.crop_resize_normalize(**crop_arguments())
    state = kernels.availability()
    assert not state.ok
    assert state.reason.startswith("CUDA finds no device")
    assert "nvidia-smi" in state.fix


def test_with_a_device(emulation: Emulation) -> None:
    state = kernels.availability()
    assert state.ok
    assert state.version == "CUDA 13.0, the CPU"


def test_other_threads_run_meanwhile(emulation: Emulation) -> None:
    """The emulated kernel computes for a while inside the call; the counter moves if the interpreter is free."""
    spec = make_spec()
    frame = InterfaceArray(uint8(256, 256, 3))
    out = InterfaceArray(np.zeros((1500, *spec.input_shape), np.float32))
    emulation.place(frame, out)
    started, done, counted = threading.Event(), threading.Event(), 0

    def compute() -> None:
        started.set()
        kernels.crop_resize_normalize(frame, [(0, 0, 200, 200)] * 1500, spec, out, stream=0)
        done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # the interpreter changes hands only where it is given away
    thread = threading.Thread(target=compute)
    try:
        thread.start()
        started.wait()
        while not done.wait(0.001):
            counted += 1
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert counted > 3


def test_area_interpolation_is_refused() -> None:
    with pytest.raises(UsageError, match=r"only bilinear interpolation, found area for net. Fix: use frames"):
        kernels.crop_resize_normalize(None, [], make_spec(interpolation="area"), None, stream=0)


@pytest.mark.parametrize(
    ("compiler", "fix"),
    [
        ("/usr/bin/nvcc", f"FER_EDGE_KERNELS=1 {pip_command('install', '.')}"),
        (None, "install the CUDA toolkit (nvcc), then FER_"),
    ],
)
def test_a_pure_python_installation(monkeypatch: pytest.MonkeyPatch, compiler: str | None, fix: str) -> None:
    monkeypatch.setitem(sys.modules, "fer_edge._kernels", None)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: compiler)
    state = kernels.availability()
    assert not state.ok
    assert "this installation has no CUDA kernels" in state.reason
    assert state.fix.startswith(fix)
    with pytest.raises(BackendError, match="FER_EDGE_KERNELS=1 .* -m pip install"):
        kernels.self_attention(*[None] * 6, stream=0)


def test_a_damaged_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import fer_edge

    (tmp_path / f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(b"\x7fELF cut off")
    monkeypatch.delitem(sys.modules, "fer_edge._kernels", raising=False)
    monkeypatch.setattr(fer_edge, "__path__", [str(tmp_path)])
    state = kernels.availability()
    assert not state.ok
    assert "cannot be loaded" in state.reason
