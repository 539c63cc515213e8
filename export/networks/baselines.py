"""The seven networks whose probabilities the Residual Masking paper adds up, and their sum as one network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fer_edge.errors import UsageError, lookup
from fer_edge.export.networks.cbam import CbamResNet50, CbamResNet50Options
from fer_edge.export.networks.efficientnet import EfficientNetB2b, EfficientNetOptions
from fer_edge.export.networks.resmasking import ResMasking, ResMaskingOptions
from fer_edge.export.networks.resnet import ResNet, ResNetOptions, VggFaceResNet50, VggFaceResNet50Options
from fer_edge.labels import FER2013
from fer_edge.spec import CropRule, ModelSpec


@dataclass(frozen=True)
class Member:
    """One network of the ensemble.

    Attributes
    ----------
    build : callable
        ``(num_classes)`` → network with random weights, three input channels.
    checkpoint : str
        Name of the authors' file.
    """

    build: Callable[[int], nn.Module]
    checkpoint: str


#: Keyed by the ``arch`` that the authors' checkpoints record.
MEMBERS: Mapping[str, Member] = {
    "resnet18": Member(
        lambda classes: ResNet(ResNetOptions(18, classes)),
        "resnet18_rot30_2019Nov05_17.44",
    ),
    "resnet50_pretrained_vgg": Member(
        lambda classes: VggFaceResNet50(VggFaceResNet50Options(classes)),
        "resnet50_pretrained_vgg_rot30_2019Nov13_08.20",
    ),
    "resnet101": Member(
        lambda classes: ResNet(ResNetOptions(101, classes)),
        "resnet101_rot30_2019Nov14_18.12",
    ),
    "cbam_resnet50": Member(
        lambda classes: CbamResNet50(CbamResNet50Options(classes)),
        "cbam_resnet50_rot30_2019Nov15_12.40",
    ),
    "efficientnet_b2b": Member(
        lambda classes: EfficientNetB2b(EfficientNetOptions(classes)),
        "efficientnet_b2b_rot30_2019Nov15_20.02",
    ),
    "resmasking_dropout1": Member(
        lambda classes: ResMasking(ResMaskingOptions(classes)),
        "resmasking_dropout1_rot30_2019Nov17_14.33",
    ),
    "resmasking": Member(
        lambda classes: ResMasking(ResMaskingOptions(classes, dropout=0.0)),
        "resmasking_rot30_2019Nov14_04.38",
    ),
}


def baseline_spec(network: str) -> ModelSpec:
    """Return the input contract that all members and the ensemble share, under the name ``network``.

    Gray 224×224, three times, pixel / 255: also for the member whose first weights come from VGGFace2.
    """
    return ModelSpec(
        network=network,
        input_height=224,
        input_width=224,
        color="gray",
        channels=3,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        class_names=FER2013,
        crop=CropRule(shape="square", scale=1.1, edge="clip", min_side_px=10),
    )


@dataclass(frozen=True)
class EnsembleOptions:
    """Which of :data:`MEMBERS` take part, and how many classes they tell apart."""

    members: tuple[str, ...] = tuple(MEMBERS)
    num_classes: int = 7


class ResmaskingEnsemble(nn.Module):
    """Unweighted sum of the members' probabilities (Pham et al., 2020, Section IV): one graph, one input.

    The authors also sum over random draws of the training augmentation and round to four decimals;
    here every member sees the image once.

    Parameters
    ----------
    members : mapping of str to nn.Module
        Networks that map the same batch to logits of the same classes.

    Raises
    ------
    UsageError
        If there is no member.
    """

    def __init__(self, members: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if not members:
            raise UsageError(f"an ensemble needs at least one member of {', '.join(MEMBERS)}")
        self.members = nn.ModuleDict(dict(members))

    def forward(self, batch: Tensor) -> Tensor:
        """Return the log of the mean probability, ``[B, num_classes]``, for ``[B, C, H, W]``.

        Its softmax is the mean probability itself.
        """
        logs = torch.stack([member(batch).log_softmax(dim=1) for member in self.members.values()])
        return logs.logsumexp(dim=0) - math.log(len(self.members))


def build_ensemble(options: EnsembleOptions | None = None) -> ResmaskingEnsemble:
    """Return the ensemble with random weights.

    Raises
    ------
    UsageError
        If a member is unknown, or there is none.
    """
    o = options or EnsembleOptions()
    return ResmaskingEnsemble(
        {name: lookup(MEMBERS, name, "member").build(o.num_classes) for name in o.members}
    )
