"""``fer-edge export``: output about the weights file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_edge._utils.files import sha256_of
from fer_edge.cli import main
from fer_edge.export.weights import load_weights, save_weights
from fer_edge.models.catalogue import shipped_bundle


def test_our_own_file_is_named_and_odd_text_in_it_is_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = load_weights(shipped_bundle().parent / "conv-attention.safetensors")
    weights, output = tmp_path / "w.safetensors", tmp_path / "m.onnx"
    odd = {"licence": "[/red] mine", "claims": "[bold] 99 %"}
    save_weights(weights, dataclasses.replace(shipped, provenance=odd))
    arguments = ["export", "--weights", str(weights), "--output", str(output)]
    assert main([*arguments, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["recognised"] == {
        "layout": "fer-edge",
        "container": "safetensors",
        "classes": list(shipped.spec.class_names),
        "claims": "[bold] 99 %",
    }
    assert value["provenance"]["weights_sha256"] == sha256_of(weights)
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "Recognised" in shown
    assert "[/red] mine" in shown
    assert shipped.spec.class_names[0] in shown


def test_a_file_of_another_network_names_the_model_to_ask_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "checkpoint"
    torch.save(
        {"state_dict": {"conv_mid.weight": torch.zeros(1), "conv2_bn.weight": torch.zeros(3)}}, weights
    )
    arguments = ["--weights", str(weights), "--output", str(tmp_path / "m.onnx")]
    assert main(["export", "--model", "feratt", *arguments]) == 1
    assert "It looks like feratt-2020" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "m.onnx").exists()


def test_inputs_that_nothing_reads_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "shape.npy", np.zeros((68, 2)))
    arguments = ["--weights", str(tmp_path / "x"), "--canonical-shape", str(tmp_path / "shape.npy")]
    code = main(["export", "--model", "resmasking", *arguments, "--output", str(tmp_path / "m.onnx")])
    assert code == 2
    assert "belong to the authors' EmotionalDAN checkpoint" in " ".join(capsys.readouterr().err.split())
    capsys.readouterr()
    assert main(["export", *arguments, "--weights", "random", "--output", str(tmp_path / "m.onnx")]) == 2
    assert "belong to the authors' EmotionalDAN checkpoint" in " ".join(capsys.readouterr().err.split())
