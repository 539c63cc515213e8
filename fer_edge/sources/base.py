"""A source: what gives frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from fer_edge.frames import Frame


class Source(Protocol):
    """Gives frames one after the other. A class that derives from it states what differs.

    Attributes
    ----------
    is_live : bool
        Whether frames that are not taken in time are lost.
    frame_count : int or None
        Where it is known.
    fps : float or None
        Frames per second, where they are known.
    names_frames : bool
        Whether each frame has a name of its own, as pictures have.
    """

    is_live: bool = False
    frame_count: int | None = None
    fps: float | None = None
    names_frames: bool = False

    @property
    def reads(self) -> frozenset[Path]:
        """Files that it reads, and folders of such files: no result may overwrite them."""
        return frozenset()

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the source ends."""

    def close(self) -> None:
        """Release the device or file."""
