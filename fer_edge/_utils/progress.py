"""Progress of long work: the callback that every step takes, and a counter of faces for it."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (stage, done, total); ``total`` is 0 while it is unknown.
Progress = Callable[[str, int, int], None]


def face_counter(on_progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """Return an ``on_faces`` that adds up the faces it is called with, and tells ``on_progress`` how many of ``total`` are done."""
    done = 0

    def count(faces: int) -> None:
        nonlocal done
        done += faces
        on_progress(stage, done, total)

    return count
