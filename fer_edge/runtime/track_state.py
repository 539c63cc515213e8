"""Classifications of one track: its steady label, and the reasons to have none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fer_edge.errors import DataError
from fer_edge.quality import Quality
from fer_edge.quality import reason as quality_reason
from fer_edge.results import Detection
from fer_edge.runtime.classifier import Answer
from fer_edge.runtime.pipeline import Pipeline
from fer_edge.tracking.change import aligned_patch, patch_distance
from fer_edge.tracking.schedule import ScheduleOptions
from fer_edge.tracking.smoothing import LabelSmoother, SmoothingOptions, SteadyLabel

#: Classifications of poor crops in a row that end a label: one may be a blurred frame.
_POOR_CROPS = 2
#: Time after an event of a track in which it is classified more often.
_SETTLING_S = 0.13


class TrackState:
    """The classifications of a track."""

    def __init__(self, pipeline: Pipeline, options: SmoothingOptions) -> None:
        self._limits, self._names = pipeline.limits, pipeline.spec.class_names
        self._smoother = LabelSmoother(
            options, pipeline.rule, pipeline.spec.class_names, pipeline.limits.min_probability
        )
        self.restart()

    def restart(self) -> None:
        """Forget all classifications, as after an occlusion."""
        self._smoother.restart()
        self.classified_at_s: float | None = None
        self.attention: np.ndarray | None = None
        self._quality: Quality | None = None
        self._reason: str | None = None
        self._poor_crops = 0  # in a row
        self._named: Mapping[str, float] = {}
        self._patch: np.ndarray | None = None
        self._seen_patch: np.ndarray | None = None
        self._settles_at_s: float | None = None
        self._changed_at_s = -math.inf

    def look(self, image: np.ndarray, detection: Detection, options: ScheduleOptions, at_s: float) -> bool:
        """Return ``True`` if the face differs visibly from the last classified one, and did not just before."""
        try:
            self._seen_patch = aligned_patch(image, detection)
        except DataError:  # landmarks or a box that a detector of the caller made up
            self._seen_patch = None
        if (
            self._patch is None
            or self._seen_patch is None
            or patch_distance(self._patch, self._seen_patch) <= options.change
        ):
            return False
        if 0 <= at_s - self._changed_at_s < options.settle_every_ms / 1e3:
            return False
        self._changed_at_s = at_s
        return True

    def is_unsettled(self, at_s: float, changed: bool) -> bool:
        """Return ``True`` for some time after the track started, changed, or its label was challenged."""
        doubtful = self._smoother.is_challenged or 0 < self._poor_crops < _POOR_CROPS
        if changed or self._settles_at_s is None or doubtful:
            self._settles_at_s = at_s + _SETTLING_S
        return at_s < self._settles_at_s

    def add(self, answer: Answer, at_s: float) -> None:
        """Add a classification; one of a crop of poor quality does not count, but its reason is kept."""
        self.classified_at_s, self._patch = at_s, self._seen_patch
        self.attention, self._quality = answer.attention, answer.quality
        if answer.logits is None or answer.quality is None or answer.probabilities is None:
            self._reason, self._named = "too_small", {}
        else:
            self._reason = quality_reason(answer.quality, None, self._limits.quality)
            self._named = dict(zip(self._names, map(float, answer.probabilities), strict=True))
            if self._reason is None:
                self._smoother.add(answer.logits, at_s)
        self._poor_crops = 0 if self._reason is None else self._poor_crops + 1

    def answer(self, at_s: float) -> SteadyLabel:
        """Return the steady label; there is none after poor crops in a row, or without a good one."""
        steady = self._smoother.answer(at_s)
        if self._reason is not None and (steady.label is None or self._poor_crops >= _POOR_CROPS):
            named = steady.probabilities or self._named
            probability = max(named.values(), default=0.0)
            return SteadyLabel(None, probability, named, self._reason, classified_at_s=self.classified_at_s)
        if steady.label is None:
            return steady
        if self._quality is not None:
            given = np.array(list(steady.probabilities.values()))
            if quality_reason(self._quality, given, self._limits.quality) == "uncertain":
                return replace(steady, label=None, reason="uncertain", stable_for_ms=None)
        return steady
