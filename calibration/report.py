"""FP32 against INT8 on the same faces, in the same run: agreement, accuracy, size, latency."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.backends import Backend, Session, SessionOptions
from fer_edge.datasets import FaceDataset
from fer_edge.errors import CalibrationError
from fer_edge.evaluation import session_logits
from fer_edge.labels import index_map
from fer_edge.metrics import Metrics, compute_metrics, softmax
from fer_edge.spec import ModelSpec
from fer_edge.statistics import LatencySummary, summarise
from fer_edge.temperature import Temperature, measure_temperature

_LATENCY_RUNS = 30
#: A large network is timed fewer times: the report says how many.
_LEAST_RUNS, _LATENCY_BUDGET_S = 5, 3.0


@dataclass(frozen=True)
class Comparison:
    """How INT8 differs from FP32 on one backend.

    ``agreement`` is the share of faces with the same class, ``logit_cosine`` the mean cosine of the
    centred logits. Metrics, of uncorrected confidences, and the temperature that corrects those of INT8 are
    ``None`` where the faces have no labels.
    """

    backend: str
    faces: int
    agreement: float
    logit_cosine: float
    fp32_bytes: int
    int8_bytes: int
    fp32_latency: LatencySummary
    int8_latency: LatencySummary
    fp32_metrics: Metrics | None
    int8_metrics: Metrics | None
    temperature: Temperature | None

    @property
    def speedup(self) -> float:
        """FP32 p50 over INT8 p50."""
        return self.fp32_latency.p50_ms / self.int8_latency.p50_ms

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "speedup": self.speedup}


def compare(
    fp32: Path,
    int8: Path,
    backend: Backend,
    spec: ModelSpec,
    faces: FaceDataset,
    options: SessionOptions | None = None,
    on_faces: Callable[[int], None] = lambda faces: None,
) -> Comparison:
    """Run both models over ``faces`` and time them in turn, batch 1.

    Raises
    ------
    CalibrationError
        If INT8 gives values that are not finite.
    """
    settings = options or SessionOptions()
    sessions = [backend.open(path, settings) for path in (fp32, int8)]
    logits = [session_logits(session, faces, spec, on_faces=on_faces) for session in sessions]
    if not np.isfinite(logits[1]).all():
        raise CalibrationError(f"INT8 logits are not finite on {backend.name}: calibrate with other faces")
    latencies = _alternate(sessions, np.zeros((1, *spec.input_shape), np.float32))
    for session in sessions:
        session.close()
    targets = known_targets(faces, spec)
    known = targets >= 0
    metrics: list[Metrics | None] = [None, None]
    temperature = None
    if known.any():
        metrics = [compute_metrics(softmax(v[known]), targets[known], spec.class_names) for v in logits]
        temperature = measure_temperature(logits[1][known], targets[known])
    centred = [values - values.mean(axis=1, keepdims=True) for values in logits]
    norms = np.linalg.norm(centred[0], axis=1) * np.linalg.norm(centred[1], axis=1)
    return Comparison(
        backend=backend.name,
        faces=len(faces),
        agreement=float((logits[0].argmax(1) == logits[1].argmax(1)).mean()),
        logit_cosine=float(((centred[0] * centred[1]).sum(axis=1) / np.maximum(norms, 1e-12)).mean()),
        fp32_bytes=fp32.stat().st_size,
        int8_bytes=int8.stat().st_size,
        fp32_latency=latencies[0],
        int8_latency=latencies[1],
        fp32_metrics=metrics[0],
        int8_metrics=metrics[1],
        temperature=temperature,
    )


def _alternate(sessions: list[Session], batch: np.ndarray) -> list[LatencySummary]:
    """Time the sessions in turn, so that a change of the machine's speed meets all alike."""
    taken: list[list[float]] = [[] for _ in sessions]
    for _ in range(3):
        for session in sessions:
            session.run(batch)
    begun = time.perf_counter()
    for run in range(_LATENCY_RUNS):
        if run >= _LEAST_RUNS and time.perf_counter() - begun > _LATENCY_BUDGET_S:
            break
        for session, times in zip(sessions, taken, strict=True):
            started = time.perf_counter()
            session.run(batch)
            times.append((time.perf_counter() - started) * 1e3)
    return [summarise(times) for times in taken]


def known_targets(faces: FaceDataset, spec: ModelSpec) -> np.ndarray:
    """Return ``[N]`` class indices of ``spec``; -1 where a face has no label, or one that the network lacks."""
    if faces.labels is None:
        return np.full(len(faces), -1)
    return index_map(faces.class_names, spec.class_names)[faces.targets]
