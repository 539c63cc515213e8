"""Make the self-test of a bundle: faces that expose wrong arithmetic, and the reference logits of each model.

ONNX Runtime computes the references in exact arithmetic. Of 256 rendered faces (32 for a slow network), the test uses
the four with the largest errors under saturated INT8, and four that spread over the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fer_edge._utils.progress import Progress, face_counter
from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.backends.self_test import TOLERANCES, relative_errors
from fer_edge.backends.self_test_data import MAX_SIDE_PX, SelfTestData, read_self_test, write_self_test
from fer_edge.bundle import model_key
from fer_edge.manifest import FP16_MODEL, FP32_MODEL, SELF_TEST, SelfTestRecord, int8_model
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import ModelSpec
from fer_edge.synthetic import DEFAULT_GENERATOR, GENERATORS

#: Differs from the seeds of the calibration and comparison faces.
_SEED = 20_261_127
_CANDIDATES, _FEW_CANDIDATES = 256, 32
_SLOW_PIXELS = 128 * 128
_SENSITIVE, _SPREAD = 4, 4
#: Crop side relative to the input: larger, so that resizing is tested.
_ENLARGED = 1.25
_BATCH = 8
_SENSITIVE_DIALECT = "cpu"
#: Key of a model's references → name of the model in the bundle.
_MODELS = {
    "fp32": FP32_MODEL,
    "fp16": FP16_MODEL,
    **{model_key("int8", dialect): int8_model(dialect) for dialect in ("cpu", "tensorrt")},
}


@dataclass(frozen=True)
class SelfTest:
    """The manifest's record of a self-test, and its file (name in the bundle → file)."""

    record: SelfTestRecord
    files: Mapping[str, Path]


def make_self_test(
    files: Mapping[str, Path],
    spec: ModelSpec,
    work: Path,
    timing_only: bool = False,
    on_progress: Progress = lambda stage, done, total: None,
) -> SelfTest:
    """Write ``self_test.npz`` into ``work``, with the logits of each model in ``files`` (name in the bundle → file).

    Crops of a ``self_test.npz`` in ``files`` are kept if they are sensitive, since choosing takes time.
    Random weights (``timing_only``) have no signal to compare, so the first faces are used.
    """
    models = {key: files[name] for key, name in _MODELS.items() if name in files}
    errors = None
    if timing_only:
        crops = _candidates(spec, _SENSITIVE + _SPREAD)
    else:
        crops, errors = _choose_crops(files.get(SELF_TEST), models, spec, on_progress)
    batch = prepare_batch(list(crops), spec)
    counted = face_counter(on_progress, "recording the self-test", len(models) * len(batch))
    logits_of = {key: _logits(path, batch, counted) for key, path in models.items()}
    path = work / SELF_TEST
    write_self_test(path, SelfTestData(crops, logits_of))
    insensitive = errors is not None and _insensitive(errors)
    named = tuple(key for key in models if key.startswith("int8")) if insensitive else ()
    return SelfTest(SelfTestRecord(named), {SELF_TEST: path})


def _choose_crops(
    kept: Path | None, models: Mapping[str, Path], spec: ModelSpec, on_progress: Progress
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return ``[N, h, w, 3]`` crops, those of a ``kept`` self-test if possible, and their errors under saturation."""
    if kept is not None:
        crops = read_self_test(kept.read_bytes(), spec).crops
        errors = _saturation_errors(models, crops, spec, on_progress)
        if errors is None or not _insensitive(errors):
            return crops, errors
    slow = spec.input_height * spec.input_width > _SLOW_PIXELS
    candidates = _candidates(spec, _FEW_CANDIDATES if slow else _CANDIDATES)
    errors = _saturation_errors(models, candidates, spec, on_progress)
    counted = face_counter(on_progress, "choosing faces for the self-test", len(candidates))
    logits = _logits(models["fp32"], prepare_batch(list(candidates), spec), counted)
    chosen = choose_faces(logits, np.zeros(len(logits)) if errors is None else errors)
    return candidates[chosen], None if errors is None else errors[chosen]


def _saturation_errors(
    models: Mapping[str, Path], crops: np.ndarray, spec: ModelSpec, on_progress: Progress
) -> np.ndarray | None:
    """Return ``[N]`` relative errors of the logits under saturated sums; ``None`` without an INT8 model."""
    model = models.get(model_key("int8", _SENSITIVE_DIALECT))
    if model is None:
        return None
    from fer_edge.calibration.qdq.saturation import SaturationEmulator

    batch = prepare_batch(list(crops), spec)
    counted = face_counter(on_progress, "emulating saturated sums", 2 * len(batch))
    return relative_errors(SaturationEmulator(model).logits(batch, counted), _logits(model, batch, counted))


def _insensitive(errors: np.ndarray) -> bool:
    return bool(errors.max() < 2 * TOLERANCES["int8"])


def _candidates(spec: ModelSpec, count: int) -> np.ndarray:
    """Return ``[count, h, w, 3]`` uint8 faces, larger than the input."""
    faces = GENERATORS[DEFAULT_GENERATOR](count, _SEED)
    side = min(round(_ENLARGED * max(spec.input_height, spec.input_width)), MAX_SIDE_PX)
    how = cv2.INTER_AREA if side < faces.shape[1] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(face, (side, side), interpolation=how) for face in faces])


def choose_faces(logits: np.ndarray, errors: np.ndarray) -> Sequence[int]:
    """Return the faces with the largest errors, then the most confident faces of as many classes as possible."""
    sensitive = [int(i) for i in np.argsort(-errors, kind="stable")[:_SENSITIVE]]
    ordered = np.sort(logits, axis=1)
    surest = np.argsort(-(ordered[:, -1] - ordered[:, -2]), kind="stable")
    spread: list[int] = []
    classes: set[int] = set()
    for repeat in (False, True):
        for i in map(int, surest):
            label = int(logits[i].argmax())
            if len(spread) < _SPREAD and i not in (*sensitive, *spread) and (repeat or label not in classes):
                spread.append(i)
                classes.add(label)
    return sensitive + spread


def _logits(
    model: Path, batch: np.ndarray, on_faces: Callable[[int], None] = lambda faces: None
) -> np.ndarray:
    session = BACKENDS["onnxruntime"].open(model, SessionOptions())
    parts = []
    try:
        for start in range(0, len(batch), _BATCH):
            parts.append(session.run(batch[start : start + _BATCH])["logits"])
            on_faces(len(parts[-1]))
    finally:
        session.close()
    return np.concatenate(parts)
