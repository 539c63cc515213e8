"""Checkpoints of training scripts: prefixes, wrappers, averages, counters, objects beside the weights."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from author_files import State, light
from torch import nn

from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints import (
    LAYOUTS,
    load_any,
    load_checkpoint,
    random_network,
    to_author_state,
)
from fer_edge.export.checkpoints.entries import _WRAPPED, choose_entries
from fer_edge.export.checkpoints.files import read_author_file
from fer_edge.export.checkpoints.layouts import recognise
from fer_edge.export.checkpoints.torch_file import TorchFile
from fer_edge.export.networks import build_network
from fer_edge.export.weights import TrainedNetwork


def on_meta(network: str) -> nn.Module:
    with torch.device("meta"):
        return build_network(network)


@pytest.fixture(scope="module")
def state() -> State:
    return light(to_author_state(on_meta("resnet18"), "resnet18"))


@pytest.fixture(scope="module")
def average(state: State) -> State:
    return {name: value + 1000 for name, value in state.items()}


def load(folder: Path, content: object, **options: Any) -> TrainedNetwork:
    torch.save(content, folder / "checkpoint", **options)
    return load_checkpoint(folder / "checkpoint", "resnet18")


def holds(trained: TrainedNetwork, state: State) -> bool:
    name = "layer4.1.bn2.weight"
    return torch.equal(trained.module.state_dict()[name], state[name])


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.", "module.", "module.module.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.",
        "network.", "ema.", "model._orig_mod.backbone.", "a.b.c.d.",
    ],
)  # fmt: skip
def test_prefixes_of_any_nesting(tmp_path: Path, state: State, prefix: str) -> None:
    trained = load(tmp_path, {"state_dict": {prefix + name: value for name, value in state.items()}})
    assert holds(trained, state)
    taken = "".join(trained.provenance["prefixes"])
    assert set(prefix.split(".")) == set(taken.split("."))
    assert trained.provenance["container"] == "PyTorch, 'state_dict'"


def test_wrappers_inside_names(tmp_path: Path, state: State) -> None:
    inside = {name.replace("layer3.", "layer3._orig_mod."): value for name, value in state.items()}
    assert holds(load(tmp_path, inside), state)
    with pytest.raises(WeightsError, match=r"module\.conv1\.weight and another entry for the same conv1"):
        load(tmp_path, state | {"module.conv1.weight": state["conv1.weight"]})


def test_no_layout_needs_what_is_always_taken_off() -> None:
    for network, layout in LAYOUTS.items():
        if layout.to_author is not None:
            assert not [n for n in to_author_state(on_meta(network), network) if _WRAPPED.search(n)]


@pytest.mark.parametrize("network", [name for name, layout in LAYOUTS.items() if layout.to_author])
def test_entries_of_a_layout_are_not_touched(network: str) -> None:
    state = dict.fromkeys(to_author_state(on_meta(network), network), 1)
    for prefix in ("", "net."):
        given = {prefix + name: value for name, value in state.items()}
        found = choose_entries(given, lambda value: value == 1, recognise, "file")
        assert found.entries == state


@pytest.mark.parametrize(
    ("keys", "container"),
    [
        (("net",), "PyTorch, 'net'"),
        (("model_state_dict",), "PyTorch, 'model_state_dict'"),
        (("weights",), "PyTorch, 'weights'"),
        (("checkpoint", "model"), "PyTorch, 'checkpoint' / 'model'"),
        (("a", "b", "state_dict"), "PyTorch, 'a' / 'b' / 'state_dict'"),
    ],
)
def test_wrapper_keys(tmp_path: Path, state: State, keys: tuple[str, ...], container: str) -> None:
    content: Any = state
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "best_acc1": torch.tensor(50.0)}
    trained = load(tmp_path, content)
    assert holds(trained, state)
    assert trained.provenance["container"] == container
    assert trained.provenance["claims"] == {"epoch": 3, "best_acc1": 50}


@pytest.mark.parametrize("key", ["ema_state_dict", "state_dict_ema", "model_ema", "ema", "swa_model"])
def test_plain_weights_are_taken_before_averages(
    tmp_path: Path, state: State, average: State, key: str
) -> None:
    trained = load(tmp_path, {key: average, "model": state})
    assert holds(trained, state)
    assert trained.provenance["container"] == f"PyTorch, 'model', not '{key}'"
    alone = load(tmp_path, {key: average, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}})
    assert holds(alone, average)
    assert alone.provenance["container"] == f"PyTorch, '{key}'"


def test_averages_beside_the_weights_in_one_dict(tmp_path: Path, state: State, average: State) -> None:
    both = {f"ema_model.{name}": value for name, value in average.items()}
    both |= {f"model.{name}": value for name, value in state.items()} | {"criterion.weight": torch.ones(7)}
    trained = load(tmp_path, {"state_dict": both, "hyper_parameters": {"lr": 1e-3}})
    assert holds(trained, state)
    assert trained.provenance["dropped"] == {"ema_model.…": len(state), "criterion.…": 1}


def test_counters_of_other_tools_are_left_out_and_listed(tmp_path: Path, state: State) -> None:
    counters = {f"{name}total_ops": torch.zeros(1, dtype=torch.float64) for name in ("", "layer1.0.", "fc.")}
    counters |= {"layer1.total_params": torch.zeros(1), "n_averaged": torch.tensor(3)}
    trained = load(tmp_path, {"net": state | counters})
    assert holds(trained, state)
    assert trained.provenance["dropped"] == {"total_ops": 3, "total_params": 1, "n_averaged": 1}
    assert trained.module.state_dict()["bn1.num_batches_tracked"] == state["bn1.num_batches_tracked"]


class Config:
    """Object of the training script."""

    def __init__(self) -> None:
        self.lr = 1e-3


class Mode(enum.Enum):
    """Object of the training script."""

    FAST = 1


RECORDS: dict[str, Any] = {
    "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs"), norm=functools.partial(nn.LayerNorm, eps=1e-6)),
    "path": pathlib.PureWindowsPath("c:/runs"),
    "date": datetime.datetime(2026, 1, 1),
    "elapsed": datetime.timedelta(hours=3),
    "config": Config(),
    "mode": Mode.FAST,
    "curve": np.ones(3),
    "rng": np.random.default_rng(0).bit_generator.state,
    "history": collections.defaultdict(list, {"loss": [0.1]}),
    "queue": collections.deque([1, 2]),
    "size": torch.Size([3]),
    "dtype": torch.float16,
    "best_val_acc": np.float64(71.5),
    "epoch": np.int64(9),
}  # fmt: skip


@pytest.mark.parametrize(
    "options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}], ids=str
)
def test_objects_beside_the_weights(tmp_path: Path, state: State, options: dict[str, Any]) -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(3))])
    trained = load(tmp_path, {"net": state, "optimizer": optimizer.state_dict(), **RECORDS}, **options)
    assert holds(trained, state)
    assert trained.provenance["claims"] == {"best_val_acc": 71.5, "epoch": 9}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_and_said(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    other = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    trained = load(tmp_path, {"net": other})
    assert trained.module.conv1.weight.dtype == torch.float32  # type: ignore[union-attr]
    text = f"{dtype} to float32".removeprefix("torch.")
    assert trained.provenance["converted"] == {text: sum(v.is_floating_point() for v in state.values())}


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=str)
def test_tensors_are_those_that_pytorch_reads(tmp_path: Path, options: dict[str, Any]) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "turned": base.t(), "part": base[1:, 2:], "parameter": nn.Parameter(torch.ones(3)),
        "empty": torch.empty(0, 3), "number": torch.tensor(3), "brain": torch.ones(2, dtype=torch.bfloat16),
        "repeated": torch.ones(()).expand(4, 5), "flags": torch.tensor([True, False]), "same": base,
    }  # fmt: skip
    path = tmp_path / "file"
    torch.save(content, path, **options)
    expected = torch.load(path, weights_only=True)
    with TorchFile(path) as file:
        found = {name: file.tensor(value) for name, value in file.value.items()}
        for name, value in expected.items():
            tensor = found[name]
            assert tensor is not None
            assert tensor.dtype == value.dtype, name
            assert torch.equal(tensor.read(), value), name


def test_plain_safetensors_are_an_authors_file(tmp_path: Path, state: State) -> None:
    path = tmp_path / "model.bin"  # recognised by content
    entries = {f"model.{name}": value.contiguous() for name, value in state.items()}
    safetensors.torch.save_file(entries, path, {"format": "pt"})
    for network in ("resnet18", None):
        trained = load_any(path, network)
        assert holds(trained, state)
        assert trained.provenance["container"] == "safetensors"
        assert trained.provenance["licence"] == "not stated"
    with pytest.raises(WeightsError, match="It looks like resnet18 .*Fix: use --model resnet18"):
        load_any(path, "resmasking")


def test_aliases_that_safetensors_leaves_out(tmp_path: Path) -> None:
    """``save_model`` writes one of two equal entries and names the other in the metadata."""
    kept, alias = "mask2.conv3.downsample.0.weight", "mask2.downsample3.0.weight"
    safetensors.torch.save_file({kept: torch.ones(3)}, tmp_path / "file", {alias: kept})
    assert [*read_author_file(tmp_path / "file").entries] == [kept, alias]


@pytest.mark.parametrize(
    ("kept", "match"),
    [
        (lambda name: not name.startswith(("fc", "layer4")), "no classifier"),
        (lambda name: name.startswith(("conv1", "bn1", "layer1", "layer2")), "entries are also in resnet18, so it may be a part"),
        (lambda name: "running" not in name, r"40 entries missing \(such as bn1.running_mean\).*missing are bn1.running_mean, .*part of the network"),
    ],
)  # fmt: skip
def test_parts_of_a_network_are_named(tmp_path: Path, state: State, kept: Any, match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        load(tmp_path, {"net": {name: value for name, value in state.items() if kept(name)}})


def test_whole_models_are_named_with_the_way_to_save_again(tmp_path: Path) -> None:
    for content in (nn.Linear(2, 2), {"model": nn.Linear(2, 2)}):
        with pytest.raises(
            WeightsError, match=r"torch\.nn\.modules\.linear\.Linear.*torch\.save\(model\.state_dict"
        ):
            load(tmp_path, content)


@pytest.mark.parametrize("legacy", [False, True])
def test_views_whose_values_are_negated_are_refused(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "a.pt"
    entries = {"fc.weight": torch._neg_view(torch.ones(3, 3))}
    torch.save(entries, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="negative or conjugate view"):
        read_author_file(path)


@pytest.mark.parametrize("stated", [["neutral", "happiness"], {"happy": 0, "angry": 1}])
def test_classes_in_another_order_are_refused(tmp_path: Path, stated: object) -> None:
    path = tmp_path / "a.pt"
    state = random_network("resnet18").module.state_dict()
    torch.save({"state_dict": state, "classes" if isinstance(stated, list) else "class_to_idx": stated}, path)
    with pytest.raises(WeightsError, match="expected the order of the network's authors, angry, disgust"):
        load_checkpoint(path, "resnet18")
