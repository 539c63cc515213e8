"""Image files: decoding, listing a folder, and resolving names from label files inside it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fer_edge._utils.image_size import MAX_PIXELS, declared_size
from fer_edge._utils.listing import list_files, require_file, shown, unreadable
from fer_edge.errors import DataError

#: Formats that may hold several frames: all are read as a video, the first as an image.
ANIMATED_SUFFIXES = frozenset({".gif"})
IMAGE_SUFFIXES = ANIMATED_SUFFIXES | {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jp2",
    ".pgm", ".ppm", ".pbm", ".pnm",
}  # fmt: skip


def read_image(path: Path) -> np.ndarray:
    """Decode an image file to ``[H, W, 3]`` BGR uint8.

    Raises
    ------
    DataError
        If the file is missing, empty, cannot be decoded by OpenCV, or has more than 64 megapixels.
    """
    require_file(path)
    try:
        data = np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:  # ValueError for a NUL
        raise unreadable(path, error) from error
    return decode_image(data, str(path))


def decode_image(data: np.ndarray, origin: str) -> np.ndarray:
    """Decode ``[N]`` uint8, the content of an image file, to ``[H, W, 3]`` BGR uint8; ``origin`` names it in messages.

    Raises
    ------
    DataError
        If OpenCV cannot decode it, or it has more than 64 megapixels.
    """
    size = declared_size(data.tobytes())
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"{origin} has {size[0]}×{size[1]} pixels, expected at most {MAX_PIXELS >> 20} megapixels. Fix: scale it down"
        )
    try:
        image = None if size is None else cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error:  # a header that claims more pixels than OpenCV accepts
        image = None
    if image is None:
        raise DataError(
            f"{origin} is not an image that OpenCV can decode ({data.size} bytes"
            + (f"; GIF needs OpenCV 4.11, this is {cv2.__version__}" if data[:4].tobytes() == b"GIF8" else "")
            + "). Fix: give JPEG or PNG"
        )
    return image


def list_images(folder: Path) -> tuple[Path, ...]:
    """Return the image files directly in ``folder`` in natural order (1, 2, 10), without hidden ones.

    Raises
    ------
    DataError
        If the folder cannot be read.
    """
    return list_files(folder, tuple(IMAGE_SUFFIXES))


def file_inside(root: Path, name: str) -> Path:
    """Return the path of ``name``, an entry of a label file, which must exist inside ``root``.

    Raises
    ------
    DataError
        If it is not a file name, lies outside ``root`` (also through a link), or does not exist.
    """
    root = root.resolve()
    try:
        path = (root / name).resolve()
        exists = path.is_file()
    except (OSError, ValueError, RuntimeError):  # NUL, a name that is too long, a link to itself
        raise DataError(f"{shown(name)!r} is not a file name") from None
    if not path.is_relative_to(root):
        raise DataError(f"{shown(name)!r} lies outside {root}")
    if not exists:
        raise DataError(f"{path} does not exist")
    return path
