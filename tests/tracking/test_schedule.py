"""When frames are searched and tracks are classified again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fer_edge.detection.base import Effort
from fer_edge.errors import UsageError
from fer_edge.tracking.schedule import Candidate, DetectionSchedule, ScheduleOptions, due_tracks

OPTIONS = ScheduleOptions(detect_every_ms=300, classify_every_ms=400, settle_every_ms=60)


def test_new_tracks_come_first_then_changed_ones_then_the_oldest() -> None:
    candidates = [
        Candidate(1, 9.9),  # not due
        Candidate(2, 9.5),
        Candidate(3, 9.4),
        Candidate(4, 9.8, has_changed=True),
        Candidate(5, None),
        Candidate(6, 9.85, is_unsettled=True),
        Candidate(7, 9.98, has_changed=True),
    ]
    assert due_tracks(candidates, 10.0, OPTIONS) == [5, 4, 7, 3, 2, 6]
    for limit in (1, 2, 3):
        limited = dataclasses.replace(OPTIONS, max_faces=limit)
        assert due_tracks(candidates, 10.0, limited) == [5, 4, 7][:limit]
    assert due_tracks([], 10.0, OPTIONS) == []


@pytest.mark.parametrize("limit", [1, 3, 8])
@pytest.mark.parametrize("restless", [0, 3, 8])
def test_no_track_starves_under_a_budget(limit: int, restless: int) -> None:
    """Eight faces, some of which change visibly in every frame."""
    options = dataclasses.replace(OPTIONS, max_faces=limit)
    times: dict[int, list[float]] = {track: [] for track in range(8)}
    for at_s in np.arange(0, 20, 1 / 30):
        candidates = [
            Candidate(track, taken[-1] if taken else None, has_changed=track < restless)
            for track, taken in times.items()
        ]
        chosen = due_tracks(candidates, at_s, options)
        assert len(set(chosen)) == len(chosen) <= limit
        for track in chosen:
            times[track].append(at_s)
    for track, taken in times.items():
        assert np.diff(taken).max() <= 1.0, track
        assert taken[-1] >= 19


def test_an_interval_of_zero_is_every_frame() -> None:
    options = ScheduleOptions(detect_every_ms=0, classify_every_ms=0)
    assert due_tracks([Candidate(1, 5.0), Candidate(2, 5.0)], 5.001, options) == [1, 2]
    schedule = DetectionSchedule(options)
    schedule.detected(5.0, Effort.THOROUGH)
    assert schedule.effort(5.001, uncertain=False) is Effort.THOROUGH


def test_an_interval_is_met_by_a_camera_whose_frames_jitter() -> None:
    rng = np.random.default_rng(0)
    options = ScheduleOptions(detect_every_ms=100)
    schedule, searched = DetectionSchedule(options), []
    for at_s in np.arange(300) / 30 + rng.uniform(-0.002, 0.002, 300):
        if (effort := schedule.effort(at_s, uncertain=False)) is not None:
            schedule.detected(at_s, effort)
            searched.append(at_s)
    assert len(searched) == 100


def test_the_frame_is_searched_when_due() -> None:
    schedule = DetectionSchedule(OPTIONS)
    assert schedule.effort(1.0, uncertain=False) is Effort.THOROUGH
    schedule.detected(1.0, Effort.THOROUGH)
    assert schedule.effort(1.1, uncertain=False) is None
    assert schedule.effort(1.1, uncertain=True) is Effort.QUICK
    assert schedule.effort(1.03, uncertain=True) is None
    assert schedule.effort(1.3, uncertain=False) is Effort.THOROUGH
    assert schedule.effort(0.5, uncertain=False) is Effort.THOROUGH  # the clock jumped back


def test_quick_searches_do_not_put_off_a_thorough_one() -> None:
    schedule, efforts = DetectionSchedule(OPTIONS), []
    for at_s in np.arange(0, 1.2, 0.1):
        effort = schedule.effort(at_s, uncertain=True)
        schedule.detected(at_s, effort)
        efforts.append(effort)
    assert efforts == [Effort.THOROUGH, Effort.QUICK, Effort.QUICK] * 4


def test_a_clock_that_jumped_back_makes_tracks_due() -> None:
    assert due_tracks([Candidate(1, 100.0)], 3.0, OPTIONS) == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"detect_every_ms": -1},
        {"classify_every_ms": float("nan")},
        {"settle_every_ms": "often"},
        {"change": -0.1},
        {"max_faces": 0},
        {"max_faces": 1.5},
    ],
)
def test_a_wrong_option_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ScheduleOptions(**wrong)
