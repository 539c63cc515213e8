"""Progress callback of long operations, and a face counter for it."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (stage, done, total); ``total`` is 0 while it is unknown.
Progress = Callable[[str, int, int], None]


def face_counter(on_progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """Return an ``on_faces`` callback that sums the faces it is called with and reports the sum to ``on_progress``."""
    done = 0

    def count(faces: int) -> None:
        nonlocal done
        done += faces
        on_progress(stage, done, total)

    return count
