"""Grad-CAM (Selvaraju et al., 2017) on the target layer of each paper's network.

The gradient of one class's logit, averaged over space, weights the activations **of the same tensor**; their
sum is cut at zero, enlarged to the input and scaled to [0, 1]. For EmotionalDAN the map is moved from the
canonical frame back to the input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.errors import UsageError
from fer_edge.export.explanation.canonical_maps import to_input_frame
from fer_edge.export.networks.baselines import ResmaskingEnsemble
from fer_edge.export.networks.cbam import CbamResNet50
from fer_edge.export.networks.conv_attention import ConvAttention
from fer_edge.export.networks.efficientnet import EfficientNetB2b
from fer_edge.export.networks.emotionaldan import EmotionalDan
from fer_edge.export.networks.feratt import FERAtt
from fer_edge.export.networks.landmark_transform import Similarity
from fer_edge.export.networks.resmasking import ResMasking
from fer_edge.export.networks.resnet import ResNet, VggFaceResNet50
from fer_edge.export.networks.visual_attention import VisualAttention
from fer_edge.heatmaps import min_max


class Target(NamedTuple):
    """Tensors that Grad-CAM explains.

    Attributes
    ----------
    logits : Tensor
        ``[B, K]``, computed from ``features``.
    features : Tensor
        ``[B, C, h, w]``.
    transform : Similarity or None
        From input pixels to the frame of ``features``, where the two differ.
    margins : tuple of float
        Share of height and width that the cells of ``features`` leave uncovered at each edge, because of
        convolutions without padding.
    """

    logits: Tensor
    features: Tensor
    transform: Similarity | None = None
    margins: tuple[float, float] = (0.0, 0.0)


class ClassMaps(NamedTuple):
    """Logits ``[B, K]``, the explained class ``[B]``, and its maps ``[B, H, W]``."""

    logits: Tensor
    classes: Tensor
    maps: Tensor


def _output_of(path: str) -> Callable[[nn.Module, Tensor], Target]:
    """Return a reader of the output of submodule ``path``."""

    def read(module: nn.Module, batch: Tensor) -> Target:
        kept: list[Tensor] = []
        hook = module.get_submodule(path).register_forward_hook(lambda m, args, out: kept.append(out))
        try:
            outputs = module(batch)
        finally:
            hook.remove()
        return Target(outputs if isinstance(outputs, Tensor) else outputs[0], kept[0])

    return read


def _masked(module: ResMasking, batch: Tensor) -> Target:
    outputs = module.forward_stages(batch)
    return Target(outputs.logits, outputs.after[-1])


def _canonical(module: EmotionalDan, batch: Tensor) -> Target:
    outputs = module.forward_stages(batch)
    transform = None if outputs.connection is None else outputs.connection.transform
    return Target(outputs.logits, outputs.trunks[-1].conv4b, transform)


def _last_convolution(module: ConvAttention, batch: Tensor) -> Target:
    """c4, which reads the attended features.

    Not the attended features themselves: a dense layer reads c4 by location, and the mean gradient of earlier
    layers says little. On 49 faces it left 14 % of the maps flat, and its maps were opposite to gradient times
    activation (correlation −0.36); behind c4 they are 0 % and 0.59.
    """
    target = _output_of("c4.1")(module, batch)
    height, width = target.features.shape[2:]  # a 2×2 kernel: cells lie between those of the attention
    return target._replace(margins=(0.5 / (height + 1), 0.5 / (width + 1)))


def _vgg_face(module: VggFaceResNet50, batch: Tensor) -> Target:
    features = module.features(batch)
    return Target(module.classify(features), features)


#: Network class → reader of its target.
TARGETS: Mapping[type[nn.Module], Callable[[Any, Tensor], Target]] = {
    ResMasking: _masked,  # layer4 after its mask
    FERAtt: _output_of("netclass.layer4"),
    EmotionalDan: _canonical,  # conv4b of the last stage, after ReLU and norm
    ConvAttention: _last_convolution,
    VisualAttention: _output_of("features"),  # A0
    ResNet: _output_of("layer4"),
    CbamResNet50: _output_of("features"),
    EfficientNetB2b: _output_of("features"),
    VggFaceResNet50: _vgg_face,
}


def grad_cam(module: nn.Module, batch: Tensor, classes: Sequence[int] | Tensor | None = None) -> ClassMaps:
    """Return Grad-CAM maps of one class per image.

    The ensemble's map is the sum of its members' maps, each scaled to [0, 1] first.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.
    batch : Tensor
        ``[B, C, H, W]`` float32, preprocessed.
    classes : sequence of int, optional
        One class per image; the likeliest if left out.

    Returns
    -------
    ClassMaps
        Maps of the size of the input, in [0, 1] over the crop; 0 everywhere if no feature supports the class.

    Raises
    ------
    UsageError
        If the network is unknown here, in training mode, or a class is out of range.
    """
    if isinstance(module, ResmaskingEnsemble):
        with torch.no_grad():
            logits = module(batch)
        chosen = _chosen(logits, classes)
        total = sum(grad_cam(member, batch, chosen).maps for member in module.members.values())
        return ClassMaps(logits, chosen, _scaled(torch.as_tensor(total)))
    target, chosen, maps = _explain(module, batch, classes)
    maps = _enlarge(maps[:, None], (batch.shape[2], batch.shape[3]), target.margins)
    if target.transform is not None:
        maps = to_input_frame(maps, Similarity(*(part.detach() for part in target.transform)))
    return ClassMaps(target.logits.detach(), chosen, _scaled(maps[:, 0]))


def layer_maps(module: nn.Module, batch: Tensor, classes: Sequence[int] | Tensor | None = None) -> ClassMaps:
    """Return ReLU(Σ_c w_c · features_c) ``[B, h, w]`` at the target layer, unscaled."""
    target, chosen, maps = _explain(module, batch, classes)
    return ClassMaps(target.logits.detach(), chosen, maps)


def _explain(
    module: nn.Module, batch: Tensor, classes: Sequence[int] | Tensor | None
) -> tuple[Target, Tensor, Tensor]:
    read = TARGETS.get(type(module))
    if read is None:
        raise UsageError(f"Grad-CAM has no target layer for {type(module).__name__}. Fix: add it to TARGETS.")
    if module.training:
        raise UsageError("Grad-CAM needs the network in evaluation mode. Fix: call module.eval() first.")
    with torch.enable_grad():
        # The input requires gradients, so that frozen weights do not cut the graph.
        target = read(module, batch.detach().requires_grad_())
        chosen = _chosen(target.logits, classes)
        score = target.logits.gather(1, chosen[:, None]).sum()  # images do not interact in evaluation mode
        (slopes,) = torch.autograd.grad(score, target.features)
    weights = slopes.mean(dim=(2, 3), keepdim=True)
    return target, chosen, F.relu((weights * target.features.detach()).sum(dim=1))


def _enlarge(maps: Tensor, sides: tuple[int, int], margins: tuple[float, float]) -> Tensor:
    """Bilinear, pixel centres aligned; the border cells reach to the edges."""
    rows, columns = (
        (2 * (torch.arange(side, dtype=maps.dtype) + 0.5) / side - 1) / (1 - 2 * margin)
        for side, margin in zip(sides, margins, strict=True)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _chosen(logits: Tensor, classes: Sequence[int] | Tensor | None) -> Tensor:
    if classes is None:
        return logits.argmax(dim=1)
    chosen = torch.as_tensor(classes, dtype=torch.int64)
    if chosen.shape != logits.shape[:1] or not ((chosen >= 0) & (chosen < logits.shape[1])).all():
        raise UsageError(
            f"expected one class from 0 to {logits.shape[1] - 1} for each of {len(logits)} images, "
            f"found {chosen.tolist()}. Fix: give one class index per image."
        )
    return chosen


def _scaled(maps: Tensor) -> Tensor:
    return torch.from_numpy(min_max(maps.detach().numpy()))
