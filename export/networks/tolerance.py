"""How far a runtime's numbers may be from PyTorch's, and which inputs cannot be compared at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted difference of one output: ``absolute``, or ``relative`` to its scale if that is more.

    Float32 keeps 7 digits, and a deep network loses one to two of them by the order of its sums: logits of
    scale 100 differ by some 5e-4 between kernels that are both right.
    """

    absolute: float = 1e-4
    relative: float = 1e-5

    def at(self, scale: float) -> float:
        """Return the bound for an output whose largest absolute value is ``scale``."""
        return max(self.absolute, self.relative * scale)


DEFAULT_TOLERANCE = Tolerance()


@runtime_checkable
class Jumping(Protocol):
    """A network that is not continuous, such as one that rounds landmarks to pixels."""

    def is_steady(self, batch: Tensor) -> Tensor:
        """Say for each input whether it is far enough from every jump for rounding not to matter, ``[B]`` bool."""
