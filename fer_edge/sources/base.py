"""A source: what gives frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from fer_edge.frames import Frame


class Source(Protocol):
    """Gives frames one after the other."""

    is_live: bool
    frame_count: int | None
    fps: float | None

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the source ends."""

    def close(self) -> None:
        """Release the device or file."""
