"""Priors against Bayes' rule, bit-exact probabilities of existing bundles, and invalid priors."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_edge.backends import BACKENDS, load_session
from fer_edge.bundle import MANIFEST, SELF_TEST, open_bundle
from fer_edge.errors import BundleError, UsageError
from fer_edge.evaluation.evaluate import session_logits
from fer_edge.evaluation.metrics import expected_calibration_error
from fer_edge.manifest import Manifest
from fer_edge.models.catalogue import SHIPPED, shipped_bundle
from fer_edge.probabilities import NAMED_PRIORS, ProbabilityRule, make_rule, softmax
from fer_edge.spec import ModelSpec
from fer_edge.synthetic.drawn import generate_faces

NAMES = ("neutral", "happiness", "disgust")
SPEC = ModelSpec("net", 8, 8, "gray", 1, (0.0,), (1.0,), NAMES)
FREQUENCIES = {"neutral": 0.6, "happiness": 0.39, "disgust": 0.01}


def manifest(**fields: Any) -> Manifest:
    known = {"class_frequencies": FREQUENCIES, "logit_prior": "training", "temperature": 0.8}
    return Manifest(SPEC, "fp32", {}, **{**known, **fields})


def format_1(bundle: Path, target: Path) -> Path:
    """A copy of a bundle in format version 1: without priors and self-test."""
    shutil.copytree(bundle, target)
    value = json.loads((target / MANIFEST).read_text())
    for name in ("class_frequencies", "logit_prior", "default_prior", "self_test"):
        del value[name]
    del value["files"][SELF_TEST]
    (target / SELF_TEST).unlink()
    (target / MANIFEST).write_text(json.dumps(value | {"format_version": 1}))
    return target


def softmax_before_priors(logits: np.ndarray, temperature: float) -> np.ndarray:
    """The runtime's computation before priors existed, operation by operation."""
    scaled = logits / temperature
    shifted = np.asarray(scaled, np.float64) - np.max(scaled, axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def bayes(logits: list[float], temperature: float, implied: list[float], wanted: list[float]) -> list[float]:
    """p_k ∝ exp(z_k / T) · q_k / π_k, in exact fractions of the exponentials."""
    shares = [
        Fraction(math.exp(z / temperature)) * Fraction(q) / Fraction(p)
        for z, p, q in zip(logits, implied, wanted, strict=True)
    ]
    return [float(share / sum(shares)) for share in shares]


def test_softmax() -> None:
    logits = np.array([[1, 2, 3], [1000, 1000, -1000]], np.float32)
    expected = [np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum(), [0.5, 0.5, 0]]
    assert softmax(logits).dtype == np.float64
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-12)


@pytest.mark.parametrize("prior", NAMED_PRIORS)
def test_a_mean_of_scaled_logits_under_a_prior_is_that_of_logits_for_equal_priors(prior: str) -> None:
    model = manifest()
    rule, weights = make_rule(model, prior), np.array([[0.5], [0.2], [0.3]])
    logits = np.random.default_rng(0).normal(0, 3, (3, 3))
    frequencies = np.array([FREQUENCIES[n] for n in NAMES])
    equal = logits / model.temperature - np.log(frequencies)
    expected = softmax((weights * equal).sum(axis=0) + np.log(NAMED_PRIORS[prior](frequencies)))
    found = softmax(rule.apply_prior((weights * rule.scale(logits)).sum(axis=0)))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("logit_prior", ["training", "uniform"])
