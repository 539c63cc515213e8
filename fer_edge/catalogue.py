"""The networks that FER-Edge knows, without importing PyTorch, and the bundles that ship with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fer_edge.errors import WeightsError

MODELS_FOLDER = Path(__file__).parent / "models"
DEFAULT_MODEL = "conv-attention"


@dataclass(frozen=True)
class CatalogueEntry:
    """One network: where it comes from, and where weights can be had."""

    paper: str
    parameters: str
    weights: str


_FERATT = "Marrero Fernández et al., 2019: FERAtt"
_AUTHORS = "the authors' checkpoint: give it with --weights FILE"

CATALOGUE: Mapping[str, CatalogueEntry] = {
    "conv-attention": CatalogueEntry(
        paper="Jalal et al.: convolution and self-attention",
        parameters="1,688,649 at 224×224; 1,525,161 in the shipped 48×48 form",
        weights="ships with the package",
    ),
    "resmasking": CatalogueEntry(
        paper="Pham et al.: Residual Masking Network",
        parameters="137,796,423",
        weights=_AUTHORS,
    ),
    "feratt": CatalogueEntry(f"{_FERATT}, as in the paper", "47,921,140", _AUTHORS),
    "feratt-2019": CatalogueEntry(f"{_FERATT}, the authors' code of March 2019", "46,417,652", _AUTHORS),
    "feratt-2020": CatalogueEntry(f"{_FERATT}, the authors' code of 2020", "46,334,985", _AUTHORS),
    "visual-attention": CatalogueEntry("Sun et al.: visual attention", "313,749", "your own"),
    "visual-attention-symmetric": CatalogueEntry(
        "Sun et al.: visual attention, symmetric map", "313,749", "your own"
    ),
}


def shipped_bundle(name: str = DEFAULT_MODEL) -> Path:
    """Return the folder of the FP32 bundle that ships for network ``name``.

    Raises
    ------
    WeightsError
        If none ships.
    """
    path = MODELS_FOLDER / f"{name}.fer"
    if not path.is_dir():
        raise WeightsError(
            f"no trained weights of {name} ship with FER-Edge: give --weights FILE "
            "(a checkpoint of the authors, or weights that fer-edge train made), or --weights random for timing only"
        )
    return path
