"""Find the weights for an explanation by gradients, by the sha256 in the bundle."""

from __future__ import annotations

from pathlib import Path

from fer_edge._utils.files import sha256_of
from fer_edge.bundle import Bundle
from fer_edge.errors import WeightsError
from fer_edge.models.catalogue import MODELS_FOLDER


def weights_of(bundle: Bundle) -> Path:
    """Return the weights file that ``bundle`` was made from, by its recorded sha256.

    The search covers the folder of the bundle, the weights in the package, and downloaded weights; for an ensemble
    the folder with its files is returned.

    Raises
    ------
    WeightsError
        If the weights are not found.
    """
    recorded = bundle.manifest.provenance.get("weights_sha256")
    candidates = [bundle.path.with_suffix(".safetensors"), *sorted(MODELS_FOLDER.glob("*.safetensors"))]
    for path in candidates:
        if path.is_file() and sha256_of(path) == recorded:
            return path
    from fer_edge.weights.cache import cached_weights

    if isinstance(recorded, str) and (cached := cached_weights(recorded)):
        return cached
    raise WeightsError(
        f"expected the weights of {bundle.path} beside it, in the package or in the cache, found none. "
        "Fix: give them with --weights FILE"
    )


def check_weights(bundle: Bundle, path: Path) -> Path:
    """Return ``path`` if ``bundle`` was made from it.

    Raises
    ------
    WeightsError
        If the file is missing, or the bundle records other weights.
    """
    if not path.is_file():
        raise WeightsError(
            f"weights file {path} does not exist. Fix: give the file that {bundle.path} was made from"
        )
    recorded = bundle.manifest.provenance.get("weights_sha256")
    if recorded is not None and sha256_of(path) != recorded:
        raise WeightsError(
            f"expected the weights that {bundle.path} was made from, found {path} (sha256 differs). Fix: give those "
            "weights, or give the weights file in place of the bundle"
        )
    return path
