"""Folds by subject."""

from __future__ import annotations

import numpy as np
import pytest

from fer_edge.datasets import FaceDataset, leave_subjects_out, subject_folds
from fer_edge.errors import DataError, UsageError

#: Models of RaFD: 67 numbers up to 73.
RAFD = [n for n in range(1, 74) if n not in (6, 13, 17, 34, 62, 66)]


def faces_of(subjects: list[str], images_each: int = 2) -> FaceDataset:
    names = np.repeat(np.array(subjects), images_each)
    names = np.random.default_rng(0).permutation(names)
    images = np.zeros((len(names), 2, 2), np.uint8)
    return FaceDataset("x", images, np.eye(len(names), dtype=np.float32), (), True, subjects=names)


@pytest.mark.parametrize("form", ["{}", "{:02d}", "S{}", "Rafd090_{:02d}"])
def test_five_folds_of_rafd_are_the_groups_of_sun_et_al(form: str) -> None:
    folds = subject_folds(faces_of([form.format(n) for n in RAFD]))
    groups = [(1, 15), (16, 29), (30, 43), (44, 57), (58, 73)]
    expected = [tuple(form.format(n) for n in RAFD if low <= n <= high) for low, high in groups]
    assert [fold.subjects for fold in folds] == expected


@pytest.mark.parametrize(("subjects", "folds"), [(67, 5), (10, 5), (11, 5), (14, 5), (5, 5), (7, 2)])
def test_folds_are_as_equal_as_possible_and_share_nobody(subjects: int, folds: int) -> None:
    faces = faces_of([str(n) for n in range(subjects)])
    result = subject_folds(faces, folds)
    sizes = [len(fold.subjects) for fold in result]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == subjects
    for fold in result:
        assert set(faces.subjects[fold.test]) == set(fold.subjects)
        assert set(faces.subjects[fold.train]).isdisjoint(fold.subjects)
        assert sorted([*fold.train, *fold.test]) == list(range(len(faces)))


def test_ten_subjects_are_left_out_in_turn() -> None:
    faces = faces_of([f"S{n}" for n in range(1, 24)])
    folds = leave_subjects_out(faces)
    assert [len(fold.subjects) for fold in folds] == [10, 10, 3]
    assert folds[0].subjects == tuple(f"S{n}" for n in range(1, 11))
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(len(faces)))


@pytest.mark.parametrize("make", [subject_folds, leave_subjects_out])
def test_data_without_subjects_says_how_they_are_given(make: object) -> None:
    faces = FaceDataset("faces", np.zeros((3, 2, 2), np.uint8), None, (), True)
    with pytest.raises(
        DataError, match="faces has no subjects. Fix: give the CK\\+ layout, or .*subjects_from_names"
    ):
        make(faces)  # type: ignore[operator]


def test_too_few_subjects_and_senseless_counts() -> None:
    faces = faces_of(["a", "b", "c"])
    with pytest.raises(DataError, match="3 subjects, fewer than 5 folds"):
        subject_folds(faces)
    with pytest.raises(DataError, match="too few to hold out 3"):
        leave_subjects_out(faces, 3)
    with pytest.raises(UsageError, match="folds must be a whole number from 2 .* found 1"):
        subject_folds(faces, 1)
    with pytest.raises(UsageError, match="count must be a whole number from 1 .* found 0"):
        leave_subjects_out(faces, 0)
