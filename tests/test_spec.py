"""ModelSpec: validation, and a JSON round trip."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from fer_edge.errors import BundleError
from fer_edge.export.networks import NETWORKS
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
        {"std": [1, 1, 1e-30]},
        {"std": [1, 1, 1e30]},
        {"mean": [0, 0, -1e30]},
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
        {"crop": {"min_side_px": 0}},
        {"crop": {"min_side_px": -5}},
        {"crop": {"min_side_px": 10**9}},
        {"crop": {"min_side_px": True}},
        {"crop": {"color": 1}},
        {"crop": None},
        {"crop": [1]},
        {"interpolation": "cubic"},
        {"outputs": []},
        {"outputs": ["attention", "logits"]},
        {"unknown_field": 1},
        {"network": ""},
        {"network": 3},
        {"network": "x" * 101},
        {"network": "a\nb"},
        {"color": ["rgb"]},
        {"color": None},
        {"channels": True, "color": "gray", "mean": [0], "std": [1]},
        {"channels": 3.0},
        {"channels": "3"},
        {"mean": [True, 0, 0]},
        {"mean": [0, 0, 101]},
        {"mean": [0, 0, -101]},
        {"mean": [0, 0, 10**400]},
        {"mean": [0, 0, None]},
        {"mean": 0.5},
        {"std": [1, 1, True]},
        {"std": [1, 1, "1"]},
        {"class_names": [f"c{i}" for i in range(1001)]},
        {"class_names": ["happy", ""]},
        {"class_names": ["happy", "x" * 101]},
        {"class_names": ["happy", True]},
        {"crop": {"scale": float("inf")}},
        {"crop": {"scale": 11}},
        {"crop": {"scale": -1}},
        {"crop": {"scale": True}},
        {"crop": {"scale": None}},
        {"crop": {"shape": ["square"]}},
        {"crop": {"edge": 3}},
        {"crop": {"min_side_px": 10.0}},
        {"crop": {"min_side_px": float("nan")}},
        {"interpolation": ["area"]},
        {"interpolation": None},
        {"outputs": ["logits", "logits"]},
        {"outputs": ["logits", *(f"o{i}" for i in range(16))]},
        {"outputs": ["logits", "x" * 101]},
        {"outputs": ["logits", 3]},
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


@pytest.mark.parametrize(
    "change",
    [
        {"mean": ("a", "b", "c")},
        {"std": (None,) * 3},
        {"mean": [0, 0, 0]},
        {"class_names": (1, 2)},
        {"crop": None},
        {"crop": {"scale": 1}},
        {"outputs": ()},
        {"input_height": float("nan")},
    ],
    ids=str,
)
def test_a_spec_that_is_made_wrong_is_refused_with_the_same_error(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=f"the model spec of 'net' is wrong: .*{next(iter(change))}"):
        dataclasses.replace(SPEC, **change)


def test_every_network_lies_far_inside_of_the_bounds() -> None:
    for entry in NETWORKS.values():
        spec = entry.spec
        assert max(map(abs, spec.mean)) <= 1
        assert min(spec.std) >= 0.1
        assert max(spec.std) <= 1
        assert 1 <= spec.crop.scale <= 2
        assert len(spec.class_names) <= 10
