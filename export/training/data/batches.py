"""Training data: batches that depend only on indices and a generator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from fer_edge._utils.checks import MAX_IMAGES, require_flag, require_path, require_whole
from fer_edge.datasets import FaceDataset
from fer_edge.errors import UsageError
from fer_edge.export.training.augmentation import AugmentationOptions, augment, mixup
from fer_edge.export.training.data.landmarks import create_predictor, pseudo_landmarks
from fer_edge.export.training.data.renderer import RenderedFaces, RenderOptions
from fer_edge.export.training.objectives import Batch
from fer_edge.export.training.recipe import Recipe
from fer_edge.preprocess import resize_image
from fer_edge.spec import ModelSpec

#: Prepared images up to this size are kept in memory; beyond, they are prepared for every batch.
KEPT_BYTES = 1 << 30
LANDMARKS = "landmarks.npz"


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Sources of the training data, beside the recipe.

    Attributes
    ----------
    path : Path
        Data set, as for :func:`fer_edge.datasets.load_dataset`.
    cache : Path
        Folder for cached results such as landmarks.
    split : str or None
        Part of the data; ``None``: the training part of its authors.
    limit : int or None
        Maximum number of images, drawn at random.
    skip_bad : bool
        Leave out rows and pictures that cannot be read, and count them.
    class_order : str or None
        Names of numbered classes, see :func:`fer_edge.datasets.load_dataset`.
    backgrounds : Path or None
        Folder of images to render faces on; ``None``: generated ones.
    landmark_predictor, landmark_model : str, Path or None
        Predictor of landmarks where the data has none: a key of
        :data:`fer_edge.export.training.data.landmarks.PREDICTORS`, and its file.
    on_progress : callable
        Called with (stage, done, total) while data is prepared.
    """

    path: Path
    cache: Path
    split: str | None = None
    limit: int | None = None
    skip_bad: bool = False
    class_order: str | None = None
    backgrounds: Path | None = None
    landmark_predictor: str = "face-mesh"
    landmark_model: Path | None = None
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None

    def __post_init__(self) -> None:
        for name in ("path", "cache"):
            require_path(name, getattr(self, name), optional=False)
        for name in ("backgrounds", "landmark_model"):
            require_path(name, getattr(self, name))
        require_whole("limit", self.limit, 1, MAX_IMAGES, optional=True)
        require_flag("skip_bad", self.skip_bad)


@dataclasses.dataclass(frozen=True)
class Split:
    """Split of a data set into training and held-out images.

    Attributes
    ----------
    training, held_out : Tensor
        int64 indices of the data set; the latter ascending.
    text : str
        Description of the held-out images, for records.
    """

    training: Tensor
    held_out: Tensor
    text: str


class TrainingData(Protocol):
    """Batches by index.

    Attributes
    ----------
    dataset : FaceDataset
        Labels in the spec's class order.
    split : Split
        Indices to train on and to validate with.
    notes : mapping
        Entries about the data for the record of the run.
    """

    dataset: FaceDataset
    split: Split
    notes: Mapping[str, str]

    def draw(
        self, indices: Tensor, generator: Generator, size: tuple[int, int], changes: AugmentationOptions
    ) -> Batch:
        """Return augmented training images of ``size``."""

    def plain(self, indices: Tensor) -> Batch:
        """Return held-out images without augmentation, the same at every call."""

    def mean_labels(self, draws: Tensor) -> Tensor:
        """Return ``[K]`` float64, the expected mean of the labels of :meth:`draw`.

        ``draws`` ``[N]`` float64 is the number of draws of each image of ``split.training``.
        """


class Crops:
    """Face crops, augmented and mixed as the recipe says."""

    def __init__(self, dataset: FaceDataset, split: Split, recipe: Recipe, options: DataOptions) -> None:
        self.dataset, self.split, self.recipe = dataset, split, recipe
        self.notes: Mapping[str, str] = {"data": dataset.name}
        self._targets = torch.from_numpy(dataset.labels)
        channels, height, width = recipe.spec.input_shape
        fits = len(dataset) * channels * height * width <= KEPT_BYTES
        self._kept = self._prepare(torch.arange(len(dataset))) if fits else None

    def draw(
        self, indices: Tensor, generator: Generator, size: tuple[int, int], changes: AugmentationOptions
    ) -> Batch:
        """Return augmented images of ``size``."""
        images = augment(self._images(indices), changes, generator, size)
        images, labels = mixup(images, self._targets[indices], changes, generator)
        return Batch(normalise(images, self.recipe.spec), labels)

    def plain(self, indices: Tensor) -> Batch:
        """Return the images without augmentation."""
        return Batch(normalise(self._images(indices), self.recipe.spec), self._targets[indices])

    def mean_labels(self, draws: Tensor) -> Tensor:
        """Return the mean of the images' labels; mixup does not change its expectation."""
        return draws @ self._targets[self.split.training].double() / draws.sum()

    def _images(self, indices: Tensor) -> Tensor:
        chosen = self._prepare(indices) if self._kept is None else self._kept[indices]
        return chosen.float() / 255

    def _prepare(self, indices: Tensor) -> Tensor:
        def prepare(index: int) -> np.ndarray:
            return resize_image(self.dataset[index], self.recipe.spec)

        with ThreadPoolExecutor(4) as pool:  # OpenCV releases the GIL while it decodes and resizes
            images = np.stack(list(pool.map(prepare, indices.tolist())))
        return torch.from_numpy(images.transpose(0, 3, 1, 2))


