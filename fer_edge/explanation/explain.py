"""Explain one face: a heat map over the crop, and the apparent expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from fer_edge.backends import Backend, SessionOptions, load_session
from fer_edge.bundle import Bundle, require_attention
from fer_edge.detection.base import Detector
from fer_edge.errors import DataError, UsageError, closest
from fer_edge.frames import check_frame
from fer_edge.heatmaps import Box, min_max
from fer_edge.preprocess import crop_rectangle, cut_rectangle, prepare_batch
from fer_edge.probabilities import MIN_PROBABILITY, Prior, ProbabilityRule, make_rule
from fer_edge.spec import ModelSpec

#: Method → caption of its maps.
METHODS: Mapping[str, str] = {
    "attention": "where the network attends",
    "gradcam": "evidence for one class (Grad-CAM)",
}


@dataclass(frozen=True)
class ExplainerOutput:
    """Output of an explainer for a batch.

    Attributes
    ----------
    probabilities : np.ndarray
        ``[B, K]`` float64, NaN if the network's output is not finite.
    maps : np.ndarray
        ``[B, h, w]`` float32 in [0, 1] over the crop.
    landmarks : np.ndarray or None
        ``[B, 68, 2]`` float32 pixels of the network's input, if the network predicts landmarks.
    """

    probabilities: np.ndarray
    maps: np.ndarray
    landmarks: np.ndarray | None = None


class Explainer(Protocol):
    """A network with explanations by ``method``, a key of :data:`METHODS`; thread-safe.

    ``rule`` converts logits to probabilities. An explainer that is closed, or was made before a fork of the process,
    raises :class:`fer_edge.errors.BackendError`.
    """

    spec: ModelSpec
    method: str
    rule: ProbabilityRule
    random_weights: bool

    def explain(self, batch: np.ndarray, classes: Sequence[int] | None = None) -> ExplainerOutput:
        """Explain ``[B, C, H, W]`` float32, B ≥ 1.

        ``classes`` are the class indices that Grad-CAM explains, one per image; by default the most likely ones.
        """

    def close(self) -> None:
        """Free the network."""


class BundleExplainer:
    """Explainer by the built-in attention of a bundle, without PyTorch.

    Raises
    ------
    BundleError
        If the bundle's network has no attention output.
    """

    method = "attention"

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        precision: str | None = None,
        threads: int | None = None,
        prior: Prior | None = None,
    ) -> None:
        require_attention(bundle)
        self.spec = bundle.spec
        self.random_weights = bundle.manifest.timing_only
        self.rule = make_rule(bundle.manifest, prior)
        self._session = load_session(bundle, backend, precision, SessionOptions(threads=threads))

    def explain(self, batch: np.ndarray, classes: Sequence[int] | None = None) -> ExplainerOutput:
        outputs = self._session.run(batch)
        probabilities = self.rule(outputs["logits"])
        return ExplainerOutput(probabilities, min_max(outputs["attention"]), outputs.get("landmarks"))

    def close(self) -> None:
        self._session.close()


@dataclass(frozen=True)
class Explanation:
    """Explanation of one face.

    Attributes
    ----------
    network : str
        Registry name.
    method : str
        A key of :data:`METHODS`.
    class_name : str or None
        Class that Grad-CAM explains; ``None`` for attention, which is not class-specific.
    box_xyxy : tuple of float or None
        The face in pixels of the photograph; ``None`` if the whole picture was used.
    crop_xyxy : tuple of float
        The face crop in pixels of the photograph; may extend beyond it.
    crop_bgr : np.ndarray
        ``[h, w, 3]`` uint8.
    heat : np.ndarray
        ``[h, w]`` float32 in [0, 1] over the crop.
    probabilities : mapping
        Class name → probability, in the order of the network.
    rule : ProbabilityRule
        Rule that converted the logits to probabilities.
    random_weights : bool
        ``True`` for random weights, whose explanation is meaningless.
    """

    network: str
    method: str
    class_name: str | None
    box_xyxy: Box | None
    crop_xyxy: Box
    crop_bgr: np.ndarray
    heat: np.ndarray
    probabilities: Mapping[str, float]
    rule: ProbabilityRule = field(default_factory=ProbabilityRule)
    random_weights: bool = False

    @property
    def label(self) -> str:
        """The most likely apparent expression."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def certain(self) -> bool:
        """``True`` if the most likely expression is probable enough to be named alone."""
        return self.probabilities[self.label] >= MIN_PROBABILITY

    @property
    def flat(self) -> bool:
        """``True`` for a constant map, or one without positive evidence for the class."""
        return not self.heat.any()

    @property
    def peak_xy(self) -> tuple[float, float] | None:
        """Centre of the cell with the maximum, in pixels of the photograph; ``None`` if the map is flat."""
        if self.flat:
            return None
        row, column = np.unravel_index(int(self.heat.argmax()), self.heat.shape)
        left, top, right, bottom = self.crop_xyxy
        return (
            left + (float(column) + 0.5) / self.heat.shape[1] * (right - left),
            top + (float(row) + 0.5) / self.heat.shape[0] * (bottom - top),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with the map as rows rounded to three decimals."""
        return {
            "network": self.network,
            "method": self.method,
            "class": self.class_name,
            "apparent_expression": self.label if self.certain else None,
            "random_weights": self.random_weights,
            "prior": self.rule.to_dict(),
            "probabilities": {name: round(p, 4) for name, p in self.probabilities.items()},
            "box_xyxy": None if self.box_xyxy is None else [round(v, 1) for v in self.box_xyxy],
            "crop_xyxy": [round(v, 1) for v in self.crop_xyxy],
            "peak_xy": None if self.peak_xy is None else [round(v, 1) for v in self.peak_xy],
            "heat": self.heat.astype(float).round(3).tolist(),
        }


def explain_image(
    image_bgr: np.ndarray,
    explainer: Explainer,
    detector: Detector | None = None,
    class_name: str | None = None,
) -> Explanation:
    """Explain the largest face of a photograph.

    Parameters
    ----------
    image_bgr : np.ndarray
        ``[H, W, 3]`` uint8.
    explainer : Explainer
        Explainer of the network.
    detector : Detector, optional
        Face detector; without it the whole picture is the face crop.
    class_name : str, optional
        Class that Grad-CAM explains; by default the most likely one.

    Raises
    ------
    DataError
        If there is no face of usable size, or the network's output is not finite.
    UsageError
        If the class is unknown, or the method is not class-specific.
    """
    spec = explainer.spec
    classes = None if class_name is None else [_class_index(explainer, class_name)]
    image = check_frame(image_bgr)
    height, width = image.shape[:2]
    box: Box | None = None
    crop = image
    bounds: Box = (0.0, 0.0, float(width), float(height))
    if detector is not None:
        detections = detector.detect(image)
        if not detections:
            raise DataError(
                "expected a face in the picture, found none. Fix: give another picture, or --face whole for a face crop"
            )
        box = detections[0].box_xyxy
        rectangle = crop_rectangle(box, spec.crop, height, width)
        if rectangle is None:
            raise DataError(
                f"expected a face of at least {spec.crop.min_side_px} pixels, found a smaller one. Fix: give a larger picture"
            )
        crop, bounds = cut_rectangle(image, rectangle), rectangle
    explained = explainer.explain(prepare_batch([crop], spec), classes)
    if not (np.isfinite(explained.probabilities).all() and np.isfinite(explained.maps).all()):
        raise DataError(f"the output of {spec.network} is not finite. Fix: check the weights")
    probabilities = explained.probabilities[0]
    explains = classes[0] if classes else int(probabilities.argmax())
    return Explanation(
        network=spec.network,
        method=explainer.method,
        class_name=spec.class_names[explains] if explainer.method == "gradcam" else None,
        box_xyxy=box,
        crop_xyxy=bounds,
        crop_bgr=crop.copy(),
        heat=explained.maps[0],
        probabilities=dict(zip(spec.class_names, map(float, probabilities), strict=True)),
        rule=explainer.rule,
        random_weights=explainer.random_weights,
    )


def _class_index(explainer: Explainer, name: str) -> int:
    names = explainer.spec.class_names
    if explainer.method != "gradcam":
        raise UsageError(
            "attention maps are not class-specific, found --class. Fix: leave --class out, or use --method gradcam"
        )
    if name not in names:
        raise UsageError(f"unknown class {name!r}. Fix: choose from {', '.join(names)}{closest(name, names)}")
    return names.index(name)
