"""Boxes of both searches have one size."""

from __future__ import annotations

import numpy as np
import pytest

from fer_edge.results import Detection
from fer_edge.tracking.box_sizes import SizeRatios

SIZE = (640, 480)


def face(x: float, y: float, width: float, height: float) -> Detection:
    return Detection((x - width / 2, y - height / 2, x + width / 2, y + height / 2), 0.9, np.zeros((5, 2)))


def test_the_ratio_of_one_frame_corrects_the_next() -> None:
    ratios = SizeRatios()
    ratios.learn(
        {1: face(200, 200, 110, 121), 2: face(400, 200, 90, 90)}, {1: face(202, 199, 100, 110), 2: None}
    )
    found = ratios.corrected({1: face(300, 240, 120, 130), 2: face(400, 200, 80, 80), 3: None}, SIZE)
    assert found[1].box_xyxy == pytest.approx(face(300, 240, 132, 143).box_xyxy)
    assert found[1].landmarks is not None
    assert found[2].box_xyxy == face(400, 200, 80, 80).box_xyxy
    assert found[3] is None


def test_a_ratio_is_bounded_and_forgotten() -> None:
    ratios = SizeRatios()
    ratios.learn({1: face(200, 200, 400, 10)}, {1: face(200, 200, 100, 100)})
    assert ratios.corrected({1: face(200, 200, 100, 100)}, SIZE)[1].box_xyxy == pytest.approx(
        face(200, 200, 125, 80).box_xyxy
    )
    ratios.learn({}, {})
    assert (
        ratios.corrected({1: face(200, 200, 100, 100)}, SIZE)[1].box_xyxy == face(200, 200, 100, 100).box_xyxy
    )


def test_a_box_stays_inside_the_frame_and_at_its_border() -> None:
    ratios = SizeRatios()
    ratios.learn({1: face(200, 200, 120, 120)}, {1: face(200, 200, 100, 100)})
    cut = Detection((0.0, 100.0, 60.0, 200.0), 0.9)
    assert ratios.corrected({1: cut}, SIZE)[1].box_xyxy == pytest.approx((0.0, 90.0, 60.0, 210.0))
    near = Detection((4.0, 2.0, 104.0, 102.0), 0.9)
    assert ratios.corrected({1: near}, SIZE)[1].box_xyxy == pytest.approx((0.0, 0.0, 114.0, 112.0))
