"""Training losses of all papers: functions on tensors, computed in float32 or better."""

from __future__ import annotations

from fer_edge.export.training.losses.classification import (
    VEMO_CLASS_WEIGHTS,
    inverse_frequency_weights,
    soft_cross_entropy,
    weighted_cross_entropy,
)
from fer_edge.export.training.losses.feratt import (
    FERAttLosses,
    attention_image_loss,
    classification_loss,
    feratt_loss,
    structured_gaussian_manifold_loss,
)
from fer_edge.export.training.losses.landmarks import emotional_dan_loss, landmark_loss

__all__ = [
    "VEMO_CLASS_WEIGHTS",
    "FERAttLosses",
    "attention_image_loss",
    "classification_loss",
    "emotional_dan_loss",
    "feratt_loss",
    "inverse_frequency_weights",
    "landmark_loss",
    "soft_cross_entropy",
    "structured_gaussian_manifold_loss",
    "weighted_cross_entropy",
]
