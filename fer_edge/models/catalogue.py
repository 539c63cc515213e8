"""Catalogue of the supported networks, without importing PyTorch, and of the bundles that ship with FER-Edge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_edge.errors import BundleError, WeightsError, closest
from fer_edge.models.published import weights_text

MODELS_FOLDER = Path(__file__).parent
DEFAULT_MODEL = "conv-attention"


@dataclass(frozen=True)
class CatalogueEntry:
    """One network: its paper, size and source of weights.

    Attributes
    ----------
    paper : str
        Authors and network.
    parameters : int
        Number of parameters with the default options.
    macs : int
        Multiply-adds of convolutions and dense layers for one image at the network's own input size.
    weights : str
        Source of the weights.
    module : str
        Module of :mod:`fer_edge.export.networks` whose ``ENTRIES`` contain it.
    """

    paper: str
    parameters: int
    macs: int
    weights: str
    module: str = ""


_FERATT = "Marrero Fernández et al., 2019: FERAtt"
_PHAM = "Pham et al.: Residual Masking Network"
_SUN = "Sun et al.: visual attention"
_TAUTKUTE = "Tautkute et al., 2018: EmotionalDAN"
_AUTHORS = "the authors' checkpoint: give it with --weights FILE"
_OWN = "your own"
_MEMBER = f"{_PHAM}, member of the ensemble"


def _published(network: str, paper: str, parameters: int, macs: int) -> CatalogueEntry:
    return CatalogueEntry(paper, parameters, macs, weights_text(network) or _AUTHORS, "baselines")


#: To add a network, also add its constructor to :data:`fer_edge.export.networks.NETWORKS`.
CATALOGUE: dict[str, CatalogueEntry] = {
    "conv-attention": CatalogueEntry(
        "Jalal et al.: convolution and self-attention",
        1_688_649,
        8_869_389_312,
        "ships with the package (48×48 form: 1,525,161 parameters)",
        "conv_attention",
    ),
    "resmasking": _published("resmasking", _PHAM, 137_796_423, 21_903_232_512),
    "resmasking-nodropout": _published(
        "resmasking-nodropout", f"{_PHAM}, without dropout", 137_796_423, 21_903_232_512
    ),
    "resnet18": _published("resnet18", _MEMBER, 11_180_103, 1_813_564_928),
    "resnet50-vggface": _published("resnet50-vggface", _MEMBER, 23_522_375, 3_855_939_584),
    "resnet101": _published("resnet101", _MEMBER, 42_514_503, 7_799_371_776),
    "cbam-resnet50": _published("cbam-resnet50", _MEMBER, 26_054_967, 4_093_539_446),
    "efficientnet-b2b": _published("efficientnet-b2b", _MEMBER, 7_710_857, 657_565_296),
    "resmasking-ensemble": _published(
        "resmasking-ensemble", f"{_PHAM}, sum of seven networks", 386_575_651, 62_026_446_054
    ),
    "feratt": CatalogueEntry(f"{_FERATT}, as in the paper", 47_408_140, 5_550_080_512, _AUTHORS, "feratt"),
    "feratt-2019": CatalogueEntry(
        f"{_FERATT}, the authors' code of March 2019", 45_904_652, 10_091_463_168, _AUTHORS, "feratt"
    ),
    "feratt-2020": CatalogueEntry(
        f"{_FERATT}, the authors' code of 2020", 45_821_985, 2_601_517_568, _AUTHORS, "feratt"
    ),
    "visual-attention": CatalogueEntry(
        _SUN, 313_749, 281_551_550, "ships with the package", "visual_attention"
    ),
    "visual-attention-symmetric": CatalogueEntry(
        f"{_SUN}, symmetric map", 313_749, 281_551_550, _OWN, "visual_attention"
    ),
    "visual-attention-baseline": CatalogueEntry(
        f"{_SUN}, baseline without attention", 360_720, 281_070_720, _OWN, "visual_attention"
    ),
    "visual-attention-average": CatalogueEntry(
        f"{_SUN}, global average instead of attention", 305_168, 281_015_168, _OWN, "visual_attention"
    ),
    "emotionaldan": CatalogueEntry(_TAUTKUTE, 64_054_557, 20_516_837_120, _AUTHORS, "emotionaldan"),
    "emotionaldan-1stage": CatalogueEntry(
        f"{_TAUTKUTE}, one stage", 30_415_695, 10_227_912_448, _OWN, "emotionaldan"
    ),
}


@dataclass(frozen=True)
class ShippedModel:
    """Trained weights in the package.

    Attributes
    ----------
    network : str
        A key of :data:`CATALOGUE`.
    labels : str
        Labels of FER2013 used for training: ``ferplus`` or ``fer2013``.
    recipe : str
        Name of its training recipe.
    summary : str
        Purpose, in one sentence.
    """

    network: str
    labels: str
    recipe: str
    summary: str


#: Shipped models by their name in commands; beside each bundle lie its weights, model card and measurements.
SHIPPED: Mapping[str, ShippedModel] = {
    DEFAULT_MODEL: ShippedModel(
        "conv-attention",
        "ferplus",
        "conv-attention-ferplus",
        "The default: eight classes, trained on the votes of ten annotators (FER+).",
    ),
    "conv-attention-fer2013": ShippedModel(
        "conv-attention",
        "fer2013",
        "conv-attention-fer2013",
        "Seven classes of FER2013, with results comparable to those of the papers.",
    ),
    "visual-attention": ShippedModel(
        "visual-attention",
        "fer2013",
        "visual-attention-fer2013",
        "Seven classes of FER2013, with 0.3 million parameters and an attention map.",
    ),
}


def shipped_bundle(name: str = DEFAULT_MODEL) -> Path:
    """Return the folder of the bundle that ships as ``name``, a key of :data:`SHIPPED`.

    Raises
    ------
    WeightsError
        If no such bundle ships.
    """
    if name not in SHIPPED:
        raise no_weights_ship(name)
    return MODELS_FOLDER / f"{name}.fer"


def no_weights_ship(name: str) -> WeightsError:
    """Return the error for a network whose weights neither ship nor have a known URL."""
    return WeightsError(
        f"no trained weights of {name} ship with FER-Edge (available are {', '.join(SHIPPED)}). Fix: give --weights FILE "
        "(a checkpoint of the authors, or weights made by fer-edge train), or --weights random for timing only"
    )


def find_bundle(name_or_path: str | Path) -> Path:
    """Return a bundle's folder from a path, ``default``, or a key of :data:`SHIPPED`; an existing bundle has priority.

    Raises
    ------
    BundleError
        If it does not exist; the message names the shipped bundles and the closest name.
    """
    from fer_edge.manifest import MANIFEST  # it loads NumPy

    path, name = Path(name_or_path), str(name_or_path)
    if name == "default":
        return shipped_bundle()
    if name in SHIPPED and not (path / MANIFEST).is_file():
        return shipped_bundle(name)
    if not path.exists():
        shipped = ("default", *SHIPPED)
        names = list(shipped)
        with suppress(OSError):
            names += [str(path.with_name(entry.name)) for entry in path.parent.glob("*.fer")]
        raise BundleError(
            f"bundle {name} does not exist. Fix: give the folder of a bundle, or one that ships, {', '.join(shipped)}"
            f"{closest(name, names)}"
        )
    return path


def shipped_figures(name: str) -> dict[str, Any]:
    """Return the measurements of a shipped model, with their conditions."""
    return dict(json.loads((MODELS_FOLDER / f"{name}.json").read_text(encoding="utf-8")))
