"""Runner of an engine: one thread owns the device, two batches overlap, and no memory is allocated per batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fer_edge.cuda.arrays import describe, is_device_array
from fer_edge.engines.run.device_thread import DeviceThread
from fer_edge.engines.run.engine import EngineDevice, EngineFile, TensorInfo
from fer_edge.engines.run.options import RunnerOptions, RunnerState
from fer_edge.engines.run.pipeline import HISTORY
from fer_edge.engines.run.requests import Batch, Download
from fer_edge.engines.run.slot import STAGES, BatchWriter, Source, Target
from fer_edge.errors import BackendError, lookup
from fer_edge.results import LatencySummary, summarise


class EngineRunner:
    """A loaded engine. Thread-safe: batches of concurrent callers run one after the other.

    Parameters
    ----------
    open_device : callable
        Opens the device; called by the thread that owns it.
    engine : Path
        The engine file.
    options : RunnerOptions, optional
        Options of the runner.
    sha256 : str, optional
        Expected hash of the engine, such as :attr:`fer_edge.engines.cache.store.CachedEngine.sha256`.

    Raises
    ------
    FerEdgeError
        If the device cannot be opened, the engine cannot be loaded, or a graph cannot be captured. Everything is freed.

    Examples
    --------
    >>> with EngineRunner(TensorRtDevice, Path("model.engine")) as runner:      # doctest: +SKIP
    ...     logits = runner.run(batch)["logits"]
    """

    def __init__(
        self,
        open_device: Callable[[], EngineDevice],
        engine: Path,
        options: RunnerOptions | None = None,
        sha256: str | None = None,
    ) -> None:
        self._thread = DeviceThread(open_device, EngineFile(engine, sha256), options or RunnerOptions())
        self._thread.begin()
        pipeline = self._thread.pipeline
        self.input, self.outputs, self.report = (
            pipeline.engine.input,
            pipeline.engine.outputs,
            pipeline.report,
        )
        self._outputs_by_name = {output.name: output for output in self.outputs}

    @property
    def state(self) -> RunnerState:
        """State of the runner."""
        return self._thread.state

    @property
    def input_stream(self) -> int:
        """Handle of the stream that fills the input, for :func:`fer_edge.cuda.arrays.describe`."""
        return self._thread.pipeline.streams.copy_in

    def run(self, batch: Any, out: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run a batch of any size and return its outputs by name.

        Parameters
        ----------
        batch : array
            ``[B, …]``, B >= 1, with shape and dtype of :attr:`input`: NumPy, or a device array with
            ``__cuda_array_interface__`` or DLPack, which is not copied to the host. NumPy float32 is converted
            for a float16 input.
        out : mapping, optional
            Output name → array ``[B, …]`` to write to, NumPy or device array; other outputs are not returned. By
            default, every output is a new NumPy array.

        Raises
        ------
        BackendError
            If shape or dtype of the arrays differ, the device fails, the batch hangs, or ``check_finite`` is set and a
            value is not finite. After a failure of the device the runner is ``FAILED``.
        """
        source: Source
        if is_device_array(batch):
            source = describe("batch", batch, self.input_stream)
            fits = source.dtype == self.input.dtype
        elif isinstance(batch, np.ndarray):
            source = batch
            fits = batch.dtype in (self.input.dtype, np.float32) and np.can_cast(
                batch.dtype, self.input.dtype, "same_kind"
            )
        else:
            raise BackendError(
                f"expected a batch as NumPy array or device array, found {type(batch).__name__}. Fix: convert it with numpy.asarray"
            )
        if not fits or source.shape[1:] != self.input.row_shape or not source.shape or source.shape[0] < 1:
            raise BackendError(
                f"expected a {self.input.dtype} batch {_describe(self.input)}, found {source.dtype} {source.shape}. Fix: convert the batch"
            )
        return self._run(source, source.shape[0], out)

    def run_written(
        self, rows: int, write: BatchWriter, out: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run a batch of ``rows`` samples that ``write`` writes on the device, part by part; otherwise as :meth:`run`.

        ``write`` is called by the thread that owns the device and must only enqueue work; its inputs must live until
        this call returns. A :class:`UsageError` of ``write`` ends this call; any other error fails the runner.
        """
        if rows < 1:
            raise BackendError(f"expected at least one sample, found {rows}. Fix: skip empty batches")
        return self._run(write, rows, out)

    def copy_to_host(self, array: Any) -> np.ndarray:
        """Return a device array as a new NumPy array.

        Raises
        ------
        BackendError
            If it is not a device array, is empty or has negative strides, or the device fails.
        """
        found = describe("array", array, self.input_stream, contiguous=False)
        if 0 in found.shape or min(found.strides or (0,)) < 0:
            raise BackendError(
                f"expected an array of one or more elements without negative strides, "
                f"found {found.shape} with strides {found.strides}. Fix: make a contiguous copy on the device first"
            )
        request = Download(found)
        self._thread.run(request)
        return request.result

    def latency(self) -> dict[str, LatencySummary]:
        """Return n, p50, p90 and p99 of copy_in, compute and copy_out over the last parts, by the device clock."""
        pipeline = self._thread.pipeline
        kept = pipeline.timings_ms[: min(pipeline.parts, HISTORY)].copy()
        return {stage: summarise(kept[:, i]) for i, stage in enumerate(STAGES)}

    def close(self) -> None:
        """Finish pending requests, then free everything; later calls of :meth:`run` raise."""
        self._thread.stop()

    def __enter__(self) -> EngineRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        thread = getattr(self, "_thread", None)
        if thread is not None and thread.state is RunnerState.READY and not thread.is_inherited:
            warnings.warn(
                f"{self!r} was not closed. Fix: use it in a with block", ResourceWarning, stacklevel=2
            )

    def _run(self, source: Source, rows: int, out: Mapping[str, Any] | None) -> dict[str, Any]:
        results: dict[str, Any]
        targets: dict[str, Target]
        if out is None:
            results = {o.name: np.empty((rows, *o.row_shape), o.dtype) for o in self.outputs}
            targets = results
        else:
            results = dict(out)
            targets = {name: self._target(name, array, rows) for name, array in out.items()}
        self._thread.run(Batch(source, rows, targets))
        return results

    def _target(self, name: str, array: Any, rows: int) -> Target:
        output = lookup(self._outputs_by_name, name, "output")
        target: Target
        if is_device_array(array):
            target = describe(name, array, self._thread.pipeline.streams.copy_out)
            read_only = target.read_only
        elif isinstance(array, np.ndarray):
            target, read_only = array, not array.flags.writeable
        else:
            raise BackendError(
                f"out[{name!r}] must be a NumPy array or a device array, found {type(array).__name__}. Fix: allocate it with numpy.empty"
            )
        if target.shape != (rows, *output.row_shape) or target.dtype != output.dtype:
            raise BackendError(
                f"out[{name!r}] must be {output.dtype} {(rows, *output.row_shape)}, found {target.dtype} {target.shape}. Fix: allocate it so"
            )
        if read_only:
            raise BackendError(f"out[{name!r}] must be writable, found a read-only array. Fix: give a copy")
        return target


def _describe(tensor: TensorInfo) -> str:
    return f"[B >= 1, {', '.join(map(str, tensor.row_shape))}]"
