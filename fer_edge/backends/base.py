"""Protocols of backends and sessions, and their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from fer_edge._utils.checks import MAX_THREADS, require_choice, require_flag, require_whole
from fer_edge.bundle import ModelFile
from fer_edge.engines.build.options import MAX_BATCH, MAX_DLA_CORES
from fer_edge.errors import BackendError, UsageError
from fer_edge.manifest import PRECISIONS
from fer_edge.system.availability import Availability

if TYPE_CHECKING:
    from fer_edge.spec import ModelSpec

#: Reason of a GPU backend that is not available because no GPU can be used.
NO_GPU = "no NVIDIA GPU was found, or its driver is not installed"


@dataclass(frozen=True)
class Int8Config:
    """One INT8 configuration of a backend.

    Attributes
    ----------
    entries : mapping
        Entries of the session configuration of the backend; empty for its default.
    note : str
        Description of its cost; empty for the default.
    """

    entries: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


#: Configuration of a backend that has only one.
DEFAULT_INT8 = Int8Config()


@dataclass(frozen=True)
class SessionOptions:
    """Machine resources and compile options of a session.

    Attributes
    ----------
    threads : int or None
        CPU threads; ``None`` leaves the choice to the backend.
    precision : str or None
        Precision of the model, for backends that compile it; ``None`` reads it from the file.
    dla_core : int or None
        Index of the deep-learning accelerator of a Jetson that runs the network, with ``tensorrt``; ``None`` is the GPU.
    gpu_fallback : bool
        Run layers that the accelerator does not support on the GPU; otherwise they are an error.
    max_batch : int or None
        Largest batch size, for backends that compile and allocate for it; ``None`` is the default of the backend.
        Larger batches are split. OpenVINO compiles a static batch of 1 where it is 1; otherwise CPU backends run
        every batch whole.
    int8_config : Int8Config or None
        INT8 configuration, one of :attr:`Backend.int8_configs`; ``None`` takes the first that is exact on this
        processor.
    """

    threads: int | None = None
    precision: str | None = None
    dla_core: int | None = None
    gpu_fallback: bool = False
    max_batch: int | None = None
    int8_config: Int8Config | None = None

    def __post_init__(self) -> None:
        require_whole("threads", self.threads, 1, MAX_THREADS, optional=True)
        require_choice("precision", self.precision, PRECISIONS, optional=True)
        require_whole("dla_core", self.dla_core, 0, MAX_DLA_CORES - 1, optional=True)
        require_flag("gpu_fallback", self.gpu_fallback)
        require_whole("max_batch", self.max_batch, 1, MAX_BATCH, optional=True)
        if not (self.int8_config is None or isinstance(self.int8_config, Int8Config)):
            raise UsageError(
                f"int8_config must be None or Int8Config, found {self.int8_config!r:.60}. "
                "Fix: give one of the backend's int8_configs."
            )


class Session(Protocol):
    """A loaded network.

    Thread-safe: the backend runs concurrent calls in parallel or one after the other, and each caller gets the outputs
    of its own batch. Not fork-safe: CUDA and the threads of a backend do not survive a fork, so :meth:`run` raises
    :class:`BackendError` in a forked process. New sessions can be opened there, except on a GPU that the parent has
    used, and in OpenVINO if another thread of the parent was using it at the moment of the fork; both are errors.

    Attributes
    ----------
    largest_batch : int or None
        Largest batch size that runs at once; ``None`` if there is no limit.
    """

    largest_batch: int | None

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        """Run ``[B, C, H, W]`` float32, B >= 1, and return every output by name."""

    def close(self) -> None:
        """Wait for running calls, then free the memory of the session; later calls raise :class:`BackendError`.

        Does nothing when called again or in a forked process.
        """


@runtime_checkable
class CropSession(Session, Protocol):
    """A session that also takes frames in the memory of its device and crops them there.

    A frame is ``[H, W, 3]`` uint8 BGR with ``__cuda_array_interface__`` or DLPack; its rows may be padded.
    """

    def copy_to_host(self, frame: Any) -> np.ndarray:
        """Return a copy of a frame in host memory.

        Raises
        ------
        DataError
            If the frame has another shape or dtype.
        BackendError
            If it is not a device array, or :meth:`run_crops` is not available: this is reported with the first
            frame, not with the first face.
        """

    def run_crops(
        self, frame: Any, rectangles: Sequence[tuple[int, int, int, int]], spec: ModelSpec
    ) -> Mapping[str, np.ndarray]:
        """Run the network on one or more crops (left, top, right, bottom) of a frame, as :meth:`Session.run`.

        Raises
        ------
        UsageError
            If the device cannot crop this frame, these rectangles or for this spec.
        BackendError
            If the device cannot crop, or fails.
        """


class Backend(Protocol):
    """Factory of :class:`Session` objects for ONNX files. A derived class overrides the defaults that do not hold for it.

    Attributes
    ----------
    name : str
        Key in :data:`fer_edge.backends.BACKENDS`.
    dialect : {"cpu", "tensorrt"}
        Q/DQ dialect that it compiles to integer kernels.
    fixed_shapes : bool
        Whether all input dimensions except the batch must be static.
    on_gpu : bool
        Whether it runs on a GPU.
    supports_dla : bool
        Whether it supports the deep-learning accelerators of a Jetson.
    takes_device_frames : bool
        Whether its sessions are :class:`CropSession`.
    compiles_for_batch : bool
        Whether it compiles for :attr:`SessionOptions.max_batch`.
    int8_configs : sequence of Int8Config
        INT8 configurations, fastest first: the arithmetic probe takes the first exact one
        (:mod:`fer_edge.backends.int8_probe`).
    int8_dialects : sequence of str
        Dialects in which the probe runs. Empty if the hardware accumulates in 32 bits, as GPUs do: then only the
        self-test checks the arithmetic.
    """

    name: str
    dialect: str
    fixed_shapes: bool = False
    on_gpu: bool = False
    supports_dla: bool = False
    takes_device_frames: bool = False
    compiles_for_batch: bool = False
    int8_configs: Sequence[Int8Config] = (DEFAULT_INT8,)
    int8_dialects: Sequence[str] = ()

    @property
    def computes_tf32(self) -> bool:
        """True if FP32 is computed in TF32 (10-bit mantissa)."""
        return False

    def available(self) -> Availability:
        """Return whether this machine can run the backend."""

    def is_ready(self, model: Path | ModelFile, options: SessionOptions) -> bool:
        """Return whether :meth:`open` needs no compilation that takes minutes."""

    def open(self, model: Path | ModelFile, options: SessionOptions) -> Session:
        """Load an ONNX file or its bytes.

        Raises
        ------
        BackendError
            If the backend is not installed, rejects the file, or does not compute INT8 exactly on this processor.
        """


def check_batch(batch: np.ndarray, rank: int = 4) -> np.ndarray:
    """Return ``batch`` as a contiguous array; raise :class:`BackendError` for another shape or dtype."""
    if batch.dtype != np.float32 or batch.ndim != rank or batch.shape[0] < 1:
        raise BackendError(
            f"expected a float32 batch [B >= 1, C, H, W], found {batch.dtype} {batch.shape}. "
            "Fix: make the batch with fer_edge.preprocess.prepare_batch"
        )
    return np.ascontiguousarray(batch)


def run_in_parts(
    run: Callable[[np.ndarray], Mapping[str, np.ndarray]], rows: np.ndarray, size: int | None
) -> Mapping[str, np.ndarray]:
    """Call ``run`` with at most ``size`` rows at a time and concatenate the outputs."""
    if size is None or len(rows) <= size:
        return run(rows)
    parts = [run(rows[first : first + size]) for first in range(0, len(rows), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
