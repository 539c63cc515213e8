"""Interface of sources, which produce frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from fer_edge.frames import Frame


class Source(Protocol):
    """Iterable of frames. Derived classes override the attributes that differ from the defaults.

    Attributes
    ----------
    is_live : bool
        ``True`` if frames that are not read in time are lost.
    frame_count : int or None
        Number of frames; ``None`` if unknown.
    fps : float or None
        Frames per second; ``None`` if unknown.
    names_frames : bool
        ``True`` if each frame has a name of its own, such as a file name.
    is_sequence : bool
        ``True`` if its frames follow each other in time, so that faces can be tracked.
    """

    is_live: bool = False
    frame_count: int | None = None
    fps: float | None = None
    names_frames: bool = False
    is_sequence: bool = True

    @property
    def reads(self) -> frozenset[Path]:
        """Input files and their folders, which no output may overwrite."""
        return frozenset()

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the source ends."""

    def close(self) -> None:
        """Release the device or file."""
