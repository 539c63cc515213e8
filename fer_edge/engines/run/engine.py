"""The protocol of an engine on a device, and the file that it is read from."""

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
    """Where an engine lies, and its content.

    Attributes
    ----------
    path : Path
        The file.
    sha256 : str or None
        Of the content that was checked; ``None`` takes the file as it is, for a caller who vouches for it.
    """

    path: Path
    sha256: str | None = None

    def read(self) -> bytes:
        """Return the content.

        Raises
        ------
        BackendError
            If the file cannot be read.
        EngineError
            If it was changed after it was checked.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise BackendError(f"{self.path} cannot be read: {error.strerror}") from error
        if self.sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise EngineError(
                f"{self.path} was changed after it was checked: expected sha256 {self.sha256[:12]}…, found {found[:12]}…; "
                "see who writes to that folder, and open the model again"
            )
        return content


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an engine.

    Attributes
    ----------
    name : str
        As in the ONNX file.
    dtype : numpy.dtype
        Of its elements on the device.
    row_shape : tuple of int
        Its shape without the first axis, which is the batch.
    """

    name: str
    dtype: np.dtype
    row_shape: tuple[int, ...]

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.row_shape) * self.dtype.itemsize


class Context(Protocol):
    """An engine made ready for one batch size and one set of addresses, which never change."""

    def enqueue(self, stream: int) -> None:
        """Give one run of the network to a stream."""

    def close(self) -> None:
        """Free it."""


class Engine(Protocol):
    """A network that was loaded onto a device: one input, a batch that is free within bounds."""

    input: TensorInfo
    outputs: tuple[TensorInfo, ...]
    min_batch: int
    max_batch: int
    #: Working memory of a context. Contexts that never run at the same time may share it.
    scratch_bytes: int

    def create_context(self, batch: int, addresses: Mapping[str, int], scratch: int) -> Context:
        """Return a context for ``batch`` samples, with the address of every input and output by name."""

    def close(self) -> None:
        """Free it; all its contexts must be closed."""


class EngineDevice(Device, Protocol):
    """A GPU that loads engines."""

    def load_engine(self, file: EngineFile) -> Engine:
        """Load an engine."""
