"""The faces of a build: generated ones, those of a folder, and which of them calibrate."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.builder.faces import HELD_OUT, calibration_faces, comparison_faces, generated_faces
from fer_edge.builder.options import BuildOptions
from fer_edge.bundle import open_bundle
from fer_edge.catalogue import shipped_bundle
from fer_edge.errors import DataError
from fer_edge.generated import GENERATORS
from fer_edge.preprocess import prepare_batch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seventy pictures, each of one grey that no other has."""
    (tmp_path / "faces" / "happy").mkdir(parents=True)
    for i in range(70):
        cv2.imwrite(str(tmp_path / "faces" / "happy" / f"{i}.png"), np.full((48, 48, 3), i, np.uint8))
    return tmp_path / "faces"


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_gives_faces_to_calibrate_on(name: str) -> None:
    faces, spec = generated_faces(3, name), open_bundle(shipped_bundle()).spec
    assert (len(faces), faces.name) == (3, f"generated images ({name})")
    batch = prepare_batch(list(faces), spec)
    assert batch.shape == (3, *spec.input_shape)
    assert batch.std() > 0.05
    assert np.array_equal(batch, prepare_batch(list(generated_faces(3, name)), spec))


def test_faces_are_held_out_where_there_are_enough(folder: Path) -> None:
    for count, shared_faces in ((6, 0), (8, 2), (100, HELD_OUT)):
        drawn = calibration_faces(BuildOptions(calibration_data=folder, calibration_images=count))
        calibrating, held_out = (
            {int(face[0, 0, 0]) for face in d} for d in (drawn.calibrating, drawn.held_out)
        )
        assert (len(calibrating), len(held_out)) == (min(count, 70), HELD_OUT)
        assert len(calibrating & held_out) == shared_faces
        assert drawn.origin["name"] == "faces"
        assert len(drawn.origin["fingerprint"]) == 64


def test_fp32_is_compared_on_the_data_that_is_given(folder: Path) -> None:
    assert len(comparison_faces(BuildOptions(eval_data=folder, comparison_images=5))) == 70
    assert len(comparison_faces(BuildOptions(calibration_data=folder, comparison_images=5))) == 5
    generated = comparison_faces(BuildOptions(comparison_images=3, generator="noise"))
    assert (len(generated), generated.name) == (3, "generated images (noise)")


def test_photographs_are_no_faces_to_compare_on(astronaut_file: Path, tmp_path: Path) -> None:
    (tmp_path / "legend.csv").write_text("image,emotion\na.png,happiness\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(astronaut_file.read_bytes())
    with pytest.raises(DataError, match="holds photographs, not face crops: give crops to --eval-data"):
        comparison_faces(BuildOptions(eval_data=tmp_path))
