"""Prepare training data: labels in the order of the spec, cropped faces, and a held-out part."""

from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np
import torch

from fer_edge.datasets import FaceDataset, load_dataset, subject_folds, training_split
from fer_edge.detection import create_detector
from fer_edge.errors import DataError, lookup
from fer_edge.evaluation.photographs import recognised
from fer_edge.export.training.data.batches import DATA, DataOptions, Split, TrainingData
from fer_edge.export.training.recipe import Recipe
from fer_edge.labels import index_map
from fer_edge.preprocess import crop_bounds
from fer_edge.spec import ModelSpec


def load_training_data(recipe: Recipe, options: DataOptions) -> TrainingData:
    """Read the data set of a run.

    Raises
    ------
    DataError
        If it cannot be read, has no labels, or classes that the network does not have.
    """
    dataset = _relabelled(_load(recipe, options), recipe)
    if options.limit is not None:
        dataset = dataset.sample(options.limit, recipe.seed)
    dataset = recognised(dataset, create_detector, recipe.spec.crop)
    if not dataset.are_crops:
        dataset = _cropped(dataset, recipe.spec, options)
    make = lookup(DATA, recipe.data, "form of training data")
    return make(dataset, _split(dataset, recipe), recipe, options)


def _load(recipe: Recipe, options: DataOptions) -> FaceDataset:
    bad = "skip" if options.skip_bad else "error"
    split = options.split or training_split(options.path)
    return load_dataset(options.path, split, recipe.labels, on_bad_row=bad, class_order=options.class_order)


def _relabelled(dataset: FaceDataset, recipe: Recipe) -> FaceDataset:
    """Drop the recipe's dropped classes; put the columns into the spec's order."""
    if dataset.labels is None:
        raise DataError(
            f"{dataset.name} has no labels. Fix: give a folder with a subfolder per class, or fer2013.csv."
        )
    kept = [i for i, name in enumerate(dataset.class_names) if name not in recipe.dropped_classes]
    names = [dataset.class_names[i] for i in kept]
    mapping = index_map(names, recipe.spec.class_names)
    if (mapping < 0).any():
        unknown = [n for n, m in zip(names, mapping, strict=True) if m < 0]
        raise DataError(
            f"{dataset.name} has the classes {', '.join(unknown)}, which {recipe.network} does not have. Fix: choose another recipe, or leave them out (--drop-classes {' '.join(unknown)})."
        )
    columns = dataset.labels[:, kept]
    rows = np.flatnonzero(columns.sum(axis=1) > 0)
    labels = np.zeros((len(rows), len(recipe.spec.class_names)), np.float32)
    labels[:, mapping] = columns[rows] / columns[rows].sum(axis=1, keepdims=True)
    return dataclasses.replace(
        dataset.subset(rows), labels=labels, class_names=tuple(recipe.spec.class_names)
    )


def _cropped(dataset: FaceDataset, spec: ModelSpec, options: DataOptions) -> FaceDataset:
    """Cut the largest face out of every photograph by the spec's crop rule, at the edges of the photograph."""
    boxes: list[tuple[int, ...]] = []
    faces: list[int] = []
    with closing(create_detector()) as detector:
        for index, image in enumerate(dataset):
            found = detector.detect(image)
            if found:
                height, width = image.shape[:2]
                left, top, right, bottom = crop_bounds(found[0].box_xyxy, spec.crop)
                boxes.append((max(left, 0), max(top, 0), min(right, width), min(bottom, height)))
                faces.append(index)
            options.on_progress("finding faces", index + 1, len(dataset))
    if not faces:
        raise DataError(f"no face was found in {dataset.name}. Fix: give photographs of faces.")
    missing = len(dataset) - len(faces)
    kept, corners = dataset.subset(faces), np.array(boxes, np.int64)
    points = kept.landmarks
    return dataclasses.replace(
        kept,
        name=f"{dataset.name}, largest face by {detector.name} ({missing} photographs without)",
        boxes_xyxy=corners,
        landmarks=None if points is None else points - corners[:, None, :2].astype(np.float32),
        are_crops=True,
    )


def _split(dataset: FaceDataset, recipe: Recipe) -> Split:
    if recipe.subject_folds and dataset.subjects is not None:
        folds = subject_folds(dataset, recipe.subject_folds)
        fold = folds[recipe.fold % len(folds)]
        training, held_out = fold.train, fold.test
        text = f"fold {recipe.fold % len(folds) + 1} of {len(folds)}: {len(held_out)} images of subjects that are not trained on"
    else:
        order = np.random.default_rng(recipe.seed).permutation(len(dataset))
        count = min(recipe.validation_count, len(order) // 5)
        training, held_out = order[count:], np.sort(order[:count])
        text = f"{count} random images of those for training"
        if recipe.subject_folds:
            text += "; the data names no subjects, so one person may be on both sides"
    if len(held_out) == 0:
        raise DataError(
            f"{dataset.name} has {len(dataset)} images, expected at least 5. Fix: give more images."
        )
    return Split(torch.from_numpy(training), torch.from_numpy(held_out), text)
