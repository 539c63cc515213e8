"""ModelSpec: what it accepts, and that it survives JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from fer_edge.errors import BundleError
from fer_edge.spec import CropRule, ModelSpec

SPEC = ModelSpec("net", 48, 40, "rgb", 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), ("happy", "sad"))


def test_round_trip_through_json() -> None:
    spec = dataclasses.replace(
        SPEC,
        crop=CropRule("box", 1.3, "replicate", 20),
        interpolation="area",
        outputs=("logits", "attention"),
    )
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_input_shape_is_channels_height_width() -> None:
    assert SPEC.input_shape == (3, 48, 40)


def test_defaults_may_be_left_out() -> None:
    fields = SPEC.to_dict()
    for name in ("crop", "interpolation", "outputs"):
        del fields[name]
    assert ModelSpec.from_dict(fields) == SPEC


@pytest.mark.parametrize(
    "change",
    [
        {"color": "yuv"},
        {"channels": 1},
        {"channels": 2},
        {"input_height": 0},
        {"input_width": 4097},
        {"input_height": 48.5},
        {"input_height": "48"},
        {"input_height": True},
        {"mean": [0.5]},
        {"mean": ["a", "b", "c"]},
        {"mean": "abc"},
        {"mean": [0, 0, float("nan")]},
        {"std": [1, 1, 0]},
        {"std": [1, 1, -1]},
        {"std": [1, 1, float("nan")]},
        {"std": [1, 1, float("inf")]},
        {"std": [1, 1, 10**400]},
        {"class_names": ["happy"]},
        {"class_names": ["happy", "happy"]},
        {"class_names": "happy"},
        {"class_names": [1, 2]},
        {"class_names": [["a"], ["b"]]},
        {"class_names": ["happy", "\x1b[31msad"]},
        {"class_names": ["happy", "\ud800"]},
        {"class_names": None},
        {"crop": {"shape": "round"}},
        {"crop": {"edge": "mirror"}},
        {"crop": {"scale": 0.01}},
        {"crop": {"scale": float("nan")}},
        {"crop": {"scale": "1"}},
        {"crop": {"min_side_px": "10"}},
        {"crop": {"color": 1}},
        {"crop": None},
        {"crop": [1]},
        {"interpolation": "cubic"},
        {"outputs": []},
        {"outputs": ["attention", "logits"]},
        {"unknown_field": 1},
    ],
    ids=str,
)
def test_what_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="model spec"):
        ModelSpec.from_dict({**SPEC.to_dict(), **change})


@pytest.mark.parametrize("value", [{}, [], "text", None, 3])
def test_what_is_no_spec(value: Any) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        ModelSpec.from_dict(value)
