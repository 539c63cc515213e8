"""Selection of the evaluated faces, which is the same on every path to their logits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge._utils.progress import face_counter
from fer_edge.backends import BACKENDS, Session, SessionOptions, load_session
from fer_edge.bundle import Bundle, open_bundle
from fer_edge.datasets import FaceDataset
from fer_edge.detection import create_detector
from fer_edge.errors import DataError
from fer_edge.evaluation.evaluate import evaluate, known_targets, labelled_logits, session_logits
from fer_edge.labels import FER2013, FERPLUS
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.probabilities import softmax
from fer_edge.synthetic.drawn import generate_faces

ORT = BACKENDS["onnxruntime"]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """A network without contempt."""
    return open_bundle(shipped_bundle("conv-attention-fer2013"))


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> Session:
    return load_session(bundle, ORT, options=SessionOptions(1))


@pytest.fixture(scope="module")
def faces() -> FaceDataset:
    """Forty faces, five of each FER+ class, interleaved."""
    crops = np.stack(list(generate_faces(40, seed=1)))[..., 0]
    labels = np.eye(8, dtype=np.float32)[np.arange(40) % 8]
    return FaceDataset("forty", crops, labels, FERPLUS, are_crops=True)


def test_targets_are_matched_by_name(bundle: Bundle, faces: FaceDataset) -> None:
    names = {"happiness": "happy", "sadness": "sad", "anger": "angry"}
    expected = [FER2013.index(names.get(n, n)) if n != "contempt" else -1 for n in FERPLUS] * 5
    assert known_targets(faces, bundle.spec).tolist() == expected
    unlabelled = dataclasses.replace(faces, labels=None, class_names=())
    assert known_targets(unlabelled, bundle.spec).tolist() == [-1] * 40
    some = dataclasses.replace(faces, labels=faces.labels * (np.arange(40) % 3 > 0)[:, None])
    known = [-1 if i % 3 == 0 else target for i, target in enumerate(expected)]
    assert known_targets(some, bundle.spec).tolist() == known


@pytest.mark.parametrize("flip", [False, True])
def test_labelled_logits_are_those_of_the_faces_with_a_known_label(
    bundle: Bundle, session: Session, faces: FaceDataset, flip: bool
) -> None:
    logits, targets = labelled_logits(session, faces, bundle.spec, flip, temperature=2.0)
    every = session_logits(session, faces, bundle.spec, flip, temperature=2.0)
    known = [i for i in range(40) if i % 8 != FERPLUS.index("contempt")]
    np.testing.assert_allclose(logits, every[known], atol=1e-5)
    assert targets.tolist() == known_targets(faces, bundle.spec)[known].tolist()


def test_the_prior_comes_after_the_mean_with_the_mirror_image(bundle: Bundle, faces: FaceDataset) -> None:
    """Against Bayes' rule on the mean of the two softmaxes; under the training prior just that mean."""
    crops = [faces[i] for i in range(12)]
    labelled = dataclasses.replace(faces.first(12), images=np.stack(crops))
    session = load_session(bundle, ORT, options=SessionOptions(1))
    frequencies = np.array([*(bundle.manifest.class_frequencies or {}).values()])
    temperature = bundle.manifest.temperature
    mirrored = [np.ascontiguousarray(crop[:, ::-1]) for crop in crops]
    both = [
        softmax(session_logits(session, images, bundle.spec).astype(np.float64) / temperature)
        for images in (crops, mirrored)
    ]
    mean = (both[0] + both[1]) / 2
    known = known_targets(labelled, bundle.spec) >= 0
    given = dict(zip(bundle.spec.class_names, [0.1, 0, 0.2, 0.3, 0.1, 0.2, 0.1], strict=True))
    for prior, wanted in (
        ("training", frequencies),
        ("balanced", np.sqrt(frequencies)),
        ("uniform", np.ones(7)),
        (given, np.array([*given.values()])),
    ):
        expected = mean * wanted / frequencies
        expected /= expected.sum(axis=1, keepdims=True)
        found = evaluate(bundle, ORT, labelled, flip=True, prior=prior)
        confidence = sum(b.confidence * b.weight for b in found.metrics.reliability)
        weights = found.rule.weights(known_targets(labelled, bundle.spec)[known])
        weights = np.ones(known.sum()) if weights is None else weights
        assert confidence == pytest.approx(weights @ expected[known].max(axis=1), rel=1e-5)
        predicted = np.bincount(expected[known].argmax(axis=1), minlength=7)
        assert np.sum(found.metrics.confusion, axis=0).tolist() == predicted.tolist()


