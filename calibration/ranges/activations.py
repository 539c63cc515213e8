"""Run a model over batches of faces and read the values of its inner tensors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from fer_edge._utils.onnx_files import save_with_external_data
from fer_edge._utils.progress import Progress
from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.calibration.malloc_trim import return_free_memory
from fer_edge.datasets import FaceDataset
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import ModelSpec

#: All tensors of a batch are in memory at once, about 1 GiB in Residual Masking Network.
_BATCH = 8


def batches(
    faces: FaceDataset,
    spec: ModelSpec,
    on_progress: Progress = lambda stage, done, total: None,
    stage: str = "",
    size: int = _BATCH,
) -> Iterator[np.ndarray]:
    """Yield ``[B, C, H, W]`` float32; ``on_progress`` is called with (``stage``, done, total) after each batch."""
    for start in range(0, len(faces), size):
        stop = min(start + size, len(faces))
        yield prepare_batch([faces[i] for i in range(start, stop)], spec)
        on_progress(stage, stop, len(faces))


def activations(
    model: Path, names: Sequence[str], batches: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]:
    """Yield each batch with the values of all tensors in ``names`` except the input, and of all outputs."""
    tapped = onnx.load(model)
    known = {value.name for value in (*tapped.graph.output, *tapped.graph.input)}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return run_model(tapped, batches)


def run_model(
    model: onnx.ModelProto, batches: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]:
    """Yield each batch with all outputs of a model in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tapped.onnx"
        save_with_external_data(model, path)
        del model  # free it if the caller has no reference: the session holds the weights again
        return_free_memory()
        session = BACKENDS["onnxruntime"].open(path, SessionOptions())
        for batch in batches:
            yield batch, session.run(batch)
        session.close()
        return_free_memory()
