"""The seven networks whose probabilities the Residual Masking paper adds up, and their sum as one network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fer_edge.errors import UsageError, lookup
from fer_edge.export.networks.cbam import CbamResNet50, CbamResNet50Options
from fer_edge.export.networks.efficientnet import EfficientNetB2b, EfficientNetOptions
from fer_edge.export.networks.entry import NetworkEntry, as_tuples
from fer_edge.export.networks.resmasking import ResMasking, ResMaskingOptions
from fer_edge.export.networks.resnet import ResNet, ResNetOptions, VggFaceResNet50, VggFaceResNet50Options
from fer_edge.export.networks.views import View, draw_views, take_view
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


#: Every draw costs as much as the plain view.
MAX_DRAWS = 64


@dataclass(frozen=True)
class EnsembleOptions:
    """Options of :func:`build_ensemble`.

    Attributes
    ----------
    members : tuple of str
        Keys of :data:`MEMBERS`.
    num_classes : int
        Number of logits.
    test_time_draws : int
        Random draws of the training augmentation that every member sees instead of the plain view; the
        authors take 8. 0: the plain view. The draws are fixed, so that the network stays a function.
    seed : int
        Of the draws; the authors' is 1234.
    """

    members: tuple[str, ...] = tuple(MEMBERS)
    num_classes: int = 7
    test_time_draws: int = 0
    seed: int = 1234


class ResmaskingEnsemble(nn.Module):
    """Unweighted sum of the members' probabilities (Pham et al., 2020, Section IV): one graph, one input.

    The authors also round each member's probabilities to four decimals, which is left out. They draw the views of
    each member anew; here all members see the same.

    Parameters
    ----------
    members : mapping of str to nn.Module
        Networks that map the same batch to logits of the same classes.
    views : sequence of View
        Views of each image that the members classify; none: the image itself.

    Raises
    ------
    UsageError
        If there is no member.
    """

    def __init__(self, members: Mapping[str, nn.Module], views: Sequence[View] = ()) -> None:
        super().__init__()
        if not members:
            raise UsageError(
                f"an ensemble needs at least one member, found none. Fix: give members of {', '.join(MEMBERS)}."
            )
        self.members = nn.ModuleDict(dict(members))
        self.views = tuple(views)

    def forward(self, batch: Tensor) -> Tensor:
        """Return the log of the mean probability, ``[B, num_classes]``, for ``[B, C, H, W]``.

        Its softmax is the mean probability itself.
        """
        views = [take_view(batch, view) for view in self.views] or [batch]
        seen = torch.cat(views) if len(views) > 1 else views[0]
        logs = torch.stack([member(seen).log_softmax(dim=1) for member in self.members.values()])
        if len(views) > 1:  # views are concatenated along the batch
            logs = logs.reshape(len(self.members) * len(views), -1, logs.shape[2])
        return logs.logsumexp(dim=0) - math.log(len(self.members) * len(views))


def build_ensemble(options: EnsembleOptions | None = None) -> ResmaskingEnsemble:
    """Return the ensemble with random weights.

    Raises
    ------
    UsageError
        If a member is unknown, there is none, or there are too many draws.
    """
    o = options or EnsembleOptions()
    if not 0 <= o.test_time_draws <= MAX_DRAWS:
        raise UsageError(
            f"test_time_draws must be from 0 to {MAX_DRAWS}, found {o.test_time_draws}. Fix: give a number in that range."
        )
    return ResmaskingEnsemble(
        {name: lookup(MEMBERS, name, "member").build(o.num_classes) for name in o.members},
        draw_views(o.test_time_draws, o.seed),
    )


def _resmasking(dropout: float) -> Callable[..., nn.Module]:
    return lambda **options: ResMasking(ResMaskingOptions(**{"dropout": dropout, **options}))


def _ensemble(**options: Any) -> nn.Module:
    return build_ensemble(EnsembleOptions(**as_tuples(options)))


def _member(name: str, arch: str) -> NetworkEntry:
    """One of the ensemble's networks, whose only option is ``num_classes``."""
    return NetworkEntry(
        lambda num_classes=7: MEMBERS[arch].build(num_classes),
        baseline_spec(name),
        f"{_PAPER}, member of the ensemble",
    )


_PAPER = "Pham et al., 2020: Residual Masking Network"
ENTRIES = {
    "resmasking": NetworkEntry(_resmasking(ResMaskingOptions.dropout), baseline_spec("resmasking"), _PAPER),
    "resmasking-nodropout": NetworkEntry(
        _resmasking(0.0), baseline_spec("resmasking-nodropout"), f"{_PAPER}, without dropout"
    ),
    "resnet18": _member("resnet18", "resnet18"),
    "resnet50-vggface": _member("resnet50-vggface", "resnet50_pretrained_vgg"),
    "resnet101": _member("resnet101", "resnet101"),
    "cbam-resnet50": _member("cbam-resnet50", "cbam_resnet50"),
    "efficientnet-b2b": _member("efficientnet-b2b", "efficientnet_b2b"),
    "resmasking-ensemble": NetworkEntry(
        _ensemble, baseline_spec("resmasking-ensemble"), f"{_PAPER}, sum of seven networks"
    ),
}
