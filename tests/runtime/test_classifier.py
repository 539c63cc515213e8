"""Classifiers: every face gets the outputs of its own crop for any batch size."""

from __future__ import annotations

import numpy as np
import pytest
from fixed_detector import FixedDetector

from fer_edge import Runtime
from fer_edge.backends import available_backends
from fer_edge.preprocess import crop_face, prepare_batch


def test_all_faces_of_a_frame_go_in_one_batch(astronaut: np.ndarray) -> None:
    pair = np.hstack([astronaut, astronaut[:, ::-1]])
    batches: list[int] = []
    with Runtime(backend="onnxruntime") as runtime:
        inner = runtime._pipeline.host.session

        class Counting:
            def run(self, batch: np.ndarray) -> object:
                batches.append(len(batch))
                return inner.run(batch)

        runtime._pipeline.host.session = Counting()
        result = runtime(pair)
    assert len(result.faces) == 2
    assert batches == [2]
    assert {face.label for face in result.faces} == {"happiness"}


@pytest.mark.parametrize(
    ("size", "expected"), [(1, [1] * 5), (2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (64, [5])]
)
def test_no_batch_is_larger_than_allowed(size: int, expected: list[int], astronaut: np.ndarray) -> None:
    boxes = [(180.0 + 8 * i, 60.0, 270.0 + 8 * i, 175.0) for i in range(5)]
    batches: list[int] = []
    with Runtime(backend="onnxruntime", max_batch=size) as runtime:
        runtime._pipeline.detector = FixedDetector(*boxes)
        run = runtime._pipeline.host.session.run
        runtime._pipeline.host.session.run = lambda batch: batches.append(len(batch)) or run(batch)
        faces = runtime(astronaut).faces
        assert batches == expected
        runtime._pipeline.detector = FixedDetector()
        assert runtime(astronaut).faces == ()
        assert batches == expected  # no call without faces
        for face, box in zip(faces, boxes, strict=True):  # each has the answer of its own crop
            assert face.box_xyxy == box
            runtime._pipeline.detector = FixedDetector(box)
            (alone,) = runtime(astronaut).faces
            np.testing.assert_allclose(
                list(face.probabilities.values()), list(alone.probabilities.values()), atol=1e-5
            )


@pytest.mark.parametrize("backend", available_backends("cpu"))
def test_more_faces_than_a_batch_holds(backend: str, astronaut: np.ndarray) -> None:
    pair = np.hstack([astronaut, astronaut[:, ::-1]])
    found = []
    for size in (1, 64):
        with Runtime(backend=backend, max_batch=size) as runtime:
            result = runtime(pair)
        assert [face.label for face in result.faces] == ["happiness", "happiness"]
        found.append([list(face.probabilities.values()) for face in result.faces])
    np.testing.assert_allclose(*found, atol=1e-6)


def test_small_faces_are_named_not_guessed(astronaut: np.ndarray) -> None:
    with Runtime(backend="onnxruntime") as runtime:
        runtime._pipeline.detector = FixedDetector(
            (10, 10, 16, 16), (180, 60, 270, 175), (508, 508, 512, 512)
        )
        faces = runtime(astronaut).faces
    assert [face.reason for face in faces] == ["too_small", None, "too_small"]
    assert faces[0].probabilities == {}
    assert faces[1].label == "happiness"


def test_an_output_that_is_not_finite_is_dropped_and_counted(astronaut: np.ndarray) -> None:
    class Broken:
        def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            return {"logits": np.full((len(batch), 8), np.nan, np.float32)}

    with Runtime(backend="onnxruntime") as runtime:
        runtime._pipeline.host.session = Broken()
        (face,) = runtime(astronaut).faces
    assert (face.label, face.reason) == (None, "not_finite")
    assert runtime.non_finite == 1


@pytest.mark.parametrize("backend", available_backends("cpu"))
def test_attention_over_the_crop_when_asked_for(astronaut: np.ndarray, backend: str) -> None:
    with Runtime(backend=backend, attention=True) as runtime:
        (face,) = runtime(astronaut).faces
        crop = crop_face(astronaut, face.box_xyxy, runtime.spec.crop)
        raw = runtime._pipeline.host.session.run(prepare_batch([crop], runtime.spec))["attention"][0]
    assert face.attention.shape == (6, 6)
    assert face.attention.dtype == np.float32
    assert raw.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(face.attention, (raw - raw.min()) / np.ptp(raw), atol=1e-5)
    left, top, right, bottom = face.crop_xyxy
    assert (right - left, bottom - top) == crop.shape[1::-1]
    assert left < face.box_xyxy[2]
    value = face.to_dict()
    assert np.shape(value["attention"]) == (6, 6)
    assert value["crop_xyxy"] == [left, top, right, bottom]


def test_attention_is_not_computed_into_results_unasked(astronaut: np.ndarray) -> None:
    with Runtime(backend="onnxruntime") as runtime:
        (face,) = runtime(astronaut).faces
    assert (face.attention, face.crop_xyxy) == (None, None)
    assert "attention" not in face.to_dict()


def test_attention_goes_with_its_face(astronaut: np.ndarray) -> None:
    pair = np.hstack([astronaut, astronaut[:, ::-1]])
    with Runtime(backend="onnxruntime", attention=True, max_batch=1) as runtime:
        boxes = ((180, 60, 270, 175), (10, 10, 16, 16), (1024 - 270, 60, 1024 - 180, 175))
        runtime._pipeline.detector = FixedDetector(*boxes)
        first, small, mirrored = runtime(pair).faces
        runtime._pipeline.detector = FixedDetector(boxes[2])
        (alone,) = runtime(pair).faces
    assert (small.attention, small.reason) == (None, "too_small")
    np.testing.assert_allclose(mirrored.attention, alone.attention, atol=1e-6)
    assert not np.allclose(first.attention, mirrored.attention, atol=1e-2)


def test_attention_that_is_not_finite_is_dropped_and_counted(astronaut: np.ndarray) -> None:
    class Broken:
        def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            logits = np.eye(8, dtype=np.float32)[:1] * 9
            return {"logits": logits, "attention": np.full((1, 6, 6), np.inf, np.float32)}

    with Runtime(backend="onnxruntime", attention=True) as runtime:
        runtime._pipeline.host.session = Broken()
        (face,) = runtime(astronaut).faces
    assert (face.label, face.attention) == ("neutral", None)
    assert runtime.non_finite == 1
