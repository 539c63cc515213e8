"""The benchmark of steady labels: its figures by hand, and sequences of generated faces."""

from __future__ import annotations

import importlib
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from places import ROOT

from fer_edge.backends import BACKENDS, SessionOptions, load_session
from fer_edge.bundle import open_bundle
from fer_edge.datasets import FaceDataset
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.probabilities import ProbabilityRule
from fer_edge.synthetic.drawn import generate_faces
from fer_edge.tracking.smoothing import SmoothingOptions

NAMES = ("neutral", "happiness", "disgust")
RIGHT = 6.0


@pytest.fixture
def smoothing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("smoothing")


@pytest.fixture
def scripted_faces(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("scripted_faces")


@pytest.fixture
def scorer(smoothing: ModuleType, scripted_faces: ModuleType) -> Any:
    """3 s each of neutral, happiness and disgust; the network says happiness at every tenth frame, and for disgust always."""
    truth = np.repeat([0, 1, 2], 90)
    said = np.where(truth == 2, 1, truth)
    said[::10] = 1
    sequence = scripted_faces.FaceSequence(RIGHT * np.eye(3)[said], truth, np.array([0, 90, 180]))
    return smoothing.Scorer([sequence], ProbabilityRule(), NAMES)


def test_figures_by_hand(scorer: Any) -> None:
    figures = scorer.figures(scorer.single(1))
    # 9 frames of happiness in neutral, the first at the beginning, then the change to happiness: 1 + 8 · 2 + 1
    assert figures["changes_per_minute"] == pytest.approx(18 * 60 / 9)
    assert figures["agreement"] == pytest.approx((81 + 90) / 270)
    assert (figures["delays"], figures["never"], figures["p50_ms"]) == (1, 0, 0)  # not that to disgust
    summary = scorer.summary()
    assert summary["long_run_right"] == pytest.approx(180 / 270)
    assert (summary["pictures"], summary["minutes"]) == (3, pytest.approx(9 / 60))
    assert summary["scripted_changes_per_minute"] == pytest.approx(2 * 60 / 9)


def test_steady_labels_change_at_the_script_alone(scorer: Any) -> None:
    figures = scorer.figures(scorer.steady(1, SmoothingOptions(time_constant_ms=120)))
    assert figures["changes_per_minute"] == pytest.approx(2 * 60 / 9)  # from the first frame, and the script
    assert 30 <= figures["p50_ms"] <= 200
    assert all(len(labels) == 270 for step in (2, 3) for labels in scorer.steady(step, SmoothingOptions()))
    constant = [np.zeros(270, int)]  # neutral for ever
    assert scorer.figures(constant)["never"] == 1
    assert scorer.figures(constant)["p95_ms"] is None


def test_sequences_follow_their_script(scripted_faces: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted_faces, "SHOWN_S", (0.5, 1.0))  # short, for speed
    bundle = open_bundle(shipped_bundle("conv-attention"))
    labels = np.eye(8, dtype=np.float32)[np.arange(24) % 8]
    pictures = generate_faces(24, side=48)[..., 1]
    faces = FaceDataset("drawn faces", pictures, labels, bundle.spec.class_names, are_crops=True)
    options = SessionOptions(threads=1)
    with closing(load_session(bundle, BACKENDS["onnxruntime"], "fp32", options)) as session:
        made, again, other = (
            scripted_faces.make_sequences(session, bundle.spec, faces, 1, 3, scripted_faces.DIM, seed)[0]
            for seed in (0, 0, 1)
        )
    assert made.logits.shape == (90, 8)
    assert np.array_equal(made.logits, again.logits)
    assert not np.array_equal(made.logits, other.logits)
    lengths = np.diff(made.starts)
    assert ((lengths >= 15) & (lengths <= 30)).all()
    assert (np.flatnonzero(np.diff(made.truth)) + 1).tolist() == made.starts[1:].tolist() != []
    assert np.abs(np.diff(made.logits[:15], axis=0)).max() > 0.1  # disturbed from frame to frame


def test_the_plot_is_reproducible_and_without_pixels(
    smoothing: ModuleType, scorer: Any, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        smoothing.plot(scorer, NAMES, tmp_path / name, seconds=9)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "<image" not in text
    assert all(name in text for name in (*NAMES, "steady", "single frames"))
