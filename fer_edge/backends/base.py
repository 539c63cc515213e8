"""The seam between the product and whatever runs a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from fer_edge._utils.checks import MAX_THREADS, require_choice, require_flag, require_whole
from fer_edge.bundle import ModelFile
from fer_edge.engines.build.options import MAX_BATCH, MAX_DLA_CORES
from fer_edge.errors import BackendError
from fer_edge.manifest import PRECISIONS
from fer_edge.system.availability import Availability

if TYPE_CHECKING:
    from fer_edge.spec import ModelSpec

#: Why a backend of a GPU is not available where none can be used.
NO_GPU = "there is no NVIDIA GPU here, or its driver is not installed"


@dataclass(frozen=True)
class Int8Config:
    """One way in which a backend can compute INT8.

    Attributes
    ----------
    entries : mapping
        Entries of the backend's own session configuration; empty for its default.
    note : str
        Its cost, in words; empty for the default.
    """

    entries: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


#: Of a backend that has one way.
DEFAULT_INT8 = Int8Config()


@dataclass(frozen=True)
class SessionOptions:
    """How a session may use the machine.

    Attributes
    ----------
    threads : int or None
        CPU threads; ``None`` leaves the choice to the backend.
    precision : str or None
        What the file is, for backends that compile it; ``None`` has them look.
    dla_core : int or None
        Which deep-learning accelerator of a Jetson computes, with ``tensorrt``; ``None`` is the GPU.
    gpu_fallback : bool
        Let the GPU compute the layers that the accelerator cannot; else they are an error.
    max_batch : int or None
        Largest batch that will be run, for backends that compile for one and hold memory for it; ``None`` is their
        own choice. Larger ones run too, in parts. OpenVINO compiles for single faces where it is 1; else
        backends on a CPU take every batch as it comes.
    int8_config : Int8Config or None
        How the backend computes INT8, one of :attr:`Backend.int8_configs`; ``None`` takes the first that is exact on
        this processor.
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


class Session(Protocol):
    """A network that is ready to run.

    Any thread may call, several at the same time: the backend runs calls one by one or together, and each gets
    the outputs of its own batch. After a fork of the process only its parent may: CUDA, and the threads behind a
    network, do not live on in a forked process, where :meth:`run` raises :class:`BackendError`. New sessions can be
    opened there, except on a GPU that the parent has used, and in OpenVINO where another thread of the parent used it
    in that moment, which is an error too.

    Attributes
    ----------
    largest_batch : int or None
        The largest that it runs at once; ``None`` where every batch runs as it comes.
    """

    largest_batch: int | None

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        """Run ``[B, C, H, W]`` float32, B ≥ 1, and return every output by name."""

    def close(self) -> None:
        """Wait for the calls that run, then free the session's memory; further ones raise :class:`BackendError`.

        A second call, and one in a forked process, does nothing.
        """


@runtime_checkable
class CropSession(Session, Protocol):
    """A session that also takes frames which lie on its device, and makes the crops there.

    A frame is ``[H, W, 3]`` uint8 BGR with ``__cuda_array_interface__`` or DLPack; its rows may lie apart.
    """

    def copy_to_host(self, frame: Any) -> np.ndarray:
        """Return a copy of a frame, for what works on the host.

        Raises
        ------
        DataError
            If the frame is anything else.
        BackendError
            If it is no array on the device, or :meth:`run_crops` cannot be used: that it cannot shows with the
            first frame, and not with the first face.
        """

    def run_crops(
        self, frame: Any, rectangles: Sequence[tuple[int, int, int, int]], spec: ModelSpec
    ) -> Mapping[str, np.ndarray]:
        """Like :meth:`Session.run`, on the crops (left, top, right, bottom) of a frame, one or more.

        Raises
        ------
        UsageError
            If the frame, the rectangles or the spec are not what the device can crop.
        BackendError
            If the device cannot make crops, or fails.
        """


class Backend(Protocol):
    """What turns an ONNX file into a :class:`Session`. A class that derives from it states what differs.

    Attributes
    ----------
    name : str
        Its key in :data:`fer_edge.backends.BACKENDS`.
    dialect : {"cpu", "tensorrt"}
        The Q/DQ form that it turns into integer kernels.
    fixed_shapes : bool
        Whether all sizes of a model's input but the batch must be fixed.
    on_gpu : bool
        Whether a GPU computes.
    supports_dla : bool
        Whether it can use the deep-learning accelerators of a Jetson.
    takes_device_frames : bool
        Whether its sessions are :class:`CropSession`.
    compiles_for_batch : bool
        Whether :attr:`SessionOptions.max_batch` changes what it compiles.
    int8_configs : sequence of Int8Config
        The fastest first: the arithmetic probe takes the first that is exact (:mod:`fer_edge.backends.int8_probe`).
    int8_dialects : sequence of str
        Dialects in which the probe is run. Empty where the hardware keeps all sums in 32 bits, as GPUs do: then only
        the self-test judges.
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
        """Whether FP32 is computed with ten bits of each factor."""
        return False

    def available(self) -> Availability:
        """Say whether this machine can run the backend."""

    def is_ready(self, model: Path | ModelFile, options: SessionOptions) -> bool:
        """Return whether :meth:`open` compiles nothing that takes minutes."""

    def open(self, model: Path | ModelFile, options: SessionOptions) -> Session:
        """Load an ONNX file, or the bytes of one.

        Raises
        ------
        BackendError
            If the backend is missing, refuses the file, or does not compute INT8 exactly on this processor.
        """


def check_batch(batch: np.ndarray, rank: int = 4) -> np.ndarray:
    """Return ``batch`` contiguous, or say what is wrong with it."""
    if batch.dtype != np.float32 or batch.ndim != rank or batch.shape[0] < 1:
        raise BackendError(f"expected a float32 batch [B ≥ 1, C, H, W], found {batch.dtype} {batch.shape}")
    return np.ascontiguousarray(batch)


def run_in_parts(
    run: Callable[[np.ndarray], Mapping[str, np.ndarray]], rows: np.ndarray, size: int | None
) -> Mapping[str, np.ndarray]:
    """Give ``rows`` to ``run``, at most ``size`` at a time, and put the outputs together."""
    if size is None or len(rows) <= size:
        return run(rows)
    parts = [run(rows[first : first + size]) for first in range(0, len(rows), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
