"""Image pyramid of a frame, and the pieces of its levels that PNet runs on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

WINDOW_PX, STRIDE_PX = 12, 2  # of PNet

_OVERLAP_PX = WINDOW_PX - STRIDE_PX
_PYRAMID_FACTOR = 0.709
# A grey margin around each level lets windows extend over the edge; otherwise no window of PNet would cover a face
# that fills or leaves the frame. A level smaller than _MIN_LEVEL_PX shows too little of any face.
_MARGIN_PX, _MIN_LEVEL_PX = 4, 8
_GRAY = (127, 127, 127)
# Bounds the memory of one run, 250 bytes a pixel. For a 4K frame and faces from 12 pixels, strips of 2 million
# pixels took 1.7 GB and these 0.35 GB, in the same time, since more of a layer's output stays in the cache.
_STRIP_AREA_PX = 1 << 17


class Piece(NamedTuple):
    """A part of one level of the pyramid.

    Attributes
    ----------
    image : np.ndarray
        ``[h, w, 3]`` uint8 BGR; grey outside the level.
    windows : (int, int)
        Rows and columns of PNet's windows, from the upper left, within the level and its margin.
    corner_xy : (int, int)
        Origin of the first window, in pixels of the level.
    level : int
        Index of the level.
    scale_xy : np.ndarray
        Pixels of the level per pixel of the frame, ``[2]``.
    """

    image: np.ndarray
    windows: tuple[int, int]
    corner_xy: tuple[int, int]
    level: int
    scale_xy: np.ndarray


def halve(frame: np.ndarray) -> list[np.ndarray]:
    """Return the frame at full size, half, a quarter and so on.

    Crops and pyramid levels are then sampled from an image of at most twice their resolution. There, linear
    interpolation is as good as area averaging of the frame, and many times faster.
    """
    images = [frame]
    while min(images[-1].shape[:2]) >= 2 * WINDOW_PX:
        height, width = (side // 2 for side in images[-1].shape[:2])
        even = images[-1][: 2 * height, : 2 * width]
        images.append(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA))
    return images


def crop(halvings: list[np.ndarray], box: np.ndarray, side_px: int) -> np.ndarray:
    """Return a square box of the frame as ``[side_px, side_px, 3]`` uint8, grey outside the frame."""
    step = max(float(box[2] - box[0]), 1.0) / side_px
    index = _halving(halvings, step)
    step /= 2**index
    left, top = (float(v) / 2**index + step / 2 - 0.5 for v in box[:2])  # OpenCV counts from pixel centres
    to_source = np.array([[step, 0, left], [0, step, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = side_px, side_px
    return np.asarray(
        cv2.warpAffine(
            halvings[index], to_source, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=_GRAY
        )
    )


def _halving(halvings: list[np.ndarray], step: float) -> int:
    """Return the index of the halving in which neighbours of the result are less than two pixels apart."""
    return min(int(math.log2(max(step, 1.0))), len(halvings) - 1)


def cut_pyramid(halvings: list[np.ndarray], min_face_px: int, tile_px: int | None) -> Iterator[Piece]:
    """Yield the inputs of PNet, level by level: squares of ``tile_px``, else strips as wide as the level.

    PNet's window covers ``min_face_px`` in the first level, and more in each later one. A piece starts at even
    pixels and overlaps the next by the window size minus the stride, so that the pieces of a level contain each of
    its windows once.
    """
    for number, (level, scale_xy) in enumerate(_levels(halvings, min_face_px)):
        # Even sides, so that no window extends over the edge.
        height, width = (side + 2 * _MARGIN_PX + side % STRIDE_PX for side in level.shape[:2])
        down, right = height - _OVERLAP_PX, width - _OVERLAP_PX  # where windows start
        strip = max(_STRIP_AREA_PX // width // STRIDE_PX, 1) * STRIDE_PX, right
        rows, columns = strip if tile_px is None else (tile_px - _OVERLAP_PX,) * 2
        whole_down = down if tile_px is None else _round_up(down, rows)
        whole_right = _round_up(right, columns)
        bottom = whole_down + _OVERLAP_PX - level.shape[0] - _MARGIN_PX
        beyond = whole_right + _OVERLAP_PX - level.shape[1] - _MARGIN_PX
        image = cv2.copyMakeBorder(
            level, _MARGIN_PX, bottom, _MARGIN_PX, beyond, cv2.BORDER_CONSTANT, value=_GRAY
        )
        for top in range(0, down, rows):
            for left in range(0, right, columns):
                yield Piece(
                    image=image[top : top + rows + _OVERLAP_PX, left : left + columns + _OVERLAP_PX],
                    windows=((down - top) // STRIDE_PX, (right - left) // STRIDE_PX),
                    corner_xy=(left - _MARGIN_PX, top - _MARGIN_PX),
                    level=number,
                    scale_xy=scale_xy,
                )


def _levels(halvings: list[np.ndarray], min_face_px: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the frame at decreasing sizes, with the scales of x and y."""
    height, width = halvings[0].shape[:2]
    scale = min(WINDOW_PX / min_face_px, 1.0)
    while min(height, width) * scale >= _MIN_LEVEL_PX:
        index = _halving(halvings, 1 / scale)
        source = halvings[index]
        size = round(width * scale), round(height * scale)
        covered = np.array([source.shape[1], source.shape[0]]) * 2**index
        yield cv2.resize(source, size, interpolation=cv2.INTER_LINEAR), size / covered
        scale *= _PYRAMID_FACTOR


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
