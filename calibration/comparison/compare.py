"""Compare FP32 and INT8 on the same faces in one run: agreement, accuracy, size, latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.backends import Backend, SessionOptions
from fer_edge.calibration.comparison.fidelity import measure_fidelity
from fer_edge.calibration.comparison.paired import PairedComparison, compare_paired
from fer_edge.calibration.comparison.peak_memory import peak_memory_bytes
from fer_edge.calibration.comparison.timing import LatencyComparison, compare_latency, time_in_turn
from fer_edge.datasets import FaceDataset
from fer_edge.evaluation.evaluate import known_targets, session_logits
from fer_edge.evaluation.metrics import Metrics, compute_metrics
from fer_edge.evaluation.temperature import Temperature, measure_temperature
from fer_edge.probabilities import softmax
from fer_edge.results import LatencySummary
from fer_edge.spec import ModelSpec
from fer_edge.system.load import LoadMeter


@dataclass(frozen=True)
class Comparison:
    """Differences between INT8 and FP32 on one backend.

    Attributes
    ----------
    backend : str
        Backend that ran both.
    faces : int
        Number of faces, with and without a label.
    agreement, logit_cosine, snr_db
        As in :class:`fer_edge.calibration.comparison.fidelity.Fidelity`.
    fp32_bytes, int8_bytes : int
        Size of the ONNX files.
    fp32_peak_bytes, int8_peak_bytes : int or None
        Peak memory by :func:`fer_edge.calibration.comparison.peak_memory.peak_memory_bytes`.
    latency : LatencyComparison
        Latencies of one face, measured interleaved, and their ratio.
    fp32_metrics, int8_metrics : Metrics or None
        Metrics of uncorrected confidences, on the faces with a label that the network knows; ``None`` without any.
    paired : PairedComparison or None
        Changes on those faces, overall and by class, with their confidence intervals.
    fp32_temperature, temperature : Temperature or None
        Temperatures of the FP32 and the INT8 confidences; ``None`` for too few labelled faces.
    """

    backend: str
    faces: int
    agreement: float
    logit_cosine: float
    snr_db: float | None
    fp32_bytes: int
    int8_bytes: int
    fp32_peak_bytes: int | None
    int8_peak_bytes: int | None
    latency: LatencyComparison
    fp32_metrics: Metrics | None
    int8_metrics: Metrics | None
    paired: PairedComparison | None
    fp32_temperature: Temperature | None
    temperature: Temperature | None

    @property
    def fp32_latency(self) -> LatencySummary:
        """Latency of one face in FP32."""
        return self.latency.fp32

    @property
    def int8_latency(self) -> LatencySummary:
        """Latency of one face in INT8."""
        return self.latency.int8

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the speed-up is p50 of FP32 divided by p50 of INT8, with its 95 % interval."""
        value = asdict(self)
        del value["latency"]
        return {
            **value,
            "fp32_latency": asdict(self.fp32_latency),
            "int8_latency": asdict(self.int8_latency),
            "speedup": self.latency.speedup,
            "speedup_low": self.latency.low,
            "speedup_high": self.latency.high,
            "latency_verdict": self.latency.verdict,
            "load_of_others": self.latency.load,
        }


def compare(
    fp32: Path,
    int8: Path,
    backend: Backend,
    spec: ModelSpec,
    faces: FaceDataset,
    options: SessionOptions | None = None,
    on_faces: Callable[[int], None] = lambda faces: None,
    *,
    fp32_logits: np.ndarray | None = None,
) -> Comparison:
    """Run both models over ``faces``, time them interleaved at batch 1, and measure the memory of each.

    With ``fp32_logits``, the logits of FP32 for ``faces``, the FP32 model is only timed and its memory measured.

    Raises
    ------
    CalibrationError
        If there are no faces, or a model outputs non-finite values.
    """
    settings = options or SessionOptions()
    sessions = [backend.open(path, settings) for path in (fp32, int8)]
    load = LoadMeter()
    if fp32_logits is None:
        fp32_logits = session_logits(sessions[0], faces, spec, on_faces=on_faces)
    logits = [fp32_logits, session_logits(sessions[1], faces, spec, on_faces=on_faces)]
    fidelity = measure_fidelity(*logits)
    fp32_ms, int8_ms = time_in_turn(sessions, np.zeros((1, *spec.input_shape), np.float32))
    latency = compare_latency(fp32_ms, int8_ms, load.share_of_others())
    for session in sessions:
        session.close()
    targets = known_targets(faces, spec)
    known = targets >= 0
    metrics: list[Metrics | None] = [None, None]
    temperatures: list[Temperature | None] = [None, None]
    paired = None
    if known.any():
        labelled, targets = [values[known] for values in logits], targets[known]
        metrics = [compute_metrics(softmax(values), targets, spec.class_names) for values in labelled]
        temperatures = [measure_temperature(values, targets) for values in labelled]
        fp32_predicted, int8_predicted = (values.argmax(axis=1) for values in labelled)
        paired = compare_paired(fp32_predicted, int8_predicted, targets, spec.class_names)
    return Comparison(
        backend=backend.name,
        faces=len(faces),
        agreement=fidelity.agreement,
        logit_cosine=fidelity.logit_cosine,
        snr_db=fidelity.snr_db,
        fp32_bytes=fp32.stat().st_size,
        int8_bytes=int8.stat().st_size,
        fp32_peak_bytes=peak_memory_bytes(fp32, backend, spec, settings),
        int8_peak_bytes=peak_memory_bytes(int8, backend, spec, settings),
        latency=latency,
        fp32_metrics=metrics[0],
        int8_metrics=metrics[1],
        paired=paired,
        fp32_temperature=temperatures[0],
        temperature=temperatures[1],
    )
