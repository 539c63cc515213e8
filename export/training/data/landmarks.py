"""Pseudo-labels of 68 landmarks, from freely licensed predictors, for data sets without landmarks.

Two predictors. Neither is one of the usual 68-point models, which 300-W's licence keeps from commercial use:

- ``face-mesh``: MediaPipe Face Mesh (Google, in an Apache-2.0 wheel), 468 points, of which 68 are taken or interpolated.
  OpenCV runs it. Of 200 faces of FER2013 it finds 98 %; a face and its mirror image differ by 3.4 % of
  the distance of the eyes. The model is not in this package; :data:`HOW_TO_GET` is the command that downloads it.
- ``mtcnn-mean-face``: the five points of our face detector and the mean face fitted to them. It is coarse:
  17 % of the distance of the eyes from Face Mesh (jaw 31 %), with 89 % of the same faces found. The only
  expression in it is the width of the mouth.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch

from fer_edge._utils.files import cache_folder, whole_file
from fer_edge.datasets import FaceDataset
from fer_edge.detection import create_detector
from fer_edge.detection.base import Detector, DetectorOptions
from fer_edge.errors import DataError, WeightsError, lookup
from fer_edge.export.networks.landmark_transform import MEAN_FACE, fit_similarity

MODEL_FILE = "face_landmark.tflite"
MODEL_SHA256 = "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814"
_MODEL_IN_WHEEL = f"mediapipe/modules/face_landmark/{MODEL_FILE}"
_MODEL_BYTES = 1_242_398
_WHEEL = "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl"
#: Works on every machine: the model is read from the wheel, which is neither installed nor run.
HOW_TO_GET = (
    "pip download mediapipe==0.10.21 --no-deps --only-binary=:all: --python-version 3.11 "
    "--platform manylinux_2_28_x86_64 --dest {folder}"
)
POINTS = 68
_MESH_POINTS = 468
_SIDE_PX = 192
_FIRST_SCALE = 1.25  # finds most faces of FER2013 among 1.0, 1.25 and 1.5
_SECOND_SCALE = 1.5  # MediaPipe's own, around the points of the pass before
_MIN_PRESENCE = 0.5
# Points of the mesh along the edge of the face, from ear to ear over the chin.
_JAW = (
    127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152,
    377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356,
)  # fmt: skip
# Points 17 … 67 of the 68: brows, nose, eyes, lips.
_INNER = (
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
_RIGHT_EYE_CORNER, _LEFT_EYE_CORNER = 33, 263
_DETECTOR_FACE_PX = 160
_DETECTOR_MARGIN = 0.15

# Errors of numpy and zipfile for damaged bytes; TypeError for a single array instead of an archive.
_UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, MemoryError, TypeError, NotImplementedError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip

Box = tuple[float, float, float, float]


class PseudoLandmarks(NamedTuple):
    """Result of :func:`pseudo_landmarks`.

    Attributes
    ----------
    points : np.ndarray
        ``[N, 68, 2]`` float32 (x, y) pixels of each image; NaN where no face was found.
    source : str
        ``pseudo: NAME``, for records.
    """

    points: np.ndarray
    source: str


class LandmarkPredictor(Protocol):
    """Predictor of 68 landmarks; ``name`` changes with its results."""

    name: str

    def predict(self, image_bgr: np.ndarray, box_xyxy: Box) -> np.ndarray | None:
        """Return ``[68, 2]`` pixels of ``[H, W, 3]`` for the face in the box, or ``None``."""


class FaceMesh:
    """MediaPipe Face Mesh, run by OpenCV in two passes, the second upright and centred on the first.

    Parameters
    ----------
    model : Path, optional
        ``face_landmark.tflite``, or the mediapipe wheel that holds it; looked for in the cache folder and in
        an installed mediapipe 0.10 if left out.

    Raises
    ------
    WeightsError
        If the model is missing or of another version.
    """

    name = "face-mesh (MediaPipe 0.10.21)"

    def __init__(self, model: Path | None = None) -> None:
        data = _read_model(_model_path() if model is None else model)
        self._network = cv2.dnn.readNetFromTFLite(np.frombuffer(data, np.uint8))

    def predict(self, image_bgr: np.ndarray, box_xyxy: Box) -> np.ndarray | None:
        left, top, right, bottom = box_xyxy
        centre = np.array([left + right - 1, top + bottom - 1]) / 2
        mesh, _ = self._run(image_bgr, centre, _FIRST_SCALE * max(right - left, bottom - top), 0.0)
        across = mesh[_LEFT_EYE_CORNER] - mesh[_RIGHT_EYE_CORNER]
        angle = math.atan2(across[1], across[0])
        upright = mesh @ _rotation(angle)
        low, high = upright.min(axis=0), upright.max(axis=0)
        centre = (low + high) / 2 @ _rotation(-angle)
        side = _SECOND_SCALE * float((high - low).max())
        if not (math.isfinite(side) and side >= 1):
            return None
        mesh, presence = self._run(image_bgr, centre, side, angle)
        return _to_68(mesh) if presence >= _MIN_PRESENCE else None

    def _run(
        self, image_bgr: np.ndarray, centre: np.ndarray, side_px: float, angle: float
    ) -> tuple[np.ndarray, float]:
        """Return ``[468, 2]`` pixels of the image and the probability of a face in the rotated square."""
        to_input = _rotation(angle) * (_SIDE_PX / side_px)
        middle = (_SIDE_PX - 1) / 2
        affine = np.column_stack([to_input.T, middle - centre @ to_input])
        crop = cv2.warpAffine(image_bgr, affine, (_SIDE_PX, _SIDE_PX), borderMode=cv2.BORDER_REPLICATE)
        self._network.setInput(cv2.dnn.blobFromImage(crop, 1 / 255, swapRB=True))
        mesh, logit = self._network.forward(["conv2d_21", "conv2d_31"])
        # The network counts from pixel edges, we from pixel centres.
        points = mesh.reshape(_MESH_POINTS, 3)[:, :2].astype(np.float64) - 0.5
        return (points - middle) @ np.linalg.inv(to_input) + centre, _sigmoid(float(logit.reshape(-1)[0]))


class MtcnnMeanFace:
    """The mean face of the Deep Alignment Network, fitted to five detected points by a similarity."""

    name = "mtcnn 5 points + mean face"

    def __init__(self, model: Path | None = None) -> None:
        if model is not None:
            raise WeightsError(f"mtcnn-mean-face takes no model, found {model}. Fix: leave the model out.")
        self._detector = create_detector("mtcnn", DetectorOptions(min_face_px=_DETECTOR_FACE_PX // 4))
        self._mean = np.array(MEAN_FACE)

    def predict(self, image_bgr: np.ndarray, box_xyxy: Box) -> np.ndarray | None:
        left, top, right, bottom = box_xyxy
        scale = _DETECTOR_FACE_PX / max(right - left, bottom - top)
        margin = round(_DETECTOR_FACE_PX * _DETECTOR_MARGIN)
        width, height = round((right - left) * scale), round((bottom - top) * scale)
        # Pixel centres: x of the face square = (x + 0.5 − left) · scale − 0.5 + margin.
        shift = np.array([margin - left * scale, margin - top * scale])
        affine = np.column_stack([np.eye(2) * scale, shift + 0.5 * scale - 0.5])
        square = cv2.warpAffine(
            image_bgr, affine, (width + 2 * margin, height + 2 * margin), borderMode=cv2.BORDER_REPLICATE
        )
        found = self._detector.detect(square)
        if not found or found[0].landmarks is None:
            return None
        five = (found[0].landmarks.astype(np.float64) - affine[:, 2]) / scale
        fitted = fit_similarity(torch.from_numpy(five_points(self._mean))[None], torch.from_numpy(five)[None])
        return fitted.apply(torch.from_numpy(self._mean)[None])[0].numpy()


#: Landmark predictors by name.
PREDICTORS: Mapping[str, Callable[[Path | None], LandmarkPredictor]] = {
    "face-mesh": FaceMesh,
    "mtcnn-mean-face": MtcnnMeanFace,
}


def create_predictor(name: str = "face-mesh", model: Path | None = None) -> LandmarkPredictor:
    """Return predictor ``name``, a key of :data:`PREDICTORS`; ``model`` is its file.

    Raises
    ------
    UsageError
        If there is no such predictor.
    WeightsError
        If its model is missing or of another version.
    """
    return lookup(PREDICTORS, name, "landmark predictor")(model)


def pseudo_landmarks(
    faces: FaceDataset,
    cache: Path | None = None,
    predictor: LandmarkPredictor | str = "face-mesh",
    on_images: Callable[[int, int], None] = lambda done, total: None,
) -> PseudoLandmarks:
    """Predict the landmarks of every image, or read them from ``cache``.

    Parameters
    ----------
    faces : FaceDataset
        Of photographs the largest face is taken.
    cache : Path, optional
        A ``.npz`` file, written if it does not exist.
    predictor : LandmarkPredictor or str
        One, or its name; see :func:`create_predictor`.
    on_images : callable
        Called with (done, total).

    Raises
    ------
    DataError
        If ``cache`` is damaged, or of other images or another predictor; if no face is found.
    """
    chosen = create_predictor(predictor) if isinstance(predictor, str) else predictor
    source = f"pseudo: {chosen.name}"
    fingerprint = _fingerprint(faces)
    if cache is not None and cache.exists():
        return PseudoLandmarks(_read_cache(cache, fingerprint, source, len(faces)), source)
    detector = None if faces.are_crops else create_detector()
    points = np.full((len(faces), POINTS, 2), np.nan, np.float32)
    for i, image in enumerate(faces):
        colour = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image
        box = _face_box(colour, detector)
        found = None if box is None else chosen.predict(colour, box)
        if found is not None:
            points[i] = found
        on_images(i + 1, len(faces))
    if not np.isfinite(points).any():
        raise DataError(f"{chosen.name} finds no face in {faces.name}. Fix: give images of faces.")
    if cache is not None:
        with whole_file(cache) as part, part.open("wb") as file:
            np.savez(file, points=points, fingerprint=np.array(fingerprint), source=np.array(source))
    return PseudoLandmarks(points, source)


def five_points(points: np.ndarray) -> np.ndarray:
    """Return the eye centres, the tip of the nose and the corners of the mouth ``[5, 2]`` of ``[68, 2]``."""
    return np.stack(
        [points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]]
    )


def _face_box(image_bgr: np.ndarray, detector: Detector | None) -> Box | None:
    if detector is None:
        return 0, 0, image_bgr.shape[1], image_bgr.shape[0]
    found = detector.detect(image_bgr)
    return found[0].box_xyxy if found else None


def _fingerprint(faces: FaceDataset) -> str:
    """Return a hash of the images, their number, and the need for detection."""
    shape = faces.images.shape if isinstance(faces.images, np.ndarray) else len(faces)
    return hashlib.sha256(f"{faces.fingerprint()} {shape} {faces.are_crops}".encode()).hexdigest()


def _read_cache(path: Path, fingerprint: str, source: str, count: int) -> np.ndarray:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as values:
            points, of_images, of_source = values["points"], str(values["fingerprint"]), str(values["source"])
    except _UNREADABLE as error:
        raise DataError(f"{path} is not a landmark cache ({error}). Fix: delete it.") from error
    if of_images != fingerprint:
        raise DataError(
            f"{path} holds the landmarks of other images. Fix: delete it, or choose another file."
        )
    if of_source != source:
        raise DataError(
            f"{path} holds {of_source!r}, expected {source!r}. Fix: delete it, or choose another file."
        )
    if points.shape != (count, POINTS, 2) or points.dtype != np.float32:
        raise DataError(
            f"{path} holds {points.dtype} {list(points.shape)}, expected float32 {[count, POINTS, 2]}. Fix: delete the damaged file."
        )
    return points


def _find_model() -> Path | None:
    """Return the path of the model or of a wheel with it, or ``None``; mediapipe is not imported."""
    folder = cache_folder()
    installed = importlib.util.find_spec("mediapipe")
    places = [folder / MODEL_FILE, folder / _WHEEL]
    if installed is not None and installed.origin:
        places.append(Path(installed.origin).parent / "modules" / "face_landmark" / MODEL_FILE)
    return next((p for p in places if p.is_file()), None)


def _model_path() -> Path:
    found = _find_model()
    if found is None:
        raise WeightsError(
            f"the Face Mesh model is not in the cache. Fix: use the coarser predictor mtcnn-mean-face, or run {HOW_TO_GET.format(folder=cache_folder())}"
        )
    return found


def _read_model(path: Path) -> bytes:
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                if wheel.getinfo(_MODEL_IN_WHEEL).file_size != _MODEL_BYTES:
                    raise WeightsError(
                        f"{path} holds another {MODEL_FILE}, expected that of mediapipe 0.10.21. Fix: download mediapipe 0.10.21."
                    )
                data = wheel.read(_MODEL_IN_WHEEL)
        else:
            data = path.read_bytes() if path.stat().st_size == _MODEL_BYTES else b""
    except _UNREADABLE as error:
        raise WeightsError(
            f"{path} does not hold {MODEL_FILE} ({error}). Fix: download mediapipe 0.10.21."
        ) from error
    if hashlib.sha256(data).hexdigest() != MODEL_SHA256:
        raise WeightsError(f"{path} is not the {MODEL_FILE} of mediapipe 0.10.21. Fix: download it again.")
    return data


def _to_68(mesh: np.ndarray) -> np.ndarray:
    """Return ``[68, 2]``: 17 points equally far along the edge of the face, and 51 points of the mesh."""
    edge = mesh[list(_JAW)]
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(edge, axis=0), axis=1))])
    stops = np.linspace(0, length[-1], POINTS - len(_INNER))
    jaw = np.column_stack([np.interp(stops, length, edge[:, axis]) for axis in (0, 1)])
    return np.concatenate([jaw, mesh[list(_INNER)]])


def _rotation(angle: float) -> np.ndarray:
    """Return R such that row vectors p·R are rotated by −angle in image coordinates."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(min(value, 60.0), -60.0)))
