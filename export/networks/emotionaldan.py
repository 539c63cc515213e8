"""EmotionalDAN (Tautkute et al., 2018): 68 landmarks and the expression from one Deep Alignment Network.

Stage 1 moves a canonical shape onto the face. Stage 2 sees the face moved to that shape, a heatmap of the
landmarks and a feature image, refines the landmarks and classifies the expression. With one stage, the
expression is classified from stage 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.errors import UsageError, WeightsError
from fer_edge.export.networks import landmark_transform as geometry
from fer_edge.export.networks.entry import NetworkEntry
from fer_edge.export.networks.tolerance import Tolerance
from fer_edge.labels import AFFECTNET7
from fer_edge.spec import CropRule, ModelSpec

SIDE = 224
LANDMARKS = 68
WIDTHS = (64, 128, 256, 512)
HIDDEN = 256
#: Pixels; landmarks of different runtimes are at most 2e-4 apart in the canonical frame.
_STEADY_DISTANCE = 1e-3
#: Height and width behind the four pools.
POOLED = SIDE >> len(WIDTHS)

EMOTIONALDAN_SPEC = ModelSpec(
    network="emotionaldan",
    input_height=SIDE,
    input_width=SIDE,
    color="gray",
    channels=1,
    mean=(0.0,),
    std=(1.0,),
    class_names=AFFECTNET7,
    crop=CropRule(shape="square", scale=1.0, edge="replicate"),
    outputs=("logits", "landmarks"),
)
EMOTIONALDAN_1STAGE_SPEC = replace(EMOTIONALDAN_SPEC, network="emotionaldan-1stage")


@dataclass(frozen=True)
class EmotionalDanOptions:
    """Head, depth and regularisation of :class:`EmotionalDan`.

    Attributes
    ----------
    num_classes : int
        Number of logits.
    stages : {2, 1}
        1: the expression is classified from stage 1, and there is no stage 2.
    dropout : float
        Between the last pool and the first dense layer of each stage.
    """

    num_classes: int = 7
    stages: int = 2
    dropout: float = 0.5


class TrunkOutputs(NamedTuple):
    """Outputs of one stage; Grad-CAM explains conv4a and conv4b."""

    conv4a: Tensor  # [B, 512, 28, 28], after ReLU and normalisation
    conv4b: Tensor  # the same
    hidden: Tensor  # [B, 256]
    offsets: Tensor  # landmark corrections, [B, 68, 2] pixels


class Connection(NamedTuple):
    """Inputs of stage 2 from stage 1, in the canonical frame."""

    transform: geometry.Similarity  # from input pixels to canonical pixels
    landmarks: Tensor  # [B, 68, 2] canonical pixels
    warped: Tensor  # [B, 1, 224, 224], as are the next two
    heatmap: Tensor
    feature: Tensor


class DanOutputs(NamedTuple):
    """Outputs of :meth:`EmotionalDan.forward_stages`; tuples hold one item per stage."""

    logits: Tensor  # [B, num_classes]
    landmarks: tuple[Tensor, ...]  # [B, 68, 2] input pixels
    trunks: tuple[TrunkOutputs, ...]
    connection: Connection | None  # None with one stage


class Unit(nn.Sequential):
    """3×3 convolution with bias, ReLU, then normalisation: the authors' order."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.relu = nn.ReLU()
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)


class Trunk(nn.Module):
    """The layers that both stages have: a VGG-like pyramid, a hidden layer, landmark offsets."""

    def __init__(self, in_channels: int, dropout: float) -> None:
        super().__init__()
        for level, width in enumerate(WIDTHS, 1):
            self.add_module(f"conv{level}a", Unit(in_channels, width))
            self.add_module(f"conv{level}b", Unit(width, width))
            in_channels = width
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(WIDTHS[-1] * POOLED * POOLED, HIDDEN)
        self.fc1_norm = nn.BatchNorm1d(HIDDEN, eps=1e-3, momentum=0.01)
        self.fc2 = nn.Linear(HIDDEN, 2 * LANDMARKS)

    def forward(self, images: Tensor) -> TrunkOutputs:
        """Map ``[B, C, 224, 224]`` to features, hidden values and offsets."""
        out = images
        for level in range(1, len(WIDTHS) + 1):
            a = self.get_submodule(f"conv{level}a")(out)
            b = self.get_submodule(f"conv{level}b")(a)
            out = F.max_pool2d(b, 2)
        hidden = self.fc1_norm(F.relu(self.fc1(self.dropout(out.flatten(1)))))
        return TrunkOutputs(a, b, hidden, self.fc2(hidden).reshape(-1, LANDMARKS, 2))


