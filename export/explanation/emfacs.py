"""Overlap between the most activated landmarks of a network and the action units of an expression.

EmotionalDAN (Tautkute et al., 2018, Table 4) compares the most activated landmarks with EMFACS (Friesen and
Ekman, 1983), which lists the facial action units (AUs) of each basic expression. The AU lists below are
EMFACS'; **which of the 68 landmarks an AU moves is our reading** of its description in FACS, since no paper
prints it. The authors sum a 3×3 window that starts at a landmark; here it is centred on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fer_edge.datasets import FaceDataset
from fer_edge.errors import DataError, UsageError
from fer_edge.explanation.explain import Explainer
from fer_edge.heatmaps import enlarge
from fer_edge.labels import canonical, index_map
from fer_edge.preprocess import prepare_batch

LANDMARKS = 68
_BATCH = 16
_BROWS = tuple(range(17, 27))
_UPPER_LIDS, _LOWER_LIDS = (37, 38, 43, 44), (40, 41, 46, 47)
_LIP_CORNERS, _MOUTH = (48, 54, 60, 64), tuple(range(48, 68))
_LOWER_LIP, _CHIN = (55, 56, 57, 58, 59, 65, 66, 67), (6, 7, 8, 9, 10)

#: Canonical class → AUs of its EMFACS prototype; a letter in front is the side of the face.
PROTOTYPES: Mapping[str, tuple[str, ...]] = {
    "happiness": ("6", "12"),
    "sadness": ("1", "4", "15"),
    "surprise": ("1", "2", "5", "26"),
    "fear": ("1", "2", "4", "5", "7", "20", "26"),
    "anger": ("4", "5", "7", "23"),
    "disgust": ("9", "15", "16"),
    "contempt": ("R12", "R14"),
}

#: AU → landmarks of the 68-point (iBUG) scheme that it moves; right is the side left in the image.
AU_LANDMARKS: Mapping[str, tuple[int, ...]] = {
    "1": (20, 21, 22, 23),  # inner brow raiser
    "2": (17, 18, 19, 24, 25, 26),  # outer brow raiser
    "4": (*_BROWS, 27),  # brow lowerer
    "5": _UPPER_LIDS,  # upper lid raiser
    "6": (36, 45, *_LOWER_LIDS),  # cheek raiser
    "7": (*_UPPER_LIDS, *_LOWER_LIDS),  # lid tightener
    "9": tuple(range(27, 36)),  # nose wrinkler
    "12": _LIP_CORNERS,  # lip corner puller
    "15": (*_LIP_CORNERS, 55, 59),  # lip corner depressor
    "16": _LOWER_LIP,  # lower lip depressor
    "20": (*_LIP_CORNERS, 49, 53, 55, 59),  # lip stretcher
    "23": _MOUTH,  # lip tightener
    "26": (*_CHIN, *_LOWER_LIP),  # jaw drop
    "R12": (48, 60),
    "R14": (48, 60),  # dimpler
}


@dataclass(frozen=True)
class ClassOverlap:
    """One row of the result.

    Attributes
    ----------
    class_name : str
        Class name of the network.
    action_units : tuple of str
        Its EMFACS prototype.
    landmarks : int
        Number of the 68 landmarks that belong to these AUs.
    images : int
        Number of images that the overlap is averaged over.
    overlap : float
        Mean share of the most activated landmarks that belong to the AUs.
    chance : float
        The share that a flat or random map has: ``landmarks`` / 68.
    """

    class_name: str
    action_units: tuple[str, ...]
    landmarks: int
    images: int
    overlap: float
    chance: float


@dataclass(frozen=True)
class EmfacsReport:
    """Overlap by class; ``left_out`` counts images by reason."""

    network: str
    method: str
    data: str
    landmark_source: str
    top: int
    classes: tuple[ClassOverlap, ...]
    left_out: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def class_landmarks(class_name: str) -> frozenset[int]:
    """Return the landmarks of a class's AUs; empty for neutral, which has none."""
    units = PROTOTYPES.get(canonical(class_name), ())
    return frozenset(point for unit in units for point in AU_LANDMARKS[unit])


