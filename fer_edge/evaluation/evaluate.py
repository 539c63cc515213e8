"""Accuracy of a bundle on labelled faces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fer_edge.backends import Backend, Session, SessionOptions, load_session
from fer_edge.bundle import Bundle
from fer_edge.datasets import FaceDataset
from fer_edge.detection.base import Detector
from fer_edge.errors import DataError
from fer_edge.evaluation.metrics import Metrics, compute_metrics
from fer_edge.evaluation.photographs import holds_photographs
from fer_edge.labels import index_map
from fer_edge.preprocess import crop_face, prepare_batch
from fer_edge.probabilities import Prior, ProbabilityRule, make_rule, softmax
from fer_edge.spec import ModelSpec

#: Larger batches are not faster on a CPU and need more memory: 32 faces of Residual Masking Network needed 1 GiB.
BATCH_SIZE = 8


@dataclass(frozen=True)
class Evaluation:
    """Result of :func:`evaluate`.

    ``left_out`` counts images whose class the network does not have, ``no_face`` those without a detected face;
    neither are in ``metrics``. The calibration error is for data with the class frequencies of the prior of ``rule``:
    faces have the weight q / π. ``photographs`` is ``True`` if the largest face was cropped from each image.
    """

    data: str
    backend: str
    precision: str
    flip: bool
    rule: ProbabilityRule
    metrics: Metrics
    left_out: int
    no_face: int
    photographs: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        fields = {name: value for name, value in vars(self).items() if name != "rule"}
        return {**fields, "prior": self.rule.to_dict(), "metrics": self.metrics.to_dict()}


def session_logits(
    session: Session,
    crops: FaceDataset | list[np.ndarray],
    spec: ModelSpec,
    flip: bool = False,
    on_faces: Callable[[int], None] = lambda faces: None,
    temperature: float = 1.0,
) -> np.ndarray:
    """Return ``[N, K]`` logits / ``temperature`` of face crops.

    With ``flip``, they are the log of the mean softmax over the image and its mirror image, both under the prior that
    the logits imply; apply another prior afterwards (:meth:`fer_edge.probabilities.ProbabilityRule.apply_prior`).
    """
    parts = []
    for start in range(0, len(crops), BATCH_SIZE):
        batch = prepare_batch([crops[i] for i in range(start, min(start + BATCH_SIZE, len(crops)))], spec)
        logits = session.run(batch)["logits"] / temperature
        if flip:
            mirrored = session.run(np.ascontiguousarray(batch[..., ::-1]))["logits"] / temperature
            logits = np.log((softmax(logits) + softmax(mirrored)) / 2)
        parts.append(logits)
        on_faces(len(batch))
    return np.concatenate(parts) if parts else np.zeros((0, len(spec.class_names)), np.float32)


def known_targets(faces: FaceDataset, spec: ModelSpec) -> np.ndarray:
    """Return ``[N]`` class indices of ``spec``; -1 for a face without a label or with a class that the network lacks."""
    if faces.labels is None:
        return np.full(len(faces), -1)
    classes = index_map(faces.class_names, spec.class_names)[faces.targets]
    return np.where(faces.labels.any(axis=1), classes, -1)


def labelled_logits(
    session: Session,
    faces: FaceDataset,
    spec: ModelSpec,
    flip: bool = False,
    detector: Detector | None = None,
    on_faces: Callable[[int], None] = lambda faces: None,
    temperature: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the faces whose class the network has; return their ``[N, K]`` logits and ``[N]`` true classes.

    In photographs, ``detector`` finds the largest face; photographs without a face are left out.
    The other parameters are those of :func:`session_logits`.

    Raises
    ------
    DataError
        If there are photographs and no detector.
    """
    targets = known_targets(faces, spec)
    faces, targets = faces.subset(np.flatnonzero(targets >= 0)), targets[targets >= 0]
    crops: FaceDataset | list[np.ndarray] = faces
    if not faces.are_crops:
        if detector is None:
            raise DataError(f"{faces.name} holds photographs, not face crops. Fix: give a detector")
        found = [_largest_face(image, detector, spec) for image in faces]
        targets = targets[[crop is not None for crop in found]]
        crops = [crop for crop in found if crop is not None]
    return session_logits(session, crops, spec, flip, on_faces, temperature), targets


def evaluate(
    bundle: Bundle,
    backend: Backend,
    faces: FaceDataset,
    *,
    precision: str | None = None,
    flip: bool = False,
    prior: Prior | None = None,
    detector: Detector | None = None,
    options: SessionOptions | None = None,
    on_faces: Callable[[int], None] = lambda faces: None,
) -> Evaluation:
    """Measure the accuracy of a bundle on labelled faces.

    Parameters
    ----------
    detector : Detector, optional
        Required for photographs, in which it finds the largest face. With a detector, images of a folder are tested
        for being photographs (:func:`fer_edge.evaluation.photographs.holds_photographs`); without, ``faces.are_crops``
        is used unchecked.
    flip : bool
        Average with the mirror image (test-time flip).
    prior : str, mapping or None
        Class prior, as in :func:`fer_edge.probabilities.make_rule`.

    Raises
    ------
    DataError
        If there are no labels, or no usable image.
    UsageError
        If the prior cannot be applied.
    """
    spec, rule = bundle.spec, make_rule(bundle.manifest, prior)
    if faces.labels is None:
        raise DataError(f"{faces.name} has no labels. Fix: give labelled faces")
    if detector is not None and holds_photographs(faces, lambda: detector, spec.crop):
        faces = replace(faces, are_crops=False)
    usable = int((known_targets(faces, spec) >= 0).sum())
    if usable == 0:
        raise DataError(f"no face of {faces.name} has a class of the network. Fix: give other data")
    chosen = precision or bundle.manifest.precision
    session = load_session(bundle, backend, chosen, options)
    logits, targets = labelled_logits(session, faces, spec, flip, detector, on_faces, rule.temperature)
    session.close()
    probabilities = softmax(rule.apply_prior(logits))
    metrics = compute_metrics(probabilities, targets, spec.class_names, rule.weights(targets))
    return Evaluation(
        data=faces.name,
        backend=backend.name,
        precision=chosen,
        flip=flip,
        rule=rule,
        metrics=metrics,
        left_out=len(faces) - usable,
        no_face=usable - len(targets),
        photographs=not faces.are_crops,
    )


def _largest_face(image: np.ndarray, detector: Detector, spec: ModelSpec) -> np.ndarray | None:
    found = detector.detect(image)
    if not found:
        return None
    return crop_face(image, found[0].box_xyxy, spec.crop, found[0].roll_deg)
