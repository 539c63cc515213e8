"""EmotionalDAN's checkpoint and its extra inputs: a real-size file against the original outputs, bad inputs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_outputs import GoldenFolder

pytest.importorskip("google_crc32c", reason="needs pip install 'fer-edge[tensorflow]'")

from author_files import write_checkpoint

from fer_edge.errors import UsageError, WeightsError
from fer_edge.export.checkpoints import AuthorInputs, load_any, save_checkpoint
from fer_edge.export.checkpoints.emotionaldan import _canonical_shape, _statistics
from fer_edge.export.checkpoints.tensorflow_bundle import TensorFlowCheckpoint
from fer_edge.export.networks.emotionaldan import EmotionalDan
from fer_edge.export.networks.landmark_transform import MEAN_FACE

FOLDER = Path(__file__).parent / "saver_files"
FACE = np.array(MEAN_FACE, np.float32)


@pytest.mark.slow
def test_checkpoint_gives_the_outputs_of_the_original_graph(
    golden_folder: GoldenFolder, tmp_path: Path
) -> None:
    golden = golden_folder.load("emotionaldan")
    write_checkpoint(tmp_path / "Model2", golden.weights())
    shape, statistics = tmp_path / "shape.npy", tmp_path / "training.npz"
    np.save(shape, golden.arrays["canonical_shape"].reshape(1, 136).astype(np.float32))
    np.savez(statistics, ImgMean=np.zeros((224, 224, 1)), ImgStd=np.ones((224, 224, 1)))

    trained = load_any(tmp_path / "Model2.index", "emotionaldan", AuthorInputs(shape, statistics))
    assert trained.provenance["container"] == "TensorFlow checkpoint"
    assert set(trained.provenance["extra_inputs"]) == {"shape.npy", "training.npz"}
    assert trained.spec.class_names[:2] == ("neutral", "happiness")
    assert isinstance(trained.module, EmotionalDan)
    batch = torch.from_numpy(golden.batch())
    with torch.inference_mode():
        logits, landmarks = trained.module(batch)
    np.testing.assert_allclose(logits, golden.arrays["logits"], rtol=0, atol=2e-4)
    np.testing.assert_allclose(landmarks, golden.arrays["landmarks_stage2"], rtol=0, atol=5e-4)
    with pytest.raises(
        WeightsError, match="files of emotionaldan .TensorFlow checkpoint. can be read but not written"
    ):
        save_checkpoint(tmp_path / "copy", trained)


def test_the_shape_comes_from_the_graph_unless_a_file_is_given(tmp_path: Path) -> None:
    found = _canonical_shape(TensorFlowCheckpoint(FOLDER / "graph"), None)
    np.testing.assert_array_equal(found, np.arange(136)[None] / 4)
    np.save(tmp_path / "face.npy", FACE)
    found = _canonical_shape(TensorFlowCheckpoint(FOLDER / "graph"), tmp_path / "face.npy")
    np.testing.assert_array_equal(found, FACE)
    with pytest.raises(
        WeightsError, match=r"constant .* of .*single.meta.* Fix: give --canonical-shape FILE"
    ):
        _canonical_shape(TensorFlowCheckpoint(FOLDER / "single"), None)


@pytest.mark.parametrize(
    "arrays",
    [
        {"Landmark": np.stack([FACE, FACE + 9, FACE - 9]), "MeanShape": FACE * 0 + 1},
        {"anything": FACE.reshape(136), "Image": np.zeros((2, 4))},
    ],
)
def test_shapes_in_npz_files(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "train.npz"
    np.savez(path, **arrays)
    found = _canonical_shape(TensorFlowCheckpoint(FOLDER / "single"), path)
    np.testing.assert_array_equal(found.reshape(68, 2), FACE)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (FACE - FACE.mean(0), r"lies from \(-56.*, expected a face in pixels of a 224×224 image"),
        (FACE / 224, "expected a face in pixels"),
        (np.full((68, 2), 100.0), "expected a face in pixels"),
        (FACE * np.nan, "expected a face in pixels"),
        (FACE[:67], r"holds \(67, 2\), expected 68 points"),
    ],
)
def test_shapes_of_another_frame_are_refused(tmp_path: Path, value: np.ndarray, match: str) -> None:
    path = tmp_path / "shape.npy"
    np.save(path, value)
    with pytest.raises(WeightsError, match=match) as caught:
        _canonical_shape(TensorFlowCheckpoint(FOLDER / "single"), path)
    assert str(path) in str(caught.value)


def test_ambiguous_shapes_and_missing_statistics_are_named(tmp_path: Path) -> None:
    path = tmp_path / "train.npz"
    np.savez(path, a=FACE, b=FACE)
    with pytest.raises(WeightsError, match="holds a, b, expected Landmark, or one array of 68 points"):
        _canonical_shape(TensorFlowCheckpoint(FOLDER / "single"), path)
    with pytest.raises(
        WeightsError, match="Model2 does not hold the mean .* Fix: give --image-statistics FILE.npz"
    ):
        _statistics(None, "Model2")
    with pytest.raises(
        WeightsError, match=r"expected ImgMean of 224×224 values in .*, found none \(arrays: a, b\)"
    ):
        _statistics(path, "Model2")
    np.savez(path, ImgMean=np.zeros((224, 224, 1)), ImgStd=np.zeros((112, 112)))
    with pytest.raises(WeightsError, match=r"expected ImgStd of 224×224 values in .*, found \(112, 112\)"):
        _statistics(path, "Model2")


def test_other_checkpoints_are_told_apart_and_incomplete_ones_counted(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError,
        match=r"single .TensorFlow checkpoint. is not a checkpoint of resmasking .*looks like emotionaldan",
    ):
        load_any(FOLDER / "single", "resmasking")
    np.save(tmp_path / "face.npy", FACE)
    np.savez(tmp_path / "s.npz", ImgMean=np.zeros((224, 224, 1)), ImgStd=np.ones((224, 224, 1)))
    inputs = AuthorInputs(tmp_path / "face.npy", tmp_path / "s.npz")
    with pytest.raises(WeightsError, match=r"120 variables missing \(such as Stage2/dense/kernel\)"):
        load_any(FOLDER / "single", "emotionaldan", inputs)
    with pytest.raises(
        UsageError, match="face.npy, but only .* takes a canonical shape and image statistics"
    ):
        load_any(FOLDER / "single", "resmasking", inputs)
    write_checkpoint(tmp_path / "other", {"layer/kernel": np.zeros(3, "<f4")})
    with pytest.raises(
        WeightsError, match="expected entries such as Stage1/conv2d/kernel .* found layer/kernel"
    ):
        load_any(tmp_path / "other", "emotionaldan")
    shutil.copy(FOLDER / "single.index", tmp_path / "cut.index")
    with pytest.raises(WeightsError, match="cut.data-00000-of-00001 is missing"):
        load_any(tmp_path / "cut", "emotionaldan")
