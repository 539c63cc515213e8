"""Sensitivity: output noise of each layer when it alone is quantised.

One layer is quantised, all others stay in floating point, and that Q/DQ model runs on the backend. The noise of
layers adds up nearly like independent noise, so the noise of one layer alone estimates the gain of leaving it in
floating point.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from fer_edge.calibration.algorithms.trial import Trial
from fer_edge.calibration.comparison.bounds import judge
from fer_edge.calibration.placement.macs import multiply_adds
from fer_edge.calibration.qdq.writer import integer_layers
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.datasets import FaceDataset
from fer_edge.evaluation.evaluate import known_targets

#: With fewer labelled faces one face is more than a percentage point, so no accuracy is reported.
MIN_LABELLED = 100


@dataclass(frozen=True)
class LayerSensitivity:
    """Effect of quantising one layer alone.

    Attributes
    ----------
    layer, op : str
        Name and operator of the node.
    macs : int
        Multiply-adds for one face; 0 for a residual addition.
    snr_db : float or None
        As in :class:`fer_edge.calibration.comparison.fidelity.Fidelity`; ``None`` if the layer changes nothing.
    drop_pp : float or None
        Loss of accuracy in percentage points; ``None`` for fewer than 100 labelled faces.
    """

    layer: str
    op: str
    macs: int
    snr_db: float | None
    drop_pp: float | None

    @property
    def noise(self) -> float:
        """Noise-to-signal power ratio, which adds up over layers."""
        return 0.0 if self.snr_db is None else float(10 ** (-self.snr_db / 10))


def measure_sensitivity(
    trial: Trial,
    ranges: Ranges,
    faces: FaceDataset,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[LayerSensitivity, ...]:
    """Quantise every layer alone; return them, the most harmful first.

    Parameters
    ----------
    trial : Trial
        Model and backend.
    ranges : Ranges
        The calibration.
    faces : FaceDataset
        Faces to measure on; labels are used where there are enough.
    on_layer : callable
        Called with (done, total).
    """
    placed = trial.placed.leaving(ranges.placement.float_layers)
    layers = {node.name: node.op_type for node in integer_layers(placed, trial.backend.dialect)}
    work = multiply_adds(placed.model)
    reference = trial.fp32_logits(faces)
    targets = known_targets(faces, trial.spec)
    enough_labels = (targets >= 0).sum() >= MIN_LABELLED
    found = []
    for done, (layer, op) in enumerate(layers.items()):
        others = (layers.keys() | ranges.placement.float_layers) - {layer}
        alone = dataclasses.replace(ranges.placement, float_layers=frozenset(others))
        logits = trial.logits(dataclasses.replace(ranges, placement=alone), faces)
        outcome = judge(reference, logits, targets)
        found.append(
            LayerSensitivity(
                layer,
                op,
                work.get(layer, 0),
                outcome.fidelity.snr_db,
                outcome.drop_pp if enough_labels else None,
            )
        )
        on_layer(done + 1, len(layers))
    return tuple(sorted(found, key=lambda layer: -layer.noise))
