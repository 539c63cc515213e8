"""Checkpoint layouts of the networks' authors, and their signatures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints import emotionaldan, feratt, resmasking
from fer_edge.export.checkpoints.aliases import State
from fer_edge.export.checkpoints.author_file import AuthorFile
from fer_edge.export.networks import NETWORKS
from fer_edge.export.networks.entry import IMAGENET_MEAN, IMAGENET_STD
from fer_edge.labels import FER2013, FERPLUS
from fer_edge.spec import ModelSpec

Names = Collection[str]
Read = Callable[[AuthorFile, emotionaldan.AuthorInputs], tuple[dict[str, Any], dict[str, Tensor]]]

#: The authors' CK+ classes (Residual Masking Network).
CK_PLUS = ("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
#: ImageNet weights to start training from; the 1000 object classes are named by number.
IMAGENET = tuple(f"imagenet-{index}" for index in range(1000))


@dataclass(frozen=True)
class Layout:
    """File layout of one network.

    Attributes
    ----------
    signature : str
        Entries that identify the layout, as text for errors.
    matches : callable
        Entry names → whether the file is of this layout. At most one layout matches.
    from_author : callable
        File and the extra inputs → options of our network and its state.
    to_author : callable or None
        Our module → the authors' state; ``None`` where files are only read.
    container : str
        Key of the entries in a file that we write.
    arch : str
        The authors' name of the network.
    classes : mapping
        Number of classes → their names in order.
    licence : str
        Licence of the published files, as far as known.
    """

    signature: str
    matches: Callable[[Names], bool]
    from_author: Read
    to_author: Callable[[nn.Module], dict[str, Tensor]] | None
    container: str
    arch: str
    classes: Mapping[int, tuple[str, ...]]
    licence: str

    def spec(self, network: str, num_classes: int, origin: str) -> ModelSpec:
        """Return the spec of ``network`` with the class order of the authors.

        Raises
        ------
        WeightsError
            If the authors have no data set with this number of classes.
        """
        if num_classes not in self.classes:
            known = "; ".join(
                f"{count} ({', '.join(names[:8])}{', …' if count > 8 else ''})"
                for count, names in self.classes.items()
            )
            raise WeightsError(
                f"{origin} has {num_classes} classes, expected those of {network}, {known}. Fix: give weights trained on these classes."
            )
        spec = {"class_names": self.classes[num_classes]}
        imagenet = {"color": "rgb", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        return _replace(NETWORKS[network].spec, spec | (imagenet if num_classes == len(IMAGENET) else {}))


def _replace(spec: ModelSpec, fields: Mapping[str, Any]) -> ModelSpec:
    return ModelSpec.from_dict(spec.to_dict() | dict(fields))


def _starts(names: Names, *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in names)


def _tensors(reader: Callable[[State, str], tuple[dict[str, Any], dict[str, Tensor]]]) -> Read:
    """Return a reader of PyTorch files."""

    def read(file: AuthorFile, inputs: emotionaldan.AuthorInputs) -> tuple[dict[str, Any], dict[str, Tensor]]:
        if not all(isinstance(value, Tensor) for value in file.entries.values()):
            raise WeightsError(
                f"{file.path} is {file.container}, expected a PyTorch checkpoint. Fix: give the authors' PyTorch file."
            )
        return reader(file.entries, str(file.path))

    return read


def _is_resmasking(dropout: bool, names: Names) -> bool:
    return _starts(names, "mask1.", "mask4.") and resmasking.without_dropout(names) is not dropout


def _is_feratt(variant: str, names: Names) -> bool:
    return _starts(names, "conv_mid.", "netclass.") and feratt.variant_of(names) == variant


def _is_resnet(last_block: str, names: Names) -> bool:
    """Recognise the depth by the last block of stage 3."""
    stage, block = last_block.split(".")[:2]
    deeper = f"{stage}.{int(block) + 1}."
    return f"{last_block}.weight" in names and not _starts(names, "mask1.", "mask4.", deeper)


_PHAM = "see the authors' repository (code: MIT; no licence is stated for the weights)"
_FER2013 = {len(FER2013): FER2013, len(CK_PLUS): CK_PLUS, len(IMAGENET): IMAGENET}
_FERPLUS = {7: FERPLUS[:7], 8: FERPLUS}


def _member(arch: str, signature: str, head: str, matches: Callable[[Names], bool]) -> Layout:
    """Return the layout of a plain network of the ensemble."""
    return Layout(
        signature=signature,
        matches=matches,
        from_author=_tensors(resmasking.unchanged(head)),
        to_author=lambda module: dict(module.state_dict()),
        container="net",
        arch=arch,
        classes=_FER2013,
        licence=_PHAM,
    )


def _resmasking(arch: str, dropout: bool) -> Layout:
    return Layout(
        signature=f"mask1.conv1.conv1.weight and {'fc.1' if dropout else 'fc'}.weight",
        matches=partial(_is_resmasking, dropout),
        from_author=_tensors(resmasking.from_author),
        to_author=resmasking.to_author,
        container="net",
        arch=arch,
        classes=_FER2013,
        licence=_PHAM,
    )


def _feratt(variant: str, signature: str, arch: str, reader: Callable[..., Any]) -> Layout:
    return Layout(
        signature=signature,
        matches=partial(_is_feratt, variant),
        from_author=_tensors(reader),
        to_author=feratt.to_author,
        container="state_dict",
        arch=arch,
        classes=_FERPLUS,
        licence="see the authors' repository (no licence is stated for weights)",
    )


#: By registry name.
LAYOUTS: Mapping[str, Layout] = {
    "resmasking": _resmasking("resmasking_dropout1", dropout=True),
    "resmasking-nodropout": _resmasking("resmasking", dropout=False),
    "resnet18": _member(
        "resnet18",
        "layer3.1.conv2.weight and fc.weight",
        "fc.weight",
        lambda names: _is_resnet("layer3.1.conv2", names) and "layer3.1.conv3.weight" not in names,
    ),
    "resnet50-vggface": _member(
        "resnet50_pretrained_vgg",
        "conv1_7x7_s2.weight and classifier.weight",
        "classifier.weight",
        lambda names: _starts(names, "conv1_7x7_s2", "conv5_3_"),
    ),
    "resnet101": _member(
        "resnet101",
        "layer3.22.conv3.weight and fc.weight",
        "fc.weight",
        lambda names: _is_resnet("layer3.22.conv3", names),
    ),
    "cbam-resnet50": _member(
        "cbam_resnet50",
        "features.stage1.unit1.cbam… and output.weight",
        "output.weight",
        lambda names: any(name.startswith("features.") and ".cbam." in name for name in names),
    ),
    "efficientnet-b2b": _member(
        "efficientnet_b2b",
        "features.stage1.unit1.dw_conv… and output.1.weight",
        "output.1.weight",
        lambda names: any(name.startswith("features.") and ".dw_conv." in name for name in names),
    ),
    "feratt": _feratt(
        "paper", "conv_mid.weight and conv1.0.weight", "atentionresnet34", feratt.from_author_paper
    ),
    "feratt-2019": _feratt(
        "2019",
        "conv_mid.weight and attention_map.conv1.0.weight",
        "ferattentiongmm",
        feratt.from_author_2019,
    ),
    "feratt-2020": _feratt(
        "2020", "conv_mid.weight and conv2_bn.weight", "ferattentiongmm", feratt.from_author_2020
    ),
    "emotionaldan": Layout(
        signature="Stage1/conv2d/kernel and Stage2/dense_3/kernel",
        matches=lambda names: _starts(names, "Stage1/", "Stage2/"),
        from_author=emotionaldan.from_author,
        to_author=None,
        container="TensorFlow checkpoint",
        arch="EmotionalDAN",
        classes=emotionaldan.CLASSES,
        licence="see the authors' repository (no licence is stated for weights)",
    ),
}


def recognise(names: Names) -> str | None:
    """Return the name of the network whose authors' layout has these entries, or ``None``."""
    return next((network for network, layout in LAYOUTS.items() if layout.matches(names)), None)


def layout_of(network: str) -> Layout:
    """Return the layout of ``network``.

    Raises
    ------
    WeightsError
        If its authors published none.
    """
    if network not in LAYOUTS:
        raise WeightsError(
            f"{network} has no authors' checkpoint layout (known for {', '.join(LAYOUTS)}). Fix: give the .safetensors file that fer-edge train wrote, whose header names the network and its classes."
        )
    return LAYOUTS[network]


def describe_layouts() -> str:
    """Return every layout with its signature, in one line."""
    return ", ".join(f"{network} ({layout.signature})" for network, layout in LAYOUTS.items())
