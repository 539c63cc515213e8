"""Options, state and report of an engine runner."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum

from fer_edge._utils.checks import require_flag, require_number, require_whole
from fer_edge.engines.build.options import MAX_BATCH
from fer_edge.errors import UsageError, lookup

#: Default batch sizes, restricted to the profile of the engine.
DEFAULT_BUCKETS = (1, 2, 4, 8, 16)
#: ``required``: a failed graph capture is an error; ``preferred``: run without graphs and state that in the report.
CUDA_GRAPHS = ("required", "preferred", "off")
_MIN_WATCHDOG_S = 1e-3


class RunnerState(str, Enum):
    """State of a runner; only ``READY`` accepts batches."""

    READY = "ready"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True)
class RunnerOptions:
    """Options of a runner.

    Attributes
    ----------
    buckets : tuple of int or None
        Batch sizes, ascending; a batch is padded to the next size and split above the largest. ``None`` takes the
        :data:`DEFAULT_BUCKETS` that the engine supports, and its largest batch.
    cuda_graphs : {"required", "preferred", "off"}
        Use of one CUDA graph per bucket, see :data:`CUDA_GRAPHS`.
    check_finite : bool
        Raise if an output is not finite.
    watchdog_s : float
        Time limit of a batch, after which the GPU counts as hung.
    """

    buckets: tuple[int, ...] | None = None
    cuda_graphs: str = "required"
    check_finite: bool = False
    watchdog_s: float = 10.0

    def __post_init__(self) -> None:
        lookup(dict.fromkeys(CUDA_GRAPHS), self.cuda_graphs, "choice of cuda_graphs")
        if self.buckets is not None:
            if not isinstance(self.buckets, tuple) or not self.buckets:
                raise UsageError(
                    f"buckets must be a tuple of batch sizes, found {self.buckets!r:.60}. Fix: give such as (1, 8)"
                )
            for size in self.buckets:
                require_whole("a size of buckets", size, 1, MAX_BATCH)
            if list(self.buckets) != sorted(set(self.buckets)):
                raise UsageError(
                    f"buckets must be batch sizes in ascending order, found {self.buckets}. Fix: sort them, each once"
                )
        require_flag("check_finite", self.check_finite)
        require_number("watchdog_s", self.watchdog_s, _MIN_WATCHDOG_S, threading.TIMEOUT_MAX)


@dataclass(frozen=True)
class RunnerReport:
    """Report of a runner after warm-up.

    Attributes
    ----------
    buckets : tuple of int
        Batch sizes of the runner.
    graphs : bool
        Whether CUDA graphs are used.
    no_graphs_because : str
        Reason why not; empty if they are used.
    device_bytes, pinned_bytes : int
        Memory allocated on the device, without the weights of the engine, and on the host.
    """

    buckets: tuple[int, ...]
    graphs: bool
    no_graphs_because: str
    device_bytes: int
    pinned_bytes: int
