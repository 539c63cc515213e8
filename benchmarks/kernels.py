"""Memory traffic and arithmetic of the CUDA kernels, lower bounds of their time on a Jetson, and times on a GPU.

    python benchmarks/kernels.py [--batch 1 4 16] [--json FILE]

Without a GPU: bytes and multiply-adds are counted while the kernels run on the CPU (kernel_work.py). From
them follows a roofline estimate, which is not measured: the larger of operations by the tensor peak and bytes by
the memory bandwidth. It ignores launches, latency and idle multiprocessors, so small work takes longer.
Multiplications off the tensor cores count like those on them: a few in a hundred of self-attention's; in
crop_resize_normalize all, and too few to matter beside its bytes. Integer arithmetic on pixels does not count.

Two times are given: with perfect caches ("each byte once"), and without caches ("as counted"). Unfused, self-attention also writes its N × N scores and reads them again, twice.

With a GPU, compiled kernels and PyTorch for CUDA, they are timed too, see kernels_on_gpu.py.

`visual_attention_pool` is not fused. Sun et al. pool [128, 63] features by a 1×1 convolution to 66, tanh, a 1×1
convolution to 1, tanh, a softmax over the 63 locations and a weighted sum: six kernels, four where the compiler
puts each tanh into the convolution before it. The last table derives the largest possible saving of one kernel: 33 KB of
FP16 traffic per face (50 KB of six), which fits any L2; without an L2 it would be 0.5 µs (0.7) of an Orin Nano,
beside 96 µs that the network's convolutions and pools need at least. And 3 launches of 19, which the runner
replays as one CUDA graph. That is not worth a second plugin, which would also keep both convolutions from INT8:
the pool is left to the compiler.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kernel_work import (
    ATTENTION_SHAPES,
    BOARDS,
    CROP_SHAPES,
    HALF,
    MAX_FACES,
    Emulation,
    Work,
    count_attention,
    count_crops,
)
from rich.console import Console

from fer_edge._utils.files import write_json
from fer_edge.commands.base import make_table
from fer_edge.cuda.kernels import availability
from fer_edge.system.provenance import measurement_record

LABEL = "roofline estimate, not measured"


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
    # The hidden layer and its scores are written and read; the sum reads the map and the features.
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
    """Return the table of counts, and of the estimates per board."""
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
    """Return the table of the traffic that a fused pool would save."""
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
    if min(args.batch) < 1 or max(args.batch) > MAX_FACES:
        parser.error(f"--batch must be from 1 to {MAX_FACES}. Fix: give batch sizes in that range.")
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

        measured = kernels_on_gpu.measure(works)
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
