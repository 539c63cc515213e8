"""Tables of a run: tracks and events of a stream, and times of its frames."""

from __future__ import annotations

import io
from types import SimpleNamespace

from rich.console import Console

from fer_edge.commands.run_summary import Account, make_tables
from fer_edge.probabilities import ProbabilityRule
from fer_edge.results import Event, EventKind, Face, FrameResult

RUNTIME = SimpleNamespace(
    spec=SimpleNamespace(network="conv-attention"),
    precision="int8",
    backend=SimpleNamespace(name="openvino"),
    probability_rule=ProbabilityRule(),
)
VIDEO = SimpleNamespace(names_frames=False, is_live=False)


def shown(account: Account, source: object = VIDEO) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    for table in make_tables(account, RUNTIME, source, {}, []):
        console.print(table)
    return console.export_text()


def result(index: int, *events: Event, track_id: int | None = 3) -> FrameResult:
    face = Face((0, 0, 90, 100), 0.9, "happiness", 0.8, {"happiness": 0.8}, track_id=track_id)
    return FrameResult(index, 5.0 + index / 25, 1.0, 0, (face,), media_time_s=index / 25, events=events)


def test_tracks_and_events_are_shown() -> None:
    account = Account()
    account.add(result(0, Event(EventKind.APPEARED, 3, 0.0)))
    account.add(result(1, Event(EventKind.LABEL_CHANGED, 3, 0.04, "happiness", "neutral")))
    account.add(result(2, Event(EventKind.LEFT, 3, 0.08, None, "happiness")))
    text = shown(account)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "#3" in line]
    assert rows[0] == ["0, 0.00 s", "#3", "90×100", "0.90", "happiness", "0.80"]
    assert rows[3:] == [
        ["0.00", "#3", "appeared", ""],
        ["0.04", "#3", "label changed", "neutral → happiness"],
        ["0.08", "#3", "left", "happiness"],
    ]


def test_a_long_run_shows_its_first_events() -> None:
    account = Account()
    for index in range(30):
        account.add(result(index, Event(EventKind.LABEL_CHANGED, 3, 0.0, "happiness", None)))
    text = shown(account)
    assert "Events, the first 20 of 30" in text
    assert text.count("– → happiness") == 20


def test_faces_without_tracks_have_no_column_for_them() -> None:
    account = Account()
    account.add(result(0, track_id=None))
    text = shown(account)
    assert "track" not in text
    assert "Events" not in text


def test_live_frames_have_the_time_since_the_first() -> None:
    account = Account()
    for index in range(2):
        account.add(FrameResult(index, 5.0 + index, 1.0, 0, result(0).faces))
    assert "1, 1.00 s" in shown(account, SimpleNamespace(names_frames=False, is_live=True))
