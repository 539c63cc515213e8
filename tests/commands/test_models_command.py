"""``fer-edge models``: the list of models, and the details of one."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from terminal import shown

from fer_edge._utils.files import sha256_of
from fer_edge.bundle import open_bundle
from fer_edge.cli import main
from fer_edge.models.catalogue import CATALOGUE, MODELS_FOLDER, SHIPPED, shipped_bundle, shipped_figures
from fer_edge.models.published import PUBLISHED, PUBLISHED_FILES

NAMES = {*CATALOGUE, *SHIPPED}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path))
    return tmp_path


def rows(text: str) -> dict[str, list[str]]:
    """Return name → other cells of its row."""
    lines = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line
    ]
    return {name: cells for name, *cells in lines if name}


@pytest.mark.parametrize("columns", [80, 120, None])
def test_every_network_is_listed_by_what_one_chooses_by(columns: int | None) -> None:
    text = shown(columns, "models")
    found = rows(text)
    assert set(found) == NAMES
    assert max(len(line) for line in text.splitlines()) <= (columns or 160)
    for name in SHIPPED:
        paper, weights, size, accuracy = found[name]
        assert paper in ("Jalal", "Sun")
        assert weights == "ships"
        assert float(size.removesuffix(" MB")) > 1
        assert accuracy == f"{100 * shipped_figures(name)['accuracy']['fp32']:.2f} %"
        assert f"{name}: on {shipped_figures(name)['data']}, prior training." in text
    assert found["resmasking"] == ["Pham", "download", "551.19 MB", ""]
    assert found["emotionaldan-1stage"][1:] == ["your file", "121.66 MB", ""]
    assert {cells[1] for cells in found.values()} == {"ships", "download", "unconfirmed", "your file"}
    for kind in ("ships", "download", "unconfirmed", "your file"):
        assert re.search(rf"^{kind}: .*\.$", text, re.MULTILINE)
    assert "cached" not in text


def test_fetched_weights_are_told_from_published_ones(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "weights").mkdir()
    for file in PUBLISHED["resmasking"]:
        (cache / "weights" / file.name).write_bytes(b"weights")
    assert main(["models"]) == 0
    found = rows(capsys.readouterr().out)
    assert (found["resmasking"][1], found["resmasking-ensemble"][1]) == ("cached", "unconfirmed")
    assert main(["models", "resmasking", "--json"]) == 0
    (path,) = json.loads(capsys.readouterr().out)["sha256"]
    assert main(["models", "resmasking"]) == 0
    assert f"File: {path}\nsha256: {sha256_of(Path(path))}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "columns"),
    [("conv-attention-fer2013", 80), ("conv-attention-fer2013", None), ("resmasking", 120)],
)
def test_one_network_is_shown_with_all_that_is_known(name: str, columns: int | None) -> None:
    text = shown(columns, "models", name)
    headings = [f"{name}: the network of the paper", f"{name}: the weights that ship"]
    assert text.startswith(f"{headings[0]}\n")
    assert [line for line in text.splitlines() if line in headings] == headings[: 1 + (name in SHIPPED)]
    facts = rows(text)
    assert {
        "network",
        "paper",
        "parameters",
        "multiply-adds",
        "weights",
        "input",
        "crop",
        "outputs",
        "classes",
    } <= set(facts)
    if name in SHIPPED:
        assert facts["input"] == ["1×48×48, gray"]
        assert facts["outputs"] == ["logits, attention"]
        assert facts["licence"] == ["Apache-2.0"]
        assert facts["size in FP32"] == ["6.11 MB"]
        assert facts["default prior"] == [
            open_bundle(shipped_bundle(name)).manifest.default_prior or "training"
        ]
        paper, ships = text.split(headings[1])
        assert "parameters" in paper
        assert "prior training" in " ".join(ships.split())
        assert "1×48×48" not in paper
        weights = MODELS_FOLDER / f"{name}.safetensors"
        assert f"File: {weights}\nsha256: {sha256_of(weights)}\nModel card: {MODELS_FOLDER / name}.md" in text
    for file in (file for file in PUBLISHED_FILES.values() if file.network == name):
        assert f"Published as {file.name}\n" in text
        for address in file.addresses:
            assert f"Address: {address}\n" in text


def test_json_holds_the_catalogue_and_one_of_its_networks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    everything = json.loads(capsys.readouterr().out)
    assert list(everything) == ["networks", "shipped"]
    assert (set(everything["networks"]), set(everything["shipped"])) == (set(CATALOGUE), set(SHIPPED))
    for name in (*SHIPPED, "resmasking-ensemble", "feratt"):
        assert main(["models", name, "--json"]) == 0
        value = json.loads(capsys.readouterr().out)
        network = SHIPPED[name].network if name in SHIPPED else name
        assert value["networks"] == {network: everything["networks"][network]}
        assert value["shipped"] == ({name: everything["shipped"][name]} if name in SHIPPED else {})
        assert value["spec"]["network"] == network
        assert set(value["published"]) >= {file.name for file in PUBLISHED.get(name, ())}


def test_an_unknown_name_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "resmaskin"]) == 2
    assert "did you mean 'resmasking'?" in capsys.readouterr().err


def test_without_pytorch_the_rest_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fer_edge.export.networks", None)
    assert main(["models", "feratt"]) == 0
    text = capsys.readouterr().out
    assert "shown with PyTorch: " in text
    assert "pip install 'torch" in " ".join(text.replace("│", " ").split())
    assert "47,408,140" in text
    assert main(["models", "visual-attention"]) == 0
    assert "1×72×56" in capsys.readouterr().out
