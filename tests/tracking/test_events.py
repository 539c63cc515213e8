"""Events of tracks: their order, labels before and after, and tracks that are not present."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fer_edge.errors import UsageError
from fer_edge.probabilities import ProbabilityRule
from fer_edge.results import Event, EventKind
from fer_edge.tracking.events import TrackEvents
from fer_edge.tracking.smoothing import LabelSmoother, SmoothingOptions


def appeared(track: int, at_s: float) -> Event:
    return Event(EventKind.APPEARED, track, at_s)


def changed(track: int, at_s: float, label: str | None, previous: str | None) -> Event:
    return Event(EventKind.LABEL_CHANGED, track, at_s, label, previous)


def left(track: int, at_s: float, previous: str | None = None) -> Event:
    return Event(EventKind.LEFT, track, at_s, None, previous)


def test_a_track_appears_changes_and_leaves() -> None:
    events = TrackEvents()
    assert events.update(0, appeared=[4], labels={4: None}) == (appeared(4, 0),)
    assert events.update(1, labels={4: "happiness"}) == (changed(4, 1, "happiness", None),)
    assert events.update(2, labels={4: "happiness"}) == ()
    assert events.update(3) == ()
    assert events.update(4, labels={4: "fear"}) == (changed(4, 4, "fear", "happiness"),)
    assert events.update(5, labels={4: None}) == (changed(4, 5, None, "fear"),)
    assert events.update(6, labels={4: "fear"}) == (changed(4, 6, "fear", None),)
    assert events.update(7, left=[4]) == (left(4, 7, "fear"),)


def test_events_of_one_frame_are_in_order() -> None:
    events = TrackEvents()
    events.update(0, appeared=[1, 2], labels={1: "anger"})
    assert events.update(1, appeared=[3, 5], labels={3: "fear", 2: "anger", 1: None}, left=[2, 1, 5]) == (
        appeared(3, 1),
        appeared(5, 1),
        changed(3, 1, "fear", None),
        changed(2, 1, "anger", None),
        changed(1, 1, None, "anger"),
        left(2, 1, "anger"),
        left(1, 1),
        left(5, 1),
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"appeared": [1]},
        {"appeared": [2, 2]},
        {"labels": {2: "fear"}},
        {"labels": {2: None}},
        {"left": [2]},
        {"left": [1, 1]},
        {"appeared": [2], "left": [3]},
    ],
    ids=str,
)
def test_inconsistent_tracks_are_refused_and_change_nothing(arguments: dict[str, Any]) -> None:
    events = TrackEvents()
    events.update(0, appeared=[1], labels={1: "fear"})
    with pytest.raises(UsageError, match="expected .*, found .*Fix: give each track"):
        events.update(1, **arguments)
    assert events.update(2, appeared=[2], labels={1: "fear"}, left=[1]) == (
        appeared(2, 2),
        left(1, 2, "fear"),
    )


def test_an_identifier_that_left_may_not_have_a_label() -> None:
    events = TrackEvents()
    events.update(0, appeared=[1])
    events.update(1, left=[1])
    with pytest.raises(UsageError, match=r"found \[1\]"):
        events.update(2, labels={1: "fear"})


def test_the_events_of_random_tracks_replay_to_their_labels() -> None:
    """Applied one by one, events reproduce the tracks and labels; a change always changes something."""
    rng = np.random.default_rng(0)
    events = TrackEvents()
    present: dict[int, str | None] = {}
    replayed: dict[int, str | None] = {}
    count = 0
    for frame in range(500):
        new = list(range(count, count := count + int(rng.integers(3))))
        present |= dict.fromkeys(new)
        labels = {track: (None, "fear", "anger")[rng.integers(3)] for track in present if rng.random() < 0.5}
        present |= labels
        gone = [track for track in present if rng.random() < 0.1]
        for event in events.update(frame / 30, appeared=new, labels=labels, left=gone):
            assert event.at_s == frame / 30
            if event.kind == EventKind.APPEARED:
                assert event.track_id not in replayed
                replayed[event.track_id] = None
            elif event.kind == EventKind.LEFT:
                assert event.previous_label == replayed.pop(event.track_id)
            else:
                assert event.label != event.previous_label == replayed[event.track_id]
                replayed[event.track_id] = event.label
        for track in gone:
            del present[track]
        assert replayed == present


def test_events_of_a_smoothed_track() -> None:
    """A track that is classified, has dropped outputs until its label is too old, and is classified again."""
    events = TrackEvents()
    steady = LabelSmoother(SmoothingOptions(max_gap_ms=1000), ProbabilityRule(), ("neutral", "fear"), 0.35)
    events.update(0, appeared=[1])
    found = []
    for frame in range(90):
        at_s = frame / 30
        logits = np.full(2, math.nan) if 15 <= frame < 60 else np.array([0.0, 3.0 if frame >= 60 else -3.0])
        steady.add(logits, at_s)
        found += events.update(at_s, labels={1: steady.answer(at_s).label})
    assert [(e.label, e.previous_label) for e in found] == [
        ("neutral", None),
        (None, "neutral"),
        ("fear", None),
    ]
    assert found[1].at_s == pytest.approx(14 / 30 + 1, abs=1.5 / 30)