class EmotionalDan(nn.Module):
    """EmotionalDAN: ``[B, 1, 224, 224]`` gray in [0, 1] → logits ``[B, K]``, landmarks ``[B, 68, 2]`` pixels.

    The training set's mean and deviation images and the canonical shape are part of the weights, as buffers.
    """

    canonical_shape: Tensor
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, options: EmotionalDanOptions | None = None) -> None:
        super().__init__()
        o = self.options = options or EmotionalDanOptions()
        if o.stages not in (1, 2):
            raise UsageError(f"emotionaldan has 1 or 2 stages, found {o.stages}. Fix: set stages to 1 or 2.")
        self.register_buffer("canonical_shape", torch.tensor(geometry.MEAN_FACE))
        self.register_buffer("image_mean", torch.zeros(1, SIDE, SIDE))
        self.register_buffer("image_std", torch.ones(1, SIDE, SIDE))
        self.stage1 = Trunk(1, o.dropout)
        if o.stages == 2:
            self.feature = nn.Linear(HIDDEN, (SIDE // 2) ** 2)
            self.input_norm = nn.BatchNorm2d(3, eps=1e-3, momentum=0.01)
            self.stage2 = Trunk(3, o.dropout)
        self.emotion = nn.Linear(HIDDEN, o.num_classes)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):  # TensorFlow's default
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[B, K]`` and landmarks ``[B, 68, 2]`` in input pixels."""
        outputs = self.forward_stages(batch)
        return outputs.logits, outputs.landmarks[-1]

    def _first_stage(self, batch: Tensor) -> tuple[Tensor, TrunkOutputs, Tensor]:
        """Return the normalised image, the outputs of stage 1, and its landmarks in input pixels."""
        if batch.ndim != 4 or batch.shape[1:] != (1, SIDE, SIDE):
            raise UsageError(
                f"emotionaldan needs a batch [B, 1, {SIDE}, {SIDE}], found {list(batch.shape)}. Fix: convert the images to gray and resize them."
            )
        image = (batch - self.image_mean) / self.image_std
        first = self.stage1(image)
        return image, first, first.offsets + self.canonical_shape

    def forward_stages(self, batch: Tensor) -> DanOutputs:
        """Return the outputs together with those of each stage.

        Raises
        ------
        UsageError
            If ``batch`` is not ``[B, 1, 224, 224]``.
        """
        image, first, landmarks = self._first_stage(batch)
        if self.options.stages == 1:
            return DanOutputs(self.emotion(first.hidden), (landmarks,), (first,), None)
        link = self._connect(image, landmarks, first.hidden)
        second = self.stage2(self.input_norm(torch.cat([link.warped, link.heatmap, link.feature], dim=1)))
        refined = link.transform.inverse().apply(link.landmarks + second.offsets)
        return DanOutputs(self.emotion(second.hidden), (landmarks, refined), (first, second), link)

    def is_steady(self, batch: Tensor) -> Tensor:
        """Return ``[B]`` bool: no landmark of the image that the heatmap rounds down is close to a whole pixel.

        There the landmark's window moves by a pixel, and rounding errors decide whether it does.
        """
        if self.options.stages == 1:
            return torch.ones(len(batch), dtype=torch.bool)
        landmarks = self._first_stage(batch)[2]
        moved = geometry.fit_similarity(landmarks, self.canonical_shape.unsqueeze(0)).apply(landmarks)
        points = geometry.clamp_landmarks(moved, SIDE)
        clamped = points != moved  # exactly on the bound
        near = (points - points.round()).abs() < _STEADY_DISTANCE
        return ~(near & ~clamped).flatten(1).any(dim=1)

    def _connect(self, image: Tensor, landmarks: Tensor, hidden: Tensor) -> Connection:
        """Connection layers (Kowalski et al., 2017, Section 3)."""
        transform = geometry.fit_similarity(landmarks, self.canonical_shape.unsqueeze(0))
        moved = transform.apply(landmarks)
        feature = F.relu(self.feature(hidden)).reshape(-1, 1, SIDE // 2, SIDE // 2)
        feature = F.interpolate(feature, scale_factor=2.0, mode="nearest")
        heatmap = geometry.landmark_heatmap(moved, SIDE)
        return Connection(transform, moved, geometry.warp(image, transform), heatmap, feature)


# --- the authors' variables ---------------------------------------------------------------------------

_OPTIMISER = re.compile(r"^Variable$|/Adam(_1)?$|/beta[12]_power$")
_DENSE = {"weight": "kernel", "bias": "bias"}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def from_tensorflow(
    variables: Mapping[str, np.ndarray],
    canonical_shape: np.ndarray,
    image_mean: np.ndarray,
    image_std: np.ndarray,
    origin: str = "the TensorFlow checkpoint",
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Convert the variables of the authors' two-stage graph.

    Parameters
    ----------
    variables : mapping
        TensorFlow name → value; optimiser state is ignored.
    canonical_shape : np.ndarray
        68 points (x, y) in pixels: the graph's constant ``[1, 136]``, or ``[68, 2]``.
    image_mean, image_std : np.ndarray
        ``ImgMean`` and ``ImgStd`` of the training file, 224 × 224 values in units of pixel / 255.
    origin : str
        Names the source in errors.

    Returns
    -------
    options : dict
        Fields of :class:`EmotionalDanOptions`.
    state : dict
        Every entry of the module's state, float32; batch counters are zero.

    Raises
    ------
    WeightsError
        If a variable is missing, unknown or of another shape, or the extra arrays are not usable.
    """
    names = _variable_names()
    missing = [name for name in names.values() if name not in variables]
    unknown = sorted(name for name in variables.keys() - names.values() if not _OPTIMISER.search(name))
    for group, what in ((missing, "variables missing"), (unknown, "unknown variables")):
        if group:
            raise WeightsError(
                f"{origin} does not fit EmotionalDAN: {len(group)} {what} (such as {group[0]}). Fix: give Model2 of both stages."
            )
    options = EmotionalDanOptions(num_classes=int(np.size(variables[names["emotion.bias"]])))
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in EmotionalDan(options).state_dict().items()}
    counters = (name for name in expected if name.endswith(".num_batches_tracked"))
    state = {name: torch.zeros((), dtype=torch.int64) for name in counters}
    for ours, name in names.items():
        state[ours] = _convert(ours, np.asarray(variables[name]), expected[ours], f"{name} in {origin}")
    extra = {"canonical_shape": canonical_shape, "image_mean": image_mean, "image_std": image_std}
    for ours, value in extra.items():
        array = np.array(value, np.float32)
        if array.size != np.prod(expected[ours]) or not np.isfinite(array).all():
            raise WeightsError(
                f"{ours} of {origin} must be {np.prod(expected[ours])} finite numbers, found {array.shape}. Fix: give the one used in training."
            )
        state[ours] = torch.from_numpy(array.reshape(expected[ours]))
    if not (state["image_std"] > 0).all():
        raise WeightsError(
            f"image_std of {origin} must be positive everywhere. Fix: give the one used in training."
        )
    return asdict(options), state


