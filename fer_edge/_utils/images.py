"""Image files: decoding, listing a folder, and resolving names from label files inside it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fer_edge._utils.image_size import MAX_PIXELS, declared_size
from fer_edge._utils.listing import list_files, require_file, shown, unreadable
from fer_edge.errors import DataError

_ANY_DEPTH = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
_MAX_LEVEL_OF_12_BITS = 4095 >> 8
#: Formats that may hold several frames: all are read as a video, the first as an image.
ANIMATED_SUFFIXES = frozenset({".gif"})
IMAGE_SUFFIXES = ANIMATED_SUFFIXES | {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jp2",
    ".pgm", ".ppm", ".pbm", ".pnm",
}  # fmt: skip


def read_image(path: Path, any_depth: bool = False) -> np.ndarray:
    """Decode an image file to ``[H, W, 3]`` BGR uint8; with ``any_depth``, files of 16 bits to uint16.

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
    return decode_image(data, str(path), any_depth)


def decode_image(data: np.ndarray, origin: str, any_depth: bool = False) -> np.ndarray:
    """Decode ``[N]`` uint8, the content of an image file; as :func:`read_image`. ``origin`` names it in messages.

    Raises
    ------
    DataError
        If OpenCV cannot decode it, it has more than 64 megapixels, or, without ``any_depth``, its values use only the
        low bits of 16, which would be black in 8 bits.
    """
    size = declared_size(data.tobytes())
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"{origin} has {size[0]}×{size[1]} pixels, expected at most {MAX_PIXELS >> 20} megapixels. Fix: scale it down"
        )
    try:
        image = None if size is None else cv2.imdecode(data, _ANY_DEPTH if any_depth else cv2.IMREAD_COLOR)
    except cv2.error:  # a header that claims more pixels than OpenCV accepts
        image = None
    if image is None:
        raise DataError(
            f"{origin} is not an image that OpenCV can decode ({data.size} bytes"
            + (f"; GIF needs OpenCV 4.11, this is {cv2.__version__}" if data[:4].tobytes() == b"GIF8" else "")
            + "). Fix: give JPEG or PNG"
        )
    if not any_depth:
        _require_light(image, data, origin)
    return image


def _require_light(image: np.ndarray, data: np.ndarray, origin: str) -> None:
    """Raise an error for a picture whose 16-bit values are those of a camera with 12 bits or fewer."""
    if image.max() > _MAX_LEVEL_OF_12_BITS:
        return
    values = cv2.imdecode(data, _ANY_DEPTH)
    if values is None:
        return
    largest = int(values.max())
    if values.dtype == np.uint16 and largest > 0:
        raise DataError(
            f"{origin} has 16-bit values of at most {largest} of 65535, which would be black in 8 bits. Fix: declare their "
            f"bits, as with LevelOptions(bits={max(largest.bit_length(), 8)}), 16 if it is that dark, or scale the values"
        )


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
