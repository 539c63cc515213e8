"""Deep Alignment Network (Kowalski et al., 2017): 68 landmarks in two stages, without an expression.

The predecessor of EmotionalDAN differs in more than size: 112×112 input, convolution without bias, then
normalisation, then ReLU, a heatmap of 17×17 pixels for each landmark. It has no logits, so it is no entry
of :data:`~fer_edge.export.networks.NETWORKS`; it finds landmarks where data has none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.errors import UsageError
from fer_edge.export.networks import landmark_transform as geometry

SIDE = 112
LANDMARKS = 68
WIDTHS = (64, 128, 256, 512)
HIDDEN = 256
#: Height and width behind the four pools.
POOLED = SIDE >> len(WIDTHS)
#: Of every normalisation; the running averages move by a tenth, as in Lasagne.
EPSILON = 1e-4


class DanUnit(nn.Sequential):
    """3×3 convolution without bias, normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=EPSILON)
        self.relu = nn.ReLU()


class DanStage(nn.Module):
    """A VGG-like pyramid, a hidden layer, landmark offsets."""

    def __init__(self, in_channels: int, dropout: float) -> None:
        super().__init__()
        for level, width in enumerate(WIDTHS, 1):
            self.add_module(f"conv{level}a", DanUnit(in_channels, width))
            self.add_module(f"conv{level}b", DanUnit(width, width))
            in_channels = width
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(WIDTHS[-1] * POOLED * POOLED, HIDDEN, bias=False)
        self.fc1_norm = nn.BatchNorm1d(HIDDEN, eps=EPSILON)
        self.fc2 = nn.Linear(HIDDEN, 2 * LANDMARKS)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``[B, C, 112, 112]`` to hidden values ``[B, 256]`` and offsets ``[B, 68, 2]`` pixels."""
        out = images
        for level in range(1, len(WIDTHS) + 1):
            out = self.get_submodule(f"conv{level}b")(self.get_submodule(f"conv{level}a")(out))
            out = F.max_pool2d(out, 2)
        hidden = F.relu(self.fc1_norm(self.fc1(self.dropout(out.flatten(1)))))
        return hidden, self.fc2(hidden).reshape(-1, LANDMARKS, 2)


class Dan(nn.Module):
    """Two-stage DAN: gray ``[B, 1, 112, 112]`` → landmarks ``[B, 68, 2]`` pixels (x, y).

    The batch has the units of ``image_mean``. The crop is the one of the paper: ``initial_shape`` is scaled
    and moved onto the face box, and the image moved by the similarity from there to ``initial_shape``.

    Parameters
    ----------
    dropout : float
        Before the first dense layer of each stage.
    """

    initial_shape: Tensor
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("initial_shape", torch.tensor(geometry.MEAN_FACE) / 2)
        self.register_buffer("image_mean", torch.zeros(1, SIDE, SIDE))
        self.register_buffer("image_std", torch.ones(1, SIDE, SIDE))
        self.stage1 = DanStage(1, dropout)
        self.feature = nn.Linear(HIDDEN, (SIDE // 2) ** 2)
        self.input_norm = nn.BatchNorm2d(3, eps=EPSILON)
        self.stage2 = DanStage(3, dropout)

    def forward(self, batch: Tensor) -> Tensor:
        """Return landmarks ``[B, 68, 2]`` in input pixels.

        Raises
        ------
        UsageError
            If ``batch`` is not ``[B, 1, 112, 112]``.
        """
        if batch.ndim != 4 or batch.shape[1:] != (1, SIDE, SIDE):
            raise UsageError(
                f"dan needs a batch [B, 1, {SIDE}, {SIDE}], found {list(batch.shape)}. Fix: convert the images to gray and resize them."
            )
        image = (batch - self.image_mean) / self.image_std
        hidden, offsets = self.stage1(image)
        landmarks = offsets + self.initial_shape
        # Connection layers (Section 3), in the frame of the initial shape.
        transform = geometry.fit_similarity(landmarks, self.initial_shape.unsqueeze(0))
        moved = transform.apply(landmarks)
        heatmap = geometry.landmark_heatmap(moved, SIDE, last_offset=geometry.HEATMAP_RADIUS, epsilon=1e-6)
        feature = F.relu(self.feature(hidden)).reshape(-1, 1, SIDE // 2, SIDE // 2)
        feature = F.interpolate(feature, scale_factor=2.0, mode="nearest")
        joined = torch.cat([geometry.warp(image, transform), heatmap, feature], dim=1)
        _, offsets = self.stage2(self.input_norm(joined))
        return transform.inverse().apply(moved + offsets)
