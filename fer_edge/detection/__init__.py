"""Face detectors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fer_edge.detection.base import DEFAULT_DETECTOR, Detector, DetectorOptions
from fer_edge.errors import lookup

__all__ = [
    "DETECTORS",
    "create_detector",
]


def _yunet(options: DetectorOptions) -> Detector:
    from fer_edge.detection.yunet.detector import YuNetDetector

    return YuNetDetector(options)


def _mtcnn(options: DetectorOptions) -> Detector:
    from fer_edge.detection.mtcnn.detector import MtcnnDetector

    return MtcnnDetector(options)


def _haar(options: DetectorOptions) -> Detector:
    from fer_edge.detection.haar import HaarDetector

    return HaarDetector(options)


#: Name → module, imported on first use.
DETECTORS: Mapping[str, Callable[[DetectorOptions], Detector]] = {
    "yunet": _yunet,
    "mtcnn": _mtcnn,
    "haar": _haar,
}


def create_detector(name: str = DEFAULT_DETECTOR, options: DetectorOptions | None = None) -> Detector:
    """Return detector ``name``, ready to use.

    Raises
    ------
    UsageError
        If the detector is unknown.
    DetectorError
        If its weights are missing, altered, or of another network.
    MissingExtraError
        If a package that it needs is not installed.
    BackendError
        If the backend that runs its networks is not available.
    """
    options = options or DetectorOptions()
    create = lookup(DETECTORS, name, "detector")
    return create(options)
