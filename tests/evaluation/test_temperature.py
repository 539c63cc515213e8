"""Temperature scaling against a PyTorch optimiser, and on logits of known temperature."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fer_edge.errors import DataError
from fer_edge.evaluation.temperature import fit_temperature, measure_temperature
from fer_edge.probabilities import softmax


def drawn(count: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``temperature`` times too large for the targets drawn from them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (count, 7))
    cumulative = softmax(logits).cumsum(axis=1)
    targets = (rng.random((count, 1)) > cumulative).sum(axis=1)
    return (temperature * logits).astype(np.float32), targets


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(40_000, temperature)) == pytest.approx(temperature, rel=0.03)


def test_the_minimum_is_that_of_another_minimiser() -> None:
    logits, targets = drawn(500, 2.5)
    inverse = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([inverse], lr=0.5, max_iter=200, tolerance_grad=1e-12)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(
            torch.from_numpy(logits).double() * inverse, torch.from_numpy(targets)
        )
        value.backward()
        return value

    optimizer.step(loss)
    assert fit_temperature(logits, targets) == pytest.approx(1 / inverse.item(), rel=1e-4)


def test_overconfident_logits_get_honest() -> None:
    logits, targets = drawn(4000, 3.0)
    found = measure_temperature(logits, targets)
    assert found is not None
    assert found.value == pytest.approx(3, rel=0.1)
    assert found.faces == 4000
    assert found.ece_before > 0.1
    assert found.ece_after < 0.03


def test_classes_that_are_always_right_end_at_the_bound() -> None:
    logits = 5 * np.eye(3)[np.arange(30) % 3]
    assert fit_temperature(logits, np.arange(30) % 3) == pytest.approx(1 / 20, rel=1e-3)
    assert measure_temperature(logits, np.arange(30) % 3) is None
    with pytest.raises(DataError, match="no labelled faces to fit a temperature on"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, int))
