"""FERAtt's synthetic data: faces cut out, moved, lit like a background and pasted on it.

Marrero Fernández et al., 2019: from a few hundred cut-out faces the renderer composes any number of pictures
with a known mask, which the attention loss needs. Geometry uses the paper's 256 + 2·10 pixels; luminance,
pasting and colour changes use the input size of the network, so that mask and target are exact there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from fer_edge.datasets import FaceDataset
from fer_edge.errors import DataError, UsageError
from fer_edge.export.training.data.backgrounds import (
    Backgrounds,
    GeneratedBackgrounds,
    ImageBackgrounds,
    to_rgb,
)
from fer_edge.export.training.data.compositing import (
    CANVAS_PX,
    FACE_PX,
    PAD_PX,
    RenderOptions,
    change_colors,
    clean_mask,
    cut_out,
    match_luminance,
    random_affine,
    shrink,
    to_gray,
)

__all__ = ["RenderOptions", "RenderedFace", "RenderedFaces"]

_ATTEMPTS = 10


@dataclass(frozen=True)
class RenderedFace:
    """One picture.

    Attributes
    ----------
    image : np.ndarray
        ``[S, S, 3]`` RGB uint8, the input of the network.
    target : np.ndarray
        ``[S, S, 3]`` RGB uint8: the pasted face on black before the colour changes; I ⊗ mask of the
        attention loss.
    mask : np.ndarray
        ``[S, S]`` bool, true on the face.
    label : int
        Its class, an index into ``class_names``.
    """

    image: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    label: int


class RenderedFaces:
    """Synthetic pictures of a data set's faces on backgrounds.

    The classes that have faces are interleaved: index 0 shows the first, index 1 the second, and so on. The
    face, the background and every change follow from (seed, index) alone. Colours change in the picture only,
    as in the authors' code: the network has to reconstruct the face before the change.

    Parameters
    ----------
    faces : FaceDataset
        Labelled face crops, any size, gray or colour.
    backgrounds : Backgrounds, path, sequence of np.ndarray, optional
        A source, a folder of images, or images ``[H, W, 3]`` BGR or ``[H, W]`` uint8. Without any,
        they are generated, and :attr:`name` says so.
    options : RenderOptions
        Strengths.
    seed : int
        Seed of all random choices.
    count : int, optional
        Length of the data set; that of ``faces`` if left out. :meth:`render` and :meth:`batch` go on beyond.

    Attributes
    ----------
    name : str
        Name of the data, for reports.
    class_names : tuple of str
        Order of the labels, as in ``faces``.

    Raises
    ------
    DataError
        If the faces have no labels or are not crops, or there are no backgrounds.
    UsageError
        If the seed is negative or the count not positive.
    """

    def __init__(
        self,
        faces: FaceDataset,
        backgrounds: Backgrounds | str | Path | Sequence[np.ndarray] | np.ndarray | None = None,
        options: RenderOptions | None = None,
        seed: int = 0,
        count: int | None = None,
    ) -> None:
        if not faces.are_crops:
            raise DataError(
                f"expected face crops in {faces.name}, found photographs. Fix: crop the faces first."
            )
        if len(faces) == 0:
            raise DataError(f"{faces.name} holds no faces. Fix: give a data set with faces.")
        if seed < 0 or (count is not None and count < 1):
            raise UsageError(
                f"seed must be at least 0 and count at least 1, found {seed} and {count}. Fix: give values in these ranges."
            )
        targets = faces.targets
        self._members = [np.flatnonzero(targets == label) for label in np.unique(targets)]
        self._targets = targets
        self._faces = faces
        if backgrounds is None:
            backgrounds = GeneratedBackgrounds()
        elif isinstance(backgrounds, str | Path | Sequence | np.ndarray):
            backgrounds = ImageBackgrounds(backgrounds)
        self._backgrounds: Backgrounds = backgrounds
        self.options = options or RenderOptions()
        self.seed = seed
        self.class_names = faces.class_names
        self.name = f"{faces.name} rendered on {backgrounds.name}"
        self._count = len(faces) if count is None else count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> RenderedFace:
        if not 0 <= index < self._count:
            raise IndexError(f"index {index} is not within 0 and {self._count - 1}")
        return self.render(index)

    def __iter__(self) -> Iterator[RenderedFace]:
        return map(self.render, range(self._count))

    def batch(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return images, targets, masks and labels of indices from 0 without upper bound.

        Returns
        -------
        images, targets : Tensor
            ``[B, 3, S, S]`` uint8, RGB.
        masks : Tensor
            ``[B, S, S]`` bool.
        labels : Tensor
            ``[B]`` int64.
        """
        rendered = [self.render(int(index)) for index in indices]
        if not rendered:
            raise UsageError("a batch needs at least one index, found none. Fix: give indices.")
        images, targets = (
            torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
            for pictures in ([r.image for r in rendered], [r.target for r in rendered])
        )
        masks = torch.from_numpy(np.stack([r.mask for r in rendered]))
        return images, targets, masks, torch.tensor([r.label for r in rendered])

    def render(self, index: int) -> RenderedFace:
        """Return picture ``index``, from 0 without upper bound.

        Raises
        ------
        UsageError
            If the index is negative.
        DataError
            If a face is empty after cutting it out, because it is black or too small.
        """
        if index < 0:
            raise UsageError(f"index must be at least 0, found {index}. Fix: give an index from 0.")
        rng = np.random.default_rng((self.seed, index))
        members = self._members[index % len(self._members)]
        chosen = int(members[rng.integers(len(members))])
        face, mask = self._place(chosen, rng)
        background = shrink(self._backgrounds.crop(rng, CANVAS_PX), self.options.side_px)
        lit = match_luminance(face, mask, background, self.options)
        if self.options.color == "gray":
            lit, background = to_gray(lit), to_gray(background)
        target = np.where(mask[:, :, None], lit, np.uint8(0))
        image = change_colors(np.where(mask[:, :, None], lit, background), self.options, rng)
        if self.options.color == "gray":  # CLAHE goes through CIELab, which rounds
            image = to_gray(image)
        return RenderedFace(image, target, mask, int(self._targets[chosen]))

    def _place(self, chosen: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the moved face and its mask, ``[S, S, 3]`` and ``[S, S]``."""
        face = to_rgb(self._faces[chosen], f"face {chosen} of {self._faces.name}")
        face = cv2.resize(face, (FACE_PX, FACE_PX), interpolation=cv2.INTER_LINEAR)
        mask = cut_out(face, self.options)
        face, mask = (cv2.copyMakeBorder(p, *(PAD_PX,) * 4, cv2.BORDER_CONSTANT) for p in (face, mask))
        for _ in range(_ATTEMPTS if mask.any() else 0):
            matrix = random_affine(self.options, rng)
            moved = cv2.warpAffine(mask, matrix, mask.shape, flags=cv2.INTER_NEAREST)
            small = shrink(clean_mask(moved), self.options.side_px) >= 128
            if small.any():
                warped = cv2.warpAffine(face, matrix, mask.shape, flags=cv2.INTER_LINEAR)
                return shrink(warped, self.options.side_px), small
        raise DataError(
            f"face {chosen} of {self._faces.name} is empty after cutting it out, because it is black or too small. Fix: leave it out, or use cutout='ellipse'."
        )
