"""The faces that a build reads: each data set once, and generated ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import fer_edge.builder.faces
from fer_edge.builder.faces import generated_faces, load_sources
from fer_edge.builder.options import BuildOptions
from fer_edge.bundle import open_bundle
from fer_edge.catalogue import shipped_bundle
from fer_edge.datasets import load_dataset
from fer_edge.generated import GENERATORS, render_faces
from fer_edge.preprocess import prepare_batch


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_gives_faces_to_calibrate_on(name: str) -> None:
    faces, spec = generated_faces(3, name), open_bundle(shipped_bundle()).spec
    assert (len(faces), faces.name) == (3, f"generated images ({name})")
    batch = prepare_batch(list(faces), spec)
    assert batch.shape == (3, *spec.input_shape)
    assert batch.std() > 0.05
    assert np.array_equal(batch, prepare_batch(list(generated_faces(3, name)), spec))


def test_each_data_set_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "1.png"), render_faces(1)[0])
    read: list[Path] = []

    def load(path: Path, *arguments: Any) -> Any:
        read.append(path)
        return load_dataset(path, *arguments)

    monkeypatch.setattr(fer_edge.builder.faces, "load_dataset", load)
    a, b = tmp_path / "a", tmp_path / "b"
    sources = load_sources(BuildOptions(calibration_data=a, eval_data=b, generator=None))
    assert (sources.calibration.name, sources.evaluation.name, sources.generator) == ("a", "b", "rendered")
    assert read == [a, b]
    same = load_sources(BuildOptions(calibration_data=a, eval_data=a))
    assert same.calibration is same.evaluation
    assert read == [a, b, a]
    none = load_sources(BuildOptions(generator="noise"))
    assert (none.calibration, none.evaluation, none.generator) == (None, None, "noise")
