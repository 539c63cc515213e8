"""Results convert to plain types."""

from __future__ import annotations

import json

import numpy as np

from fer_edge.results import Face


def attentive_face() -> Face:
    heat = np.array([[0, 1 / 3], [0.5, 1]], np.float32)
    return Face(
        (40.0, 40.0, 80.0, 80.0), 0.9, "happy", 0.8, {"happy": 0.8, "sad": 0.2},
        attention=heat, crop_xyxy=(30.0, 30.0, 90.0, 90.0),
    )  # fmt: skip


def test_attention_is_written_with_what_it_covers() -> None:
    value = json.loads(json.dumps(attentive_face().to_dict()))
    assert value["attention"] == [[0.0, 0.333], [0.5, 1.0]]
    assert value["crop_xyxy"] == [30.0, 30.0, 90.0, 90.0]


def test_without_attention_neither_is_written() -> None:
    value = Face((0.0, 0.0, 9.0, 9.0), 0.9, None, 0.0, {}).to_dict()
    assert not {"attention", "crop_xyxy"} & set(value)
