"""Built-in attention of the networks, as maps over the crop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.errors import UsageError, lookup
from fer_edge.export.explanation.canonical_maps import to_input_frame
from fer_edge.export.networks.conv_attention import ConvAttention
from fer_edge.export.networks.emotionaldan import EmotionalDan
from fer_edge.export.networks.feratt import FERAtt
from fer_edge.export.networks.resmasking import STAGES, ResMasking
from fer_edge.export.networks.visual_attention import VisualAttention
from fer_edge.export.weights import TrainedNetwork
from fer_edge.heatmaps import min_max


@dataclass(frozen=True)
class AttentionOptions:
    """Selection of an attention map.

    Attributes
    ----------
    map : str or None
        A key of the network's entry in :data:`MAPS`; ``None`` takes the first.
    stage : int
        Residual Masking: 1 to 4; the paper's Figure 1 shows 3.
    row, column : int or None
        Self-attention, map ``row``: the location whose attention is read, in cells of the map.
    """

    map: str | None = None
    stage: int = 3
    row: int | None = None
    column: int | None = None


#: (network of its own class, batch, options) → ``[B, h, w]``.
Reader = Callable[[Any, Tensor, AttentionOptions], Tensor]


def _received(module: ConvAttention, batch: Tensor, options: AttentionOptions) -> Tensor:
    """Column mean of e (Jalal et al.): the attention that each location receives."""
    return module.forward_received(batch)[1]


def _row(module: ConvAttention, batch: Tensor, options: AttentionOptions) -> Tensor:
    """Row i of e (Jalal et al.): the attention of location i."""
    features = module.features(batch)
    height, width = features.shape[2:]
    if options.row is None or options.column is None:
        raise UsageError(
            f"the map row needs a row and a column, found none. Fix: give row 0 to {height - 1} and column 0 to {width - 1}."
        )
    if not (0 <= options.row < height and 0 <= options.column < width):
        raise UsageError(
            f"location ({options.row}, {options.column}) lies outside the {height}×{width} map. "
            f"Fix: give row 0 to {height - 1} and column 0 to {width - 1}."
        )
    weights = module.attention.weights(features)
    return weights[:, options.row * width + options.column].reshape(-1, height, width)


def _stage(options: AttentionOptions) -> int:
    if not 1 <= options.stage <= len(STAGES):
        raise UsageError(
            f"resmasking has stages 1 to {len(STAGES)}, found {options.stage}. Fix: give a stage in that range."
        )
    return options.stage


def _change(module: ResMasking, batch: Tensor, options: AttentionOptions) -> Tensor:
    """Channel mean of x·(1 + m) − x, the change by the mask."""
    return module.forward_change(batch, _stage(options))[1]


def _features(which: str) -> Callable[[ResMasking, Tensor, AttentionOptions], Tensor]:
    def read(module: ResMasking, batch: Tensor, options: AttentionOptions) -> Tensor:
        """Channel mean of the features before or after the mask (Pham et al., Figure 1)."""
        features: Tensor = getattr(module.forward_stages(batch), which)[_stage(options) - 1]
        return F.relu(features.mean(dim=1))

    return read


def _mask(module: ResMasking, batch: Tensor, options: AttentionOptions) -> Tensor:
    """Largest mask value over the channels. Their mean is constant, as m is a softmax over them."""
    return module.forward_stages(batch).masks[_stage(options) - 1].amax(dim=1)


def _locations(module: VisualAttention, batch: Tensor, options: AttentionOptions) -> Tensor:
    """B of Eq. 4 (Sun et al.)."""
    outputs = module(batch)
    if isinstance(outputs, Tensor):
        raise UsageError(
            f"the {module.options.variant} variant of visual-attention has no attention. Fix: use --method gradcam."
        )
    return outputs.attention


def _face(module: FERAtt, batch: Tensor, options: AttentionOptions) -> Tensor:
    """Channel mean of the attention image I_att (Marrero Fernández et al.)."""
    return module.forward_parts(batch).face.mean(dim=1)


def _gate(module: FERAtt, batch: Tensor, options: AttentionOptions) -> Tensor:
    """σ(A), its mean over the classes where there is one for each."""
    return torch.sigmoid(module.forward_parts(batch).attention_logits).mean(dim=1)


def _landmarks(module: EmotionalDan, batch: Tensor, options: AttentionOptions) -> Tensor:
    """Heatmap of the landmarks between the stages, moved back to the input."""
    link = module.forward_stages(batch).connection
    if link is None:
        raise UsageError("emotionaldan-1stage draws no landmark heatmap. Fix: use --method gradcam.")
    return to_input_frame(link.heatmap, link.transform)[:, 0]


#: Network class → its maps by name, the default first.
MAPS: Mapping[type[nn.Module], Mapping[str, Reader]] = {
    ConvAttention: {"received": _received, "row": _row},
    ResMasking: {
        "change": _change,
        "mask": _mask,
        "before": _features("before"),
        "after": _features("after"),
    },
    VisualAttention: {"locations": _locations},
    FERAtt: {"face": _face, "gate": _gate},
    EmotionalDan: {"landmarks": _landmarks},
}


@torch.no_grad()
def attention_maps(module: nn.Module, batch: Tensor, options: AttentionOptions | None = None) -> Tensor:
    """Return the network's own attention.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.
    batch : Tensor
        ``[B, C, H, W]`` float32, preprocessed.
    options : AttentionOptions, optional
        Selection of the map.

    Returns
    -------
    Tensor
        ``[B, h, w]`` float32 in [0, 1] over the crop: each map is scaled from its smallest to its largest
        value, and is 0 where it is flat.

    Raises
    ------
    UsageError
        If the network has no built-in attention, or not this map.
    """
    return torch.from_numpy(min_max(raw_attention(module, batch, options).numpy()))


@torch.no_grad()
def raw_attention(module: nn.Module, batch: Tensor, options: AttentionOptions | None = None) -> Tensor:
    """Return :func:`attention_maps` in the network's own units: a softmax sums to 1, for example."""
    options = options or AttentionOptions()
    maps = MAPS.get(type(module))
    if maps is None:
        raise UsageError(
            f"{type(module).__name__} has no built-in attention. Fix: use --method gradcam, which works for every network."
        )
    if isinstance(module, EmotionalDan) and options.map is None:
        raise UsageError(
            "EmotionalDAN has no attention map. Fix: use --method gradcam, or --map landmarks for its landmark heatmap."
        )
    name = options.map or next(iter(maps))
    return lookup(maps, name, f"attention map of {type(module).__name__}")(module, batch, options)


def with_attention(trained: TrainedNetwork) -> TrainedNetwork:
    """Return the same network with an additional output ``attention`` ``[B, h, w]``, for export.

    Module and weights are shared, so layer names, and with them calibration ranges, stay. FERAtt and visual
    attention have the output anyway.

    Raises
    ------
    UsageError
        If the network has no built-in attention.
    """
    if "attention" in trained.spec.outputs:
        return trained
    forwards: Mapping[type[nn.Module], Callable[..., Any]] = {
        ConvAttention: ConvAttention.forward_received,
        ResMasking: ResMasking.forward_change,
    }
    forward = forwards.get(type(trained.module))
    if forward is None:
        raise UsageError(
            f"{trained.spec.network} has no built-in attention to export. "
            "Fix: use fer-edge explain --method gradcam, which works for every network."
        )
    module = copy.copy(trained.module)
    module.forward = MethodType(forward, module)
    return replace(
        trained, module=module, spec=replace(trained.spec, outputs=(*trained.spec.outputs, "attention"))
    )
