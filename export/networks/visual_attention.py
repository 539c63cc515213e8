"""Visual attention (Sun et al.): ten small convolutions, then a weighted mean over locations.

The authors published no code. The defaults follow the equations: biases in the attention alone (Eqs. 2–3);
the parameter counts of the tables need ``table_exact``. Dropout, initialisation and the strength of the
illumination normalisation are our readings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fer_edge.errors import UsageError
from fer_edge.export.networks.entry import NetworkEntry
from fer_edge.export.networks.illumination import normalise_illumination, standardise
from fer_edge.spec import CropRule, ModelSpec

#: Width and number of 3×3 convolutions before each 2×2 max-pool.
GROUPS = ((16, 3), (32, 3), (64, 2), (128, 2))
#: Hidden units per location (Eq. 2).
ATTENTION_WIDTH = 66
#: Four pools leave one location at this side.
MIN_SIDE = 16
VARIANTS = ("baseline", "global-average", "attention", "attention-symmetric")

VISUAL_ATTENTION_SPEC = ModelSpec(
    network="visual-attention",
    input_height=144,
    input_width=112,
    color="gray",
    channels=1,
    mean=(0.0,),
    std=(1.0,),
    class_names=("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"),
    crop=CropRule(shape="box", scale=1.1, edge="replicate", min_side_px=10),
    outputs=("logits", "attention", "embedding"),
)


@dataclass(frozen=True)
class VisualAttentionOptions:
    """Variant, input and regularisation of :class:`VisualAttention`.

    Attributes
    ----------
    variant : {"baseline", "global-average", "attention", "attention-symmetric"}
        Head behind the convolutions. ``attention-symmetric`` averages the scores with their mirror (Eq. 5).
    num_classes, in_channels : int
        Logits, and channels of the input.
    input_height, input_width : int
        Fixed for the baseline only; the others take any side of at least 16.
    bias : bool
        Biases in the convolutions and the last layer.
    table_exact : bool
        No bias anywhere, overriding ``bias``: the parameter counts of the paper's tables.
    literal_symmetric : bool
        Eq. 5 as printed, whose denominator keeps the scores before averaging: the map sums to at most 1.
    beta : float
        Sharpness of the softmax over locations (Eq. 4).
    dropout : float
        Before the last layer.
    illumination : float or None
        λ of the isotropic diffusion, 7 as in the common face toolboxes; ``None`` if the input is normalised already.
    """

    variant: str = "attention"
    num_classes: int = 7
    in_channels: int = 1
    input_height: int = VISUAL_ATTENTION_SPEC.input_height
    input_width: int = VISUAL_ATTENTION_SPEC.input_width
    bias: bool = False
    table_exact: bool = False
    literal_symmetric: bool = False
    beta: float = 1.0
    dropout: float = 0.5
    illumination: float | None = 7.0


class AttentionOutputs(NamedTuple):
    """Outputs of the attention variants.

    Attributes
    ----------
    logits : Tensor
        ``[B, num_classes]``.
    attention : Tensor
        B, ``[B, H // 16, W // 16]``, positive; sums to 1 per image (at most 1 if ``literal_symmetric``).
    embedding : Tensor
        z = Σ B·a, ``[B, 128]``.
    """

    logits: Tensor
    attention: Tensor
    embedding: Tensor


class VisualAttention(nn.Module):
    """``[B, C, H, W]``, pixel / 255, → :class:`AttentionOutputs`; variants without attention return logits."""

    def __init__(self, options: VisualAttentionOptions | None = None) -> None:
        super().__init__()
        o = self.options = options or VisualAttentionOptions()
        if o.variant not in VARIANTS:
            raise UsageError(
                f"variant must be one of {', '.join(VARIANTS)}, found {o.variant!r}. Fix: set variant to one of them."
            )
        bias, attention_bias = o.bias and not o.table_exact, not o.table_exact
        layers: list[nn.Module] = []
        width = o.in_channels
        for outputs, count in GROUPS:
            for _ in range(count):
                layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=bias), nn.ReLU()]
                width = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        locations = (o.input_height // MIN_SIDE) * (o.input_width // MIN_SIDE)
        if o.variant.startswith("attention"):
            self.attention = nn.Sequential(
                nn.Conv2d(width, ATTENTION_WIDTH, 1, bias=attention_bias),
                nn.Tanh(),
                nn.Conv2d(ATTENTION_WIDTH, 1, 1, bias=attention_bias),
                nn.Tanh(),
            )
        inputs = width * locations if o.variant == "baseline" else width
        self.head = nn.Sequential(nn.Dropout(o.dropout), nn.Linear(inputs, o.num_classes, bias=bias))
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):  # there is no normalisation between ten ReLUs
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, batch: Tensor) -> Tensor | AttentionOutputs:
        """Classify ``[B, in_channels, H, W]``, pixel / 255.

        Raises
        ------
        UsageError
            If a side is below 16, or differs from the baseline's.
        """
        self._check(*batch.shape[2:])
        features = self.features(self.prepare(batch))
        if self.options.variant == "baseline":
            return self.head(features.flatten(1))
        if self.options.variant == "global-average":
            return self.head(features.mean(dim=(2, 3)))
        attention = self._attend(self.attention(features))
        embedding = (features * attention).sum(dim=(2, 3))
        return AttentionOutputs(self.head(embedding), attention.squeeze(1), embedding)

    def prepare(self, batch: Tensor) -> Tensor:
        """Return ``batch`` with normalised illumination, standardised per image: the input of the convolutions."""
        if self.options.illumination is not None:
            batch = normalise_illumination(batch, self.options.illumination)
        return standardise(batch)

    def _attend(self, scores: Tensor) -> Tensor:
        """Scores A2 in [-1, 1] → weights B, both ``[B, 1, h, w]`` (Eqs. 4 and 5)."""
        o = self.options
        logits = o.beta * scores.flatten(1)
        if o.variant == "attention-symmetric":
            averaged = o.beta * ((scores + scores.flip(3)) / 2).flatten(1)
            if o.literal_symmetric:
                weights = averaged.exp() / logits.exp().sum(dim=1, keepdim=True)
                return weights.reshape(scores.shape)
            logits = averaged
        return torch.softmax(logits, dim=1).reshape(scores.shape)

    def _check(self, height: int, width: int) -> None:
        o = self.options
        if min(height, width) < MIN_SIDE:
            raise UsageError(
                f"visual-attention needs sides of at least {MIN_SIDE}, found {width}×{height}. Fix: enlarge the images."
            )
        if o.variant == "baseline" and (height, width) != (o.input_height, o.input_width):
            raise UsageError(
                f"the baseline was built for {o.input_width}×{o.input_height}, found {width}×{height}. Fix: set input_width and input_height."
            )


def _entry(
    name: str, variant: str, paper: str, outputs: tuple[str, ...] = VISUAL_ATTENTION_SPEC.outputs
) -> NetworkEntry:
    def build(**options: Any) -> VisualAttention:
        return VisualAttention(VisualAttentionOptions(**{"variant": variant, **options}))

    return NetworkEntry(build, replace(VISUAL_ATTENTION_SPEC, network=name, outputs=outputs), paper)


_PAPER = "Sun et al.: visual attention"
ENTRIES = {
    entry.spec.network: entry
    for entry in (
        _entry("visual-attention", "attention", _PAPER),
        _entry("visual-attention-symmetric", "attention-symmetric", f"{_PAPER}, symmetric map"),
        _entry(
            "visual-attention-baseline",
            "baseline",
            f"{_PAPER}, baseline without attention",
            outputs=("logits",),
        ),
        _entry(
            "visual-attention-average",
            "global-average",
            f"{_PAPER}, global average instead of attention",
            outputs=("logits",),
        ),
    )
}
