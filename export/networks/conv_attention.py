"""Convolution and self-attention (Jalal et al.).

The paper fixes the outer widths and 1.69 M parameters; the inner widths are free (6,231 settings fit).
:class:`ConvAttentionOptions` holds them all. The paper trains on 224×224; the network is fully
convolutional up to an adaptive pool, so any side of at least 32 pixels works.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fer_edge.errors import UsageError
from fer_edge.export.networks.attention_op import attention_weights, self_attention, self_attention_received
from fer_edge.export.networks.entry import IMAGENET_MEAN, IMAGENET_STD, NetworkEntry, as_tuples
from fer_edge.export.networks.layers import AveragePoolTo
from fer_edge.labels import AFFECTNET8
from fer_edge.spec import ModelSpec


@dataclass(frozen=True)
class ConvAttentionOptions:
    """Widths and regularisation of :class:`ConvAttention`; the defaults fit 1,688,649 parameters."""

    in_channels: int = 3
    num_classes: int = 8
    stem_width: int = 32
    c2_widths: tuple[int, int] = (96, 192)
    c3_widths: tuple[int, int, int] = (192, 256, 128)
    c4_width: int = 64
    dense_width: int = 128
    dropout: float = 0.85
    gamma_init: float | None = None  # None: drawn from N(0, 1), as in the paper


class SelfAttention(nn.Module):
    """out_i = γ Σ_j softmax_j(q(y_i)ᵀ k(y_j)) v(y_j) + y_i, without scaling (Jalal et al., Eqs. 1–3)."""

    def __init__(self, channels: int, gamma_init: float | None) -> None:
        super().__init__()
        if channels % 8:
            raise UsageError(
                f"self-attention needs a multiple of 8 channels, found {channels}. Fix: change c3_widths."
            )
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.randn(()) if gamma_init is None else torch.tensor(float(gamma_init)))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to the same shape."""
        return self_attention(*self._operands(features)).reshape(features.shape)

    def forward_received(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output, and the attention that each location receives ``[B, H, W]``; sums to 1."""
        out, received = self_attention_received(*self._operands(features))
        return out.reshape(features.shape), received.reshape(-1, *features.shape[2:])

    def weights(self, features: Tensor) -> Tensor:
        """Return e ``[B, N, N]``, N = H · W; row i is the attention of location i."""
        query, key, *_ = self._operands(features)
        return attention_weights(query, key)

    def _operands(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return (
            self.query(features).flatten(2),
            self.key(features).flatten(2),
            self.value(features).flatten(2),
            features.flatten(2),
            self.gamma,
        )


class ConvAttention(nn.Module):
    """Convolutions, one self-attention, a small head: ``[B, C, H, W]`` → logits ``[B, K]``."""

    def __init__(self, options: ConvAttentionOptions | None = None) -> None:
        super().__init__()
        o = self.options = options or ConvAttentionOptions()
        self.c1 = nn.Sequential(
            nn.Conv2d(o.in_channels, o.stem_width, 3, padding=1), nn.BatchNorm2d(o.stem_width), nn.ReLU()
        )
        self.c2 = nn.Sequential(
            *_pooled(o.stem_width, o.c2_widths[0], 3), *_pooled(o.c2_widths[0], o.c2_widths[1], 5)
        )
        self.c3 = nn.Sequential(
            *_pooled(o.c2_widths[1], o.c3_widths[0], 3),
            nn.Conv2d(o.c3_widths[0], o.c3_widths[1], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(o.c3_widths[1], o.c3_widths[2], 3, padding=1),
            nn.ReLU(),
        )
        self.attention = SelfAttention(o.c3_widths[2], o.gamma_init)
        self.c4 = nn.Sequential(nn.Conv2d(o.c3_widths[2], o.c4_width, 2), nn.ReLU(), AveragePoolTo(3))
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(9 * o.c4_width, o.dense_width),
            nn.ReLU(),
            nn.Dropout(o.dropout),
            nn.Linear(o.dense_width, o.num_classes),
        )

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for ``[B, in_channels, H, W]``."""
        return self.head(self.c4(self.attention(self.features(batch))))

    def features(self, batch: Tensor) -> Tensor:
        """Return the input of the attention, ``[B, C, H / 8, W / 8]``."""
        return self.c3(self.c2(self.c1(batch)))

    def forward_received(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and the attention that each location receives ``[B, H / 8, W / 8]``; sums to 1."""
        attended, received = self.attention.forward_received(self.features(batch))
        return self.head(self.c4(attended)), received

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the scale of each normalisation behind a max-pool positive.

        max(x)·γ = max(x·γ) for γ > 0 only: then the normalisation folds into the convolution before
        the pool, and INT8 backends run convolution, pool and ReLU without leaving integers.
        """
        for stage in (self.c2, self.c3):
            for layer in stage:
                if isinstance(layer, nn.BatchNorm2d):
                    layer.weight.clamp_(min=1e-3)


def _pooled(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Convolution, max-pool, normalisation, ReLU: in this order, as the paper lists them."""
    return [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def _build(**options: Any) -> ConvAttention:
    return ConvAttention(ConvAttentionOptions(**as_tuples(options)))


ENTRIES = {
    "conv-attention": NetworkEntry(
        build=_build,
        spec=ModelSpec(
            network="conv-attention",
            input_height=224,
            input_width=224,
            color="rgb",
            channels=3,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            class_names=AFFECTNET8,
        ),
        paper="Jalal et al.: convolution and self-attention",
    )
}
