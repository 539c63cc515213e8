"""The record of priors, the manifests and the model cards agree."""

from __future__ import annotations

import importlib
import json
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from places import ROOT

from fer_edge.bundle import open_bundle
from fer_edge.models.catalogue import SHIPPED, shipped_bundle

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("model_cards")


@pytest.fixture
def renewal(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("renew_bundles")


@pytest.fixture
def record() -> dict[str, Any]:
    return json.loads((BENCHMARKS / "records" / "priors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_default_prior_follows_the_rule_on_held_out_faces(
    name: str, record: dict[str, Any], renewal: ModuleType
) -> None:
    model, manifest = record["models"][name], open_bundle(shipped_bundle(name)).manifest
    assert model["class_frequencies"] == manifest.class_frequencies
    assert record["default_prior_rule"] == renewal.RULE
    held_out = model["figures"][0]
    assert held_out["data"].endswith("held out")
    figures = [SimpleNamespace(**held_out["by_prior"][prior]) for prior in ("training", "balanced")]
    assert renewal.default_prior(*figures) == manifest.default_prior == model["default_prior"]
    recorded = manifest.provenance["validation"]["validation_accuracy"]
    assert figures[0].accuracy == pytest.approx(recorded, abs=1e-9)


def test_the_rule(renewal: ModuleType) -> None:
    def found(accuracy: float, balanced: float) -> SimpleNamespace:
        return SimpleNamespace(accuracy=accuracy, balanced_accuracy=balanced)

    before = found(0.8, 0.6)
    assert renewal.default_prior(before, found(0.78, 0.61)) == "balanced"
    assert renewal.default_prior(before, found(0.76, 0.7)) == "training"
    assert renewal.default_prior(before, found(0.9, 0.6)) == "training"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_has_the_figures_of_the_record(name: str, record: dict[str, Any], cards: ModuleType) -> None:
    text = shipped_bundle(name).with_suffix(".md").read_text(encoding="utf-8")
    section = cards.priors_section(name, record)
    assert section in text
    assert cards.with_priors_section(text, section) == text
    assert cards.with_priors_section(text.replace(section + "\n", ""), section) == text
