"""The CUDA kernels: what they move and compute, how long a Jetson needs at least, and on a GPU how long they take.

    python benchmarks/kernels.py [--batch 1 4 16] [--json FILE]

Without a GPU: bytes and multiply-adds are counted while the kernels run on the CPU (kernels/emulation). From
them follows a roofline estimate, which is not measured: the larger of operations by the tensor peak and bytes by
the memory bandwidth. It knows no launch, no latency and no idle multiprocessor, so small work takes longer.
Multiplications off the tensor cores count like those on them: a few in a hundred of self-attention's; in
crop_resize_normalize all, and too few to matter beside its bytes. Integer arithmetic on pixels does not count.

Two times are given: where caches serve all that is read again ("each byte once"), and where nothing is kept
("as counted"). Unfused, self-attention also writes its N × N scores and reads them again, twice.

With a GPU, compiled kernels and PyTorch for CUDA, they are timed too, see kernels_on_gpu.py.

`visual_attention_pool` is not fused. Sun et al. pool [128, 63] features by a 1×1 convolution to 66, tanh, a 1×1
convolution to 1, tanh, a softmax over the 63 locations and a weighted sum: six kernels, four where the compiler
puts each tanh into the convolution before it. The last table derives what one kernel could save at best: 33 KB of
FP16 traffic per face (50 KB of six), which fits any L2; without an L2 it would be 0.5 µs (0.7) of an Orin Nano,
beside 96 µs that the network's convolutions and pools need at least. And 3 launches of 19, which the runner
replays as one CUDA graph. That is not worth a second plugin, which would also keep both convolutions from INT8:
the pool is left to the compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from fer_edge._files import write_json
from fer_edge.commands.base import make_table
from fer_edge.errors import UsageError
from fer_edge.kernels import availability
from fer_edge.statistics import measurement_record

ROOT = Path(__file__).resolve().parent.parent
LABEL = "roofline estimate, not measured"
HALF = 2  # bytes


@dataclass(frozen=True)
class Board:
    """Peaks of a module, from its data sheets: dense FP16 is half of dense INT8."""

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
#: Side and channels of the input: the shipped network's, and that of networks with three colours.
CROP_SHAPES = {"gray 48×48": (48, 1), "RGB 224×224": (224, 3)}
FRAME_HEIGHT, FRAME_WIDTH, FACE_PX = 720, 1280, 160


@dataclass(frozen=True)
class Work:
    """What one call does.

    Attributes
    ----------
    kernel, shape : str
        What, and for which network.
    batch : int
        Faces.
    counted_bytes : int
        Loads and stores of global memory by all threads, as counted in emulation.
    once_bytes : int
        Every input and output once: what memory must give where caches serve the rest.
    operations : int
        Two per multiply-add counted, padding included.
    unfused_bytes : int or None
        What separate kernels move, each tensor once per kernel that reads or writes it.
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
        """Operations per byte that memory must give."""
        return self.operations / self.once_bytes

    def times_us(self, board: Board) -> tuple[float, float]:
        """Return the estimates for each byte once, and as counted."""
        return board.time_us(self.operations, self.once_bytes), board.time_us(
            self.operations, self.counted_bytes
        )


class Emulation:
    """The kernels compiled for the CPU; every call returns what was counted."""

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
            raise UsageError("counting needs a compiler of version 12 or newer: run apt install g++")
        command = [compiler, "-std=c++20", "-O2", "-march=native", "-fno-strict-aliasing", "-pthread"]
        command += ["-DFER_EDGE_EMULATION", "-I", str(ROOT / "kernels"), "-o", str(program)]
        subprocess.run([*command, str(ROOT / "tests" / "kernels" / f"{driver}.cpp")], check=True)


def count_attention(emulation: Emulation, shape: str, batch: int) -> Work:
    """Return what ``self_attention`` does in FP16."""
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
    """Return what ``crop_resize_normalize`` does for ``faces`` of 160 pixels in a BGR frame of 1280 × 720."""
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
    """How many columns (or rows) of a face the bilinear samples of ``side`` output pixels touch."""
    position = ((np.arange(side) + 0.5) * FACE_PX / side - 0.5).clip(0, FACE_PX - 1)
    return len(np.union1d(np.floor(position), np.ceil(position)))


@dataclass(frozen=True)
class Pool:
    """Visual attention over one face in FP16, by separate kernels and by one, and the network before it.

    Attributes
    ----------
    bytes_by_launches : Mapping of int to int
        Bytes of memory, weights included: by six kernels, by four with each tanh in the convolution before it, by one.
    operations : int
        Two per multiply-add.
    network_bytes, network_operations, network_launches : int
        Of the convolutions (ReLU included), the max-pools and the last layer, whose bytes and operations are left out.
    """

    bytes_by_launches: Mapping[int, int]
    operations: int
    network_bytes: int
    network_operations: int
    network_launches: int


