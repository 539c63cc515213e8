"""Layouts: every golden list of entries is recognised as itself alone, and class orders follow the count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from author_files import equal, light, light_from_keys
from golden_outputs import GoldenFolder
from torch import nn

from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints import (
    LAYOUTS,
    load_any,
    load_checkpoint,
    save_checkpoint,
    to_author_state,
)
from fer_edge.export.checkpoints.author_file import combined_sha256
from fer_edge.export.checkpoints.ensemble import ENSEMBLE, combine
from fer_edge.export.checkpoints.layouts import recognise
from fer_edge.export.networks import NETWORKS, build_network
from fer_edge.export.networks.baselines import MEMBERS
from fer_edge.export.weights import TrainedNetwork
from fer_edge.labels import FER2013, FERPLUS

KEYS = {
    "resmasking": "resmasking",
    "resnet18": "resnet18",
    "resnet50_pretrained_vgg": "resnet50-vggface",
    "resnet101": "resnet101",
    "cbam_resnet50": "cbam-resnet50",
    "efficientnet_b2b": "efficientnet-b2b",
    "feratt_paper": "feratt",
    "feratt_2020": "feratt-2020",
    "emotionaldan": "emotionaldan",
}
WRITTEN = [network for network, layout in LAYOUTS.items() if layout.to_author is not None]


def on_meta(network: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return build_network(network, options)


@pytest.mark.parametrize(("file", "network"), KEYS.items())
def test_entries_of_the_originals_are_recognised_as_one_layout(
    golden_folder: GoldenFolder, file: str, network: str
) -> None:
    keys = golden_folder.keys(file)
    assert [name for name, layout in LAYOUTS.items() if layout.matches(keys)] == [network]


@pytest.mark.parametrize("network", WRITTEN)
def test_what_we_write_is_recognised_as_one_layout(network: str) -> None:
    names = to_author_state(on_meta(network), network)
    assert [name for name, layout in LAYOUTS.items() if layout.matches(names)] == [network]


def test_other_networks_are_not_recognised() -> None:
    for names in ({"fc.weight", "layer3.1.conv2.weight", "layer3.2.conv1.weight"}, {"arr_0"}, set[str]()):
        assert recognise(names) is None
    for network in NETWORKS.keys() - LAYOUTS.keys() - {"emotionaldan-1stage", ENSEMBLE}:
        assert recognise(on_meta(network).state_dict()) is None, network


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b2b", "cbam_resnet50", "resnet50_pretrained_vgg"])
def test_members_round_trip(golden_folder: GoldenFolder, tmp_path: Path, name: str) -> None:
    state, network = light_from_keys(golden_folder, name), KEYS[name]
    path, again = tmp_path / "member", tmp_path / "again"
    torch.save({"arch": name, "net": state, "best_val_acc": 71.5}, path)
    trained = load_checkpoint(path, network)
    assert trained.spec == NETWORKS[network].spec
    assert trained.options == {"num_classes": 7}
    assert trained.provenance["claims"] == {"best_val_acc": 71.5}
    save_checkpoint(again, trained, {"best_val_acc": 71.5})
    content = torch.load(again, weights_only=True)
    assert content["arch"] == name
    assert equal(content["net"], state)
    first = next(name for name in state if name.endswith("running_mean"))
    del state[first]
    torch.save({"net": state}, path)
    with pytest.raises(WeightsError, match=rf"1 entries missing \(such as {first}\)"):
        load_checkpoint(path, network)


def test_a_file_of_another_variant_says_which_it_is(tmp_path: Path) -> None:
    state = light(to_author_state(on_meta("feratt-2020", num_classes=8), "feratt-2020"))
    path = tmp_path / "model.pth.tar"
    torch.save({"state_dict": state, "prec": 80.0}, path)
    match = r"is not a checkpoint of feratt \(expected .*\)\. It looks like feratt-2020 \(.*conv2_bn.weight\)\. Fix: use --model feratt-2020$"
    with pytest.raises(WeightsError, match=match):
        load_any(path, "feratt")
    del state["netclass.linear.bias"], state["conv_mid.bias"]
    torch.save({"state_dict": state}, path)
    with pytest.raises(WeightsError, match=r"FERAtt: 2 entries missing \(such as conv_mid.bias\)"):
        load_any(path, "feratt-2020")


@pytest.mark.slow
def test_feratt_of_seven_classes_gives_the_outputs_of_the_original(
    golden_folder: GoldenFolder, tmp_path: Path
) -> None:
    golden = golden_folder.load("feratt_2020")
    state = {n: torch.from_numpy(v) for n, v in golden.weights().items()}
    path = tmp_path / "model_best.pth.tar"
    torch.save({"arch": "ferattentiongmm", "epoch": 9, "state_dict": state, "prec": torch.tensor(81.5)}, path)
    trained = load_any(path, "feratt-2020")
    assert trained.spec.class_names == FERPLUS[:7]
    assert trained.options == {"num_classes": 7, "embedding": 64, "variant": "2020"}
    assert trained.provenance["claims"] == {"prec": 81.5, "epoch": 9}
    batch = torch.from_numpy(golden.batch())
    with torch.inference_mode():
        logits, embedding, _ = trained.module(batch)
    np.testing.assert_allclose(logits, golden.arrays["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(embedding, golden.arrays["embedding"], rtol=0, atol=1e-4)

    again = tmp_path / "again"
    save_checkpoint(again, trained, {"prec": 81.5})
    content = torch.load(again, weights_only=True)
    assert {name: content[name] for name in ("imsize", "num_output_channels", "num_input_channels", "num_classes")} == {
        "imsize": 64, "num_output_channels": 64, "num_input_channels": 3, "num_classes": 7,
    }  # fmt: skip
    assert content["state_dict"].keys() == golden.keys.keys()


def test_class_only_feratt_is_loaded_too(tmp_path: Path) -> None:
    state = light(to_author_state(on_meta("feratt-2020", embedding=None, num_classes=7), "feratt-2020"))
    torch.save({"state_dict": state}, tmp_path / "model")
    trained = load_any(tmp_path / "model", "feratt-2020")
    assert (trained.options["embedding"], len(trained.spec.class_names)) == (None, 7)


def test_class_orders_by_count() -> None:
    assert LAYOUTS["resnet18"].spec("resnet18", 7, "file").class_names == FER2013
    assert LAYOUTS["feratt"].spec("feratt", 8, "file").class_names == FERPLUS
    assert LAYOUTS["emotionaldan"].spec("emotionaldan", 3, "file").class_names == (
        "negative", "neutral", "positive",
    )  # fmt: skip
    for network in ("feratt", "emotionaldan", "resnet18"):
        with pytest.raises(WeightsError, match=f"file has 6 classes, expected those of {network}, "):
            LAYOUTS[network].spec(network, 6, "file")


# --- the ensemble -------------------------------------------------------------------------------------


def members(folder: Path) -> dict[Path, TrainedNetwork]:
    """Seven simulated members, as if they had been loaded."""
    found = {}
    for network, layout in LAYOUTS.items():
        if layout.arch in MEMBERS:
            provenance = {"weights_sha256": "0" * 64, "file": layout.arch}
            found[folder / layout.arch] = TrainedNetwork(
                nn.Linear(2, 7), NETWORKS[network].spec, {}, provenance
            )
    return found


def test_members_are_combined_in_the_papers_order(tmp_path: Path) -> None:
    trained = members(tmp_path)
    assert len(trained) == 7
    whole = combine(tmp_path, trained)
    assert [*whole.module.members] == [*MEMBERS]
    for arch, module in whole.module.members.items():
        assert module is trained[tmp_path / arch].module
    assert whole.spec.network == ENSEMBLE
    assert whole.spec.class_names == FER2013
    assert [*whole.provenance["members"]] == [*MEMBERS]
    assert whole.provenance["weights_sha256"] == combined_sha256(dict.fromkeys(MEMBERS, "0" * 64))


def test_missing_double_foreign_and_unequal_members_are_named(tmp_path: Path) -> None:
    lacking = members(tmp_path)
    del lacking[tmp_path / "resnet101"]
    with pytest.raises(
        WeightsError,
        match="lacks 1 of 7 members: resnet101 .published as resnet101_rot30_2019Nov14_18.12.. Fix: add their files",
    ):
        combine(tmp_path, lacking)
    double = members(tmp_path)
    double[tmp_path / "second"] = double[tmp_path / "resnet18"]
    with pytest.raises(WeightsError, match="holds resnet18 twice .resnet18 and second.. Fix: keep one"):
        combine(tmp_path, double)
    foreign = members(tmp_path)
    foreign[tmp_path / "x"] = TrainedNetwork(nn.Linear(2, 7), NETWORKS["feratt"].spec, {}, {})
    with pytest.raises(WeightsError, match="x holds feratt, which is not a member of resmasking-ensemble"):
        combine(tmp_path, foreign)
    unequal = members(tmp_path)
    spec = LAYOUTS["resnet18"].spec("resnet18", 8, "file")
    unequal[tmp_path / "resnet18"] = TrainedNetwork(nn.Linear(2, 8), spec, {}, {})
    with pytest.raises(
        WeightsError, match="resnet18 has the classes neutral, anger.* other members have angry"
    ):
        combine(tmp_path, unequal)


def test_folders_that_hold_no_ensemble(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="lacks 7 of 7 members"):
        load_any(tmp_path, ENSEMBLE)
    torch.save({"net": {"x": torch.zeros(1)}}, tmp_path / "member")
    with pytest.raises(
        WeightsError, match="member .PyTorch, 'net'. has no known layout, .* Fix: keep only the members"
    ):
        load_any(tmp_path, ENSEMBLE)
    (tmp_path / "member").write_text("notes")
    with pytest.raises(WeightsError, match="member cannot be read"):
        load_any(tmp_path, ENSEMBLE)
    torch.save({"net": {"x": torch.zeros(1)}}, tmp_path / "member")
    with pytest.raises(WeightsError, match="resmasking-ensemble has no authors' checkpoint layout"):
        load_any(tmp_path / "member", ENSEMBLE)


@pytest.mark.slow
def test_a_folder_of_the_seven_files_is_the_ensemble(golden_folder: GoldenFolder, tmp_path: Path) -> None:
    for name in (
        "resnet18",
        "resnet50_pretrained_vgg",
        "resnet101",
        "cbam_resnet50",
        "efficientnet_b2b",
        "resmasking",
    ):
        torch.save({"net": light_from_keys(golden_folder, name)}, tmp_path / f"{name}_rot30_2019Nov")
    plain = to_author_state(on_meta("resmasking-nodropout"), "resmasking-nodropout")
    torch.save({"net": light(plain)}, tmp_path / "resmasking_plain")
    trained = load_any(tmp_path, ENSEMBLE)
    expected = on_meta(ENSEMBLE).state_dict()
    found = trained.module.state_dict()
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in expected.items()}
    stored = light_from_keys(golden_folder, "resnet101")
    assert torch.equal(found["members.resnet101.layer3.22.conv3.weight"], stored["layer3.22.conv3.weight"])
    assert trained.provenance["container"] == "folder of 7 files"
