"""Account of a run: frames, faces and the results of the first frames, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fer_edge.commands.base import make_table, prior_text
from fer_edge.results import EventKind

if TYPE_CHECKING:
    from fer_edge.results import Event, Face, FrameResult
    from fer_edge.runtime import Runtime
    from fer_edge.sources.base import Source

_ROWS_SHOWN = 20
_MAX_EVENTS = 10_000  # a camera may run for weeks


@dataclass
class Account:
    """Counts of frames and faces, and the results of the first frames.

    ``interruption`` is the error by which the user ended the run early, such as with Ctrl-C.
    """

    shown: list[FrameResult] = field(default_factory=list)
    frames: int = 0
    faces: int = 0
    unreadable: tuple[str, ...] = ()
    interruption: KeyboardInterrupt | None = None
    events: list[tuple[FrameResult, Event]] = field(default_factory=list)

    def add(self, result: FrameResult) -> None:
        """Count a frame, and keep the first ones."""
        self.frames += 1
        self.faces += len(result.faces)
        if len(self.shown) < _ROWS_SHOWN:
            self.shown.append(result)
        if len(self.events) < _MAX_EVENTS:
            self.events += [(result, event) for event in result.events]


def make_tables(
    account: Account, runtime: Runtime, source: Source, latency: dict[str, Any], written: Sequence[object]
) -> list[Table | str]:
    """Return the table of the first faces, that of the latencies, and lines on outputs and problems."""
    faces, frames = account.faces, account.frames
    shown, start_s = account.shown, account.shown[0].captured_at_s if account.shown else 0.0
    title = (
        f"{runtime.spec.network}, {runtime.precision} on {runtime.backend.name}, "
        f"prior {prior_text(runtime.probability_rule)}: "
        f"{faces} face{'s' * (faces != 1)} in {frames} frame{'s' * (frames != 1)}"
        f"{', interrupted' * (account.interruption is not None)}"
    )
    tracked = any(face.track_id is not None for result in shown for face in result.faces)
    columns = (
        "frame",
        *(("track",) if tracked else ()),
        "face px",
        "score",
        "apparent expression",
        "probability",
    )
    rows = [
        (
            _frame_name(result, source, start_s),
            *((f"#{face.track_id}",) if tracked else ()),
            *_face_cells(face),
        )
        for result in shown
        for face in result.faces
    ]
    tables: list[Table | str] = [make_table(title, columns, rows)]
    if frames and not faces:
        tables.append(
            "No face was found. Fix: try --rotate auto for a camera on its side, or a smaller --min-face"
        )
    elif frames > len(shown):
        tables.append(f"The first {len(shown)} frames are shown; --jsonl FILE writes all.")
    if account.events:
        rows = [
            (
                _time(result, source, start_s),
                f"#{event.track_id}",
                event.kind.value.replace("_", " "),
                _change(event),
            )
            for result, event in account.events[:_ROWS_SHOWN]
        ]
        count = len(account.events)
        title = f"Events, {f'the first {_ROWS_SHOWN} of {count}' if count > _ROWS_SHOWN else count}"
        tables.append(make_table(title, ("time, s", "track", "event", "apparent expression"), rows))
    percentiles = ("p50_ms", "p90_ms", "p99_ms")
    timings = [
        (stage, s["n"], *("–" if s[p] is None else f"{s[p]:.1f}" for p in percentiles))
        for stage, s in latency.items()
    ]
    tables.append(make_table("Latency, ms", ("stage", "n", "p50", "p90", "p99"), timings))
    tables += [f"Wrote {path}" for path in written]
    return [*tables, *(f"Unreadable: {problem}" for problem in account.unreadable)]


def _frame_name(result: FrameResult, source: Source, start_s: float) -> str:
    """Return the file name of a picture; else the frame's index, with its time."""
    if source.names_frames:
        return result.source
    time_s = _time(result, source, start_s)
    return f"{result.index}, {time_s} s" if time_s else str(result.index)


def _time(result: FrameResult, source: Source, start_s: float) -> str:
    """Return the position in the file, or the time since the first frame of a live source; empty if unknown."""
    if result.media_time_s is not None:
        return f"{result.media_time_s:.2f}"
    return f"{result.captured_at_s - start_s:.2f}" if source.is_live else ""


def _change(event: Event) -> str:
    if event.kind is EventKind.APPEARED:
        return ""
    return (
        f"{event.previous_label or '–'} → {event.label or '–'}"
        if event.kind is EventKind.LABEL_CHANGED
        else (event.previous_label or "–")
    )


def _face_cells(face: Face) -> tuple[str, ...]:
    left, top, right, bottom = face.box_xyxy
    return (
        f"{round(right - left)}×{round(bottom - top)}",
        f"{face.detection_score:.2f}",
        face.label or f"– ({face.reason})",
        f"{face.probability:.2f}",
    )
