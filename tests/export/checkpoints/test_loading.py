"""Authors' checkpoints: parity with the original network's outputs, round trips, and every bad file.

Apart from the parity test, a state is made of tensors that repeat one stored number, so a file of all
740 entries takes a few hundred kilobytes.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from author_files import State, equal, light
from golden_outputs import GoldenFolder
from torch import nn

from fer_edge._utils.files import sha256_of
from fer_edge.errors import UsageError, WeightsError
from fer_edge.export.checkpoints import (
    LAYOUTS,
    load_any,
    load_checkpoint,
    random_network,
    save_checkpoint,
    to_author_state,
)
from fer_edge.export.networks import NETWORKS, build_network
from fer_edge.export.networks.resmasking import ResMasking
from fer_edge.export.weights import TrainedNetwork, save_weights

ALIAS, TWIN = "mask2.downsample3.0.weight", "mask2.conv3.downsample.0.weight"


def resmasking(**options: Any) -> ResMasking:
    with torch.device("meta"):
        module = build_network("resmasking", options)
    assert isinstance(module, ResMasking)
    module.load_state_dict(light(dict(module.state_dict())), assign=True)
    return module


@pytest.fixture(scope="module")
def whole_state() -> State:
    return to_author_state(resmasking(), "resmasking")


@pytest.fixture
def state(whole_state: State) -> State:
    return dict(whole_state)


def write(folder: Path, content: object, **options: Any) -> Path:
    path = folder / "checkpoint"
    torch.save(content, path, **options)
    return path


def refuse(path: Path, match: str, network: str = "resmasking") -> str:
    """Assert that the file is refused in one line that names it."""
    with pytest.raises(WeightsError, match=match) as caught:
        load_checkpoint(path, network)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# --- the original network ---------------------------------------------------------------------------


@pytest.mark.slow
def test_outputs_of_the_original_network(golden_folder: GoldenFolder, tmp_path: Path) -> None:
    golden = golden_folder.load("resmasking")
    net = {name: torch.from_numpy(value) for name, value in golden.weights().items()}
    path = write(tmp_path, {"arch": "resmasking_dropout1", "net": net, "best_val_acc": 70.5, "lr": 1e-4})
    del net

    trained = load_checkpoint(path, "resmasking")
    assert {
        n: tuple(v.shape) for n, v in to_author_state(trained.module, "resmasking").items()
    } == golden.keys
    assert trained.provenance["weights_sha256"] == sha256_of(path)
    assert trained.provenance["claims"] == {"best_val_acc": 70.5}
    path.unlink()  # 572 MB

    assert isinstance(trained.module, ResMasking)
    with torch.no_grad():
        stages = trained.module.forward_stages(torch.from_numpy(golden.batch()))
    np.testing.assert_allclose(stages.logits, golden.arrays["logits"], rtol=0, atol=1e-4)
    for index in range(4):
        kinds = {"before": stages.before, "mask": stages.masks, "after": stages.after}
        for kind, tensors in kinds.items():
            tensor, prefix = tensors[index].numpy(), f"stage{index + 1}_{kind}"
            axes = (1, 2, 3)
            statistics = np.stack([tensor.mean(axes), tensor.std(axes), tensor.max(axes)], axis=1)
            np.testing.assert_allclose(statistics, golden.arrays[f"{prefix}_stats"], rtol=2e-5)
            if kind != "before":
                step = tensor.shape[2] // 7
                part = tensor[:, :8, ::step, ::step]
                np.testing.assert_allclose(part, golden.arrays[f"{prefix}_slice"], rtol=1e-4, atol=2e-5)


# --- good files ---------------------------------------------------------------------------------------


def test_names_and_sizes_of_the_authors_state(state: State) -> None:
    assert len(state) == 740
    aliases = [name for name in state if ".downsample" in name and not name.startswith("layer")]
    assert len(aliases) == 240
    assert state[ALIAS] is state[TWIN]
    learned = (v for n, v in state.items() if not n.endswith(("running_mean", "running_var", "tracked")))
    assert sum(v.numel() for v in learned) == 142_943_431


def test_round_trip_in_the_file_format_of_2019(tmp_path: Path, state: State) -> None:
    path = write(tmp_path, {"net": state}, _use_new_zipfile_serialization=False)
    trained = load_checkpoint(path, "resmasking")
    assert not trained.module.training
    assert trained.options == {"num_classes": 7, "in_channels": 3, "dropout": 0.4}
    assert trained.spec == NETWORKS["resmasking"].spec
    assert (trained.provenance["layout"], trained.provenance["container"]) == ("resmasking", "PyTorch, 'net'")
    assert "no licence is stated for the weights" in trained.provenance["licence"]
    assert equal(to_author_state(trained.module, "resmasking"), state)


def test_plain_variant_and_saved_records(tmp_path: Path) -> None:
    module = resmasking(dropout=0)
    spec = NETWORKS["resmasking-nodropout"].spec
    path = tmp_path / "plain"
    save_checkpoint(path, TrainedNetwork(module, spec, {}, {}), {"best_val_acc": 12.5})
    content = torch.load(path, weights_only=True)
    assert content["arch"] == "resmasking"
    net = content["net"]
    assert len(net) == 740
    assert {name for name in net if name.startswith("fc.")} == {"fc.weight", "fc.bias"}

    refuse(path, "It looks like resmasking-nodropout .*Fix: use --model resmasking-nodropout")
    trained = load_checkpoint(path, "resmasking-nodropout")
    assert trained.spec == spec
    assert trained.options["dropout"] == 0
    assert trained.provenance["claims"] == {"best_val_acc": 12.5}
    assert equal(trained.module.state_dict(), module.state_dict())


def test_data_parallel_imagenet_file(tmp_path: Path) -> None:
    state = to_author_state(resmasking(num_classes=1000), "resmasking")
    content = {
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "arch": "resmasking",
        "epoch": 3,
        "test_acc": np.float64(12.5),
        "best_acc1": torch.tensor(50.0),
        "best_val_acc": float("nan"),
        "best_train_acc": np.float32(3) * np.ones(2, np.float32)[0],
        "best_val_loss": "low",
        "optimizer": {"state": {}, "param_groups": []},
    }
    trained = load_any(write(tmp_path, content), "resmasking")
    assert trained.provenance["container"] == "PyTorch, 'state_dict'"
    assert trained.provenance["claims"] == {
        "epoch": 3,
        "test_acc": 12.5,
        "best_acc1": 50,
        "best_train_acc": 3,
    }
    assert torch.equal(trained.module.conv1.weight, state["conv1.weight"])
    spec = trained.spec
    assert (len(spec.class_names), spec.class_names[999]) == (1000, "imagenet-999")
    assert (spec.color, spec.mean, spec.std) == ("rgb", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_eight_classes_are_those_of_ck_plus() -> None:
    spec = LAYOUTS["resmasking"].spec("resmasking", 8, "file")
    assert spec.class_names == (
        "neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise",
    )  # fmt: skip
    assert spec.color == "gray"


def test_bare_state_without_counters_in_half_precision(tmp_path: Path, state: State) -> None:
    bare = {name: value.half() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    trained = load_checkpoint(write(tmp_path, bare), "resmasking")
    assert trained.provenance["container"] == "PyTorch, bare state dict"
    own = trained.module.state_dict()
    assert own["layer1.0.bn1.num_batches_tracked"] == 0
    assert own["conv1.weight"].dtype == torch.float32
    assert torch.equal(own[TWIN], state[TWIN])


# --- bad files ----------------------------------------------------------------------------------------

Change = Callable[[State], None]


def put(name: str, value: Any) -> Change:
    return lambda state: state.update({name: value})


def drop(*names: str) -> Change:
    def change(state: State) -> None:
        for name in names:
            del state[name]

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (drop("layer4.2.bn2.bias"), r"1 entries missing \(such as layer4.2.bn2.bias\)"),
        (drop("mask1.up_pool7.0.bias"), "missing .such as mask1.up_pool7.0.bias"),
        (drop(ALIAS), f"must hold the shortcut {TWIN} also as {ALIAS}"),
        (drop(TWIN), f"must hold the shortcut {TWIN} also as {ALIAS}"),
        (drop(ALIAS, TWIN), f"missing .such as {TWIN}"),
        (put(ALIAS, torch.zeros(1).expand(512, 1024, 1, 1)), f"{ALIAS} with equal values, but .* they differ"),
        (put("mask9.downsample1.0.weight", torch.zeros(1)), "shortcut mask9.conv1.downsample.0.weight"),
        (drop("fc.1.weight", "fc.1.bias"), r"no classifier \(fc.1.weight\)"),
        (put("fc.1.weight", torch.zeros(8, 512)), r"1 wrong shapes .such as fc.1.bias is \(7,\), expected \(8,\)"),
        (put("fc.1.weight", torch.zeros(9, 512)), "has 9 classes, expected those of resmasking, 7 .angry, .*; 8 .neutral, anger"),
        (put("bn1.bias", torch.zeros(1).expand(10**9)), "declares 1143.* values, expected at most 268435456"),
        (put("fc.1.weight", torch.tensor(1.0)), "has 1 classes"),
        (put("fc.1.weight", torch.zeros(7, 256)), r"fc.1.weight is \(7, 256\), expected \(7, 512\)"),
        (put("conv1.weight", torch.zeros(64, 1, 7, 7)), r"conv1.weight is \(64, 1, 7, 7\), expected \(64, 3, 7, 7\)"),
        (put("layer5.0.conv1.weight", torch.zeros(1)), "1 unknown entries .such as layer5.0.conv1.weight"),
        (put("fc.weight", torch.zeros(7, 512)), "1 unknown entries .such as fc.weight"),
        (put("bn1.running_var", torch.full((64,), torch.nan)), "NaN or infinite values in 1 entries .such as bn1.running_var"),
        (put("bn1.bias", torch.full((64,), 1e300, dtype=torch.float64)), "infinite values .* bn1.bias"),
        (put("bn1.bias", 3.0), "entry 'bn1.bias' in .* is not a dense tensor of numbers .float"),
        (put("bn1.bias", torch.zeros(64, dtype=torch.complex64)), "entry 'bn1.bias' in .* is not a dense"),
        (put("bn1.bias", torch.zeros(64).to_sparse()), "entry 'bn1.bias' in .* is not a dense"),
        (put("bn1.bias", torch.zeros(64, device="meta")), "entry 'bn1.bias' in .* is not a dense"),
    ],
)  # fmt: skip
def test_wrong_entries_are_named(tmp_path: Path, state: State, change: Change, match: str) -> None:
    change(state)
    refuse(write(tmp_path, {"net": state}), match)


def test_nan_in_a_shortcut_is_reported_as_such(tmp_path: Path, state: State) -> None:
    state[ALIAS] = state[TWIN] = torch.tensor(torch.nan).expand(state[TWIN].shape)
    refuse(write(tmp_path, {"net": state}), f"infinite values in 1 entries .such as {TWIN}")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "cannot be read .it is empty, 0 bytes., expected a complete checkpoint. Fix: download it again"),
        (b"hello world\n" * 10, "cannot be read .it is a text file .'hello world"),
        (bytes(1000), "cannot be read"),
        (np.random.default_rng(0).bytes(1000), "cannot be read"),
        (b"PK\x03\x04" + bytes(100), "cannot be read"),
    ],
)  # fmt: skip
def test_files_that_are_no_checkpoint(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(data)
    refuse(path, match)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
def test_cut_file(tmp_path: Path, state: State, zipped: bool, kept: float) -> None:
    path = write(tmp_path, {"net": state}, _use_new_zipfile_serialization=zipped)
    os.truncate(path, int(path.stat().st_size * kept))
    refuse(path, r"cannot be read.*(fetch|download) it again")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    refuse(tmp_path / "absent", "does not exist or is not a file")
    refuse(tmp_path, "cannot be read .it is a folder with nothing")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1, 2], "expected a dict .*, found a list"),
        ({}, "expected a dict .*, found a dict"),
        (torch.ones(3), "expected a dict .*, found a Tensor"),
        ({"net": 3}, "'net' in .* is a int, expected a dict of tensors"),
        ({"epoch": 3, "lr": 0.1}, "entry 'epoch' in .* is not a dense tensor"),
        ({"net": {}}, "is not a checkpoint of resmasking: .* found nothing. Known layouts are"),
        ({"net": {"conv1.weight": torch.ones(3), "fc.weight": torch.ones(1)}}, "found conv1.weight, fc.weight. Known layouts are .*feratt-2020 .conv_mid.weight.* Fix: give the --model"),
        ({"net": {3: torch.ones(3)}}, "entry 3 in .* is not"),
    ],
)  # fmt: skip
def test_other_content(tmp_path: Path, content: object, match: str) -> None:
    refuse(write(tmp_path, content), match)


class Exploit:
    """Creates a folder when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle-2"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, state: State, form: str) -> None:
    target = tmp_path / "made-by-the-exploit"
    content = {"net": state, "best_val_acc": Exploit(target)}
    path = tmp_path / "checkpoint"
    if form.startswith("pickle"):
        protocol = 2 if form == "pickle-2" else pickle.DEFAULT_PROTOCOL
        path.write_bytes(pickle.dumps(content["best_val_acc"], protocol))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    message = refuse(path, "could run code|cannot be read")
    if form != "pickle":
        assert "found the object posix.mkdir, which could run code" in message
    assert not target.exists()
    pickle_bytes = pickle.dumps(Exploit(target))
    pickle.loads(pickle_bytes)
    assert target.exists()  # plain unpickling runs the exploit


