"""EmotionalDAN: parity with the original graph, geometry, sizes, the authors' variables, ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_outputs import GoldenFolder
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.errors import UsageError, WeightsError
from fer_edge.export.networks import landmark_transform
from fer_edge.export.networks.emotionaldan import (
    EMOTIONALDAN_1STAGE_SPEC,
    EMOTIONALDAN_SPEC,
    EmotionalDan,
    EmotionalDanOptions,
    TrunkOutputs,
    from_tensorflow,
)
from fer_edge.export.networks.landmark_transform import (
    MEAN_FACE,
    Similarity,
    fit_similarity,
    landmark_heatmap,
    warp,
)
from fer_edge.export.onnx.export import export_onnx
from fer_edge.export.weights import TrainedNetwork, fill
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import ModelSpec
from fer_edge.synthetic.drawn import generate_faces

Variables = dict[str, np.ndarray]
MEAN, STD = np.zeros((224, 224, 1)), np.ones((224, 224, 1))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def empty(**options: int) -> EmotionalDan:
    with torch.device("meta"):
        return EmotionalDan(EmotionalDanOptions(**options))


def lively(stages: int) -> EmotionalDan:
    """Random weights with statistics that are not trivial and landmarks that move by several pixels."""
    torch.manual_seed(stages)
    module = EmotionalDan(EmotionalDanOptions(stages=stages)).eval()
    nn.init.uniform_(module.image_mean, 0.3, 0.6)
    nn.init.uniform_(module.image_std, 0.15, 0.3)
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm1d)):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.3, 0.6)
        elif name.endswith("fc2"):
            nn.init.normal_(layer.bias, std=6)
    return module


def random_points(batch: int, seed: int) -> Tensor:
    return torch.rand(batch, 68, 2, generator=torch.Generator().manual_seed(seed)) * 160 + 32


# --- the original network ---------------------------------------------------------------------------


@pytest.mark.slow
def test_outputs_of_the_original_network(golden_folder: GoldenFolder) -> None:
    original = golden_folder.load("emotionaldan")
    golden = original.arrays
    options, state = from_tensorflow(original.weights(), golden["canonical_shape"], MEAN, STD)
    module = empty(**options).to_empty(device="cpu").eval()
    fill(module, state, "golden")
    with torch.inference_mode():
        outputs = module.forward_stages(torch.from_numpy(original.batch()))

    link = outputs.connection
    assert link is not None
    np.testing.assert_allclose(outputs.logits, golden["logits"], rtol=0, atol=2e-4)
    for name, points in (
        ("stage1", outputs.landmarks[0]),
        ("canonical", link.landmarks),
        ("stage2", outputs.landmarks[1]),
    ):
        np.testing.assert_allclose(points, golden[f"landmarks_{name}"], rtol=0, atol=5e-4)
    for name, image in (("warped", link.warped), ("heatmap", link.heatmap), ("feature", link.feature)):
        pooled = F.avg_pool2d(image, 8)[:, 0]
        np.testing.assert_allclose(pooled, golden[f"{name}_pool28"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(link.heatmap.sum((1, 2, 3)), golden["heatmap_sum"], rtol=1e-5)
    np.testing.assert_array_equal((link.heatmap > 0).sum((1, 2, 3)), golden["heatmap_nonzero"])
    for name in ("conv4a", "conv4b"):
        part = getattr(outputs.trunks[1], name)[:, :8, ::4, ::4]
        np.testing.assert_allclose(part, golden[f"{name}_slice"], rtol=0, atol=1e-4)


def test_default_canonical_shape_is_that_of_the_reference(golden_folder: GoldenFolder) -> None:
    expected = golden_folder.load("emotionaldan").arrays["canonical_shape"]
    np.testing.assert_allclose(MEAN_FACE, expected, rtol=0, atol=0.0501)


# --- geometry ---------------------------------------------------------------------------------------


def test_transform_is_the_least_squares_similarity() -> None:
    source, target = random_points(3, 1).double(), random_points(3, 2).double()
    target = target + 0.7 * source.flip(-1) * torch.tensor([1, -1])
    fitted = fit_similarity(source, target)
    for i in range(3):
        x, y = source[i].numpy().T
        ones, zeros = np.ones(68), np.zeros(68)
        rows = np.concatenate([np.stack([x, -y, ones, zeros], 1), np.stack([y, x, zeros, ones], 1)])
        wanted = np.linalg.lstsq(rows, target[i].numpy().T.ravel(), rcond=None)[0]
        found = [fitted.a[i].item(), fitted.b[i].item(), *fitted.shift[i, 0].tolist()]
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
        matrix = np.array([[wanted[0], wanted[1]], [-wanted[1], wanted[0]]])
        np.testing.assert_allclose(
            fitted.apply(source)[i], source[i].numpy() @ matrix + wanted[2:], rtol=0, atol=1e-9
        )


def test_a_known_similarity_is_recovered_and_inverted() -> None:
    source = random_points(2, 3)
    known = Similarity(
        torch.tensor([[0.9], [-0.4]]), torch.tensor([[0.3], [1.1]]), torch.tensor([[[5.0, -9]], [[200, 40]]])
    )
    fitted = fit_similarity(source, known.apply(source))
    for found, wanted in zip(fitted, known, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(fitted.inverse().apply(fitted.apply(source)), source, rtol=0, atol=1e-3)
    torch.testing.assert_close(fitted.inverse().inverse().shift, fitted.shift, rtol=1e-5, atol=1e-4)


def test_warp_to_the_same_shape_changes_only_the_last_row_and_column() -> None:
    shape = torch.tensor(MEAN_FACE)[None]
    images = torch.rand(2, 1, 224, 224, generator=torch.Generator().manual_seed(4))
    warped = warp(images, fit_similarity(shape.expand(2, -1, -1), shape))
    assert (warped - images)[:, :, :-1, :-1].abs().max() <= 5e-5
    torch.testing.assert_close(warped[:, :, -1, :-1], images[:, :, -2, :-1], rtol=0, atol=5e-5)
    torch.testing.assert_close(warped[:, :, :-1, -1], images[:, :, :-1, -2], rtol=0, atol=5e-5)


def test_warp_moves_content_with_the_landmarks() -> None:
    shift = Similarity(torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([[[10.0, -20.0]]]))
    images = torch.zeros(1, 1, 224, 224)
    images[0, 0, 100, 50] = 1  # x 50, y 100
    assert warp(images, shift)[0, 0].argmax().item() == 80 * 224 + 60
    quarter = Similarity(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([[[223.0, 0.0]]]))
    turned = warp(images, quarter)[0, 0]  # (x, y) to (223 - y, x)
    assert turned.argmax().item() == 50 * 224 + 123


def test_a_whole_landmark_marks_256_pixels() -> None:
    heatmap = landmark_heatmap(torch.tensor([[[100.0, 50.0]]]), 224)[0, 0]
    rows, columns = torch.nonzero(heatmap, as_tuple=True)
    assert len(rows) == 256
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (42, 57, 92, 107)
    assert heatmap[50, 100] == heatmap.max() == 1
    assert heatmap[42, 92].item() == pytest.approx(1 / (1 + 128**0.5))


def test_heatmap_is_the_maximum_over_windows_of_unrounded_points() -> None:
    points = random_points(2, 5)
    points[0, :3] = torch.tensor([[-50.0, 300.0], [215.4, 7.9], [120.75, 8.25]])
    wanted = np.zeros((2, 224, 224))
    for i, landmarks in enumerate(points.numpy().astype(np.float64)):
        for x, y in landmarks.clip(8, 215):
            for row in range(int(y) - 8, int(y) + 8):
                for column in range(int(x) - 8, int(x) + 8):
                    value = 1 / (1 + np.hypot(column - x, row - y))
                    wanted[i, row, column] = max(wanted[i, row, column], value)
    found = landmark_heatmap(points, 224)
    assert found.shape == (2, 1, 224, 224)
    np.testing.assert_allclose(found[:, 0], wanted, rtol=0, atol=1e-5)


def test_gradients_are_finite_where_landmarks_lie_on_pixels() -> None:
    points = torch.tensor([[[100.0, 50.0], [0.0, 230.0], [30.5, 60.25]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(landmark_heatmap(points, 224).sum(), points)
    assert gradient.isfinite().all()
    assert gradient[0, 2].abs().min() > 0


# --- the network ------------------------------------------------------------------------------------


def test_parameters() -> None:
    two, one = empty(), empty(stages=1)
    assert count(two) == 64_054_557
    assert count(two.stage1) == 30_413_896
    assert count(two) - count(two.stage1) == 33_640_661
    assert count(one) == 30_415_695


def test_options_specs_and_bad_input() -> None:
    with torch.device("meta"):
        logits, landmarks = empty(num_classes=3).eval()(torch.rand(2, 1, 224, 224))
        assert (logits.shape, landmarks.shape) == ((2, 3), (2, 68, 2))
        for shape in ((2, 3, 224, 224), (2, 1, 112, 112), (1, 224, 224)):
            with pytest.raises(UsageError, match=r"needs a batch \[B, 1, 224, 224\], found"):
                empty()(torch.rand(shape))
    with pytest.raises(UsageError, match="1 or 2 stages, found 3"):
        empty(stages=3)
    for spec, name in (
        (EMOTIONALDAN_SPEC, "emotionaldan"),
        (EMOTIONALDAN_1STAGE_SPEC, "emotionaldan-1stage"),
    ):
        assert (spec.network, spec.input_shape, spec.color) == (name, (1, 224, 224), "gray")
        assert (spec.mean, spec.std, spec.outputs) == ((0,), (1,), ("logits", "landmarks"))
        assert spec.class_names == (
            "neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger",
        )  # fmt: skip


# --- the authors' variables -------------------------------------------------------------------------


@pytest.fixture
def variables(golden_folder: GoldenFolder) -> Variables:
    """All 199 names, each with one value of its own; only that value is stored."""
    keys = golden_folder.keys("emotionaldan")
    return {name: np.broadcast_to(np.float32(i), shape) for i, (name, shape) in enumerate(keys.items())}


def test_every_variable_is_used_or_belongs_to_the_optimiser(variables: Variables) -> None:
    assert len(variables) == 199
    options, state = from_tensorflow(variables, np.zeros((1, 136)), MEAN, STD)
    assert options == {"num_classes": 7, "stages": 2, "dropout": 0.5}
    expected = empty().state_dict()
    assert {name: v.shape for name, v in state.items()} == {name: v.shape for name, v in expected.items()}
    buffers = {"canonical_shape", "image_mean", "image_std"}
    used = {
        int(value.flatten()[0])
        for name, value in state.items()
        if name not in buffers and not name.endswith("num_batches_tracked")
    }
    ignored = [name for i, name in enumerate(variables) if i not in used]
    assert (len(used), len(ignored)) == (120, 79)
    assert all(name == "Variable" or "/Adam" in name or "_power" in name for name in ignored)


def test_layouts_are_converted(variables: Variables) -> None:
    rng = np.random.default_rng(6)
    for name in ("Stage2/conv2d/kernel", "Stage1/dense/kernel", "Stage2/dense_3/kernel"):
        variables[name] = rng.random(variables[name].shape, np.float32)
    shape = rng.random((1, 136), np.float32)
    _, state = from_tensorflow(variables, shape, MEAN + 0.5, STD * 0.2)
    np.testing.assert_array_equal(state["canonical_shape"], shape.reshape(68, 2))
    assert state["image_mean"].unique().item() == 0.5
    kernel = variables["Stage2/conv2d/kernel"]
    assert state["stage2.conv1a.conv.weight"][5, 2, 0, 1] == kernel[0, 1, 2, 5]
    assert state["emotion.weight"][3, 200] == variables["Stage2/dense_3/kernel"][200, 3]
    fc1 = state["stage1.fc1.weight"].reshape(256, 512, 14, 14)
    kernel = variables["Stage1/dense/kernel"].reshape(14, 14, 512, 256)
    assert fc1[17, 300, 4, 9] == kernel[4, 9, 300, 17]


def test_variables_of_another_network_are_refused(variables: Variables) -> None:
    points = np.zeros((68, 2))
    without = {name: value for name, value in variables.items() if not name.startswith("Stage2/")}
    with pytest.raises(WeightsError, match=r"64 variables missing \(such as Stage2/dense/kernel\)"):
        from_tensorflow(without, points, MEAN, STD)
    with pytest.raises(WeightsError, match="1 unknown variables .such as Stage3/dense/kernel"):
        from_tensorflow({**variables, "Stage3/dense/kernel": np.zeros(3)}, points, MEAN, STD)
    with pytest.raises(
        WeightsError, match=r"Stage1/dense/kernel in .* is \(3, 256\), expected \(100352, 256\)"
    ):
        from_tensorflow({**variables, "Stage1/dense/kernel": np.zeros((3, 256))}, points, MEAN, STD)
    for arrays, message in (
        ((points[:67], MEAN, STD), "canonical_shape of .* must be 136 finite numbers"),
        ((points, MEAN * np.nan, STD), "image_mean of .* must be 50176 finite numbers"),
        ((points, MEAN, STD * 0), "image_std of .* must be positive"),
    ):
        with pytest.raises(WeightsError, match=message):
            from_tensorflow(variables, *arrays)


# --- ONNX -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("stages", "spec"), [(1, EMOTIONALDAN_1STAGE_SPEC), (2, EMOTIONALDAN_SPEC)])
def test_both_backends_give_the_numbers_of_pytorch(stages: int, spec: ModelSpec, tmp_path: Path) -> None:
    module = lively(stages)
    batch = prepare_batch(list(generate_faces(6, seed=7)), spec)
    with torch.inference_mode():
        batch = batch[module.is_steady(torch.from_numpy(batch)).numpy()][:3]
        outputs = module.forward_stages(torch.from_numpy(batch))
    assert len(batch) == 3
    assert (outputs.landmarks[-1] - module.canonical_shape).abs().mean() > 2
    path = tmp_path / "model.onnx"
    trained = TrainedNetwork(module, spec, {}, {})
    report = export_onnx(trained, path, list((batch[:, 0] * 255).round().astype(np.uint8)))
    assert {name: d.allowed for name, d in report.differences.items()} == {
        "logits": 2e-4,
        "landmarks": 5e-3,
    }
    for backend in ("onnxruntime", "openvino"):
        session = BACKENDS[backend].open(path, SessionOptions())
        for size in (1, 3):
            found = session.run(batch[:size])
            np.testing.assert_allclose(found["logits"], outputs.logits[:size], rtol=0, atol=2e-4)
            np.testing.assert_allclose(found["landmarks"], outputs.landmarks[-1][:size], rtol=0, atol=5e-3)
        session.close()


class Still(EmotionalDan):
    """Stage 1 with known landmarks."""

    points = torch.zeros(1, 68, 2)

    def _first_stage(self, batch: Tensor) -> tuple[Tensor, TrunkOutputs, Tensor]:
        return batch, TrunkOutputs(*[batch] * 4), self.points


@pytest.mark.parametrize(
    ("coordinate", "steady"),
    [(100.5, True), (100.0, False), (99.9995, False), (100.002, True), (-3.0, True), (300.0, True)],
)
def test_a_face_is_steady_where_no_window_is_about_to_move(
    coordinate: float, steady: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Similarity(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1, 2))
    monkeypatch.setattr(landmark_transform, "fit_similarity", lambda source, target: identity)
    with torch.device("meta"):
        module = Still()
    module.points = torch.full((2, 68, 2), 50.3)
    module.points[1, 30, 1] = coordinate
    assert module.is_steady(torch.zeros(2, 1, 224, 224)).tolist() == [True, steady]


def test_one_stage_is_always_steady() -> None:
    assert empty(stages=1).eval().is_steady(torch.zeros(3, 1, 224, 224, device="meta")).tolist() == [True] * 3
