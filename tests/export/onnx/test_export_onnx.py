"""ONNX export: the same numbers as PyTorch, standard operators, readable names, no paths of this machine."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from places import ROOT
from torch import Tensor, nn

from fer_edge.datasets import load_dataset
from fer_edge.errors import ExportError
from fer_edge.export.networks import build_network
from fer_edge.export.networks.attention_op import attend
from fer_edge.export.networks.layers import AveragePoolTo
from fer_edge.export.onnx.export import FACES_TO_CHECK, _same_class, export_onnx
from fer_edge.export.training.recipes import RECIPES
from fer_edge.export.weights import TrainedNetwork
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import ModelSpec
from fer_edge.synthetic.drawn import generate_faces

RECIPE = RECIPES["conv-attention-ferplus"]


def small_network(negative_scale: bool = False) -> TrainedNetwork:
    """The shipped form with random weights, attention and statistics that are not trivial."""
    torch.manual_seed(3)
    module = build_network("conv-attention", {**RECIPE.network_options, "gamma_init": 0.7}).eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            if negative_scale:
                layer.weight.data[::3] *= -1
    return TrainedNetwork(module, RECIPE.spec, RECIPE.network_options, {})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedNetwork, Path]:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    trained = small_network()
    report = export_onnx(trained, path)
    assert report.folded_norms == 3
    assert report.max_abs_difference <= 1e-4
    return trained, path


@pytest.mark.parametrize("size", [1, 2, 7])
def test_any_batch_size_gives_the_numbers_of_pytorch(
    exported: tuple[TrainedNetwork, Path], size: int
) -> None:
    trained, path = exported
    batch = prepare_batch(list(generate_faces(size, seed=size)), trained.spec)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": batch})[0]
    with torch.inference_mode():
        expected = trained.module(torch.from_numpy(batch)).numpy()
    assert found.shape == (size, 8)
    assert np.abs(found - expected).max() <= 1e-5
    assert np.ptp(expected, axis=1).min() > 1e-3


def test_the_attention_is_one_node_with_a_function_body(exported: tuple[TrainedNetwork, Path]) -> None:
    model = onnx.load(exported[1])
    (node,) = [n for n in model.graph.node if n.domain]
    assert (node.domain, node.op_type) == ("fer_edge", "SelfAttention")
    (function,) = model.functions
    assert (function.domain, function.name) == ("fer_edge", "SelfAttention")
    assert not [n for n in function.node if n.domain]
    assert {n.op_type for n in model.graph.node} - {"SelfAttention"} <= {
        "Conv", "Relu", "MaxPool", "Reshape", "MatMul", "Gemm",
    }  # fmt: skip


def test_the_attention_body_matches_an_independent_attention(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    query, key = (torch.from_numpy(rng.normal(size=(2, 4, 30))) for _ in range(2))
    value, residual = (torch.from_numpy(rng.normal(size=(2, 32, 30))) for _ in range(2))
    gamma = torch.tensor(0.3, dtype=torch.float64)
    transposed = (t.transpose(1, 2) for t in (query, key, value))
    reference = nn.functional.scaled_dot_product_attention(*transposed, scale=1.0).transpose(1, 2)
    torch.testing.assert_close(attend(query, key, value, residual, gamma), gamma * reference + residual)


def test_names_come_from_modules_and_no_path_is_left(exported: tuple[TrainedNetwork, Path]) -> None:
    model = onnx.load(exported[1])
    names = [node.name for node in model.graph.node]
    assert {"c1.1/Conv", "c2.4/Conv", "attention/SelfAttention", "head.4/Gemm"} <= set(names)
    assert len(set(names)) == len(names)
    data = exported[1].read_bytes()
    assert str(ROOT).encode() not in data
    assert b"site-packages" not in data
    assert b".py" not in data


def test_pooled_norms_fold_only_where_their_scale_is_positive(tmp_path: Path) -> None:
    report = export_onnx(small_network(negative_scale=True), tmp_path / "m.onnx")
    assert report.folded_norms == 0
    assert report.max_abs_difference <= 1e-4
    assert "BatchNormalization" in {n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node}


def test_real_faces(exported: tuple[TrainedNetwork, Path], shared: Path, tmp_path: Path) -> None:
    faces = load_dataset(shared / "data/faces_in_context").sample(12)
    report = export_onnx(exported[0], tmp_path / "m.onnx", faces)
    assert (report.real_faces, report.faces, report.skipped_faces, report.same_argmax) == (True, 8, 0, True)
    assert report.max_abs_difference <= 1e-4


class Pooled(nn.Module):
    """Mean colour, times ``gain``, plus ``error`` in the exported graph alone."""

    def __init__(self, gain: float = 1.0, error: float = 0.0) -> None:
        super().__init__()
        self.gain, self.error = gain, error
        self.weight = nn.Parameter(torch.tensor([0.3, 0.5, 0.2]))

    def forward(self, batch: Tensor) -> Tensor:
        means = self.gain * self.weight * batch.mean(dim=(2, 3))
        return means + self.error if torch.compiler.is_exporting() else means


POOLED_SPEC = ModelSpec(
    network="pooled", input_height=48, input_width=48, color="rgb", channels=3,
    mean=(0.0,) * 3, std=(1.0,) * 3, class_names=("happy", "sad", "neutral"),
)  # fmt: skip


@pytest.mark.parametrize(("gain", "error"), [(1.0, 2e-4), (100.0, 2e-3), (1.0, math.nan)])
def test_a_file_that_differs_is_not_kept(gain: float, error: float, tmp_path: Path) -> None:
    trained = TrainedNetwork(Pooled(gain, error), POOLED_SPEC, {}, {})
    with pytest.raises(
        ExportError, match=r"differs from PyTorch \(logits by .*\(at most .*m.onnx was not written"
    ):
        export_onnx(trained, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_large_outputs_are_compared_at_their_scale(tmp_path: Path) -> None:
    report = export_onnx(TrainedNetwork(Pooled(1000.0, 1e-3), POOLED_SPEC, {}, {}), tmp_path / "m.onnx")
    difference = report.differences["logits"]
    assert 1e-4 < report.max_abs_difference == difference.max_abs <= difference.allowed
    assert difference.scale > 100
    assert difference.allowed == pytest.approx(1e-5 * difference.scale)


def test_a_tie_is_no_other_class_and_anything_else_is() -> None:
    expected = np.array([[1.0, 1.00005, 0.0]])
    assert _same_class(np.array([[1.0001, 1.0, 0.0]]), expected, 2e-4)
    assert not _same_class(np.array([[0.0, 0.0, 1.0]]), expected, 2e-4)


class Stepped(Pooled):
    """Discontinuous on images that are darker than ``threshold``."""

    threshold = 0.0

    def is_steady(self, batch: Tensor) -> Tensor:
        return batch.mean(dim=(1, 2, 3)) >= self.threshold


def test_faces_at_a_discontinuity_are_left_out_and_counted(tmp_path: Path) -> None:
    module, crops = Stepped(), [np.full((48, 48, 3), level, np.uint8) for level in (10, 100, 200)]
    module.threshold = 0.2
    trained = TrainedNetwork(module, POOLED_SPEC, {}, {})
    report = export_onnx(trained, tmp_path / "m.onnx", crops)
    assert (report.faces, report.skipped_faces) == (2, 1)
    module.threshold = 2.0
    for faces, count in ((crops, 3), (None, FACES_TO_CHECK)):
        with pytest.raises(ExportError, match=f"all {count} faces lie at discontinuities of the network"):
            export_onnx(trained, tmp_path / "none.onnx", faces)
    with pytest.raises(ExportError, match="found no faces to check the export on"):
        export_onnx(trained, tmp_path / "none.onnx", [])
    assert not (tmp_path / "none.onnx").exists()


def test_more_faces_are_drawn_until_some_can_be_compared(tmp_path: Path) -> None:
    module = Stepped()
    module.threshold = 0.2
    crops = [np.full((48, 48, 3), level, np.uint8) for level in [10] * 20 + [100] * 20]
    report = export_onnx(TrainedNetwork(module, POOLED_SPEC, {}, {}), tmp_path / "m.onnx", iter(crops))
    assert (report.faces, report.skipped_faces) == (4, 20)


def test_weights_that_no_onnx_file_can_hold_are_refused_at_once(tmp_path: Path) -> None:
    with torch.device("meta"):
        module = nn.Linear(30_000, 20_000)
    with pytest.raises(ExportError, match=r"weights take 2.40 GB, expected at most 2.15 GB.*fewer members"):
        export_onnx(TrainedNetwork(module, POOLED_SPEC, {}, {}), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("size", "side"), [(5, 3), (27, 3), (12, 5), (3, 3)])
def test_average_pool_matches_pytorch(size: int, side: int) -> None:
    features = torch.rand(2, 4, size, size + 1)
    expected = nn.functional.adaptive_avg_pool2d(features, side)
    torch.testing.assert_close(AveragePoolTo(side)(features), expected)
