"""The FP32 model of a build: shipped weights and bundles, by name and by file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fer_edge.backends import BACKENDS, load_session
from fer_edge.builder import BuildOptions, build
from fer_edge.bundle import open_bundle
from fer_edge.errors import UsageError, WeightsError
from fer_edge.evaluation.evaluate import session_logits
from fer_edge.labels import FER2013
from fer_edge.models.catalogue import SHIPPED, shipped_bundle
from fer_edge.synthetic.drawn import generate_faces


@pytest.mark.parametrize(
    "name", [next(iter(SHIPPED)), *(pytest.param(name, marks=pytest.mark.slow) for name in [*SHIPPED][1:])]
)
def test_shipped_weights_are_those_of_the_shipped_bundle(name: str, tmp_path: Path) -> None:
    weights = shipped_bundle(name).with_suffix(".safetensors")
    options = BuildOptions(SHIPPED[name].network, str(weights), "fp32", output=tmp_path / "w.fer")
    faces = list(generate_faces(8))
    logits = [
        session_logits(load_session(b, BACKENDS["onnxruntime"]), faces, b.spec)
        for b in (build(options).bundle, open_bundle(shipped_bundle(name)))
    ]
    assert np.abs(logits[0] - logits[1]).max() < 1e-4


def test_shipped_names_build_and_are_checked_against_the_network(tmp_path: Path) -> None:
    options = BuildOptions(weights="conv-attention-fer2013", precision="fp32", output=tmp_path / "a.fer")
    assert build(options).bundle.spec.class_names == FER2013
    with pytest.raises(
        UsageError, match="are weights of visual-attention, .* Fix: give --model visual-attention"
    ):
        build(BuildOptions(weights="visual-attention", output=tmp_path / "b.fer"))
    with pytest.raises(
        WeightsError, match=r"no trained weights of feratt ship .*available are conv-attention"
    ):
        build(BuildOptions(model="feratt", output=tmp_path / "c.fer"))