def test_every_prior_is_bayes_rule(logit_prior: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        frequencies, given = rng.dirichlet(np.ones(3)).clip(1e-4), rng.dirichlet(np.ones(3))
        frequencies /= frequencies.sum()
        roots = [math.sqrt(p) for p in frequencies]
        priors = {
            "training": (frequencies.tolist(), "training"),
            "balanced": ([r / sum(roots) for r in roots], "balanced"),
            "uniform": ([1 / 3] * 3, "uniform"),
            "given": (given.tolist(), dict(zip(NAMES, given.tolist(), strict=True))),
        }
        temperature = float(rng.uniform(0.3, 3))
        model = manifest(
            class_frequencies=dict(zip(NAMES, frequencies.tolist(), strict=True)),
            logit_prior=logit_prior,
            temperature=temperature,
        )
        logits = rng.normal(0, 4, (5, 3)).astype(np.float32)
        implied = frequencies.tolist() if logit_prior == "training" else [1 / 3] * 3
        for name, (wanted, prior) in priors.items():
            rule = make_rule(model, prior)
            expected = [bayes(row, temperature, implied, wanted) for row in logits.tolist()]
            np.testing.assert_allclose(rule(logits), expected, rtol=1e-5)
            np.testing.assert_allclose(softmax(rule.logits(logits)), rule(logits), rtol=1e-12)
            assert rule.prior == name
            assert [*(rule.class_prior or {}).values()] == pytest.approx(wanted)
            weights = rule.weights(np.array([2, 0]))
            expected_weights = [wanted[2] / frequencies[2], wanted[0] / frequencies[0]]
            assert (np.ones(2) if weights is None else weights) == pytest.approx(expected_weights)


def test_the_temperature_comes_before_the_prior() -> None:
    """(z − log π) / T would subtract log π only 1 / T times."""
    frequencies = np.array([*FREQUENCIES.values()])
    logits = np.log(frequencies)[None] * 0.8  # softmax(z / T) = π: this face says nothing
    np.testing.assert_allclose(make_rule(manifest(), "uniform")(logits), [[1 / 3] * 3])


@pytest.mark.parametrize("name", SHIPPED)
def test_the_training_prior_answers_bit_for_bit_as_before(name: str, tmp_path: Path) -> None:
    shipped = open_bundle(shipped_bundle(name))
    old = open_bundle(format_1(shipped.path, tmp_path / "old.fer"))
    session = load_session(shipped, BACKENDS["onnxruntime"])
    logits = session_logits(session, list(generate_faces(16)), shipped.spec)
    session.close()
    expected = softmax_before_priors(logits, shipped.manifest.temperature)
    for rule in (
        make_rule(old.manifest),
        make_rule(old.manifest, "training"),
        make_rule(shipped.manifest, "training"),
    ):
        assert rule.offset is rule.importance is None
        np.testing.assert_array_equal(rule(logits), expected)


def test_shipped_bundles_answer_under_their_default_prior() -> None:
    for name in SHIPPED:
        model = open_bundle(shipped_bundle(name)).manifest
        assert model.default_prior in NAMED_PRIORS
        assert make_rule(model) == make_rule(model, model.default_prior)
        assert model.class_frequencies is not None
        assert list(model.class_frequencies) == list(model.spec.class_names)


def test_zero_excludes_a_class_and_one_class_may_have_all() -> None:
    logits = np.array([[50, 0, 0], [0, 0, 0]], np.float32)
    without = make_rule(manifest(), {"disgust": 0.5, "neutral": 0, "happiness": 0.5})(logits)
    assert without[:, 0].tolist() == [0, 0]
    assert without.sum(axis=1) == pytest.approx(1)
    alone = make_rule(manifest(), {"neutral": 0, "happiness": 0, "disgust": 1})(logits)
    assert alone.tolist() == [[0, 0, 1]] * 2


def test_rows_that_are_not_finite_give_nan_and_leave_the_others_alone() -> None:
    rule = make_rule(manifest(), "balanced")
    logits = np.array([[1, 2, 3], [np.nan, 0, 0], [0, np.inf, 0], [0, 0, -np.inf]], np.float32)
    found = rule(logits)
    np.testing.assert_array_equal(found[0], rule(logits[:1])[0])
    assert np.isnan(found[1:]).all()
    assert np.isnan(logits).sum() == 1  # the input is as it was


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("balance", "unknown prior 'balance'.*did you mean 'balanced'"),
        ({"neutral": 0.5, "happiness": 0.5}, "lacks the classes disgust"),
        ({}, "lacks the classes neutral, happiness, disgust"),
        ({**FREQUENCIES, "happy": 0.0}, "unknown class 'happy'.*did you mean 'happiness'"),
        ({**FREQUENCIES, 3: 0.0}, "unknown class 3"),
        ({**FREQUENCIES, "disgust": 0.02}, "must sum to 1, found 1.01"),
        ({**FREQUENCIES, "disgust": 0.010002}, "must sum to 1"),
        (dict.fromkeys(NAMES, 0), "must sum to 1, found 0"),
        ({"neutral": -0.1, "happiness": 0.6, "disgust": 0.5}, "the prior of neutral must be a number"),
        ({**FREQUENCIES, "neutral": math.nan}, "the prior of neutral must be a number"),
        ({**FREQUENCIES, "neutral": math.inf}, "the prior of neutral must be a number"),
        ({**FREQUENCIES, "neutral": "0.6"}, "the prior of neutral must be a number"),
        ({"neutral": True, "happiness": 0, "disgust": 0}, "the prior of neutral must be a number"),
        (0.5, "expected a prior, found 0.5. Fix: give one of training, balanced, uniform, or a probability for each class"),
        ([0.6, 0.39, 0.01], "expected a prior, found .0.6"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_prior(prior: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_rule(manifest(), prior)
    with pytest.raises(UsageError, match=message):
        make_rule(manifest(class_frequencies=None, logit_prior=None), prior)


@pytest.mark.parametrize("unknown", [{"class_frequencies": None}, {"logit_prior": None}], ids=str)
def test_without_class_frequencies_only_the_training_prior_is_known(unknown: dict[str, Any]) -> None:
    model = manifest(**unknown)
    assert make_rule(model) == make_rule(model, "training") == ProbabilityRule(0.8)
    for prior in ("balanced", "uniform", FREQUENCIES):
        with pytest.raises(
            UsageError, match="not recorded for net. Fix: choose prior 'training', or build from"
        ):
            make_rule(model, prior)


def test_the_default_of_the_model_is_used_where_none_is_asked_for() -> None:
    model = manifest(default_prior={"neutral": 0.2, "happiness": 0.8, "disgust": 0})
    assert make_rule(model).class_prior == model.default_prior
    assert make_rule(model, "training") == make_rule(manifest())


def test_a_rule_as_json() -> None:
    found = make_rule(manifest(), {"neutral": 0, "happiness": np.float32(0.5), "disgust": 0.5}).to_dict()
    expected = {"neutral": 0.0, "happiness": 0.5, "disgust": 0.5}
    assert json.loads(json.dumps(found)) == {"name": "given", "class_prior": expected, "temperature": 0.8}


def test_weights_q_over_pi_measure_calibration_under_the_prior() -> None:
    """Faces drawn with frequencies π and weights q / π have the calibration error of faces drawn with frequencies q."""
    rng = np.random.default_rng(1)
    means = np.array([[0.0, 0, 0], [1, 0, 0], [2, 2, 0]])  # the rare class is the clearest

    def draw(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        targets = rng.choice(3, 200_000, p=shares)
        seen = means[targets] + rng.normal(0, 1, (len(targets), 3))
        likelihoods = seen @ means.T - (means**2).sum(axis=1) / 2  # log p(x | class) of normal noise
        return likelihoods + np.log([*FREQUENCIES.values()]), targets  # logits that imply π

    rule = make_rule(manifest(temperature=1.0), "uniform")
    (logits, targets), (fresh, fresh_targets) = (
        draw(np.array([*FREQUENCIES.values()])),
        draw(np.full(3, 1 / 3)),
    )
    for temperature, bound in ((1.0, 0.01), (0.5, 0.2)):  # right by Bayes' rule, and too sure
        used = dataclasses.replace(rule, temperature=temperature)
        weighed = expected_calibration_error(used(logits), targets, weights=used.weights(targets))
        assert weighed == pytest.approx(expected_calibration_error(used(fresh), fresh_targets), abs=0.01)
        assert weighed < bound
    assert weighed > expected_calibration_error(used(logits), targets) + 0.03  # without the weights


@pytest.mark.parametrize(
    "change",
    [
        {"default_prior": "balance"},
        {"default_prior": {"neutral": 1.0}},
        {"default_prior": {}},
        {"default_prior": 3},
        {"default_prior": ["balanced"]},
        {"default_prior": "balanced", "class_frequencies": None},
        {"logit_prior": "uniform", "class_frequencies": None, "default_prior": None},
    ],
    ids=str,
)
def test_a_bundle_whose_default_prior_cannot_be_applied_does_not_open(
    change: dict[str, Any], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(shipped_bundle(), tmp_path / "copy.fer"))
    value = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(value | change))
    with pytest.raises(BundleError, match="default_prior|need class_frequencies"):
        open_bundle(copy)
