"""Builds and exports from downloaded weights: output, provenance, and reuse of the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_server import Server, serving

from fer_edge._utils.files import sha256_of
from fer_edge.bundle import open_bundle
from fer_edge.cli import main
from fer_edge.explanation.weights import weights_of
from fer_edge.export.checkpoints import random_network, save_checkpoint
from fer_edge.models.catalogue import CATALOGUE
from fer_edge.models.published import PUBLISHED

NETWORK = "resnet18"
FILE = PUBLISHED[NETWORK][0]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty mirror and an empty cache."""
    with serving({}) as server:
        monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("FER_EDGE_WEIGHTS_MIRROR", server.address)
        monkeypatch.setenv("FER_EDGE_OFFLINE", "0")
        yield server


def test_a_damaged_file_of_the_right_size_is_named(
    mirror: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.files[FILE.mirror_path] = bytes(4 * CATALOGUE[NETWORK].parameters)
    output = tmp_path / "x.fer"
    assert main(["build", "--model", NETWORK, "--fp32", "--output", str(output)]) == 1
    message = capsys.readouterr().err
    path = tmp_path / "cache" / "weights" / FILE.name
    assert f"{path} cannot be read" in message
    assert "or delete a damaged file to have it downloaded again" in message
    assert not output.exists()


@pytest.mark.slow
def test_a_build_says_and_records_which_weights_it_has_fetched(
    mirror: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], astronaut_file: Path
) -> None:
    made = tmp_path / "made"
    save_checkpoint(made, random_network(NETWORK), {"best_val_acc": 71.5})
    mirror.files[FILE.mirror_path] = made.read_bytes()
    bundle = tmp_path / "b.fer"
    few = ["--calibration-images", "16", "--comparison-images", "16", "--method", "minmax"]
    words = ["--model", NETWORK, "--weights-sha256", sha256_of(made)]
    assert main(["build", *words, "--int8", *few, "--backend", "onnxruntime", "--output", str(bundle)]) == 0
    shown = "".join(capsys.readouterr().out.split())  # wrapped at 80 columns, within words too
    address = mirror.address + FILE.mirror_path
    for text in (FILE.licence, FILE.remark, address, sha256_of(made)):
        assert "".join(text.split()) in shown
    provenance = open_bundle(bundle).manifest.provenance
    expected = {"licence": FILE.licence, "remark": FILE.remark, "address": address}
    assert {name: provenance[name] for name in expected} == expected
    assert provenance["weights_sha256"] == sha256_of(made)
    assert provenance["claims"] == {"best_val_acc": 71.5}
    assert not open_bundle(bundle).manifest.timing_only

    cached = tmp_path / "cache" / "weights" / FILE.name
    assert weights_of(open_bundle(bundle)) == cached
    drawn = tmp_path / "e.png"
    words = ["explain", str(bundle), str(astronaut_file), "--method", "gradcam", "--face", "whole"]
    assert main([*words, "--output", str(drawn)]) == 0
    capsys.readouterr()
    assert drawn.is_file()

    model = tmp_path / "m.onnx"
    assert main(["export", "--model", NETWORK, "--output", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["address"] == address
    assert len(mirror.seen) == 1


@pytest.mark.slow
def test_export_takes_what_ships(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--output", str(tmp_path / "m.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["licence"] == "Apache-2.0"
