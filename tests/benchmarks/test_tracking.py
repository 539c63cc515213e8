"""Metrics of tracks on sequences whose counts are known, and the comparison from stored detections to its record."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
from places import ROOT

Boxes = dict[int, tuple[float, float, float, float]]


@pytest.fixture(scope="module")
def metrics() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("track_metrics")


@pytest.fixture(scope="module")
def tracking() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("tracking")


LEFT, RIGHT, ELSEWHERE = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0), (200.0, 0.0, 210.0, 10.0)
BOTH: Boxes = {1: LEFT, 2: RIGHT}


def test_perfect_tracks(metrics: ModuleType) -> None:
    counts = metrics.count([(BOTH, {}, {7: LEFT, 8: RIGHT})] * 10)
    assert (counts.faces, counts.misses, counts.false_boxes, counts.switches) == (20, 0, 0, 0)
    assert (counts.mota, counts.idf1) == (1, 1)


def test_a_swap_is_two_switches(metrics: ModuleType) -> None:
    frames = [(BOTH, {}, {7: LEFT, 8: RIGHT})] * 6 + [(BOTH, {}, {7: RIGHT, 8: LEFT})] * 4
    counts = metrics.count(frames)
    assert counts.switches == 2
    assert counts.mota == pytest.approx(0.9)
    assert counts.idf1 == pytest.approx(0.6)  # the better half of each person


def test_a_gap_is_a_fragmentation(metrics: ModuleType) -> None:
    one: Boxes = {1: LEFT}
    frames = [(one, {}, {7: LEFT})] * 3 + [(one, {}, {})] * 2 + [(one, {}, {7: LEFT})] * 3
    counts = metrics.count(frames)
    assert (counts.fragmentations, counts.misses, counts.switches) == (1, 2, 0)
    again = metrics.count(frames[:5] + [(one, {}, {9: LEFT})] * 3)
    assert (again.fragmentations, again.switches) == (1, 1)


def test_the_time_before_a_track_is_no_fragmentation(metrics: ModuleType) -> None:
    one: Boxes = {1: LEFT}
    counts = metrics.count([(one, {}, {})] * 2 + [(one, {}, {7: LEFT})] * 3)
    assert (counts.fragmentations, counts.misses) == (0, 2)


def test_false_tracks(metrics: ModuleType) -> None:
    counts = metrics.count([({1: LEFT}, {}, {7: LEFT, 8: ELSEWHERE})] * 4)
    assert (counts.false_boxes, counts.false_tracks, counts.tracks) == (4, 1, 2)
    assert counts.idf1 == pytest.approx(2 * 4 / (4 + 8))


def test_hidden_faces_need_not_be_found_and_may_be(metrics: ModuleType) -> None:
    counts = metrics.count([({1: LEFT}, {2: RIGHT}, {7: LEFT, 8: RIGHT}), ({1: LEFT}, {2: RIGHT}, {7: LEFT})])
    assert (counts.faces, counts.misses, counts.false_boxes) == (2, 0, 0)


def test_a_track_is_kept_while_it_fits(metrics: ModuleType) -> None:
    """A second track with more overlap is a false box, not a switch."""
    near = (1.0, 0.0, 11.0, 10.0)
    counts = metrics.count([({1: LEFT}, {}, {7: near}), ({1: LEFT}, {}, {7: near, 8: LEFT})])
    assert (counts.switches, counts.false_boxes) == (0, 1)


def test_sums(metrics: ModuleType) -> None:
    one = metrics.count([(BOTH, {}, {7: LEFT})])
    both = one + one
    assert (both.faces, both.misses) == (4, 2)
    assert both.idf1 == one.idf1


def test_from_detections_to_the_record(tracking: ModuleType, tmp_path: Path) -> None:
    sequences, record = tmp_path / "sequences.json", tmp_path / "record.json"
    tracking.main(["detect", "--output", str(sequences), "--seeds", "0", "1", "--duration", "2"])
    stored = json.loads(sequences.read_text())["sequences"]
    # A tracker that gives every box a new number is another tracker's result.
    number, rows = 0, []
    for sequence in stored:
        rows.append([])
        for frame in sequence["frames"]:
            rows[-1].append([[number + i, *box] for i, box in enumerate(frame["boxes"])])
            number += len(frame["boxes"])
    others = tmp_path / "others.json"
    others.write_text(json.dumps({"versions": {"worst": "1"}, "tracks": {"worst": rows}}))
    tracking.main(["compare", str(sequences), "--others", str(others), "--json", str(record)])
    result = json.loads(record.read_text())
    ours, worst = result["trackers"]["FER-Edge"], result["trackers"]["worst"]
    assert ours["faces"] == worst["faces"] > 500
    assert ours["switches"] < 0.05 * worst["switches"]
    assert ours["idf1"] > 0.7 > 0.1 > worst["idf1"]
    assert result["update_processor_time"]["n"] == result["frames"]
    assert set(ours["by_script"]) == set(tracking.SCRIPTS)
