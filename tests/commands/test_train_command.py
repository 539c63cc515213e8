"""Arguments of ``fer-edge train``; the training itself is tested in tests/export/training."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from fer_edge.cli import main
from fer_edge.commands.train import RECIPE_NAMES


def test_the_names_of_recipes_are_those_of_the_registry() -> None:
    pytest.importorskip("torch", reason="needs pip install '.[export]'")
    from fer_edge.export.training.recipes import RECIPES

    assert tuple(RECIPES) == RECIPE_NAMES


def test_a_mistyped_recipe_is_noticed_before_pytorch_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *name: None)
    arguments = ["train", "--data", "x", "--output", str(tmp_path / "y"), "--recipe"]
    assert main([*arguments, "resmaskin"]) == 2
    assert "did you mean 'resmasking'" in capsys.readouterr().err
    assert main([*arguments, "resmasking"]) == 1
    assert "training needs torch" in capsys.readouterr().err