def test_the_prior_is_part_of_an_evaluation(bundle: Bundle, faces: FaceDataset) -> None:
    found = {prior: evaluate(bundle, ORT, faces, prior=prior) for prior in (None, "training", "uniform")}
    assert [found[prior].rule.prior for prior in found] == ["training", "training", "uniform"]
    assert found[None] == found["training"]
    assert found["uniform"].to_dict()["prior"] == {
        "name": "uniform",
        "class_prior": dict.fromkeys(bundle.spec.class_names, 1 / 7),
        "temperature": bundle.manifest.temperature,
    }
    no_disgust = dict(zip(bundle.spec.class_names, [0.2, 0, 0.2, 0.2, 0.2, 0.1, 0.1], strict=True))
    disgust_alone = faces.subset(np.flatnonzero(faces.targets == FERPLUS.index("disgust")))
    with pytest.raises(DataError, match="needs a labelled face of a class whose prior is above 0"):
        evaluate(bundle, ORT, disgust_alone, prior=no_disgust)


def test_every_face_that_has_been_run_is_counted(
    bundle: Bundle, session: Session, faces: FaceDataset
) -> None:
    told: list[tuple[str, int, int]] = []
    count = face_counter(lambda *progress: told.append(progress), "twice", 24)
    for _ in range(2):
        session_logits(session, faces.first(12), bundle.spec, on_faces=count)
    assert [total for _, _, total in told] == [24] * len(told)
    done = [done for _, done, _ in told]
    assert done == sorted(done)
    assert (12 in done, done[-1], told[0][0]) == (True, 24, "twice")


def test_without_labels_there_are_no_logits(bundle: Bundle, session: Session, faces: FaceDataset) -> None:
    logits, targets = labelled_logits(
        session, dataclasses.replace(faces, labels=None, class_names=()), bundle.spec
    )
    assert (logits.shape, targets.shape) == ((0, 7), (0,))


def test_what_is_left_out_is_counted(bundle: Bundle, faces: FaceDataset) -> None:
    found = evaluate(bundle, ORT, faces)
    assert (found.left_out, found.no_face, found.metrics.count) == (5, 0, 35)
    assert found.to_dict()["metrics"]["count"] == 35


def test_photographs_need_a_detector_and_may_hold_no_face(
    bundle: Bundle, session: Session, astronaut_file: Path, tmp_path: Path
) -> None:
    empty, contempt = tmp_path / "empty.png", tmp_path / "contempt.png"
    for path in (empty, contempt):
        cv2.imwrite(str(path), np.full((120, 120, 3), 90, np.uint8))
    labels = np.eye(2, dtype=np.float32)[[0, 0, 1]]
    photographs = FaceDataset(
        "photographs", (astronaut_file, empty, contempt), labels, ("happiness", "contempt"), are_crops=False
    )
    detector = create_detector()
    found = evaluate(bundle, ORT, photographs, detector=detector)
    assert (found.left_out, found.no_face, found.metrics.count) == (1, 1, 1)
    logits, targets = labelled_logits(session, photographs, bundle.spec, detector=detector)
    assert FER2013[logits.argmax()] == "happy"
    assert targets.tolist() == [FER2013.index("happy")]
    with pytest.raises(
        DataError, match="photographs holds photographs, not face crops. Fix: give a detector"
    ):
        evaluate(bundle, ORT, photographs)


def test_labels_that_no_network_could_match_are_an_error(bundle: Bundle, faces: FaceDataset) -> None:
    only_contempt, unlabelled = faces.subset([7, 15]), dataclasses.replace(faces, labels=None, class_names=())
    unknown = "no face of forty has a class of the network"
    for data, problem in (
        (only_contempt, unknown),
        (unlabelled, "forty has no labels. Fix: give labelled faces"),
    ):
        with pytest.raises(DataError, match=problem):
            evaluate(bundle, ORT, data)