class LandmarkCrops(Crops):
    """Face crops with 68 landmarks each: those of the data set, or pseudo-labels of a predictor."""

    def __init__(self, dataset: FaceDataset, split: Split, recipe: Recipe, options: DataOptions) -> None:
        if any(c.moves or c.mixup_alpha for c in recipe.augmentations):
            raise UsageError(
                "landmarks do not follow augmentations that move or mix pixels. Fix: use photometric augmentations only."
            )
        super().__init__(dataset, split, recipe, options)
        points, source = dataset.landmarks, dataset.landmark_source
        if points is None:
            predictor = create_predictor(options.landmark_predictor, options.landmark_model)
            points, source = pseudo_landmarks(
                dataset, options.cache / LANDMARKS, predictor, partial(options.on_progress, "landmarks")
            )
        spec = recipe.spec
        self._landmarks = torch.from_numpy(_scaled(points, dataset, spec.input_width, spec.input_height))
        self.notes = {**self.notes, "landmarks": source}

    def draw(
        self, indices: Tensor, generator: Generator, size: tuple[int, int], changes: AugmentationOptions
    ) -> Batch:
        """Return photometrically augmented images with their landmarks."""
        batch = super().draw(indices, generator, size, changes)
        return dataclasses.replace(batch, landmarks=self._landmarks[indices])

    def plain(self, indices: Tensor) -> Batch:
        """Return the images without augmentation, with their landmarks."""
        return dataclasses.replace(super().plain(indices), landmarks=self._landmarks[indices])

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return the mean and deviation image ``[1, H, W]`` of at most 2,000 training images, pixel / 255."""
        parts = torch.split(self.split.training[:2000], 100)
        images = torch.cat([self._images(part) for part in parts])
        return images.mean(0), images.std(0).clamp(min=1e-3)


def _scaled(points: np.ndarray, dataset: FaceDataset, width: int, height: int) -> np.ndarray:
    """Landmarks in pixels of the prepared images, by the rule of OpenCV's resize (pixel centres)."""
    sizes = np.array([dataset[i].shape[1::-1] for i in range(len(dataset))], np.float32)[:, None]
    scale = np.array([width, height], np.float32) / sizes
    return ((points + 0.5) * scale - 0.5).astype(np.float32)


class Rendered:
    """FERAtt's synthetic pictures, new ones in every epoch; training and validation use different faces."""

    def __init__(self, dataset: FaceDataset, split: Split, recipe: Recipe, options: DataOptions) -> None:
        self.dataset, self.split, self.recipe = dataset, split, recipe
        spec = recipe.spec
        gray = (
            spec.color == "gray" or dataset[0].ndim == 2
        )  # gray faces on colour would be the only gray region
        color = "gray" if gray else "rgb"
        look = RenderOptions(side_px=spec.input_height, color=color, **recipe.data_options)
        self._training, self._held_out = (
            RenderedFaces(dataset.subset(part), options.backgrounds, look, recipe.seed)
            for part in (split.training.numpy(), split.held_out.numpy())
        )
        self.notes: Mapping[str, str] = {"data": self._training.name}

    def draw(
        self, indices: Tensor, generator: Generator, size: tuple[int, int], changes: AugmentationOptions
    ) -> Batch:
        """Return the same number of new pictures, with interleaved classes."""
        first = int(torch.randint(2**40, (), generator=generator))
        return self._batch(self._training, range(first, first + len(indices)))

    def plain(self, indices: Tensor) -> Batch:
        """Return pictures of held-out faces."""
        return self._batch(self._held_out, torch.searchsorted(self.split.held_out, indices).tolist())

    def mean_labels(self, draws: Tensor) -> Tensor:
        """Return equal shares of the classes that have faces, since they are interleaved."""
        targets = torch.from_numpy(self.dataset.targets)[self.split.training]
        present = torch.bincount(targets, minlength=len(self.recipe.spec.class_names)) > 0
        return present.double() / present.sum()

    def _batch(self, faces: RenderedFaces, numbers: Sequence[int]) -> Batch:
        images, targets, masks, labels = faces.batch(numbers)
        spec = self.recipe.spec
        return Batch(
            normalise(images.float() / 255, spec),
            F.one_hot(labels, len(spec.class_names)).float(),
            faces=normalise(targets.float() / 255, spec),
            masks=masks,
        )


def normalise(images: Tensor, spec: ModelSpec) -> Tensor:
    """Apply the spec's mean and deviation to ``[B, C, H, W]`` in [0, 1]; channels last for twice the speed."""
    shape = (1, -1, 1, 1)
    normal = (images - torch.tensor(spec.mean).view(shape)) / torch.tensor(spec.std).view(shape)
    return normal.contiguous(memory_format=torch.channels_last)


DATA: Mapping[str, Callable[[FaceDataset, Split, Recipe, DataOptions], TrainingData]] = {
    "crops": Crops,
    "landmarks": LandmarkCrops,
    "rendered": Rendered,
}
