"""Faces of a build: each data set is read once; generated faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import fer_edge.builder.faces
from fer_edge.builder.faces import generated_faces, load_sources
from fer_edge.builder.options import BuildOptions
from fer_edge.builder.splits import Counts, split_faces
from fer_edge.bundle import open_bundle
from fer_edge.datasets import load_dataset
from fer_edge.errors import DataError
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import CropRule
from fer_edge.synthetic import GENERATORS, render_faces


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

    def load(path: Path, *arguments: Any, **options: Any) -> Any:
        read.append(path)
        return load_dataset(path, *arguments, **options)

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


def test_bad_pictures_stop_a_build_or_are_left_out_and_listed(tmp_path: Path) -> None:
    for i, face in enumerate(render_faces(40)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), face)
    (tmp_path / "7.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").touch()
    counts = Counts(24, 0, 16)
    with pytest.raises(DataError, match=r"7\.png is not an image .*--skip-bad of build"):
        split_faces(load_sources(BuildOptions(calibration_data=tmp_path)), counts, CropRule())
    sources = load_sources(BuildOptions(calibration_data=tmp_path, skip_bad=True))
    found = split_faces(sources, counts, CropRule())
    name = tmp_path.name
    assert found.summary["pictures"][name]["read"] == 39
    assert found.summary["skipped"][name]["count"] == 1
    assert "7.png is not an image" in found.summary["skipped"][name]["first"][0]
    assert found.summary["left_out"][name] == {"files that are no pictures (.txt)": 1}
    (warning,) = (text for text in found.warnings if "cannot be read" in text)
    assert warning.startswith("1 rows or pictures of ")
    assert "are left out, first " in warning
    assert "7.png" in warning