def test_compressed_files_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    plain = write(tmp_path, {"net": {"mask1.conv1.conv1.weight": torch.zeros(1 << 20)}})
    bomb = tmp_path / "bomb"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert bomb.stat().st_size < 1 << 16
    refuse(bomb, "unpacks to 419.* bytes, expected at most its size")


def test_whole_modules_are_refused(tmp_path: Path) -> None:
    refuse(
        write(tmp_path, nn.Linear(2, 2)),
        "expected only tensors and plain values in .*, found a pickled",
    )


# --- which loader -------------------------------------------------------------------------------------


def test_networks_without_a_layout(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="conv-attention has no authors' checkpoint layout"):
        load_any(tmp_path / "x", "conv-attention")
    with pytest.raises(UsageError, match=r"unknown network 'resmaskin'.*did you mean 'resmasking'"):
        load_any(tmp_path / "x", "resmaskin")


def test_load_any_reads_our_files(tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    module = build_network("conv-attention")
    save_weights(ours, TrainedNetwork(module, NETWORKS["conv-attention"].spec, {}, {}))
    assert load_any(ours, "conv-attention").spec.network == "conv-attention"
    with pytest.raises(WeightsError, match="holds the network conv-attention, expected resmasking"):
        load_any(ours, "resmasking")


def test_random_networks_repeat_and_leave_the_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second, other = (random_network("conv-attention", seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(first.module.state_dict(), second.module.state_dict())
    assert not equal(first.module.state_dict(), other.module.state_dict())
    assert not first.module.training
    assert first.provenance["weights"] == "random"
    with pytest.raises(UsageError, match="unknown network"):
        random_network("nothing")


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(b"old")

    def fail(value: object, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, TrainedNetwork(resmasking(), NETWORKS["resmasking"].spec, {}, {}))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
