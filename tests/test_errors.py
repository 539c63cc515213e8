"""Errors: one base class, and suggestions for unknown names."""

from __future__ import annotations

import pytest

from fer_edge import errors
from fer_edge.errors import FerEdgeError, UsageError, closest, lookup


def test_every_error_has_the_base() -> None:
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(kinds) > 5
    assert all(issubclass(kind, FerEdgeError) for kind in kinds)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("onnxruntme", " (did you mean 'onnxruntime'?)"), ("zzz", ""), ("", "")],
)
def test_closest(name: str, expected: str) -> None:
    assert closest(name, ["openvino", "onnxruntime"]) == expected


def test_lookup() -> None:
    assert lookup({"a": 1}, "a", "thing") == 1
    with pytest.raises(
        UsageError, match=r"unknown thing 'mtccn'. Fix: choose from haar, mtcnn \(did you mean 'mtcnn'"
    ):
        lookup({"mtcnn": 1, "haar": 2}, "mtccn", "thing")
