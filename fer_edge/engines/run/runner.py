"""Runs an engine: one thread owns the device, two batches are under way, nothing is allocated per batch."""

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
    """An engine that is ready to run. Any number of threads may call it; their batches are run in turn.

    Parameters
    ----------
    open_device : callable
        Opens the device; called by the thread that will own it.
    engine : Path
        The engine file.
    options : RunnerOptions, optional
        Defaults suit most engines.
    sha256 : str, optional
        Of the engine, such as :attr:`fer_edge.engines.cache.store.CachedEngine.sha256`: another content is refused.

    Raises
    ------
    FerEdgeError
        If the device, the engine or a graph cannot be made ready. Everything is freed.

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
        """Whether it takes batches."""
        return self._thread.state

    @property
    def input_stream(self) -> int:
        """Handle of the stream that fills the input; for :func:`fer_edge.cuda.arrays.describe`."""
        return self._thread.pipeline.streams.copy_in

    def run(self, batch: Any, out: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run a batch of any size and return its outputs by name.

        Parameters
        ----------
        batch : array
            ``[B, …]``, B ≥ 1, as :attr:`input` says: NumPy, or an array on the device with
            ``__cuda_array_interface__`` or DLPack, which is not copied to the host. NumPy float32 is rounded
            for an engine that takes float16.
        out : mapping, optional
            Output name → array ``[B, …]`` to write to, NumPy or on the device; outputs that are not named are
            not returned. Without it, every output is a new NumPy array.

        Raises
        ------
        BackendError
            If the arrays do not fit, the device fails, the batch hangs, or a value is not finite and
            ``check_finite`` is set. After a failure of the device the runner is ``FAILED``.
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
                f"expected a batch as NumPy array or array on the device, found {type(batch).__name__}"
            )
        if not fits or source.shape[1:] != self.input.row_shape or not source.shape or source.shape[0] < 1:
            raise BackendError(
                f"expected a {self.input.dtype} batch {_words(self.input)}, found {source.dtype} {source.shape}"
            )
        return self._run(source, source.shape[0], out)

    def run_written(
        self, rows: int, write: BatchWriter, out: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Like :meth:`run`, for a batch of ``rows`` samples that ``write`` makes on the device, part by part.

        ``write`` is called by the thread that owns the device, must only enqueue, and what it reads must live
        until this returns. A :class:`UsageError` that it raises ends this call; any other error is one of
        the device.
        """
        if rows < 1:
            raise BackendError(f"expected at least one sample, found {rows}")
        return self._run(write, rows, out)

    def copy_to_host(self, array: Any) -> np.ndarray:
        """Return an array that lies on the device as a new NumPy array.

        Raises
        ------
        BackendError
            If it is no array on a device, is empty or has negative strides, or the device fails.
        """
        found = describe("array", array, self.input_stream, contiguous=False)
        if 0 in found.shape or min(found.strides or (0,)) < 0:
            raise BackendError(
                f"expected an array of one or more elements without negative strides, "
                f"found {found.shape} with strides {found.strides}: copy it on the device first"
            )
        request = Download(found)
        self._thread.run(request)
        return request.result

    def latency(self) -> dict[str, LatencySummary]:
        """Return n, p50, p90 and p99 of copy_in, compute and copy_out over the last parts, by the device's clock."""
        pipeline = self._thread.pipeline
        kept = pipeline.timings_ms[: min(pipeline.parts, HISTORY)].copy()
        return {stage: summarise(kept[:, i]) for i, stage in enumerate(STAGES)}

    def close(self) -> None:
        """Finish what was asked for, then free everything; further calls of :meth:`run` raise."""
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
            warnings.warn(f"{self!r} was not closed: use it in a with block", ResourceWarning, stacklevel=2)

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
                f"{name}: expected a NumPy array or an array on the device to write to, found {type(array).__name__}"
            )
        if target.shape != (rows, *output.row_shape) or target.dtype != output.dtype:
            raise BackendError(
                f"{name}: expected {output.dtype} {(rows, *output.row_shape)} to write to, found {target.dtype} {target.shape}"
            )
        if read_only:
            raise BackendError(f"{name}: is read-only, and would be written")
        return target


def _words(tensor: TensorInfo) -> str:
    return f"[B ≥ 1, {', '.join(map(str, tensor.row_shape))}]"
