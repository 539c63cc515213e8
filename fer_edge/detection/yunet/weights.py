"""The YuNet file of the package, and files that the user names."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fer_edge.detection.yunet.graph import FIX, convert
from fer_edge.errors import DetectorError

#: Made from ``yunet_n_640_640.onnx`` by the command in ``NOTICE``, so that it is opened without the package onnx.
SHIPPED = Path(__file__).with_name("yunet.onnx")
SHIPPED_SHA256 = "0e03f95fce3022cc70857b352e07e2ee22b10784b981f6144d2f08a1eda017c3"

_INSTALL_AGAIN = "Fix: install FER-Edge again, with pip install --force-reinstall --no-deps"
_MAX_FILE_BYTES = 64 << 20  # published ones have a third of a megabyte


def read_model(path: str | Path | None) -> bytes:
    """Return YuNet as :func:`fer_edge.detection.yunet.graph.convert` writes it.

    Parameters
    ----------
    path : path or None
        A published file; ``None`` is the one of the package.

    Raises
    ------
    DetectorError
        If the file is missing or holds another network, or that of the package was altered.
    """
    return _read_shipped() if path is None else convert(_read(Path(path)), str(path))


def _read_shipped() -> bytes:
    try:
        content = SHIPPED.read_bytes()
    except OSError as error:
        raise DetectorError(
            f"the detector {SHIPPED} cannot be read ({error.strerror}). {_INSTALL_AGAIN}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHIPPED_SHA256:
        raise DetectorError(
            f"{SHIPPED} was altered: expected sha256 {SHIPPED_SHA256[:12]}…, found {found[:12]}…. {_INSTALL_AGAIN}"
        )
    return content


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise DetectorError(f"{path} is not a file. {FIX}")
    size = path.stat().st_size
    if not 0 < size <= _MAX_FILE_BYTES:
        raise DetectorError(
            f"{path} cannot be read as YuNet (expected 1 to {_MAX_FILE_BYTES} bytes, found {size}). {FIX}"
        )
    return path.read_bytes()
