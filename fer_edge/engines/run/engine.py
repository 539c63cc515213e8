"""Protocols of an engine and its device, and the engine file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from fer_edge.cuda.device import Device
from fer_edge.errors import BackendError, EngineError


@dataclass(frozen=True)
class EngineFile:
    """An engine file.

    Attributes
    ----------
    path : Path
        The file.
    sha256 : str or None
        Hash of the content that was checked; ``None`` skips the comparison, for a trusted file.
    """

    path: Path
    sha256: str | None = None

    def read(self) -> bytes:
        """Return the content, after comparing its hash.

        Raises
        ------
        BackendError
            If the file cannot be read.
        EngineError
            If the file was changed after it was checked.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise BackendError(
                f"{self.path} cannot be read ({error.strerror}). Fix: check that the file exists and is readable"
            ) from error
        if self.sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise EngineError(
                f"{self.path} was changed after it was checked, expected sha256 {self.sha256[:12]}…, found {found[:12]}…. "
                "Fix: find the process that writes to that folder, and open the model again"
            )
        return content


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an engine.

    Attributes
    ----------
    name : str
        Name in the ONNX file.
    dtype : numpy.dtype
        Element type on the device.
    row_shape : tuple of int
        Shape without the batch axis.
    """

    name: str
    dtype: np.dtype
    row_shape: tuple[int, ...]

    @cached_property
    def row_bytes(self) -> int:
        """Size of one sample in bytes."""
        return math.prod(self.row_shape) * self.dtype.itemsize


class Context(Protocol):
    """Execution context for one batch size and fixed addresses."""

    def enqueue(self, stream: int) -> None:
        """Enqueue one run of the network on a stream."""

    def close(self) -> None:
        """Free the context."""


class Engine(Protocol):
    """A network on a device, with one input and a dynamic batch within bounds."""

    input: TensorInfo
    outputs: tuple[TensorInfo, ...]
    min_batch: int
    max_batch: int
    #: Scratch memory of a context. Contexts that never run concurrently may share it.
    scratch_bytes: int

    def create_context(self, batch: int, addresses: Mapping[str, int], scratch: int) -> Context:
        """Return a context for ``batch`` samples; ``addresses`` holds those of the input and the outputs by name."""

    def close(self) -> None:
        """Free the engine, whose contexts must all be closed."""


class EngineDevice(Device, Protocol):
    """A GPU that loads engines."""

    def load_engine(self, file: EngineFile) -> Engine:
        """Load an engine."""
