"""Reasons to give no label, the order of their tests, and the confidence."""

from __future__ import annotations

import dataclasses
import importlib
import json
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from places import ROOT

from fer_edge.errors import DataError, UsageError
from fer_edge.quality import REASONS, Quality, QualityThresholds, estimate_confidence, reason
from fer_edge.quality.abstention import CONFIDENCE_OF_COVERAGE, WEIGHTS, confidence_terms

GOOD = Quality(
    side_px=120, luma=125, contrast=50, sharpness=0.7, noise=0.05, yaw_deg=5, pitch_deg=3, roll_deg=-4
)
SURE = np.array([0.97, 0.01, 0.01, 0.01])
OPEN = np.full(4, 0.25)
LIMITS = QualityThresholds(
    min_side_px=20,
    min_luma=30,
    max_luma=220,
    max_noise=0.3,
    min_sharpness=0.05,
    max_yaw_deg=50,
    min_confidence=0.6,
)
BAD: dict[str, dict[str, float]] = {
    "too_small": {"side_px": 19},
    "too_dark": {"luma": 29},
    "too_bright": {"luma": 221},
    "noisy": {"noise": 0.31},
    "blurred": {"sharpness": 0.04},
    "profile": {"yaw_deg": -51},
}


def degraded(**changes: float | None) -> Quality:
    return dataclasses.replace(GOOD, **changes)


def test_a_good_face_keeps_its_label() -> None:
    assert reason(GOOD, SURE) is None
    assert reason(GOOD, SURE, LIMITS) is None
    assert reason(GOOD, None, LIMITS) is None


@pytest.mark.parametrize("expected", BAD)
def test_each_limit_has_its_reason(expected: str) -> None:
    quality = degraded(**BAD[expected])
    assert reason(quality, SURE, LIMITS) == expected
    assert reason(quality, None, LIMITS) == expected
    assert reason(quality, SURE, QualityThresholds.none()) is None


def test_a_value_at_the_limit_passes() -> None:
    at = degraded(side_px=20, luma=30, noise=0.3, sharpness=0.05, yaw_deg=50)
    assert reason(at, None, LIMITS) is None


def test_an_open_distribution_is_uncertain_only_if_it_is_given() -> None:
    assert reason(GOOD, OPEN, LIMITS) == "uncertain"
    assert reason(GOOD, None, LIMITS) is None
    assert reason(GOOD, OPEN, dataclasses.replace(LIMITS, min_confidence=0)) is None


def test_reasons_are_tested_in_their_order() -> None:
    quality, found = degraded(), []
    for name in reversed([*BAD]):
        quality = dataclasses.replace(quality, **BAD[name]) if name != "too_bright" else quality
        found.append(reason(quality, OPEN, LIMITS))
    assert found == ["profile", "blurred", "noisy", "noisy", "too_dark", "too_small"]
    assert (*BAD, "uncertain") == REASONS


def test_an_unknown_pose_passes() -> None:
    assert reason(degraded(yaw_deg=None, pitch_deg=None, roll_deg=None), SURE, LIMITS) is None


def test_the_confidence_is_a_probability_that_rises_with_that_of_the_label() -> None:
    found = [estimate_confidence(GOOD, np.array([p, 1 - p])) for p in (0.5, 0.7, 0.9, 0.99, 1.0)]
    assert found == sorted(found)
    assert 0 < found[0] < found[-1] < 1


@pytest.mark.parametrize(
    "worse",
    [{"noise": 0.4}, {"sharpness": 0.02}, {"luma": 250.0}, {"roll_deg": 60.0}],
    ids=str,
)
def test_the_confidence_falls_with_the_quality(worse: dict[str, float]) -> None:
    assert estimate_confidence(degraded(**worse), SURE) < estimate_confidence(GOOD, SURE) - 0.02


def test_terms_of_a_good_crop_are_those_of_the_probability_alone() -> None:
    terms = confidence_terms(GOOD, SURE)
    assert list(terms) == list(WEIGHTS)
    assert {name for name, value in terms.items() if value != 0} == {"constant", "log_odds"}
    assert terms["log_odds"] == pytest.approx(np.log(0.97 / 0.03))


