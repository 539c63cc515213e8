"""Ensemble members: parity with the original networks; the ensemble: a mean of probabilities, as one graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from golden_outputs import GoldenFolder
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.collect import observe
from fer_edge.errors import UsageError
from fer_edge.export.networks import NETWORKS
from fer_edge.export.networks.baselines import (
    MEMBERS,
    EnsembleOptions,
    ResmaskingEnsemble,
    baseline_spec,
    build_ensemble,
)
from fer_edge.export.networks.efficientnet import SameConvBlock
from fer_edge.export.networks.resnet import ResNet, ResNetOptions
from fer_edge.export.networks.views import View, draw_views, take_view
from fer_edge.export.onnx.export import export_onnx
from fer_edge.export.weights import TrainedNetwork
from fer_edge.preprocess import prepare_batch
from fer_edge.synthetic.drawn import generate_faces

# specs/networks.md, section 1.6
PARAMETERS = {
    "resnet18": 11_180_103,
    "resnet50_pretrained_vgg": 23_522_375,
    "resnet101": 42_514_503,
    "cbam_resnet50": 26_054_967,
    "efficientnet_b2b": 7_710_857,
    "resmasking_dropout1": 137_796_423,
    "resmasking": 137_796_423,
}
GOLDEN = [pytest.param(name, marks=pytest.mark.slow) for name in [*PARAMETERS][:5]]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def faces(size: int, seed: int = 0) -> np.ndarray:
    return prepare_batch(list(generate_faces(size, seed)), baseline_spec("any"))


def filled(name: str, golden_folder: GoldenFolder, seed: int = 20200) -> nn.Module:
    """Return a member with the synthetic weights of the golden outputs, derived from the entry names."""
    module = MEMBERS[name].build(7).eval()
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    state = golden_folder.filler.fill(shapes, seed)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return module


# --- members ------------------------------------------------------------------------------------------


def test_parameters() -> None:
    with torch.device("meta"):
        assert {name: count(member.build(7)) for name, member in MEMBERS.items()} == PARAMETERS
        assert count(MEMBERS["resnet18"].build(8)) == PARAMETERS["resnet18"] + 513
    assert all(member.checkpoint.startswith(f"{name}_rot30_2019Nov") for name, member in MEMBERS.items())


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_of_the_original_network(name: str, golden_folder: GoldenFolder) -> None:
    golden = golden_folder.load(name)
    module = MEMBERS[name].build(7).eval()
    own = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert list(own.items()) == list(golden.keys.items())
    module.load_state_dict({key: torch.from_numpy(value) for key, value in golden.weights().items()})
    with torch.no_grad():
        logits = module(torch.from_numpy(golden.batch()))
    np.testing.assert_allclose(logits, golden.arrays["logits"], rtol=0, atol=1e-4)


def test_depths() -> None:
    with pytest.raises(UsageError, match="depth must be one of 18, 101, found 34"):
        ResNet(ResNetOptions(depth=34))


@pytest.mark.parametrize(("kernel", "side", "before"), [(3, 8, 0), (3, 7, 1), (5, 8, 1), (5, 7, 2)])
def test_padding_of_tensorflow(kernel: int, side: int, before: int) -> None:
    """Stride 2: the first output is centred where TensorFlow pads ``before`` pixels at the left and top."""
    block = SameConvBlock(1, 1, kernel, 2).eval()
    nn.init.ones_(block.conv.weight)
    image = torch.rand(1, 1, side, side)
    with torch.no_grad():
        out = block(image)[0, 0]
    assert out.shape == (-(-side // 2), -(-side // 2))
    seen = kernel - before
    total = image[0, 0, :seen, :seen].sum() / (1 + 1e-3) ** 0.5
    torch.testing.assert_close(out[0, 0], F.silu(total))


def test_spec_is_that_of_resmasking() -> None:
    assert baseline_spec("resmasking") == NETWORKS["resmasking"].spec


# --- ensemble -----------------------------------------------------------------------------------------


class Constant(nn.Module):
    """Always the same logits."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float32))

    def forward(self, batch: Tensor) -> Tensor:
        return self.logits.expand(len(batch), -1)


def test_the_ensemble_is_the_mean_probability() -> None:
    a, b, c = Constant(1, 2, 3), Constant(0, -5, 2), Constant(4, 0, 0)
    logits = ResmaskingEnsemble({"a": a, "b": b, "c": c})(torch.zeros(2, 3, 8, 8))
    expected = sum(module.logits.softmax(dim=0) for module in (a, b, c)) / 3
    torch.testing.assert_close(logits.softmax(dim=1), torch.stack([expected, expected]))
    torch.testing.assert_close(logits.exp(), logits.softmax(dim=1))  # the logarithm of the mean itself


def test_a_confident_member_cannot_make_it_infinite() -> None:
    logits = ResmaskingEnsemble({"a": Constant(500, 0, 0), "b": Constant(500, 0, 0)})(torch.zeros(1, 3, 8, 8))
    torch.testing.assert_close(logits, torch.tensor([[0.0, -500.0, -500.0]]))


def test_one_member_keeps_its_class_and_none_is_refused() -> None:
    alone = Constant(0.5, 2.0, -1.0)
    logits = ResmaskingEnsemble({"a": alone})(torch.zeros(1, 3, 8, 8))
    torch.testing.assert_close(logits[0], alone.logits.log_softmax(dim=0))
    with pytest.raises(UsageError, match="at least one member, .* Fix: give members of resnet18"):
        ResmaskingEnsemble({})


