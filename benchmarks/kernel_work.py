"""Count the memory traffic and arithmetic of one CUDA kernel call in CPU emulation, and estimate its roofline.

Used by kernels.py and kernels_on_gpu.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_edge.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
HALF = 2  # bytes


@dataclass(frozen=True)
class Board:
    """Peak rates of a Jetson module from its data sheet; dense FP16 is half of dense INT8."""

    int8_tops: float
    memory_gb_per_s: float

    def time_us(self, operations: float, moved_bytes: float) -> float:
        """Return the larger of the times for arithmetic on tensor cores and for memory."""
        return max(operations / (self.int8_tops / 2 * 1e6), moved_bytes / (self.memory_gb_per_s * 1e3))


BOARDS = {
    "Orin Nano 8 GB": Board(20.5, 68),
    "Orin NX 16 GB": Board(30.1, 102.4),
    "AGX Orin 64 GB": Board(85.2, 204.8),
    "Thor T5000": Board(517, 273),
}
#: Positions and channels: the shipped network at 48 × 48, and the paper's form at 224 × 224.
ATTENTION_SHAPES = {"conv-attention 48×48": (36, 128), "conv-attention 224×224": (784, 128)}
#: Side and channels of the input: those of the shipped network, and of networks with three colours.
CROP_SHAPES = {"gray 48×48": (48, 1), "RGB 224×224": (224, 3)}
FRAME_HEIGHT, FRAME_WIDTH, FACE_PX = 720, 1280, 160
#: Faces that lie side by side in a frame.
MAX_FACES = FRAME_WIDTH * FRAME_HEIGHT // FACE_PX**2


@dataclass(frozen=True)
class Work:
    """Work of one kernel call.

    Attributes
    ----------
    kernel, shape : str
        Kernel, and the network whose shape it has.
    batch : int
        Faces.
    counted_bytes : int
        Loads and stores of global memory by all threads, as counted in emulation.
    once_bytes : int
        Every input and output once: the memory traffic with perfect caches.
    operations : int
        Two per multiply-add counted, padding included.
    unfused_bytes : int or None
        Memory traffic of separate kernels, each tensor once per kernel that reads or writes it.
    """

    kernel: str
    shape: str
    batch: int
    counted_bytes: int
    once_bytes: int
    operations: int
    unfused_bytes: int | None = None

    @property
    def intensity(self) -> float:
        """Operations per byte of memory traffic."""
        return self.operations / self.once_bytes

    def times_us(self, board: Board) -> tuple[float, float]:
        """Return the time estimates for each byte once, and for the counted bytes."""
        return board.time_us(self.operations, self.once_bytes), board.time_us(
            self.operations, self.counted_bytes
        )


class Emulation:
    """The kernels compiled for the CPU; every call returns its counts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, driver: str, parts: Sequence[np.ndarray], names: Mapping[str, object]) -> dict[str, int]:
        """Run a driver of tests/kernels on the concatenated ``parts``."""
        program = self._folder / driver
        if not program.exists():
            self._compile(driver, program)
        (self._folder / "in").write_bytes(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
        command = [str(program), str(self._folder / "in"), str(self._folder / "out")]
        command += [f"{name}={value}" for name, value in names.items()]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def _compile(self, driver: str, program: Path) -> None:
        compiler = shutil.which("g++")
        if compiler is None:
            raise UsageError("no C++ compiler of version 12 or newer is found. Fix: run apt install g++")
        command = [compiler, "-std=c++20", "-O2", "-march=native", "-fno-strict-aliasing", "-pthread"]
        command += [
            "-DFER_EDGE_EMULATION",
            "-I",
            str(ROOT / "kernels"),
            "-I",
            str(ROOT / "tests" / "kernels"),
            "-o",
            str(program),
        ]
        subprocess.run([*command, str(ROOT / "tests" / "kernels" / f"{driver}.cpp")], check=True)


def count_attention(emulation: Emulation, shape: str, batch: int) -> Work:
    """Return the work of ``self_attention`` in FP16."""
    positions, channels = ATTENTION_SHAPES[shape]
    depth = channels // 8
    sizes = [depth, depth, channels, channels]  # query, key, value, residual
    rng = np.random.default_rng(0)
    tensors = [rng.standard_normal((batch, size, positions)).astype(np.float16) for size in sizes]
    names = {"type": "half", "batch": batch, "channels": channels, "positions": positions}
    threads = len(os.sched_getaffinity(0))
    counted = emulation.run(
        "self_attention_driver", [*tensors, np.ones(1, np.float16)], {**names, "threads": threads}
    )
    once = HALF * (batch * positions * (2 * depth + 3 * channels) + 1)
    # Scores are written by the first product, read and written by the softmax, read by the second product,
    # whose result the epilogue reads again.
    unfused = once + HALF * batch * (4 * positions**2 + 2 * channels * positions)
    return _work("self_attention", shape, batch, counted, once, unfused)


def count_crops(emulation: Emulation, shape: str, faces: int) -> Work:
    """Return the work of ``crop_resize_normalize`` for ``faces`` of 160 pixels in a BGR frame of 1280 × 720."""
    side, channels = CROP_SHAPES[shape]
    frame = np.random.default_rng(0).integers(0, 256, (FRAME_HEIGHT, FRAME_WIDTH * 3), np.uint8)
    columns = FRAME_WIDTH // FACE_PX
    corners = np.array([divmod(i, columns)[::-1] for i in range(faces)]) * FACE_PX
    rectangles = np.concatenate([corners, corners + FACE_PX], axis=1).astype(np.int32)
    names = {
        "format": "bgr",
        "frame_height": FRAME_HEIGHT,
        "frame_width": FRAME_WIDTH,
        "pitch": FRAME_WIDTH * 3,
        "chroma_pitch": 0,
        "color": "gray" if channels == 1 else "rgb",
        "channels": channels,
        "height": side,
        "width": side,
        "count": faces,
        "type": "half",
    }
    gain_and_offset = [np.ones(3, np.float32), np.zeros(3, np.float32)]
    counted = emulation.run("crop_resize_normalize_driver", [frame, rectangles, *gain_and_offset], names)
    read = 3 * _pixels_read(side) ** 2
    once = faces * (read + HALF * channels * side**2)
    return _work("crop_resize_normalize", shape, faces, counted, once)


def _work(
    kernel: str, shape: str, batch: int, counted: Mapping[str, int], once: int, unfused: int | None = None
) -> Work:
    return Work(
        kernel,
        shape,
        batch,
        counted_bytes=counted["loaded_bytes"] + counted["stored_bytes"],
        once_bytes=once,
        operations=2 * (counted["tensor_multiply_adds"] + counted["scalar_multiply_adds"]),
        unfused_bytes=unfused,
    )


def _pixels_read(side: int) -> int:
    """Return the number of columns (or rows) of a face that ``side`` bilinear samples read."""
    position = ((np.arange(side) + 0.5) * FACE_PX / side - 0.5).clip(0, FACE_PX - 1)
    return len(np.union1d(np.floor(position), np.ceil(position)))