def test_terms_stay_within_limits() -> None:
    worst = Quality(
        side_px=1, luma=255, contrast=0, sharpness=0, noise=1e9, yaw_deg=90, pitch_deg=90, roll_deg=-180
    )
    assert np.isfinite(list(confidence_terms(worst, np.array([1.0, 0.0])).values())).all()
    assert 0 < estimate_confidence(worst, np.array([1.0, 0.0])) < 0.5


@pytest.mark.parametrize(
    "probabilities",
    [
        np.full(3, np.nan),
        np.array([0.2, 0.2]),
        np.array([1.5, -0.5]),
        np.array([1.0]),
        np.zeros((2, 2)),
        np.array([]),
    ],
    ids=["nan", "sum", "negative", "one class", "2D", "empty"],
)
def test_what_is_no_distribution_is_an_error(probabilities: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"expected \[K\] probabilities with sum 1"):
        estimate_confidence(GOOD, probabilities)


@pytest.mark.parametrize(
    "changes",
    [{"min_luma": -1}, {"max_luma": 256}, {"max_yaw_deg": float("nan")}, {"min_confidence": 1.1}, {"min_side_px": None},
     {"max_noise": "0.3"}],
    ids=str,
)  # fmt: skip
def test_bad_limits_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(changes))} must be"):
        QualityThresholds(**changes)


def test_a_smaller_coverage_needs_more_confidence() -> None:
    found = [QualityThresholds.for_coverage(c) for c in (0.8, 0.75, 0.7, 0.5)]
    confidences = [limits.min_confidence for limits in found]
    assert confidences == sorted(confidences)
    assert confidences[2] == CONFIDENCE_OF_COVERAGE[0.7]
    assert (
        dataclasses.replace(found[0], min_confidence=QualityThresholds().min_confidence)
        == QualityThresholds()
    )
    for coverage in (0.4, 1.0, None):
        with pytest.raises(UsageError, match="coverage must be"):
            QualityThresholds.for_coverage(coverage)


@pytest.fixture
def record() -> dict[str, Any]:
    text = (ROOT / "benchmarks" / "records" / "abstention.json").read_text(encoding="utf-8")
    return json.loads(text)


def test_the_numbers_in_the_code_are_those_of_the_record(record: dict[str, Any]) -> None:
    assert record["fit"]["weights"] == WEIGHTS
    limits = dataclasses.asdict(QualityThresholds())
    del limits["max_yaw_deg"]  # is stated
    assert record["fit"]["limits"] == limits
    assert record["fit"]["confidence_of_coverage"] == {str(c): v for c, v in CONFIDENCE_OF_COVERAGE.items()}


@pytest.mark.parametrize("data", ["FER+ PublicTest", "faces_in_context, largest face by mtcnn"])
def test_the_defaults_hardly_touch_clean_faces_that_they_were_not_fitted_on(
    data: str, record: dict[str, Any]
) -> None:
    found = record["data"][data]
    assert found["defaults"]["clean"]["refused"] < 0.03
    mixed = found["risk"]["mixed"]
    assert (
        mixed["combined"]["0.8"] < mixed["maximum probability"]["0.8"] < mixed["maximum probability"]["1.0"]
    )


@pytest.fixture
def degradations(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("degradations")


def test_degraded_copies_of_a_photograph_are_refused_with_the_right_reason(
    degradations: ModuleType, astronaut: np.ndarray
) -> None:
    from fer_edge.quality import measure_quality
    from fer_edge.results import Detection

    face, rng = np.ascontiguousarray(astronaut[60:190, 160:290]), np.random.default_rng(0)
    copies = {
        None: face,
        "too_small": degradations.shrunk(face, 8),
        "too_dark": degradations.darkened(face, 0.05, rng),
        "too_bright": degradations.overexposed(face, 8),
        "blurred": degradations.blurred(face, 0.09),
    }
    found = {
        expected: reason(measure_quality(crop, Detection((0, 0, 9, 9), 1.0)))
        for expected, crop in copies.items()
    }
    assert found == {expected: expected for expected in copies}
