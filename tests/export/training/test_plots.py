"""The learning curves."""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib.legend
import pytest

from fer_edge.export.training.history import EpochMetrics
from fer_edge.export.training.plots import save_curves


def test_legends_have_a_fixed_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for the best place takes longer with every point, and warns where it takes a second."""

    def search(*arguments: object) -> None:
        raise AssertionError("a legend searches for its place")

    monkeypatch.setattr(matplotlib.legend.Legend, "_find_best_position", search)
    history = [
        EpochMetrics(epoch, 2 / epoch, 3 / epoch, 0.5, 0.4, 1e-3, 2.0, {"landmarks": 0.1})
        for epoch in (1, 2, 3)
    ]
    save_curves(tmp_path / "curves.png", history)
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape == (420, 1080, 3)
    assert picture.std() > 10
