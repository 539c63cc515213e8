"""Quality of a face crop: size, light, sharpness and pose; and reasons to give no label for it."""

from fer_edge.quality.abstention import REASONS, QualityThresholds, estimate_confidence, reason
from fer_edge.quality.measure import Quality, measure_quality
from fer_edge.quality.pose import Pose, estimate_pose

__all__ = [
    "REASONS",
    "Pose",
    "Quality",
    "QualityThresholds",
    "estimate_confidence",
    "estimate_pose",
    "measure_quality",
    "reason",
]
