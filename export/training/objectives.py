"""Training objectives by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor, nn

from fer_edge.errors import UsageError
from fer_edge.export.networks.emotionaldan import EmotionalDan
from fer_edge.export.networks.feratt import FERAtt
from fer_edge.export.training.losses import (
    emotional_dan_loss,
    feratt_loss,
    landmark_loss,
    soft_cross_entropy,
    weighted_cross_entropy,
)

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Batch:
    """Tensors of one training step.

    Attributes
    ----------
    images : Tensor
        ``[B, C, H, W]``, normalised as the spec says.
    labels : Tensor
        ``[B, K]``, rows sum to 1.
    landmarks : Tensor or None
        ``[B, 68, 2]`` input pixels.
    faces, masks : Tensor or None
        ``[B, 3, H, W]``: the face before its colours were changed, normalised like the images; its mask
        ``[B, H, W]`` bool.
    """

    images: Tensor
    labels: Tensor
    landmarks: Tensor | None = None
    faces: Tensor | None = None
    masks: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """Loss of a batch, its parts by name, and logits ``[B, K]`` where the objective computes them."""

    loss: Tensor
    logits: Tensor | None
    parts: Mapping[str, Tensor] = field(default_factory=dict)


def classification(network: nn.Module, batch: Batch, class_weights: Sequence[float] | None = None) -> Outcome:
    """Cross-entropy with the label distribution, weighted by class where weights are given."""
    outputs = network(batch.images)
    logits = outputs if isinstance(outputs, Tensor) else outputs[0]
    if class_weights is None:
        return Outcome(soft_cross_entropy(logits, batch.labels), logits)
    return Outcome(weighted_cross_entropy(logits, batch.labels, class_weights), logits)


def landmarks(network: nn.Module, batch: Batch) -> Outcome:
    """Stage 1 of EmotionalDAN: landmarks alone."""
    network = _expect(network, EmotionalDan)
    trunk = network.stage1((batch.images - network.image_mean) / network.image_std)
    loss = landmark_loss(trunk.offsets + network.canonical_shape, _given(batch.landmarks))
    return Outcome(loss, None, {"landmarks": loss})


def landmarks_and_expression(network: nn.Module, batch: Batch, landmark_weight: float = 0.4) -> Outcome:
    """EmotionalDAN's joint loss."""
    network = _expect(network, EmotionalDan)
    logits, points = network(batch.images)
    target = _given(batch.landmarks)
    loss = emotional_dan_loss(points, target, logits, batch.labels, landmark_weight)
    parts = {
        "landmarks": landmark_loss(points, target),
        "expression": soft_cross_entropy(logits, batch.labels),
    }
    return Outcome(loss, logits, parts)


def structured_manifold(network: nn.Module, batch: Batch, sigma: float = 1.0) -> Outcome:
    """FERAtt's three-part loss: class, attended face, representation."""
    network = _expect(network, FERAtt)
    parts = network.forward_parts(batch.images)
    loss = feratt_loss(
        logits=parts.logits,
        embedding=parts.embedding if network.options.embedding else None,
        face=parts.face,
        distribution=batch.labels,
        image=_given(batch.faces),
        mask=_given(batch.masks),
        sigma=sigma,
    )
    return Outcome(loss.total, parts.logits, {n: v for n, v in loss._asdict().items() if n != "total"})


OBJECTIVES: Mapping[str, Callable[..., Outcome]] = {
    "classification": classification,
    "landmarks": landmarks,
    "landmarks-and-expression": landmarks_and_expression,
    "structured-manifold": structured_manifold,
}


def _expect(network: nn.Module, kind: type[Network]) -> Network:
    if not isinstance(network, kind):
        raise UsageError(
            f"this objective needs {kind.__name__}, found {type(network).__name__}. Fix: choose another objective."
        )
    return network


def _given(value: Tensor | None) -> Tensor:
    if value is None:
        raise UsageError(
            "this objective needs landmarks or rendered faces, which recipe.data does not provide. Fix: choose another recipe.data."
        )
    return value
