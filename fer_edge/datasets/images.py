"""Image files: decode one, list a folder, and names from label files that must stay inside it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fer_edge.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


def read_image(path: Path) -> np.ndarray:
    """Decode an image file to ``[H, W, 3]`` BGR uint8.

    Raises
    ------
    DataError
        If the file is missing, empty or no image that OpenCV can decode.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:  # the latter for a NUL
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    return decode_image(data, str(path))


def decode_image(data: np.ndarray, origin: str) -> np.ndarray:
    """Decode ``[N]`` uint8, the content of an image file, to ``[H, W, 3]`` BGR uint8; ``origin`` names it in messages.

    Raises
    ------
    DataError
        If OpenCV cannot decode it.
    """
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # a header that claims more pixels than OpenCV accepts
        image = None
    if image is None:
        raise DataError(
            f"{origin} is not an image that OpenCV can decode ({data.size} bytes): give JPEG or PNG"
        )
    return image


def list_images(folder: Path) -> tuple[Path, ...]:
    """Return the image files directly in ``folder``, sorted by name."""
    return tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()))


def file_inside(root: Path, name: str) -> Path:
    """Return the file ``name`` of a label file, which must exist inside ``root``.

    Raises
    ------
    DataError
        If it is no file name, lies outside ``root`` (also through a link), or does not exist.
    """
    root = root.resolve()
    try:
        path = (root / name).resolve()
        exists = path.is_file()
    except (OSError, ValueError, RuntimeError):  # NUL, a name that is too long, a link to itself
        raise DataError(f"{name[:80]!r} is no file name") from None
    if not path.is_relative_to(root):
        raise DataError(f"{name!r} lies outside {root}")
    if not exists:
        raise DataError(f"{path} does not exist")
    return path