class Brightness(nn.Module):
    """Logits that depend on where the image is bright."""

    def forward(self, batch: Tensor) -> Tensor:
        half = batch.shape[3] // 2
        parts = (batch[:, :, :, :half], batch[:, :, :, half:], batch)
        return torch.stack([9 * part.mean(dim=(1, 2, 3)) for part in parts], dim=1)


def test_draws_average_the_probabilities_of_fixed_views() -> None:
    views = draw_views(5, seed=3)
    members = {"a": Brightness(), "b": Constant(1, 2, 3)}
    batch = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * torch.linspace(0, 1, 32)
    found = ResmaskingEnsemble(members, views)(batch)
    seen = [m(take_view(batch, view)).softmax(dim=1) for m in members.values() for view in views]
    torch.testing.assert_close(found.exp(), torch.stack(seen).mean(dim=0))
    plain = ResmaskingEnsemble(members)(batch)
    assert (found - plain).abs().max() > 0.01
    torch.testing.assert_close(
        ResmaskingEnsemble(members, [View(False, 0.0)])(batch), plain, rtol=0, atol=1e-4
    )


def test_ensemble_options() -> None:
    with torch.device("meta"):
        whole = build_ensemble()
        assert list(whole.members) == [*PARAMETERS]
        assert count(whole) == sum(PARAMETERS.values())
        some = build_ensemble(EnsembleOptions(("efficientnet_b2b", "resnet18"), num_classes=8))
        assert some(torch.zeros(2, 3, 64, 64)).shape == (2, 8)
        assert build_ensemble(EnsembleOptions(("resnet18",), test_time_draws=2)).views == draw_views(2, 1234)
        for draws in (-1, 65):
            with pytest.raises(UsageError, match=f"test_time_draws must be from 0 to 64, found {draws}"):
                build_ensemble(EnsembleOptions(test_time_draws=draws))
        with pytest.raises(UsageError, match=r"unknown member 'resnet19'.*did you mean 'resnet18'"):
            build_ensemble(EnsembleOptions(("resnet19",)))


# --- devices ------------------------------------------------------------------------------------------


def check_export(module: nn.Module, path: Path) -> None:
    """The ONNX file gives PyTorch's logits in both CPU backends, for more than one batch size."""
    trained = TrainedNetwork(module, baseline_spec("any"), {}, {})
    assert export_onnx(trained, path, list(generate_faces(2))).max_abs_difference <= 1e-4
    batch = faces(2, seed=4)
    with torch.no_grad():
        expected = module(torch.from_numpy(batch)).numpy()
    session = BACKENDS["openvino"].open(path, SessionOptions(threads=1))
    for size in (1, 2):
        np.testing.assert_allclose(session.run(batch[:size])["logits"], expected[:size], rtol=0, atol=1e-4)
    session.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "similarity"),
    # Face-to-face differences are 1 % of the logits of an efficientnet with synthetic weights.
    [("resnet18", 0.99), ("efficientnet_b2b", 0.3)],
)
def test_export_and_int8(name: str, similarity: float, golden_folder: GoldenFolder, tmp_path: Path) -> None:
    module, path = filled(name, golden_folder), tmp_path / "model.onnx"
    check_export(module, path)
    model = onnx.load(path)
    assert not {node.op_type for node in model.graph.node} & {"Pad", "BatchNormalization"}
    ranges = observe(path, [faces(4, seed=9)], {}).ranges("minmax")
    batch = faces(4, seed=5)
    with torch.no_grad():
        expected = module(torch.from_numpy(batch)).numpy()
    for dialect in ("cpu", "tensorrt"):
        quantised = tmp_path / f"model.{dialect}.onnx"
        onnx.save(quantise(model, ranges, dialect), quantised)
        session = BACKENDS["onnxruntime"].open(quantised, SessionOptions(threads=1))
        found = session.run(batch)["logits"]
        session.close()
        assert cosine(found, expected) > 0.99, dialect
        assert cosine(found - found.mean(axis=0), expected - expected.mean(axis=0)) > similarity, dialect


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


@pytest.mark.slow
def test_the_ensemble_exports_as_one_graph(golden_folder: GoldenFolder, tmp_path: Path) -> None:
    members = {f"resnet18_{seed}": filled("resnet18", golden_folder, seed) for seed in (1, 2)}
    check_export(ResmaskingEnsemble(members).eval(), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    heads = {f"members.{name}.fc/Gemm" for name in members}
    assert heads <= {node.name for node in model.graph.node}
    ranges = observe(tmp_path / "model.onnx", [faces(2)], {}).ranges("minmax")
    for dialect in ("cpu", "tensorrt"):
        nodes = {node.name: node for node in quantise(model, ranges, dialect).graph.node}
        assert not any(name.endswith(".dq") for head in heads for name in nodes[head].input[:2])


@pytest.mark.slow
def test_the_draws_of_an_ensemble_are_part_of_its_graph(golden_folder: GoldenFolder, tmp_path: Path) -> None:
    module = ResmaskingEnsemble({"resnet18": filled("resnet18", golden_folder)}, draw_views(2, 1234)).eval()
    check_export(module, tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("GridSample") == 2
    assert operators.count("MaxPool") == 1  # the member runs once, on all views
    assert not {"Shape", "RandomUniform", "RandomNormal"} & set(operators)
