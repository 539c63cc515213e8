"""Write a quantised candidate, run it on faces, and remove it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from fer_edge.backends import Backend, SessionOptions
from fer_edge.calibration.malloc_trim import return_free_memory
from fer_edge.calibration.placement.placement import PlacedGraph
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.datasets import FaceDataset
from fer_edge.evaluation.evaluate import session_logits
from fer_edge.spec import ModelSpec

OnFaces = Callable[[int], None]


def _ignore(faces: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Trial:
    """Writes, runs and removes Q/DQ models of one FP32 model on one backend; holds no weights.

    Attributes
    ----------
    model : Path
        FP32 ONNX file.
    backend : Backend
        Runs them, in its own dialect.
    spec : ModelSpec
        Input and output specification.
    placed : PlacedGraph
        Graph and placement of the model.
    """

    model: Path
    backend: Backend
    spec: ModelSpec
    placed: PlacedGraph

    def fp32_logits(self, faces: FaceDataset, on_faces: OnFaces = _ignore) -> np.ndarray:
        """Return ``[N, K]`` logits of the FP32 model; ``on_faces`` is called with the number of faces of each batch."""
        return self.file_logits(self.model, faces, on_faces)

    def logits(
        self, ranges: Ranges, faces: FaceDataset, model: Path | None = None, on_faces: OnFaces = _ignore
    ) -> np.ndarray:
        """Return ``[N, K]`` logits of the Q/DQ model made with ``ranges`` from ``model``, by default ``self.model``."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantised.onnx"
            proto = onnx.load(model or self.model)
            onnx.save(quantise(proto, ranges, self.backend.dialect, self.placed), path)
            return self.file_logits(path, faces, on_faces)

    def file_logits(self, path: Path, faces: FaceDataset, on_faces: OnFaces = _ignore) -> np.ndarray:
        """Return ``[N, K]`` logits of the model file ``path``."""
        return_free_memory()
        session = self.backend.open(path, SessionOptions())
        try:
            return session_logits(session, faces, self.spec, on_faces=on_faces)
        finally:
            session.close()
            return_free_memory()