def _variable_names() -> dict[str, str]:
    """Name in our state → TensorFlow name, 120 entries."""
    layers = {
        "feature": "Stage2/dense",
        "input_norm": "Stage2/batch_normalization",
        "emotion": "Stage2/dense_3",
    }
    units = [f"conv{level}{half}" for level in range(1, len(WIDTHS) + 1) for half in "ab"]
    for stage, dense, norm, fc1_norm in ((1, 0, 0, "S1_Fc1"), (2, 1, 1, "batch_normalization_9")):
        for i, unit in enumerate(units):
            layers[f"stage{stage}.{unit}.conv"] = f"Stage{stage}/{_numbered('conv2d', i)}"
            layers[f"stage{stage}.{unit}.norm"] = f"Stage{stage}/{_numbered('batch_normalization', i + norm)}"
        layers[f"stage{stage}.fc1"] = f"Stage{stage}/{_numbered('dense', dense)}"
        layers[f"stage{stage}.fc1_norm"] = f"Stage{stage}/{fc1_norm}"
        layers[f"stage{stage}.fc2"] = f"Stage{stage}/{_numbered('dense', dense + 1)}"
    return {
        f"{ours}.{entry}": f"{theirs}/{name}"
        for ours, theirs in layers.items()
        for entry, name in (_NORM if ours.endswith("norm") else _DENSE).items()
    }


def _numbered(name: str, index: int) -> str:
    return f"{name}_{index}" if index else name


def _convert(ours: str, value: np.ndarray, shape: tuple[int, ...], origin: str) -> Tensor:
    """Transpose to PyTorch: TensorFlow has output channels last and flattens features as H, W, C."""
    theirs = (*shape[2:], *shape[1::-1])
    if value.shape != theirs:
        raise WeightsError(f"{origin} is {value.shape}, expected {theirs}. Fix: give Model2 of both stages.")
    if ours.endswith("fc1.weight"):
        value = value.reshape(POOLED, POOLED, WIDTHS[-1], HIDDEN).transpose(3, 2, 0, 1).reshape(shape)
    elif value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    else:
        value = value.T
    return torch.from_numpy(np.array(value, np.float32, order="C"))


def _build(stages: int) -> Callable[..., nn.Module]:
    return lambda **options: EmotionalDan(EmotionalDanOptions(**{"stages": stages, **options}))


_PAPER = "Tautkute et al., 2018: EmotionalDAN"
#: Stage 2 sees the face moved by landmarks that carry stage 1's rounding; landmarks are pixels, of scale 200.
_TOLERANCES = {"logits": Tolerance(2e-4), "landmarks": Tolerance(5e-3)}
ENTRIES = {
    "emotionaldan": NetworkEntry(_build(2), EMOTIONALDAN_SPEC, _PAPER, _TOLERANCES),
    "emotionaldan-1stage": NetworkEntry(
        _build(1), EMOTIONALDAN_1STAGE_SPEC, f"{_PAPER}, one stage", _TOLERANCES
    ),
}
