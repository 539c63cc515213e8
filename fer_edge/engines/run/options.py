"""How a runner works, and what it says of itself."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum

from fer_edge._utils.checks import require_flag, require_number, require_whole
from fer_edge.engines.build.options import MAX_BATCH
from fer_edge.errors import UsageError, lookup

#: Batch sizes that an engine is run at, as far as its profile goes.
DEFAULT_BUCKETS = (1, 2, 4, 8, 16)
#: ``required``: an error where a graph cannot be captured; ``preferred``: run without, and say so in the report.
CUDA_GRAPHS = ("required", "preferred", "off")
_MIN_WATCHDOG_S = 1e-3


class RunnerState(str, Enum):
    """Whether a runner takes batches."""

    READY = "ready"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True)
class RunnerOptions:
    """How a runner works.

    Attributes
    ----------
    buckets : tuple of int or None
        Batch sizes to run at, ascending; a batch is padded to the next and split beyond the largest. ``None``
        takes :data:`DEFAULT_BUCKETS` as far as the engine goes, and its largest batch.
    cuda_graphs : {"required", "preferred", "off"}
        Whether each bucket is replayed as one CUDA graph.
    check_finite : bool
        Raise where an output is not finite.
    watchdog_s : float
        A batch that takes longer has hung.
    """

    buckets: tuple[int, ...] | None = None
    cuda_graphs: str = "required"
    check_finite: bool = False
    watchdog_s: float = 10.0

    def __post_init__(self) -> None:
        lookup(dict.fromkeys(CUDA_GRAPHS), self.cuda_graphs, "choice of cuda_graphs")
        if self.buckets is not None:
            if not isinstance(self.buckets, tuple) or not self.buckets:
                raise UsageError(f"buckets must be a tuple of batch sizes, found {self.buckets!r:.60}")
            for size in self.buckets:
                require_whole("a size of buckets", size, 1, MAX_BATCH)
            if list(self.buckets) != sorted(set(self.buckets)):
                raise UsageError(f"buckets must be batch sizes from 1 on, ascending, found {self.buckets}")
        require_flag("check_finite", self.check_finite)
        require_number("watchdog_s", self.watchdog_s, _MIN_WATCHDOG_S, threading.TIMEOUT_MAX)


@dataclass(frozen=True)
class RunnerReport:
    """What a runner made ready.

    Attributes
    ----------
    buckets : tuple of int
        Batch sizes that it runs at.
    graphs : bool
        Whether they are CUDA graphs.
    no_graphs_because : str
        Why not; empty where they are.
    device_bytes, pinned_bytes : int
        What it allocated on the device, without the engine's weights, and on the host.
    """

    buckets: tuple[int, ...]
    graphs: bool
    no_graphs_because: str
    device_bytes: int
    pinned_bytes: int
