"""Closeness of INT8 logits to FP32 logits on the same faces, without labels.

Logits are centred per face, since a constant added to all logits of a face changes no probability.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fer_edge.errors import CalibrationError


@dataclass(frozen=True)
class Fidelity:
    """Closeness of two networks' logits.

    Attributes
    ----------
    agreement : float
        Share of faces with the same class.
    logit_cosine : float
        Mean over faces of the cosine of the centred logits.
    snr_db : float or None
        Signal-to-noise ratio of the centred logits of all faces, 10 log10(Σ FP32² / Σ (INT8 − FP32)²), in
        decibels; ``None`` if they are identical, or all FP32 logits of each face are equal.
    """

    agreement: float
    logit_cosine: float
    snr_db: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def measure_fidelity(fp32: np.ndarray, int8: np.ndarray) -> Fidelity:
    """Compare ``[N, K]`` logits with those of FP32.

    Raises
    ------
    CalibrationError
        If there are no faces, the shapes differ, or a logit is not finite.
    """
    if fp32.shape != int8.shape or len(fp32) == 0:
        raise CalibrationError(
            f"expected logits of the same faces, found the shapes {list(fp32.shape)} and {list(int8.shape)}. "
            "Fix: run both models on the same, non-empty set of faces"
        )
    for name, values in (("FP32", fp32), ("INT8", int8)):
        if not np.isfinite(values).all():
            raise CalibrationError(f"{name} logits are not finite. Fix: {_FIXES[name]}")
    reference, found = (
        v.astype(np.float64) - v.mean(axis=1, keepdims=True, dtype=np.float64) for v in (fp32, int8)
    )
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(found, axis=1)
    signal, noise = float((reference**2).sum()), float(((found - reference) ** 2).sum())
    return Fidelity(
        agreement=float((fp32.argmax(axis=1) == int8.argmax(axis=1)).mean()),
        logit_cosine=float(((reference * found).sum(axis=1) / np.maximum(norms, 1e-12)).mean()),
        snr_db=float(10 * np.log10(signal / noise)) if signal > 0 and noise > 0 else None,
    )


_FIXES = {
    "FP32": "give other weights or faces, these are damaged",
    "INT8": "calibrate with other faces or another method",
}
