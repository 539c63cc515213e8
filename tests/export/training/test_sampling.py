"""Balanced sampling: the paper's numbers, repeatable draws, empty classes refused."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from fer_edge.errors import DataError, UsageError
from fer_edge.export.training.data.sampling import balanced_indices

# AffectNet's training images: neutral, happy, sad, surprise, fear, disgust, anger, contempt.
AFFECTNET = (74_874, 134_415, 25_459, 14_090, 6_378, 3_803, 24_882, 3_750)


def classes(*counts: int) -> Tensor:
    """Shuffled class indices with these counts."""
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return targets[torch.randperm(len(targets), generator=Generator().manual_seed(9))]


def shown(targets: Tensor, indices: Tensor) -> list[int]:
    return torch.bincount(targets[indices], minlength=int(targets.max()) + 1).tolist()


def times(targets: Tensor, indices: Tensor, label: int) -> list[int]:
    """Return the distinct numbers of draws of the images of a class, sorted."""
    return torch.bincount(indices, minlength=len(targets))[targets == label].unique().tolist()


def test_affectnet_gives_the_numbers_of_jalal_et_al() -> None:
    targets = classes(*AFFECTNET)
    indices = balanced_indices(targets, 13_000, Generator().manual_seed(0), num_classes=8)
    assert shown(targets, indices) == [13_000, 13_000, 13_000, 13_000, 12_756, 11_409, 13_000, 11_250]
    assert times(targets, indices, 4) == [2]
    assert times(targets, indices, 5) == times(targets, indices, 7) == [3]
    assert times(targets, indices, 0) == [0, 1]


def test_each_rule_for_rare_classes() -> None:
    targets = classes(50, 10, 3, 7)
    drawn = {
        rule: balanced_indices(targets, 10, Generator().manual_seed(0), rare=rule)
        for rule in ("copies", "cap", "oversample")
    }
    assert shown(targets, drawn["copies"]) == [10, 10, 9, 7]
    assert shown(targets, drawn["cap"]) == [10, 10, 3, 7]
    assert shown(targets, drawn["oversample"]) == [10, 10, 10, 10]
    assert times(targets, drawn["oversample"], 2) == [3, 4]
    assert times(targets, drawn["oversample"], 3) == [1, 2]
    for indices in drawn.values():
        assert indices.dtype == torch.int64
        assert times(targets, indices, 1) == [1]


def test_the_same_generator_state_gives_the_same_epoch_and_the_next_another() -> None:
    targets = classes(500, 80)
    generator = Generator().manual_seed(5)
    first, second = (balanced_indices(targets, 100, generator) for _ in range(2))
    again = balanced_indices(targets, 100, Generator().manual_seed(5))
    assert torch.equal(first, again)
    assert set(first.tolist()) != set(second.tolist())


def test_classes_are_mixed() -> None:
    targets = classes(400, 400)
    order = targets[balanced_indices(targets, 400, Generator().manual_seed(1))]
    # Runs of equal classes in a random order of 800: 401 expected, standard deviation 14.
    assert 330 < int((order[1:] != order[:-1]).sum()) + 1 < 470


def test_classes_without_images_are_listed() -> None:
    with pytest.raises(DataError, match=r"classes \[1, 4\] have no images"):
        balanced_indices(torch.tensor([0, 2, 3, 3]), 10, num_classes=5)
    assert shown(torch.tensor([0, 2, 2]), balanced_indices(torch.tensor([0, 2, 2]), 1)) == [1, 0, 1]


@pytest.mark.parametrize(
    ("targets", "options", "error", "message"),
    [
        (torch.tensor([], dtype=torch.long), {}, DataError, "no images"),
        (torch.tensor([0, 1, 8]), {"num_classes": 2}, DataError, "from 0 to 1, found 0 to 8"),
        (torch.tensor([-1, 0, 1]), {"num_classes": 2}, DataError, "found -1 to 1"),
        (torch.tensor([0.0, 1.0]), {}, UsageError, "integer class indices"),
        (torch.tensor([[0], [1]]), {}, UsageError, "integer class indices"),
        (torch.tensor([0, 1]), {"per_class": 0}, UsageError, "at least 1"),
        (torch.tensor([0, 1]), {"rare": "copy"}, UsageError, "did you mean 'copies'"),
    ],
)
def test_wrong_arguments_are_refused(
    targets: Tensor, options: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        balanced_indices(targets, **options)
