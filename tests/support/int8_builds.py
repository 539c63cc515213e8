"""INT8 of the network that ships, on a few faces."""

from __future__ import annotations

from pathlib import Path

from fer_edge.backends import BACKENDS
from fer_edge.bundle import Bundle
from fer_edge.calibration.int8 import Int8Options, Int8Result, make_int8
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.datasets import FaceDataset
from fer_edge.synthetic import render_faces

ONNXRUNTIME = BACKENDS["onnxruntime"]
FACES = FaceDataset("rendered", render_faces(32, 7), None, (), are_crops=True)


def make(bundle: Bundle, ranges: Ranges, work: Path, options: Int8Options | None = None) -> Int8Result:
    """Leave the models in ``work``."""
    model = bundle.model_path("fp32", "cpu")
    return make_int8(
        work, model, bundle.spec, ONNXRUNTIME, ranges, FACES, options or Int8Options(), lambda *progress: None
    )
