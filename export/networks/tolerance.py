"""Tolerance of a runtime's outputs against PyTorch's, and networks with discontinuities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted difference of one output: ``absolute``, or ``relative`` to its scale if that is more.

    Float32 keeps 7 digits, and a deep network loses one to two of them by the order of its sums: logits of
    scale 100 differ by some 5e-4 between two correct kernels.
    """

    absolute: float = 1e-4
    relative: float = 1e-5

    def at(self, scale: float) -> float:
        """Return the bound for an output whose largest absolute value is ``scale``."""
        return max(self.absolute, self.relative * scale)


DEFAULT_TOLERANCE = Tolerance()


@runtime_checkable
class Discontinuous(Protocol):
    """A network that is discontinuous in its input, such as one that rounds landmarks to pixels."""

    def is_steady(self, batch: Tensor) -> Tensor:
        """Return ``[B]`` bool: the input is so far from every discontinuity that rounding does not matter."""