def derive_pool(height: int = 144, width: int = 112, hidden: int = 66) -> Pool:
    """Derive the bytes and launches of Sun et al.'s network, each tensor once per kernel that touches it."""
    network_bytes = network_operations = launches = 0
    channels = 1
    for outputs, convolutions in ((16, 3), (32, 3), (64, 2), (128, 2)):
        for _ in range(convolutions):
            weights = 9 * channels * outputs
            network_bytes += HALF * (height * width * (channels + outputs) + weights)
            network_operations += 2 * height * width * weights
            channels = outputs
        network_bytes += HALF * channels * height * width * 5 // 4  # the max-pool
        height, width, launches = height // 2, width // 2, launches + convolutions + 1
    locations = height * width
    weights = hidden * (channels + 1) + hidden + 1
    features, between, scores = channels * locations, hidden * locations, locations
    one = features + weights + scores + channels  # the map and the embedding are outputs
    # Besides: the hidden layer is written and read, as are its scores; the map and the features are read by the sum.
    four = one + 2 * between + 3 * scores + features
    six = four + 2 * between + 2 * scores
    return Pool(
        bytes_by_launches={6: HALF * six, 4: HALF * four, 1: HALF * one},
        operations=2 * locations * (hidden * channels + hidden + channels),
        network_bytes=network_bytes,
        network_operations=network_operations,
        network_launches=launches + 1,
    )


def work_table(works: Sequence[Work]) -> object:
    """Return the table of what was counted, and the estimates per board."""
    heads = ("kernel", "for", "batch", "KB counted", "KB each once", "KB unfused", "MFLOP", "FLOP/byte")
    return make_table(
        f"Times: {LABEL}, µs, each byte once – as counted",
        (*heads, *BOARDS),
        [
            (
                w.kernel,
                w.shape,
                w.batch,
                f"{w.counted_bytes / 1e3:,.1f}",
                f"{w.once_bytes / 1e3:,.1f}",
                "" if w.unfused_bytes is None else f"{w.unfused_bytes / 1e3:,.1f}",
                f"{w.operations / 1e6:,.2f}",
                f"{w.intensity:.1f}",
                *("{:.2f} – {:.2f}".format(*w.times_us(board)) for board in BOARDS.values()),
            )
            for w in works
        ],
    )


def pool_table(pool: Pool) -> object:
    """Return the table that says why the pool is not fused."""
    rows = [
        ("the pool", launches, moved, pool.operations) for launches, moved in pool.bytes_by_launches.items()
    ]
    rows.append(("the network before it", pool.network_launches, pool.network_bytes, pool.network_operations))
    return make_table(
        f"visual_attention_pool, one face. Times: {LABEL}, µs",
        ("", "launches", "KB", "MFLOP", *BOARDS),
        [
            (
                name,
                launches,
                f"{moved / 1e3:,.1f}",
                f"{operations / 1e6:,.2f}",
                *(f"{board.time_us(operations, moved):.2f}" for board in BOARDS.values()),
            )
            for name, launches, moved, operations in rows
        ],
    )


def main() -> None:
    """Count and print; on a GPU, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if min(args.batch) < 1 or max(args.batch) > FRAME_WIDTH * FRAME_HEIGHT // FACE_PX**2:
        parser.error(f"--batch must be from 1 to {FRAME_WIDTH * FRAME_HEIGHT // FACE_PX**2}")
    with tempfile.TemporaryDirectory() as folder:
        emulation = Emulation(Path(folder))
        works = [count_attention(emulation, shape, n) for shape in ATTENTION_SHAPES for n in args.batch]
        works += [count_crops(emulation, shape, n) for shape in CROP_SHAPES for n in args.batch]
    pool = derive_pool()
    console = Console(width=max(Console().width, 200))
    console.print(work_table(works), pool_table(pool))
    state = availability()
    measured = []
    if state.ok:
        import kernels_on_gpu

        measured = kernels_on_gpu.measure(works, ATTENTION_SHAPES)
        console.print(kernels_on_gpu.time_table(measured))
    else:
        console.print(f"Not measured: {state.reason} (run: {state.fix})")
    if args.json:
        estimates = [{**asdict(w), "times_us": {b: w.times_us(BOARDS[b]) for b in BOARDS}} for w in works]
        write_json(
            args.json,
            {
                "record": measurement_record(),
                "label": LABEL,
                "work": estimates,
                "visual_attention_pool": asdict(pool),
                "measured": [asdict(row) for row in measured],
            },
        )


if __name__ == "__main__":
    main()
