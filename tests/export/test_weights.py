"""Our weights files: round trips, and damaged or foreign files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fer_edge._utils.files import sha256_of
from fer_edge.errors import WeightsError
from fer_edge.export.networks import NETWORKS, build_network
from fer_edge.export.weights import TrainedNetwork, load_weights, save_weights

OPTIONS: dict[str, Any] = {
    "in_channels": 1, "num_classes": 3, "stem_width": 4, "c2_widths": (4, 8), "c3_widths": (8, 8, 8),
    "c4_width": 4, "dense_width": 8,
}  # fmt: skip


@pytest.fixture
def trained() -> TrainedNetwork:
    torch.manual_seed(0)
    spec = NETWORKS["conv-attention"].spec
    module = build_network("conv-attention", OPTIONS).to(memory_format=torch.channels_last)
    return TrainedNetwork(module, spec, OPTIONS, {"licence": "Apache-2.0", "accuracy": 0.5})


@pytest.fixture
def file(tmp_path: Path, trained: TrainedNetwork) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, trained)
    return path


def refuse(path: Path, match: str) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


def rewrite(path: Path, header: object, tensors: dict[str, torch.Tensor] | None = None) -> None:
    tensors = safetensors.torch.load_file(path) if tensors is None else tensors
    safetensors.torch.save_file(tensors, path, {"fer_edge": json.dumps(header)})


def header_of(trained: TrainedNetwork) -> dict[str, Any]:
    return {"spec": trained.spec.to_dict(), "options": dict(trained.options), "provenance": {}}


def test_round_trip(file: Path, trained: TrainedNetwork) -> None:
    loaded = load_weights(file)
    assert loaded.spec == trained.spec
    found = {"weights_sha256": sha256_of(file), "layout": "fer-edge", "container": "safetensors"}
    assert loaded.provenance == dict(trained.provenance) | found
    assert not loaded.module.training
    expected = trained.module.state_dict()
    assert loaded.module.state_dict().keys() == expected.keys()
    for name, value in loaded.module.state_dict().items():
        assert torch.equal(value, expected[name]), name
    batch = torch.rand(2, 1, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(batch), trained.module.eval()(batch))
    again = file.with_name("again.safetensors")
    save_weights(again, loaded)
    assert load_weights(again).provenance["source"] == found
    save_weights(again, dataclasses.replace(loaded, provenance=trained.provenance))
    assert again.read_bytes() == file.read_bytes()


def test_missing_file_says_both_ways_out(tmp_path: Path) -> None:
    refuse(tmp_path / "absent.safetensors", "does not exist. Fix: give --weights a file, or 'random'")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_cut_file(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    refuse(file, "is not a complete FER-Edge weights file")


@pytest.mark.parametrize("position", [0, 8, 20])
def test_flipped_byte_in_the_header(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 0x40
    file.write_bytes(data)
    refuse(file, "is not a complete FER-Edge weights file|does not describe")


def test_text_file_and_files_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_text("not weights\n" * 50)
    refuse(path, "is not a complete FER-Edge weights file")
    safetensors.torch.save_file({"a": torch.ones(3)}, path)
    refuse(path, "is not a complete FER-Edge weights file .KeyError")


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("spec"),
        lambda header: header.pop("options"),
        lambda header: header.pop("provenance"),
        lambda header: header["spec"].update(network="conv-atention"),
        lambda header: header["spec"].update(color="cmyk"),
        lambda header: header["spec"].update(lens="fisheye"),
        lambda header: header["options"].update(depth=3),
        lambda header: header["options"].update(dropout=7),
        lambda header: header["options"].update(num_classes=-1),
        lambda header: header.update(options=3),
    ],
)
def test_header_that_describes_no_network(file: Path, trained: TrainedNetwork, change: Any) -> None:
    header = header_of(trained)
    change(header)
    rewrite(file, header)
    refuse(file, "does not describe a network of this version .* Fix: fetch the weights again")


def test_header_that_is_no_mapping(file: Path) -> None:
    rewrite(file, [1, 2])
    refuse(file, "does not describe a network")


def test_tensors_of_another_network(file: Path, trained: TrainedNetwork) -> None:
    rewrite(file, header_of(trained), {"conv1.weight": torch.ones(3)})
    refuse(
        file,
        "does not fit ConvAttention: .* entries missing .such as c1.0.weight.; 1 unknown entries .such as conv1.weight",
    )
    wide = build_network("conv-attention", OPTIONS | {"dense_width": 16})
    rewrite(file, header_of(trained), dict(wide.state_dict()))
    refuse(file, r"3 wrong shapes \(such as head.1.weight is \(16, 36\), expected \(8, 36\)\)")


def test_values_that_are_not_finite(file: Path, trained: TrainedNetwork) -> None:
    tensors = safetensors.torch.load_file(file)
    tensors["c1.0.bias"][1] = torch.inf
    rewrite(file, header_of(trained), tensors)
    refuse(file, "infinite values in 1 entries .such as c1.0.bias.. Fix: fetch the weights again")


def test_failed_save_leaves_the_old_file(
    file: Path, trained: TrainedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def fail(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_weights(file, trained)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "3", "null", '"x"', "{}", ""])
def test_metadata_of_any_form(file: Path, text: str) -> None:
    safetensors.torch.save_file({"a": torch.ones(3)}, file, {"fer_edge": text})
    refuse(file, "is not a complete FER-Edge weights file|does not describe a network")


@pytest.mark.parametrize("temperature", [1e9, 1e-9, 0, -1.5, "2", True, [1.0]])
def test_temperatures_out_of_range_are_refused(file: Path, trained: TrainedNetwork, temperature: Any) -> None:
    tensors = {name: value.clone() for name, value in safetensors.torch.load_file(file).items()}
    header = header_of(trained) | {
        "provenance": {"validation": {"temperature": temperature}, "logit_prior": None}
    }
    rewrite(file, header, tensors)
    with pytest.raises(WeightsError, match=r"record the temperature .*, expected a number from 0\.01 to 100"):
        load_weights(file)
    rewrite(file, header | {"provenance": {"validation": {"temperature": 2}}}, tensors)
    assert load_weights(file).temperature == 2.0


def test_numbers_that_are_not_finite_in_the_provenance(file: Path, trained: TrainedNetwork) -> None:
    rewrite(file, header_of(trained) | {"provenance": {"accuracy": float("nan")}})
    refuse(file, "NaN is not a JSON number")
    save_weights(file, dataclasses.replace(trained, provenance={"validation": {"loss": float("inf")}}))
    assert load_weights(file).provenance["validation"] == {"loss": None}


@pytest.mark.parametrize("widths", [[4] * 33, [1 << 20], ["4"], [[4]]])
def test_options_that_would_take_long_are_refused(file: Path, trained: TrainedNetwork, widths: Any) -> None:
    header = header_of(trained)
    header["options"]["c2_widths"] = widths
    rewrite(file, header)
    refuse(file, "does not describe a network")
