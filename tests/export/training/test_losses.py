"""Losses: values computed by hand, gradients checked numerically, edge cases finite, wrong shapes refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fer_edge.errors import DataError, UsageError
from fer_edge.export.training.losses import (
    VEMO_CLASS_WEIGHTS,
    attention_image_loss,
    classification_loss,
    emotional_dan_loss,
    feratt_loss,
    inverse_frequency_weights,
    landmark_loss,
    soft_cross_entropy,
    structured_gaussian_manifold_loss,
    weighted_cross_entropy,
)

# FER2013's 28,709 training rows in class order.
FER2013_COUNTS = (3995, 436, 4097, 7215, 4830, 3171, 4965)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shares(count: int, classes: int) -> Tensor:
    return drawn(count, classes, seed=1).softmax(dim=1)


def face_shape(count: int) -> Tensor:
    """68 points on a grid of 17 × 4 pixels; eye centres (4.5, 2) and (10.5, 2), so 6 apart."""
    index = torch.arange(68)
    points = torch.stack([index % 17, index // 17], dim=1).double()
    points[36:42] = torch.tensor([4.5, 2.0], dtype=torch.float64)
    points[42:48] = torch.tensor([10.5, 2.0], dtype=torch.float64)
    return points.expand(count, 68, 2).clone()


def check_gradient(loss: Callable[..., Tensor], *inputs: Tensor) -> None:
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)


def finite_gradient(loss: Tensor, *inputs: Tensor) -> None:
    assert loss.isfinite()
    for gradient in torch.autograd.grad(loss, inputs):
        assert gradient.isfinite().all()


# --- cross-entropies


def test_soft_cross_entropy_by_hand() -> None:
    # softmax(0, ln 3) = (1/4, 3/4): ½ ln 4 + ½ ln 4/3
    loss = soft_cross_entropy(torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.5, 0.5]]))
    assert loss.item() == pytest.approx(0.5 * 1.3862944 + 0.5 * 0.2876821, abs=1e-6)
    check_gradient(lambda logits: soft_cross_entropy(logits, shares(4, 3)), drawn(4, 3))


def test_weighted_cross_entropy_by_hand() -> None:
    # Row 1: class 0, −ln ¼ = 1.3862944, weight 2. Row 2: half and half, softmax (½, ½), −ln ½ = 0.6931472,
    # weights 1 and ½. Sum 2·1.3862944 + 1.5·0.6931472 = 3.8123096; weights 2 + 1.5 = 3.5.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    distribution = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    loss = weighted_cross_entropy(logits, distribution, (2.0, 1.0))
    assert loss.item() == pytest.approx(3.8123096 / 3.5, abs=1e-6)


def test_weighted_cross_entropy_of_hard_labels_is_that_of_pytorch() -> None:
    logits = drawn(16, 7)
    classes = torch.arange(16) % 7
    weights = torch.tensor(VEMO_CLASS_WEIGHTS, dtype=torch.float64)
    ours = weighted_cross_entropy(logits, F.one_hot(classes, 7), VEMO_CLASS_WEIGHTS)
    torch.testing.assert_close(ours, F.cross_entropy(logits, classes, weight=weights))


def test_equal_weights_change_nothing() -> None:
    logits, distribution = drawn(5, 4), shares(5, 4)
    ours = weighted_cross_entropy(logits, distribution, [3.0] * 4)
    torch.testing.assert_close(ours, soft_cross_entropy(logits, distribution))


def test_weighted_cross_entropy_has_the_right_gradient() -> None:
    weights = (0.5, 2.0, 9.0)
    check_gradient(lambda logits: weighted_cross_entropy(logits, shares(4, 3), weights), drawn(4, 3))


def test_the_weights_of_vemo_are_the_inverse_frequencies_of_fer2013() -> None:
    weights = inverse_frequency_weights(FER2013_COUNTS)
    assert weights == pytest.approx(VEMO_CLASS_WEIGHTS, abs=5e-5)
    mean = sum(w * n for w, n in zip(weights, FER2013_COUNTS, strict=True)) / sum(FER2013_COUNTS)
    assert mean == pytest.approx(1)


@pytest.mark.parametrize("counts", [(), (3, 0), (3, -1), (3, math.nan)])
def test_inverse_frequencies_of_empty_classes_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="at least one image"):
        inverse_frequency_weights(counts)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, -1.0), (1.0, 1.0, math.inf)])
def test_wrong_class_weights_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="3 positive numbers"):
        weighted_cross_entropy(drawn(2, 3), shares(2, 3), weights)


def test_classification_loss_by_hand() -> None:
    # q = (1/4, 3/4), p = (1, 0): −ln ¼ − ln(1 − ¾) = 2 · 1.3862944. Second row q = p = (½, ½): 4 · ½ · ln 2.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    loss = classification_loss(logits, torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert loss.item() == pytest.approx((2 * 1.3862944 + 2 * 0.6931472) / 2, abs=1e-6)


def test_classification_loss_is_binary_cross_entropy_of_the_softmax() -> None:
    logits, distribution = drawn(6, 5), shares(6, 5)
    reference = F.binary_cross_entropy(logits.softmax(dim=1), distribution, reduction="sum") / 6
    torch.testing.assert_close(classification_loss(logits, distribution), reference)
    check_gradient(lambda x: classification_loss(x, shares(6, 5)), logits)


@pytest.mark.parametrize("loss", [classification_loss, soft_cross_entropy])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_certain_and_wrong_network_has_a_finite_loss(
    loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    logits = torch.tensor([[1000.0, -1000.0, 0.0], [0.0, 1000.0, 1000.0]], dtype=dtype, requires_grad=True)
    value = loss(logits, torch.eye(3)[[1, 0]])
    assert value.dtype == torch.float32
    assert value > 900
    finite_gradient(value, logits)


# --- landmarks


def test_landmark_loss_by_hand() -> None:
    target = face_shape(2)
    predicted = target.clone()
    predicted[0] += torch.tensor([3.0, 4.0])  # 5 pixels everywhere: 5 / 6
    predicted[1, 10, 0] += 34.0  # one of 68 points: 0.5 pixels in the mean
    predicted[1] = 2 * predicted[1]
    target[1] = 2 * target[1]  # twice the size, the same error
    loss = landmark_loss(predicted, target)
    assert loss.item() == pytest.approx((5 / 6 + 0.5 / 6) / 2)


def test_landmark_loss_has_the_right_gradient() -> None:
    check_gradient(lambda predicted: landmark_loss(predicted, face_shape(2)), face_shape(2) + drawn(2, 68, 2))


def test_faces_without_landmarks_do_not_contribute() -> None:
    target = face_shape(3)
    predicted = (target + drawn(3, 68, 2)).requires_grad_()
    alone = landmark_loss(predicted[[0, 2]], target[[0, 2]])
    target[1, 5, 0] = math.nan
    loss = landmark_loss(predicted, target)
    torch.testing.assert_close(loss, alone)
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert (gradient[1] == 0).all()
    assert (gradient[0] != 0).all()


def test_a_batch_without_landmarks_has_no_loss_and_a_zero_gradient() -> None:
    predicted = drawn(2, 68, 2).requires_grad_()
    loss = landmark_loss(predicted, torch.full((2, 68, 2), math.nan, dtype=torch.float64))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert (gradient == 0).all()


def test_perfect_landmarks_have_a_finite_gradient() -> None:
    predicted = face_shape(1).requires_grad_()
    finite_gradient(landmark_loss(predicted, face_shape(1)), predicted)


@pytest.mark.parametrize("flaw", ["eyes coincide", "one point", "infinite"])
def test_degenerate_target_landmarks_are_named(flaw: str) -> None:
    target = face_shape(3)
    target[0] = math.nan  # must not shift the number in the message
    if flaw == "eyes coincide":
        target[2, 42:48] = target[2, 36:42]
    elif flaw == "one point":
        target[2] = 7.0
    else:
        target[2, 3, 1] = math.inf
    with pytest.raises(DataError, match=r"faces \[2\]"):
        landmark_loss(face_shape(3), target)


def test_emotional_dan_loss_weighs_landmarks_by_two_fifths() -> None:
    target = face_shape(1)
    logits, distribution = torch.zeros(1, 7).double(), torch.eye(7)[:1].double()
    # 5/6 of landmarks, ln 7 of expression
    loss = emotional_dan_loss(target + torch.tensor([3.0, 4.0]), target, logits, distribution)
    assert loss.item() == pytest.approx(0.4 * 5 / 6 + 0.6 * 1.9459101)
    code = emotional_dan_loss(target + torch.tensor([3.0, 4.0]), target, logits, distribution, 0.5)
    assert code.item() == pytest.approx(0.5 * 5 / 6 + 0.5 * 1.9459101)
    check_gradient(
        lambda points, logits: emotional_dan_loss(points, target, logits, distribution),
        target + drawn(1, 68, 2),
        drawn(1, 7),
    )
    with pytest.raises(UsageError, match="from 0 to 1"):
        emotional_dan_loss(target, target, logits, distribution, 1.5)


# --- FERAtt


def test_attention_loss_by_hand() -> None:
    face = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    image = torch.tensor([[[[1.0, 5.0], [9.0, 9.0]]]])
    mask = torch.tensor([[[True, True], [False, False]]])
    # (1 − 1)² + (2 − 5)² + 3² + 4² = 34 over 4
    assert attention_image_loss(face, image, mask).item() == 8.5
    assert attention_image_loss(face, image, mask[:, None].float()).item() == 8.5
    assert attention_image_loss(face, image, mask, maximum=8).item() == 8
    image[0, 0, 1] = math.inf
    assert attention_image_loss(face, image, mask).item() == 8.5
    with pytest.raises(UsageError, match="positive"):
        attention_image_loss(face, image, mask, maximum=0)


def test_attention_loss_has_the_right_gradient() -> None:
    image, mask = drawn(2, 3, 4, 4, seed=1), drawn(2, 4, 4) > 0
    check_gradient(lambda face: attention_image_loss(face, image, mask), drawn(2, 3, 4, 4))


def test_manifold_loss_by_hand() -> None:
    # Class 0: z = 0 and 2, mean 1. Class 2: z = 3, mean 3. Twice the squared distances to the means:
    # z=0: 1, 9 → p = 1/(1 + e⁻⁴) = 0.98201379, error 2·0.01798621² = 0.00064701
    # z=2: 1, 1 → p = ½, error 2·¼ = 0.5
    # z=3: 4, 0 → p = 1/(1 + e⁻²) = 0.88079708, error 2·0.11920292² = 0.02841867
    z = torch.tensor([[0.0], [2.0], [3.0]], dtype=torch.float64)
    loss = structured_gaussian_manifold_loss(z, torch.tensor([0, 0, 2]))
    assert loss.item() == pytest.approx((0.00064701 + 0.5 + 0.02841867) / 3, abs=1e-8)


def test_manifold_loss_scales_with_sigma() -> None:
    z, labels = drawn(9, 4), torch.arange(9) % 3
    torch.testing.assert_close(
        structured_gaussian_manifold_loss(3 * z, labels, sigma=3.0),
        structured_gaussian_manifold_loss(z, labels, sigma=1.0),
    )


def test_manifold_loss_has_the_right_gradient_through_the_means() -> None:
    labels = torch.tensor([4, 0, 0, 4, 4, 1])
    check_gradient(lambda z: structured_gaussian_manifold_loss(z, labels, 1.5), drawn(6, 3))


EDGE_CASES = {
    "one class": (drawn(4, 8), torch.zeros(4, dtype=torch.long)),
    "one image": (drawn(1, 8), torch.tensor([5])),
    "identical embeddings": (torch.ones(6, 8), torch.arange(6) % 3),
    "far apart": (torch.sign(drawn(6, 8)) * 1e3, torch.arange(6) % 3),
    "beyond the squares of half precision": (torch.sign(drawn(6, 8)) * 6e4, torch.arange(6) % 3),
    "a class with one member": (drawn(5, 8), torch.tensor([0, 0, 0, 0, 7])),
}


@pytest.mark.parametrize("case", EDGE_CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_manifold_loss_is_finite_and_bounded(case: str, dtype: torch.dtype) -> None:
    z, labels = EDGE_CASES[case]
    z = z.to(dtype).requires_grad_()
    loss = structured_gaussian_manifold_loss(z, labels, sigma=0.5)
    assert loss.dtype == torch.float32
    assert 0 <= loss <= 2
    finite_gradient(loss, z)


def test_manifold_loss_of_known_edge_cases() -> None:
    z, labels = EDGE_CASES["one class"]
    assert structured_gaussian_manifold_loss(z, labels) == 0
    # Means coincide: p = 1/3 each, (2/3)² + 2·(1/3)² = 2/3.
    z, labels = EDGE_CASES["identical embeddings"]
    assert structured_gaussian_manifold_loss(z, labels).item() == pytest.approx(2 / 3)


def test_feratt_loss_is_the_sum_of_its_parts() -> None:
    logits, z, face, image = drawn(6, 4), drawn(6, 3), drawn(6, 3, 8, 8), drawn(6, 3, 8, 8, seed=1)
    mask = drawn(6, 8, 8) > 0
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    one_hot = F.one_hot(labels, 4).double()
    loss = feratt_loss(
        logits=logits, embedding=z, face=face, distribution=one_hot, image=image, mask=mask, sigma=0.7
    )
    parts = (
        classification_loss(logits, one_hot),
        attention_image_loss(face, image, mask),
        structured_gaussian_manifold_loss(z, labels, 0.7),
    )
    assert loss[1:] == parts
    torch.testing.assert_close(loss.total, sum(parts))
    authors = feratt_loss(
        logits=logits,
        embedding=None,
        face=face,
        distribution=one_hot,
        image=image,
        mask=mask,
        classification=soft_cross_entropy,
    )
    assert authors.representation == 0
    torch.testing.assert_close(authors.total, soft_cross_entropy(logits, one_hot) + parts[1])


# --- precision and shapes


def test_half_precision_is_computed_in_float32() -> None:
    points = face_shape(2).float()
    noisy, logits, distribution = points + drawn(2, 68, 2), drawn(2, 3), shares(2, 3)
    face, image, mask = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1), torch.ones(2, 4, 4)
    cases: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (lambda x: landmark_loss(x, points), noisy),
        (lambda x: weighted_cross_entropy(x, distribution, (1.0, 2.0, 3.0)), logits),
        (lambda x: classification_loss(x, distribution.float()), logits),
        (lambda x: attention_image_loss(x, image, mask), face),
        (lambda x: structured_gaussian_manifold_loss(x, torch.tensor([0, 1])), logits),
    ]
    for loss, value in cases:
        coarse = value.to(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            result = loss(coarse)
        assert result.dtype in (torch.float32, torch.float64)
        torch.testing.assert_close(result.double(), loss(coarse.double()).double(), rtol=1e-5, atol=1e-6)


WRONG: dict[str, Callable[[], Tensor]] = {
    "flat logits": lambda: weighted_cross_entropy(drawn(3), drawn(3), (1.0,) * 3),
    "other class number": lambda: weighted_cross_entropy(drawn(2, 3), shares(2, 4), (1.0,) * 3),
    "class indices": lambda: classification_loss(drawn(2, 3), torch.tensor([0, 1])),
    "empty batch": lambda: classification_loss(drawn(0, 3), drawn(0, 3)),
    "one class": lambda: classification_loss(drawn(2, 1), shares(2, 1)),
    "flat landmarks": lambda: landmark_loss(drawn(2, 136), drawn(2, 136)),
    "five landmarks": lambda: landmark_loss(drawn(2, 5, 2), drawn(2, 5, 2)),
    "fewer targets": lambda: landmark_loss(face_shape(2), face_shape(1)),
    "other batch": lambda: emotional_dan_loss(face_shape(2), face_shape(2), drawn(1, 3), shares(1, 3)),
    "other image": lambda: attention_image_loss(drawn(2, 3, 4, 4), drawn(2, 3, 8, 8), drawn(2, 4, 4)),
    "other mask": lambda: attention_image_loss(drawn(2, 3, 4, 4), drawn(2, 3, 4, 4), drawn(2, 8, 8)),
    "soft labels": lambda: structured_gaussian_manifold_loss(drawn(3, 2), drawn(3)),
    "one-hot labels": lambda: structured_gaussian_manifold_loss(drawn(3, 2), torch.eye(3).long()),
    "no width": lambda: structured_gaussian_manifold_loss(drawn(3, 2), torch.tensor([0, 1, 2]), 0.0),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_shapes_raise_an_error_that_says_what_was_found(case: str) -> None:
    with pytest.raises(UsageError, match=r"must be .*found|found one"):
        WRONG[case]()
