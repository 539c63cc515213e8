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
    reads : frozenset of Path
        Files, and folders of which all files, that it reads: no result may overwrite them.
    names_frames : bool
        Whether each frame has a name of its own, as pictures have.
    """

    is_live: bool = False
    frame_count: int | None = None
    fps: float | None = None
    reads: frozenset[Path] = frozenset()
    names_frames: bool = False

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the source ends."""

    def close(self) -> None:
        """Release the device or file."""