def sample_landmarks(heat: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Return the mean of the 3×3 window centred on each landmark.

    Parameters
    ----------
    heat : np.ndarray
        ``[H, W]``.
    landmarks : np.ndarray
        ``[N, 2]`` (x, y) pixels of ``heat``; outside, the nearest pixel is taken.

    Returns
    -------
    np.ndarray
        ``[N]`` float64. The border repeats.
    """
    height, width = heat.shape
    x, y = np.rint(landmarks).astype(np.int64).T
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    padded = np.pad(heat.astype(np.float64), 1, mode="edge")
    window = [padded[y + dy, x + dx] for dy in range(3) for dx in range(3)]
    return np.mean(window, axis=0)


def top_share(values: np.ndarray, members: frozenset[int], top: int) -> float:
    """Return the share of the ``top`` largest ``values`` whose index is in ``members``.

    Equals share the last places: the result is the mean over random choices among them, so a flat
    map has exactly the chance level.
    """
    inside = np.isin(np.arange(len(values)), list(members))
    last = np.sort(values)[-top]
    above, equal = values > last, values == last
    places = top - above.sum()
    return float((inside[above].sum() + places * inside[equal].mean()) / top)


def emfacs_overlap(
    explainer: Explainer,
    faces: FaceDataset,
    top: int = 10,
    on_faces: Callable[[int], None] = lambda faces: None,
) -> EmfacsReport:
    """Measure the overlap on face crops.

    The class of an image is the annotated one, or the network's where the data has no labels; Grad-CAM
    explains that class. Landmarks are those of the data, or the network's own.

    Parameters
    ----------
    explainer : Explainer
        Attention or Grad-CAM of a network.
    faces : FaceDataset
        Face crops.
    top : int
        Number of landmarks that count as most activated.
    on_faces : callable
        Called with the number of faces of each batch.

    Raises
    ------
    DataError
        If the data holds photographs, or there are no landmarks, or no image of a class with AUs.
    UsageError
        If ``top`` is not from 1 to 67.
    """
    if not 1 <= top < LANDMARKS:
        raise UsageError(
            f"top must be from 1 to {LANDMARKS - 1} landmarks, found {top}. Fix: give a number in that range."
        )
    if not faces.are_crops:
        raise DataError(f"expected face crops in {faces.name}, found photographs. Fix: give face crops.")
    spec = explainer.spec
    known = None if faces.labels is None else index_map(faces.class_names, spec.class_names)[faces.targets]
    shares: dict[int, list[float]] = {}
    left_out = {"class unknown to the network": 0, "class without action units": 0, "no landmarks": 0}
    source = faces.landmark_source if faces.landmarks is not None else f"{spec.network}'s own"
    for start in range(0, len(faces), _BATCH):
        indices = np.arange(start, min(start + _BATCH, len(faces)))
        on_faces(len(indices))
        if known is not None:
            left_out["class unknown to the network"] += int((known[indices] < 0).sum())
            indices = indices[known[indices] >= 0]
        if not len(indices):
            continue
        crops = [faces[int(i)] for i in indices]
        asked = None if known is None or explainer.method != "gradcam" else known[indices].tolist()
        explained = explainer.explain(prepare_batch(crops, spec), asked)
        classes = explained.probabilities.argmax(axis=1) if known is None else known[indices]
        points = _input_landmarks(faces, indices, crops, explained.landmarks, explainer)
        for index, heat, landmarks in zip(classes, explained.maps, points, strict=True):
            members = class_landmarks(spec.class_names[index])
            if not members:
                left_out["class without action units"] += 1
            elif not np.isfinite(landmarks).all():
                left_out["no landmarks"] += 1
            else:
                large = enlarge(heat, spec.input_height, spec.input_width)
                values = sample_landmarks(large, landmarks)
                shares.setdefault(int(index), []).append(top_share(values, members, top))
    if not shares:
        raise DataError(
            f"{faces.name} has no image that has landmarks and a class with action units ({left_out}). Fix: give data with both."
        )
    rows = tuple(_row(spec.class_names[index], shares[index]) for index in sorted(shares))
    return EmfacsReport(spec.network, explainer.method, faces.name, source, top, rows, left_out)


def _row(class_name: str, shares: Sequence[float]) -> ClassOverlap:
    members = class_landmarks(class_name)
    return ClassOverlap(
        class_name=class_name,
        action_units=PROTOTYPES[canonical(class_name)],
        landmarks=len(members),
        images=len(shares),
        overlap=float(np.mean(shares)),
        chance=len(members) / LANDMARKS,
    )


def _input_landmarks(
    faces: FaceDataset,
    indices: np.ndarray,
    crops: Sequence[np.ndarray],
    own: np.ndarray | None,
    explainer: Explainer,
) -> np.ndarray:
    """Return ``[B, 68, 2]`` pixels of the network's input."""
    if faces.landmarks is None:
        if own is None:
            raise DataError(
                f"{faces.name} has no landmarks, and {explainer.spec.network} does not predict them. Fix: give data with landmarks, "
                "or a network that predicts them (emotionaldan)."
            )
        return own
    sizes = np.array([crop.shape[1::-1] for crop in crops], np.float64)[:, None]
    scale = np.array([explainer.spec.input_width, explainer.spec.input_height]) / sizes
    return (faces.landmarks[indices] + 0.5) * scale - 0.5  # cv2.resize aligns pixel centres so
