"""Open YuNet on a backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer_edge.backends import Backend, Session, SessionOptions
from fer_edge.detection.input_size import open_network
from fer_edge.detection.yunet.graph import FIX
from fer_edge.errors import BackendError, DetectorError, without_fix


def open_yunet(
    content: bytes, model: Path | None, backend: Backend, settings: SessionOptions, side_px: int
) -> Session:
    """Open YuNet from the bytes of a converted file.

    Parameters
    ----------
    content : bytes
        As :func:`fer_edge.detection.yunet.weights.read_model` returns them, for any size or for ``side_px``.
    model : Path or None
        File of the user that they come from; it is run once. ``None``: the one of the package, which was checked.
    backend, settings : Backend, SessionOptions
        Backend and its options.
    side_px : int
        Side of the image that a file of the user is run on.

    Raises
    ------
    DetectorError
        If a file of the user cannot be run.
    BackendError
        If the file of the package cannot be loaded.
    """
    try:
        network = open_network(content, backend, settings)
        if model is not None:  # some inconsistent files load and fail only at run time
            network.run(np.zeros((1, 3, side_px, side_px), np.float32))
    except BackendError as error:
        if model is None:
            raise
        raise DetectorError(f"{model} cannot be run as YuNet ({without_fix(error)}). {FIX}") from error
    return network
